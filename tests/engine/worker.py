"""What the tests of several processes start in each of them; tests/processes.py imports it once for all."""

import faulthandler
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
import torch.distributed.fsdp  # once, and not in each process

from vivit.config import Config
from vivit.engine import checkpoint
from vivit.engine.distributed import World, init_distributed
from vivit.engine.train import train_in

from .tiny import ALONE, train_and_stop

# A run, the step at which the first process is told to stop, and whether its disk is full at the first save.
Job = tuple[Config, int | None, bool]


def write_log(log: Path, settings: dict[str, str], act: Callable[..., object], *arguments, seconds: float) -> None:
    """Do `act(*arguments)` in a process with these variables; what it prints and raises goes to a file.

    After the given number of seconds, the stack of every thread is written there too.
    """
    with log.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        faulthandler.dump_traceback_later(seconds, file=file)
        torch.set_num_threads(1)
        os.environ |= settings
        try:
            act(*arguments)
        except BaseException:
            traceback.print_exc()
        file.flush()
        os._exit(0)


def train_in_one_thread(config: Config) -> None:
    torch.set_num_threads(1)
    train_in(ALONE, config)


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
