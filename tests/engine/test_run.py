"""The pieces of a run that training uses: readings, environment, device."""

import json
import math
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from vivit.config import replace
from vivit.engine.device import autocast, pick_device
from vivit.engine.distributed import World
from vivit.engine.meter import Meter
from vivit.engine.run import environment
from vivit.model.cost import count_cost

from .tiny import ALONE, CLASSES, tiny_config

ROOT = Path(__file__).parents[2]
MODEL = replace(tiny_config("", "").model, classes=CLASSES)


def test_readings_are_means_since_the_last_one_and_pauses_do_not_count():
    began = time.monotonic()
    meter = Meter(ALONE, MODEL)
    for value in (1.0, 2.0, 6.0):
        meter.add(loss=torch.tensor(4 * value), grad_norm=2 * value, clips=4)  # the sum over the clips
    with meter.paused():
        paused = time.monotonic()
        time.sleep(0.2)
        paused = time.monotonic() - paused
    values = meter.read()
    counted = time.monotonic() - began - paused  # and a little more, on a busy machine
    assert (values["loss"], values["grad_norm"]) == (3.0, 6.0)
    assert values["clips_per_second"] > 12 / counted
    # Forward and backward: three times the forward pass, a multiply-add is two operations.
    assert values["tflops"] == pytest.approx(
        6 * count_cost(MODEL, as_computed=True)[-1].multiply_adds * values["clips_per_second"] / 1e12
    )
    meter.add(loss=torch.tensor(5.0), grad_norm=0.0, clips=1)
    assert meter.read()["loss"] == 5.0


def test_a_reading_without_clips_has_no_loss():
    meter = Meter(ALONE, MODEL)
    meter.add(loss=torch.tensor(0.0), grad_norm=0.0, clips=0)
    assert math.isnan(meter.read()["loss"])


@pytest.mark.parametrize("stop", range(6))
def test_a_reading_does_not_notice_an_interruption(stop):
    """Its sums go through JSON, and come out the same to the last bit."""
    steps = [(torch.rand(()) * 8, float(torch.randint(1, 9, ())), torch.rand(()).item()) for _ in range(5)]
    whole, first, second = (Meter(ALONE, MODEL) for _ in range(3))
    for i, (loss, clips, grad_norm) in enumerate(steps):
        for meter in (whole, first if i < stop else second):
            if i == stop:
                second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            meter.add(loss=loss, clips=clips, grad_norm=grad_norm)
    if stop == 5:
        second.load_state_dict(first.state_dict())
    ours, theirs = second.read(), whole.read()
    assert (ours["loss"], ours["grad_norm"]) == (theirs["loss"], theirs["grad_norm"])


def test_the_losses_of_all_processes_make_one_reading():
    """The sum over processes is made by the other, which has seen a loss of 10 and goes on from nothing."""

    @dataclass(frozen=True)
    class First(World):
        def sum(self, values):
            return [value + 10 for value in values]

    meter = Meter(First(0, 2, ALONE.device), MODEL)
    meter.add(loss=torch.tensor(2.0), clips=8, grad_norm=1.0)
    saved = meter.state_dict()
    assert (saved["loss"], meter.read()["loss"]) == (12.0, 12 / 8)
    for rank, before in ((0, 12.0), (1, 0.0)):  # what was summed counts once
        meter = Meter(World(rank, 1, ALONE.device), MODEL)
        meter.load_state_dict(saved)
        assert meter.read()["loss"] == before / 8


def test_waiting_for_batches_is_measured_and_the_batches_are_the_same():
    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield i

    meter = Meter(ALONE, MODEL)
    meter.add(loss=torch.tensor(1.0), grad_norm=1.0, clips=1)
    assert list(meter.timed(slow())) == [0, 1, 2]
    assert meter.read()["data_wait"] > 0.9


def test_the_environment_names_the_commit_and_does_without_git(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert environment()["commit"] is None
    monkeypatch.undo()
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert environment()["commit"] == head.stdout.strip()


def test_a_device_that_does_not_exist_is_an_error_that_says_what_does():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'; allowed: auto, cpu, cuda, mps"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' is not available .* use device=auto or cpu"):
            pick_device("cuda")


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_automatic_precision_is_float32_on_the_cpu(precision, dtype):
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype
