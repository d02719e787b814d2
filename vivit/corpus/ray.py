"""Compute the videos of a corpus with actors of Ray Data, on a cluster or on one that is started for the job."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ..data.dataset import time_limit
from ..data.tools.process_pool import cores, pickle_answer
from ..errors import DataError
from .local import ATTEMPTS, PER_GPU, Result, Task, Unit, Units, load_once, run_unit

WAVE = 10_000  # videos of one Ray dataset, each a block; the next dataset starts new actors
ANSWER = 10.0  # seconds until a cluster must have answered
PAUSE = 1.0  # seconds between two looks at what the actors have started, and before units are tried again


class Actor:
    """Decode and compute one video after another, as a worker process of the local engine does."""

    def __init__(self, task: Task, folder: str, timeout: float, starts: Any):
        import ray

        with suppress(OSError):  # another machine may lack it; then only absolute paths lead to files
            os.chdir(folder)
        self.task, self.timeout, self.starts = task, timeout, starts
        self.id = ray.get_runtime_context().get_actor_id()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Turn the only row of a block, a pickled unit, into a pickled answer: (result, exception)."""
        unit = pickle.loads(rows["unit"][0])
        self.starts.put((self.id, unit.row))
        return {"answer": [pickle_answer(self.run, unit)]}

    def run(self, unit: Unit) -> Result:
        """Compute a unit within the time limit."""
        if self.timeout == float("inf"):
            return run_unit(self.task, unit)
        load_once(self.task.weights, self.task.sha256, self.task.devices)
        with time_limit(unit.sample.path, seconds=self.timeout, setting="--timeout"):
            return run_unit(self.task, unit)


class Starts:
    """Which units the actors have started, and how often.

    A unit without an answer may never have been started: a machine that vanishes fails all units that are sent to it.
    """

    def __init__(self, queue: Any):
        self.queue = queue
        """A queue of Ray, into which an actor puts (its id, row) when it starts a unit."""
        self.counts = Counter[int]()
        self.latest: dict[str, tuple[int, float]] = {}
        """Of each actor: (row of the unit, when it was seen)."""

    def read(self) -> None:
        """Take in what the actors have put into the queue."""
        for actor, row in self.queue.get_nowait_batch(self.queue.qsize()):
            self.counts[row] += 1
            self.latest[actor] = row, time.monotonic()

    def running(self, units: Mapping[int, Unit]) -> list[tuple[Unit, float]]:
        """Return those of the units by row that actors compute, with their seconds."""
        now = time.monotonic()
        return [(units[row], now - since) for row, since in self.latest.values() if row in units]


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
    is tried again when the others are done; if it was started `ATTEMPTS` times, it has failed. Raises DataError if no
    cluster answers, and if vivit does not start on it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # unless the user wants it, nothing is reported
    try:
        import ray
    except ImportError as error:
        raise ImportError("--engine ray needs Ray Data: pip install 'vivit[ray]'") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        _start(address)
    try:
        starts = Starts(_open_queue())
        for first in range(0, len(units), WAVE):
            numbers = range(first, min(first + WAVE, len(units)))
            place = {units[i].row: i for i in numbers}
            in_flight = 2  # so that an actor need not wait for its next unit
            vain = 0
            while place:
                before = starts.counts.total()
                waiting = {row: units[i] for row, i in place.items()}
                for result in _compute_pass(task, waiting, workers, timeout, while_waiting, starts, in_flight):
                    if (i := place.pop(result[0], None)) is not None:  # Ray promises at least once, not exactly once
                        yield i, result
                for row in [row for row in place if starts.counts[row] >= ATTEMPTS]:
                    reason = f"{waiting[row].sample.path}: its process was killed, {ATTEMPTS} times"
                    yield place.pop(row), (row, [], reason)
                vain = 0 if starts.counts.total() > before else vain + 1
                if vain == ATTEMPTS:
                    raise DataError(
                        f"no video was started in {vain} attempts; the logs of Ray say why; the same command resumes"
                    )
                in_flight = 1  # what kills its actor costs no other unit an attempt
                time.sleep(PAUSE if place else 0)
    finally:
        if is_ours:
            ray.shutdown()


def _start(address: str) -> None:
    """Connect to a cluster, or start one with the cores of this process. Raises DataError."""
    import ray

    if not address:
        ray.init("local", num_cpus=cores(), include_dashboard=False)
        return
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        if port.isdigit():  # Ray itself takes minutes to find that nothing answers
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
        ray.init(address)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"--address {address}: no Ray cluster there ({reason}); start one with `ray start`") from error


def _open_queue() -> Any:
    """Start a queue on this machine, in a process of Ray that needs no core and is replaced if it dies."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    endless = {"max_restarts": -1, "max_task_retries": -1}
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here} | endless)


def _compute_pass(
    task: Task,
    units: Mapping[int, Unit],
    workers: int | None,
    timeout: float,
    while_waiting: Callable[[list[tuple[Unit, float]]], None],
    starts: Starts,
    in_flight: int,
) -> Iterator[Result]:
    """Yield the results of units by row as they come; those whose actor died are left out.

    `in_flight` units are sent to an actor at a time; all of them have failed if it dies.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayActorError

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures have rows, and the driver shows the progress
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # an actor that dies costs its blocks, not the job
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # one more while all are busy
    gpus = 1 / PER_GPU if task.devices[0].startswith("cuda") else 0
    room = ray.cluster_resources().get("GPU", 0) * PER_GPU if gpus else ray.cluster_resources().get("CPU", 1)
    most = min(workers or len(units), len(units))
    rows = [{"unit": pickle.dumps(unit)} for unit in units.values()]
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
            fn_constructor_args=(task, os.getcwd(), timeout, starts.queue),
            batch_size=1,
            compute=pool,
            num_cpus=1,
            num_gpus=gpus,
            max_task_retries=0,
            max_restarts=-1,
        )
    answers: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
    threading.Thread(target=partial(_collect, results, answers), daemon=True).start()
    left = dict(units)
    starts.latest.clear()
    while True:
        try:
            answer = answers.get(timeout=PAUSE)
        except queue.Empty:
            starts.read()
            while_waiting(starts.running(left))
            continue
        if answer is None:
            starts.read()
            return
        if isinstance(answer, RayActorError):
            reason = str(answer).rstrip().rpartition("\n")[2]
            raise DataError(f"the actors of Ray do not start ({reason}); install the same vivit on all machines")
        if isinstance(answer, Exception):
            raise answer
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        left.pop(result[0], None)
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
