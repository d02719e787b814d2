"""SIGKILL at random moments, during saves as well: the run, started again and again, equals the uninterrupted one."""

import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from vivit.config import replace
from vivit.engine.train import train

from ..engine.tiny import assert_equal_runs, mixed_config, tiny_config, write_table
from ..processes import forkserver

pytestmark = pytest.mark.slow


def train_silently(config):
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    train(config)


def start(config) -> BaseProcess:
    """Train in a process of its own."""
    process = forkserver().Process(target=train_silently, args=(config,))
    process.start()
    return process


def saving(config) -> bool:
    return any((Path(config.run) / "checkpoints").glob("*.partial"))


def kill_and_go_on(config, *, kills: int, in_saves: int, rng: random.Random) -> int:
    """Kill the run `kills` times, the first `in_saves` during a save, let it finish; returns how many hit a save."""
    hits = 0
    for number in range(kills):
        child = start(config)
        time.sleep(rng.uniform(0.05, 0.6))
        deadline = time.monotonic() + 20
        while number < in_saves and not saving(config) and time.monotonic() < deadline:
            time.sleep(0.0005)  # wait for the next save to begin
        time.sleep(rng.uniform(0, 0.01))
        hit = saving(config)
        child.kill()
        child.join()
        hits += hit and saving(config)
    child = start(config)
    child.join()
    assert child.exitcode == 0
    return hits


def drill(folder, *, epochs: int, kills: int, in_saves: int) -> int:
    root = write_table(folder / "data")
    straight, killed = (mixed_config(tiny_config(root, folder / name)) for name in ("straight", "killed"))
    straight, killed = (replace(c, optim=replace(c.optim, epochs=epochs), eval_every=5) for c in (straight, killed))
    train(straight)
    hits = kill_and_go_on(killed, kills=kills, in_saves=in_saves, rng=random.Random(0))
    assert_equal_runs(killed.run, straight.run)
    return hits


def test_a_run_killed_three_times_equals_the_uninterrupted_one(tmp_path):
    assert drill(tmp_path, epochs=30, kills=3, in_saves=1) >= 1


@pytest.mark.drill
def test_a_run_killed_fifty_times_ten_of_them_in_a_save_equals_the_uninterrupted_one(tmp_path):
    hits = drill(tmp_path, epochs=400, kills=50, in_saves=20)
    print(f"50 kills, {hits} during a save")
    assert hits >= 10
