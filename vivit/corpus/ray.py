"""Compute the videos of a corpus with actors of Ray Data, on a cluster or on one that is started for the job."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from ..data.dataset import time_limit
from ..data.tools.process_pool import cores, pickle_answer
from ..errors import DataError
from .local import ATTEMPTS, PER_GPU, Result, Task, Unit, Units, load_once, run_unit

WAVE = 10_000  # videos of one Ray dataset, each a block; the next dataset starts new actors
FIRST_ATTEMPTS = 1  # of a unit while another one waits at its actor; in further attempts none waits


class Actor:
    """Decode and compute one video after another, as a worker process of the local engine does."""

    def __init__(self, task: Task, folder: str, timeout: float):
        with suppress(OSError):  # another machine may lack it; then only absolute paths lead to files
            os.chdir(folder)
        self.task, self.timeout = task, timeout

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Turn the only row of a block, a pickled unit, into a pickled answer: (result, exception)."""
        return {"answer": [pickle_answer(self.run, pickle.loads(rows["unit"][0]))]}

    def run(self, unit: Unit) -> Result:
        """Compute a unit within the time limit."""
        if self.timeout == float("inf"):
            return run_unit(self.task, unit)
        load_once(self.task.weights, self.task.sha256, self.task.devices)
        with time_limit(unit.sample.path, seconds=self.timeout, setting="--timeout"):
            return run_unit(self.task, unit)


def compute_on_ray(
    task: Task,
    units: Units,
    *,
    address: str = "",
    workers: int | None = None,
    timeout: float = float("inf"),
    while_waiting: Callable[[list[tuple[Unit, float]]], None] = lambda running: None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield (number of the unit, its result) as the units end; see `vivit.corpus.local.compute_units`.

    `address` is that of a cluster; empty: one is started on this machine, unless this process already uses one. The
    pool of actors begins with the size of the cluster and grows with it, to `workers` at most. A unit whose actor dies
    is tried again when the others are done, `ATTEMPTS` times in all. Raises DataError if no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--engine ray needs Ray Data: pip install 'vivit[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        _start(address)
    try:
        for first in range(0, len(units), WAVE):
            numbers = range(first, min(first + WAVE, len(units)))
            place = {units[i].row: i for i in numbers}
            for in_flight, attempts in ((2, FIRST_ATTEMPTS), (1, ATTEMPTS - FIRST_ATTEMPTS)):
                waiting = [units[i] for i in place.values()]
                for result in _compute_wave(
                    task, waiting, workers, timeout, while_waiting, in_flight=in_flight, attempts=attempts
                ):
                    if (i := place.pop(result[0], None)) is not None:  # Ray promises at least once, not exactly once
                        yield i, result
            for i in place.values():
                row, sample, _ = units[i]
                yield i, (row, [], f"{sample.path}: its process was killed, {ATTEMPTS} times")
    finally:
        if is_ours:
            ray.shutdown()


def _start(address: str) -> None:
    """Connect to a cluster, or start one with the cores of this process. Raises DataError."""
    import ray

    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # unless the user wants it, nothing is reported
        ray.init("local", num_cpus=cores(), include_dashboard=False)
        return
    try:
        ray.init(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"--address {address}: no Ray cluster there ({reason}); start one with `ray start`") from error


def _compute_wave(
    task: Task,
    units: list[Unit],
    workers: int | None,
    timeout: float,
    while_waiting: Callable[[list[tuple[Unit, float]]], None],
    *,
    in_flight: int,
    attempts: int,
) -> Iterator[Result]:
    """Yield the results of units as they come; those whose actor died in each of `attempts` are left out.

    `in_flight` units are sent to an actor at a time: with two, it need not wait for the next one; all of them have
    failed if it dies.
    """
    if not units:
        return
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures have rows, and the driver shows the progress
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # an actor that died `ATTEMPTS` times costs its block, not the job
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # one more while all are busy
    gpus = 1 / PER_GPU if task.devices[0].startswith("cuda") else 0
    room = ray.cluster_resources().get("GPU", 0) * PER_GPU if gpus else ray.cluster_resources().get("CPU", 1)
    most = min(workers or len(units), len(units))
    rows = [{"unit": pickle.dumps(unit)} for unit in units]
    pool = ActorPoolStrategy(
        min_size=1,
        max_size=most,
        initial_size=max(min(int(room), most), 1),
        max_tasks_in_flight_per_actor=in_flight,
        enable_true_multi_threading=True,  # still one call at a time, but in the main thread, as time limits need it
    )
    with warnings.catch_warnings():  # Ray 2.64 will have no way to bound the retries
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Actor,
            fn_constructor_args=(task, os.getcwd(), timeout),
            batch_size=1,
            compute=pool,
            num_cpus=1,
            num_gpus=gpus,
            max_task_retries=attempts - 1,
            max_restarts=-1,
        )
    answers: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
    threading.Thread(target=partial(_collect, results, answers), daemon=True).start()
    while True:
        try:
            answer = answers.get(timeout=1)
        except queue.Empty:
            while_waiting([])
            continue
        if answer is None:
            return
        if isinstance(answer, Exception):
            raise answer
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        yield result


def _collect(results: Any, answers: queue.SimpleQueue[bytes | Exception | None]) -> None:
    """Put the answers of a Ray dataset into a queue, then None, or the exception that ended it."""
    try:
        for block in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for answer in block["answer"].to_pylist():
                answers.put(answer)
        answers.put(None)
    except Exception as error:
        answers.put(error)
