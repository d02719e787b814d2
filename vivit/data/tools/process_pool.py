"""Work on many files in several processes, with a progress bar; survive crashes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    title: str,
    on_crash: Callable[[Job], Result],
    timeout: float = float("inf"),
) -> Iterator[tuple[Job, Result]]:
    """Yield (job, function(job)) for every job, in order.

    `on_crash(job)` is the result of a job that ends its process, or that is not done after `timeout` seconds. An
    exception in `function` is raised here. However the iteration ends, no process is left.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=len(jobs))
        for job, result in zip(jobs, _results(function, jobs, max(workers, 1), on_crash, timeout)):
            bar.advance(task)
            yield job, result


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: int
    """The number of its current job."""
    deadline: float


def _results(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    on_crash: Callable[[Job], Result],
    timeout: float,
) -> Iterator[Result]:
    """Yield the results in order. Each worker has one job at a time, so that a crash points at a single job."""
    todo = iter(range(len(jobs)))
    done: dict[int, Result] = {}
    busy: list[_Worker] = []
    given = 0
    try:
        while given < len(jobs):
            while len(busy) < workers and (job := next(todo, None)) is not None:
                busy.append(_start(function, jobs[job], job, timeout))
            for worker in _ready(busy):
                outcome = _receive(worker)
                if outcome is None:
                    done[worker.job] = on_crash(jobs[worker.job])
                    busy.remove(worker)
                    _end([worker])
                    continue
                result, error = outcome
                if error is not None:
                    raise error
                done[worker.job] = result
                if (job := next(todo, None)) is None:
                    busy.remove(worker)
                    _end([worker])
                else:
                    worker.job, worker.deadline = job, time.monotonic() + timeout
                    with suppress(OSError):  # it has died in the meantime; `_ready` finds that
                        worker.pipe.send(jobs[job])
            while given in done:
                yield done.pop(given)
                given += 1
    finally:
        _end(busy)


def _start(function: Callable[[Job], Any], job: Job, number: int, timeout: float) -> _Worker:
    """Start a process with its first job."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_work, args=(function, theirs, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    with suppress(OSError):
        ours.send(job)
    return _Worker(process, ours, number, time.monotonic() + timeout)


def _work(function: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    """Answer jobs until there are no more, or the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        while not pipe.poll(5):
            if os.getppid() != parent:
                return
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer = (function(job), None)
        except Exception as error:
            answer = (None, error)
        try:
            message = pickle.dumps(answer)
            pickle.loads(message)  # an exception may not survive it
        except Exception:
            message = pickle.dumps((None, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))
        pipe.send_bytes(message)


def _ready(busy: Sequence[_Worker]) -> list[_Worker]:
    """Wait for workers that have answered, died, or are late."""
    rest = min(worker.deadline for worker in busy) - time.monotonic()
    ready = set(wait([worker.pipe for worker in busy], timeout=None if rest == float("inf") else max(rest, 0)))
    now = time.monotonic()
    return [worker for worker in busy if worker.pipe in ready or worker.deadline <= now]


def _receive(worker: _Worker) -> tuple[Any, Exception | None] | None:
    """Receive (result, exception) from a worker; None from one that is dead or late."""
    try:
        return worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _end(workers: Sequence[_Worker]) -> None:
    """End processes, also those that ignore SIGTERM."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(1)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(10)
        worker.pipe.close()
