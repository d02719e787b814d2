"""Compute the videos of a corpus in processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

from ..data.dataset import wait_for_storage
from ..data.remote import local_folder
from ..data.sample import Sample
from ..data.sample_table import SampleTable, StringColumn
from ..data.tools.process_pool import cores, map_unordered
from ..engine.device import choose_attention
from ..engine.evaluate import load_weights
from ..errors import DataError, VideoError, VivitError
from ..model.vivit import ViViT
from ..weights.save import hash_weights
from .jobs import JOBS, Target

ATTEMPTS = 3  # of a video whose process is killed, also from outside
PER_GPU = 4  # processes that share a GPU: some decode while one computes
START_METHOD = "spawn"  # PyTorch forks badly once it has computed
STARTUP = 600.0  # seconds more for the first video of a process, which loads the weights
STORAGE_TIMEOUT = 600.0  # seconds to wait for a folder of videos that is gone

Result = tuple[int, list[list[Any]], str]
"""(row of the list, cells, error)"""


@dataclass(frozen=True)
class Task:
    """What a worker process needs to know."""

    job: str
    weights: str
    sha256: str
    """Hash of the weights."""
    devices: tuple[str, ...]
    settings: dict[str, Any]
    out: str
    """The folder or URL for the files of the videos."""
    root: str
    """The folder of the list, to see whether its storage is there."""


class Unit(NamedTuple):
    """What a process does at a time: a video or a segment."""

    row: int
    """Its number in the list."""
    sample: Sample
    name: str
    """Of its files."""


class Units(Sequence[Unit]):
    """The rows of a list that are to be done; units are created when they are asked for.

    Without `names`, files are called by the places in the list: `places`, or those of `samples`.
    """

    def __init__(
        self,
        samples: SampleTable,
        rows: Sequence[int],
        names: StringColumn | None = None,
        places: Sequence[int] | None = None,
    ):
        self.samples, self.rows, self.names, self.places = samples, rows, names, places

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = int(self.rows[i])
        place = row if self.places is None else int(self.places[row])
        return Unit(row, self.samples[row], self.names[row] if self.names else f"{place // 1000:06}/{place:09}")


def compute_units(
    task: Task,
    units: Units,
    *,
    workers: int | None = None,
    timeout: float = float("inf"),
    while_waiting: Callable[[list[tuple[Unit, float]]], None] = lambda running: None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield (number of the unit, its result) as the units end; see `map_unordered`.

    A process decodes and computes one unit at a time, so what is under way is bounded by their number: by default one
    per core on a CPU, with one thread each, and `PER_GPU` for each GPU.
    """
    on_cpu = task.devices[0] == "cpu"
    count = workers or (cores() if on_cpu else min(PER_GPU * len(task.devices), cores()))
    return map_unordered(
        partial(run_unit, task),
        units,
        workers=min(count, len(units)),
        on_crash=lambda unit, why: (unit.row, [], f"{unit.sample.path}: {why}"),
        timeout=timeout,
        startup=STARTUP,
        attempts=ATTEMPTS,
        start_method=START_METHOD,
        while_waiting=while_waiting,
    )


def run_unit(task: Task, unit: Unit) -> Result:
    """Compute one video or segment in a worker process. Raises DataError if the storage of the list is gone."""
    row, sample, name = unit
    try:
        wait_for_storage(sample.path, task.root, seconds=STORAGE_TIMEOUT)
    except VideoError as error:
        raise DataError(f"{error}; the same command resumes") from error
    model = load_once(task.weights, task.sha256, task.devices)
    job = JOBS[task.job]
    try:
        with local_folder(os.path.join(task.out, job.folder)) as folder:
            return row, job.compute(model, sample, task.settings, Target(folder, name, task.sha256)), ""
    except VivitError as error:
        return row, [], str(error)


@lru_cache(maxsize=1)
def load_once(weights: str, sha256: str, devices: tuple[str, ...]) -> ViViT:
    """Load the model of this process. Raises DataError if the weights have changed since the job began."""
    number = multiprocessing.current_process().name.rpartition("-")[2]
    device = torch.device(devices[int(number) % len(devices) if number.isdigit() else 0])
    if device.type == "cpu":
        torch.set_num_threads(1)  # the processes share the cores; sums come in one order
    choose_attention(device)
    logging.getLogger("vivit").setLevel(logging.ERROR)  # the first process has warned of the weights
    model = load_weights(weights)
    logging.getLogger("vivit").setLevel(logging.WARNING)
    if hash_weights(model) != sha256:
        raise DataError(f"{weights} has changed while the job ran; give weights that stay, and another --out")
    return model.to(device)
