"""Work on many files in several processes, with a progress bar; survive crashes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
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


def exit_with_parent() -> None:
    """End this process within two seconds of the one that started it, whatever it is doing, also if that was killed.

    The system's parent is not enough: it is the fork server where that starts the processes, and another one if the
    parent has gone before it is asked for. Nor is the pipe of multiprocessing: a fork of the parent keeps it open.
    """
    starter, parent = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        while os.getppid() == parent and (starter is None or starter.is_alive()):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="exit_with_parent", daemon=True).start()


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
    job: int = -1
    """The number of its current job."""
    since: float = 0.0
    deadline: float = float("inf")
    is_late: bool = False

    def begin(self, job: int, timeout: float) -> None:
        """Note that a job was given to it now."""
        self.job, self.since = job, time.monotonic()
        self.deadline = self.since + timeout


def _results(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    on_crash: Callable[[Job], Result],
    timeout: float,
) -> Iterator[Result]:
    """Yield the results in order."""
    done: dict[int, Result] = {}
    given = 0
    results = map_unordered(function, jobs, workers=workers, on_crash=lambda job, why: on_crash(job), timeout=timeout)
    with closing(results):
        for number, result in results:
            done[number] = result
            while given in done:
                yield done.pop(given)
                given += 1


def map_unordered(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    on_crash: Callable[[Job, str], Result],
    timeout: float = float("inf"),
    startup: float = 0.0,
    attempts: int = 1,
    start_method: str | None = None,
    while_waiting: Callable[[list[tuple[Job, float]]], None] | None = None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield (number of the job, function(job)) as the jobs end. Each worker has one job at a time.

    A job that ends its process is tried `attempts` times; then its result is `on_crash(job, why)`, as it is for a job
    that is not done after `timeout` seconds, `startup` more for the first one of a process. An exception in `function`
    is raised here. `start_method` is one of multiprocessing's. About once a second `while_waiting` gets the jobs that
    run and their seconds so far. However the iteration ends, no process is left.
    """
    todo = iter(range(len(jobs)))
    again: list[int] = []
    crashes: Counter[int] = Counter()
    busy: list[_Worker] = []

    def next_job() -> int | None:
        return again.pop() if again else next(todo, None)

    try:
        while True:
            while len(busy) < workers and (job := next_job()) is not None:
                busy.append(_start(function, jobs[job], job, timeout + startup, start_method))
            if not busy:
                return
            ready = _ready(busy, 1.0 if while_waiting else float("inf"))
            if while_waiting:
                now = time.monotonic()
                while_waiting([(jobs[worker.job], now - worker.since) for worker in busy])
            for worker in ready:
                outcome = _receive(worker)
                if outcome is None:
                    busy.remove(worker)
                    _end([worker])
                    crashes[worker.job] += 1
                    if worker.is_late or crashes[worker.job] >= attempts:
                        yield worker.job, on_crash(jobs[worker.job], _reason(worker, timeout, attempts))
                    else:
                        again.append(worker.job)
                    continue
                result, error = outcome
                if error is not None:
                    raise error
                done = worker.job
                if (job := next_job()) is None:
                    busy.remove(worker)
                    _end([worker])
                else:
                    worker.begin(job, timeout)
                    with suppress(OSError):  # it has died in the meantime; `_ready` finds that
                        worker.pipe.send(jobs[job])
                yield done, result
    finally:
        _end(busy)


def _reason(worker: _Worker, timeout: float, attempts: int) -> str:
    """Say why a job has no result."""
    if worker.is_late:
        return f"not done after {timeout:g} s"
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"its process {how}" + (f", {attempts} times" if attempts > 1 else "")


def _start(function: Callable[[Job], Any], job: Job, number: int, timeout: float, start_method: str | None) -> _Worker:
    """Start a process with its first job."""
    context = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    with suppress(OSError):
        ours.send(job)
    worker = _Worker(process, ours)
    worker.begin(number, timeout)
    return worker


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer jobs until there are no more; end when the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    exit_with_parent()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):  # the parent has gone; a reset if an answer was on its way to it
            return
        try:
            pipe.send_bytes(pickle_answer(function, job))
        except OSError:  # the parent has gone
            return


def pickle_answer(function: Callable[[Any], Any], job: Any) -> bytes:
    """Return (function(job), None), or (None, the exception), pickled."""
    try:
        answer = (function(job), None)
    except Exception as error:
        answer = (None, error)
    try:
        message = pickle.dumps(answer)
        pickle.loads(message)  # an exception may not survive it
    except Exception:
        message = pickle.dumps((None, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))
    return message


def _ready(busy: Sequence[_Worker], patience: float) -> list[_Worker]:
    """Wait for workers that have answered, died, or are late, but no longer than `patience` seconds."""
    rest = min(patience, min(worker.deadline for worker in busy) - time.monotonic())
    ready = set(wait([worker.pipe for worker in busy], timeout=None if rest == float("inf") else max(rest, 0)))
    now = time.monotonic()
    return [worker for worker in busy if worker.pipe in ready or worker.deadline <= now]


def _receive(worker: _Worker) -> tuple[Any, Exception | None] | None:
    """Receive (result, exception) from a worker; None from one that is dead or late."""
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
        worker.is_late = True
    except (EOFError, OSError):
        worker.process.join(1)  # for its exit code
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
