"""A long list that is read says so; a short one says nothing."""

import io

import pytest
from rich.console import Console

from vivit.data import reading
from vivit.data.datasets.registry import read_samples
from vivit.data.reading import show_reading


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(reading, "AFTER", -1.0)
    monkeypatch.setattr(reading, "EVERY", -1.0)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, soft_wrap=True, highlight=False)


def test_without_a_terminal_one_line_says_how_many_were_read():
    shown = console(terminal=False)
    assert list(show_reading(["a", "b", "c"], "rows of x.csv", console=shown)) == ["a", "b", "c"]
    assert shown.file.getvalue() == "rows of x.csv: 0 of 3 so far\n"


def test_a_terminal_has_a_bar_that_counts_and_goes():
    shown = console(terminal=True)
    assert list(show_reading(iter(range(1234)), "rows of x.csv", console=shown)) == list(range(1234))
    assert "rows of x.csv" in shown.file.getvalue()
    assert "1,2" in shown.file.getvalue()


def test_a_short_list_and_an_inner_loop_show_nothing(monkeypatch):
    outer, inner = console(terminal=False), console(terminal=False)
    for _ in show_reading(range(2), "outer", console=outer):
        assert list(show_reading(range(3), "inner", console=inner)) == [0, 1, 2]
    assert inner.file.getvalue() == ""
    monkeypatch.setattr(reading, "AFTER", 60.0)
    assert list(show_reading(range(3), "rows", console=inner)) == [0, 1, 2]
    assert inner.file.getvalue() == ""


def test_an_abandoned_loop_lets_the_next_one_show():
    shown = console(terminal=False)
    for _ in show_reading(range(5), "first", console=console(terminal=False)):
        break
    assert len(list(show_reading(range(5), "second", console=shown))) == 5
    assert shown.file.getvalue() == "second: 0 of 5 so far\n"


def test_a_table_and_folders_of_videos_are_counted_while_they_are_read(tmp_path, capsys):
    for name in "ab":
        (tmp_path / "videos" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "videos" / name / f"{i}.mp4").touch()
    read_samples("folder", str(tmp_path / "videos"), "train")
    assert "folders in" in capsys.readouterr().err
    rows = "".join(f"videos/a/{i}.mp4,x\n" for i in range(12))
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    read_samples("folder", str(tmp_path / "labels.csv"), "train")
    assert "rows of labels.csv: 0 of 12 so far\n" in capsys.readouterr().err
