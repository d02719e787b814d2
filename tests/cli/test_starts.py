"""`vivit starts`."""

import pytest

from vivit.cli import starts
from vivit.engine.measure import ClipCost
from vivit.weights.starts import STARTS


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
    costs = {"vit-base": ClipCost(0.25, 3 * 2**28), "vjepa2-giant": None}
    by_depth = {STARTS[name].model["depth"]: cost for name, cost in costs.items()}
    monkeypatch.setattr("vivit.engine.measure.measure_clip", lambda fields, device: by_depth[fields["depth"]])
    starts.run(["vit-base", "vjepa2-giant", "videoprism-base", "--measure"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vit-base", "16", "224", "0.25", "768.0", "MiB"]
    assert lines[2].endswith("too little memory")
    assert lines[3].endswith("its config is in its files")
