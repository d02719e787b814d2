"""The progress bar: it fits 80 columns, moves every step, and its time left counts steps only."""

import io
import time

from rich.console import Console

from vivit.engine import progress
from vivit.engine.progress import TrainingBar

LONG = {"loss": 12.3456, "clips_per_second": 12345.6}


def bar_on_a_terminal(**numbers):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, highlight=False, soft_wrap=True)
    return TrainingBar(console=console, **numbers)


def shown(bar):
    """The lines of the bar as a terminal shows them, without colors."""
    console = Console(file=io.StringIO(), width=80)
    console.print(bar.bar.get_renderable())
    return console.file.getvalue().rstrip("\n").split("\n")


def test_bar_and_time_left_come_first_and_the_line_fits_80_columns():
    bar = bar_on_a_terminal(step=99_998, steps=1_000_000)
    bar.advance()
    bar.advance()
    bar.seconds, bar.timed_steps = 12.0, 1
    bar.advance()
    bar.show(LONG)
    (line,) = shown(bar)
    assert len(line) <= 80
    assert line.index(" left") < line.index("100001/1000000") < line.index("loss 12.3456  12345.6 clips/s")
    assert "━" in line[:16]


def test_every_step_moves_the_bar():
    bar = bar_on_a_terminal(step=0, steps=3)
    seen = []
    for _ in range(3):
        bar.advance()
        seen.append(bar.bar.tasks[0].completed)
    assert seen == [1, 2, 3]
    assert bar.time_left() == "0:00:00"


def test_the_time_left_counts_neither_the_start_of_the_workers_nor_a_validation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = TrainingBar(step=0, steps=10, enabled=False)
    assert bar.time_left() == "-:--:--"
    now[0] += 300  # workers start
    bar.advance()
    assert bar.time_left() == "-:--:--"
    now[0] += 2
    bar.advance()
    assert bar.time_left() == "0:00:16"
    with bar.paused("validation", total=4) as update:
        now[0] += 1000
        update(2)
    now[0] += 2
    bar.advance()
    assert bar.time_left() == "0:00:14"


def test_a_validation_has_a_line_of_its_own_with_its_time_left(monkeypatch):
    now = [0.0]
    bar = bar_on_a_terminal(step=0, steps=10)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bar.paused("validation", total=4) as update:
        now[0] += 30
        update(1)
        first, second = shown(bar)
        assert "0/10" in first
        assert "0:01:30 left" in second
        assert "1/4" in second
        assert "validation" in second
    assert len(shown(bar)) == 1
    assert time.monotonic() == 30
