"""What test_scale.py starts in several processes: runs, one after the other, in one world.

A module of its own, so that a server process imports it once and every process is a fork of that.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch

from vivit.config import Config
from vivit.engine import checkpoint
from vivit.engine.distributed import World, init_distributed
from vivit.engine.train import train_in

from .tiny import train_and_stop

# A run, the step at which the first process is told to stop, and whether its disk is full at the first save.
Job = tuple[Config, int | None, bool]


def work(rank: int, ranks: int, port: int, jobs: list[Job]) -> None:
    """One process of the world, as torchrun would start it."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with init_distributed("cpu") as world:
        for config, stop, full in jobs:
            with full_disk(world) if full else nullcontext():
                if stop:
                    train_and_stop(config, stop, world=world)
                else:
                    train_in(world, config)


@contextmanager
def full_disk(world: World) -> Iterator[None]:
    """The first process cannot write the manifest of the first checkpoint."""
    write, calls = checkpoint._write, []

    def write_or_fail(path, text):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        write(path, text)

    with mock.patch.object(checkpoint, "_write", write_or_fail):
        yield
    assert world.is_main == (len(calls) > 1)
