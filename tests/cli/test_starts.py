"""`vivit starts`."""

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from vivit.cli import starts
from vivit.engine.measure import ClipCost
from vivit.weights.starts import STARTS

from ..engine.tiny import write_table


def test_the_table_has_all_starts_and_fits_a_terminal(capsys):
    starts.run([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(STARTS) + 1]] == list(STARTS)
    assert max(map(len, lines)) <= 84
    assert any(line.split() == ["vjepa2-large", "64", "256", "304", "5785", "-", "73.7", "-", "MIT"] for line in lines)


def test_a_name_shows_source_licence_and_files(capsys):
    starts.run(["vjepa2-large", "vit-base"])
    out = capsys.readouterr().out
    for part in (
        "facebook/vjepa2-vitl-fpc64-256",
        "SSv2 73.7 frozen, Diving48 89.0 frozen (README of",
        "licence    MIT",
    ):
        assert part in out
    assert "see its page on the hub" in out
    assert "its layers being Model 2's over space" in out


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="unknown start 'vjepa2-larg'; did you mean 'vjepa2-large'"):
        starts.run(["vjepa2-larg"])


def test_measuring_lists_seconds_and_memory_and_what_does_not_fit(capsys, monkeypatch):
    costs = {"vit-base": ClipCost(0.25, 3 * 2**28), "vjepa2-giant": None, "videoprism-base": ClipCost(2, 2**30)}
    asked = [STARTS[name].model for name in costs]
    measure = lambda fields, device: [*costs.values()][asked.index(fields)]  # noqa: E731
    monkeypatch.setattr("vivit.engine.measure.measure_clip", measure)
    starts.run([*costs, "--measure"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vit-base", "16", "224", "0.25", "768.0", "MiB"]
    assert lines[2].endswith("too little memory")
    assert lines[3].split() == ["videoprism-base", "16", "288", "2", "1.00", "GiB"]


@pytest.mark.parametrize("recipe", ["finetune", "videoprism-probe"])
def test_training_from_a_short_name_without_network_says_which_files_to_bring(recipe, vivit, monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    table = write_table(tmp_path, label_sets=1)
    code, _, err = vivit("train", recipe, "--data.root", table, "--init", "videoprism-base", "--run", tmp_path / "run")
    assert code
    assert "the official .npz alone of google/videoprism-base-f16r288; bring them in one folder" in " ".join(
        err.split()
    )
    assert not (tmp_path / "run").exists()
