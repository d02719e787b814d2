"""The page of `vivit data show` shows what training feeds the model."""

import re

import pytest

from vivit import cli
from vivit.config import AugmentConfig
from vivit.data.dataset import TrainClips
from vivit.data.sample import DataError, class_names, encode_labels, read
from vivit.pages import jpeg
from vivit.show import film, show

from .engine.tiny import tiny_config, write_table


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("show") / "data", train=4, val=1)


def test_each_class_has_its_clip_and_the_draws_that_training_shows(root, tmp_path):
    config = tiny_config(root, tmp_path, augment=AugmentConfig(colour_jitter=1.0, rand_augment_layers=2, cutmix=1.0))
    page = show(config, output=str(tmp_path / "page.html"), draws=3, frames=2).read_text()
    samples = read("folder", str(root), "train")
    names = class_names(samples)
    clips = TrainClips(
        samples, encode_labels(samples, names), model=config.model, data=config.data, augment=config.augment, seed=0
    )
    for sample, colour in ((2, "red"), (0, "green")):
        assert f"<h2>{colour} · bright" in page
        for epoch in range(3):
            assert page.count(jpeg(film(clips[epoch, sample], 2))) == 1
    assert page.count("<img ") == 2 * (1 + 3) + 2
    assert re.search(r"cutmix: \d+% green, \d+% red", page)
    assert "augment.rand_augment_layers: 0 -&gt; 2" in page
    assert "http://" not in page and "https://" not in page  # noqa: PT018


def test_videos_that_cannot_be_read_are_named(tmp_path):
    root = write_table(tmp_path / "data", train=0, val=0, broken=2)
    with pytest.raises(DataError, match="broken-train0.mp4"):
        show(tiny_config(root, tmp_path), output=str(tmp_path / "page.html"))


def test_the_command_takes_a_recipe_and_its_settings(root, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    words = f"vivit data show finetune --data.root {root} --output {page} --classes 1 --model.image-size 32 32"
    monkeypatch.setattr("sys.argv", [*words.split(), "--augment.erasing", "1.0"])
    cli.main()
    assert str(page) in capsys.readouterr().out
    assert "augment.erasing: 0.0 -&gt; 1.0" in page.read_text()
    assert page.read_text().count("<section>") == 1
