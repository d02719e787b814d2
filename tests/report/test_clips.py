"""The page of `vivit data show` shows what training feeds the model."""

import json
import re
from html import unescape

import pytest

from vivit import cli
from vivit.config import AugmentConfig
from vivit.data.dataset import TrainDataset
from vivit.data.datasets.registry import read_samples
from vivit.data.sample_table import class_names, encode_labels
from vivit.data.tools.check import check
from vivit.engine import train as train_module
from vivit.engine.train import train_in
from vivit.errors import DataError
from vivit.report.clips import frame_strip, show
from vivit.report.html import jpeg

from ..engine.tiny import ALONE, tiny_config, write_table


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("show") / "data", train=4, val=1)


def test_each_class_has_its_clip_and_the_draws_that_training_shows(root, tmp_path):
    config = tiny_config(root, tmp_path, augment=AugmentConfig(color_jitter=1.0, rand_augment_layers=2, cutmix=1.0))
    page = show(config, output=str(tmp_path / "page.html"), draws=3, frames=2).read_text()
    samples = read_samples("folder", str(root), "train")
    names = class_names(samples)
    clips = TrainDataset(
        samples, encode_labels(samples, names), model=config.model, data=config.data, augment=config.augment, seed=0
    )
    for sample, colour in ((2, "red"), (0, "green")):
        assert f"<h2>{colour} · bright" in page
        for epoch in range(3):
            assert page.count(jpeg(frame_strip(clips[epoch, sample].video, 2))) == 1
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
    monkeypatch.setattr("sys.argv", [*words.split(), "--augment.random-erasing", "1.0"])
    cli.main()
    assert str(page) in capsys.readouterr().out
    assert "augment.random_erasing: 0.0 -&gt; 1.0" in page.read_text()
    assert page.read_text().count("<section>") == 1


def test_the_page_shows_the_clips_of_training_also_with_a_manifest_and_official_classes(tmp_path, monkeypatch):
    """The loop that trains is asked for its clips, by (epoch, index); the page must hold the same."""
    root = write_table(tmp_path / "data", train=6, val=2, broken=1)
    rows = root.read_text().splitlines()
    broken = next(row for row in rows if "broken-train" in row)
    root.write_text("\n".join([rows[0], broken, *(row for row in rows[1:] if row != broken)]) + "\n")
    classes = {"colour": ["red", "green", "blue"], "light": ["none", "dark", "bright"]}
    (root.parent / "classes.json").write_text(json.dumps(classes))
    check(str(root), workers=0)
    config = tiny_config(root, tmp_path / "run", augment=AugmentConfig(color_jitter=1.0, random_erasing=0.5), seed=3)
    page = show(config, output=str(tmp_path / "page.html"), draws=2, frames=4).read_text()

    class Asked(Exception):
        """With the clips that training would load."""

    def ask(clips, **how):
        raise Asked(clips)

    monkeypatch.setattr(train_module, "train_loader", ask)
    with pytest.raises(Asked) as asked:
        train_in(ALONE, config)
    clips = asked.value.args[0]
    assert clips.model.classes == {name: tuple(names) for name, names in classes.items()}
    first = [int((clips.labels[:, 0] == label).nonzero()[0]) for label in clips.labels[:, 0].unique()]
    assert [clips.samples[i].labels["colour"] for i in first] == ["red", "green"]
    for index in first:
        for epoch in range(2):
            assert page.count(jpeg(frame_strip(clips[epoch, index].video, 4))) == 1
    assert page.index("<h2>red") < page.index("<h2>green")
    assert "broken-train0.mp4" in page


def test_another_video_of_the_class_is_shown_where_the_first_cannot_be_read(tmp_path):
    root = write_table(tmp_path / "data", train=4, val=1, label_sets=1)
    (tmp_path / "data" / "videos" / "train0.mp4").write_bytes(b"not a video")
    page = show(tiny_config(root, tmp_path / "run"), output=str(tmp_path / "page.html")).read_text()
    assert "<h2>green" in page
    assert "left out: " in page
    assert "train0.mp4" in page


def test_names_on_the_page_are_text_and_no_markup(tmp_path):
    root = write_table(tmp_path / "data", train=4, val=1, label_sets=1)
    root.write_text(root.read_text().replace("red", '<img src=x onerror="1">\x1b[31m'))
    page = show(tiny_config(root, tmp_path / "run"), output=str(tmp_path / "page.html")).read_text()
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert '<img src=x onerror="1">\\x1b[31m' in unescape(page)
