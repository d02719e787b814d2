"""Trackers that raise, hang or lag: the run continues at its speed and says so in one line."""

import sys
import time
import types

import pytest

from vivit.engine import trackers
from vivit.engine.run import Run
from vivit.engine.trackers import Tracker, open_trackers

from .tiny import ALONE, metrics, tiny_config


class Recorder:
    """A writer that keeps what it gets."""

    def __init__(self):
        self.entries, self.closed = [], False

    def write(self, step, values):
        self.entries.append((step, values))

    def close(self):
        self.closed = True


def failing(*_, **__):
    raise RuntimeError("quota exceeded")


def sleeping(*_, **__):
    time.sleep(1000)


def fake_module(monkeypatch, **functions):
    """A module of the shape of wandb, whose other functions do nothing."""
    nothing = dict.fromkeys(("init", "log", "finish"), lambda *_, **__: None)
    module = types.SimpleNamespace(**(nothing | functions))
    monkeypatch.setitem(sys.modules, "fake_tracker", module)


def run_with_tracker(tmp_path, steps=5):
    """Log some steps; returns the seconds that this took, without the end of the run, and with it."""
    started = time.monotonic()
    with Run(tiny_config("", tmp_path / "run", tracker="fake_tracker"), ALONE, step=0, steps=steps) as run:
        for step in range(1, steps + 1):
            run.log(step, {"loss": 1.0})
            time.sleep(0.05)
        logged = time.monotonic() - started
    assert [line["step"] for line in metrics(run.folder)] == list(range(1, steps + 1))
    return logged, time.monotonic() - started


def test_a_tracker_gets_every_step_in_order_and_is_closed():
    writer = Recorder()
    tracker = Tracker("recorder", lambda: writer)
    for step in range(100):
        tracker.log(step, {"loss": step / 2})
    tracker.close()
    assert writer.entries == [(step, {"loss": step / 2}) for step in range(100)]
    assert writer.closed
    assert tracker.problem == ""


@pytest.mark.parametrize("function", ["init", "log", "finish"])
def test_a_tracker_that_raises_is_dropped_with_one_line(function, tmp_path, monkeypatch, capsys):
    fake_module(monkeypatch, **{function: failing})
    run_with_tracker(tmp_path)
    assert capsys.readouterr().out.count("fake_tracker gets no more metrics: quota exceeded") == 1


@pytest.mark.parametrize("function", ["init", "log", "finish"])
def test_a_tracker_that_hangs_is_dropped_with_one_line_and_takes_no_time(function, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    fake_module(monkeypatch, **{function: sleeping})
    logged, in_all = run_with_tracker(tmp_path, steps=10)
    assert capsys.readouterr().out.count("fake_tracker gets no more metrics: it ") == 1
    assert in_all < 300
    assert logged < 300


def test_a_tracker_that_lags_is_dropped_before_it_takes_all_memory(monkeypatch):
    monkeypatch.setattr(trackers, "QUEUE_SIZE", 3)
    tracker = Tracker("slow", lambda: sleeping())
    started = time.monotonic()
    for step in range(10):
        tracker.log(step, {})
    assert tracker.problem == "it is 3 lines behind"
    tracker.close()
    assert time.monotonic() - started < 300


def test_a_tracker_that_is_not_installed_is_an_error_at_the_start(tmp_path):
    with pytest.raises(ImportError, match="tracker='no_such_module' is not installed: pip install no_such_module"):
        open_trackers(tiny_config("", tmp_path, tracker="no_such_module"), 0)
