"""Work on many files in several processes, with a progress bar, and without losing all to one file that kills."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    title: str,
    killed: Callable[[Job], Result],
    chunk: int = 8,
) -> Iterator[tuple[Job, Result]]:
    """(job, function(job)) for every job, in order. `killed(job)` is the result of one that ends its process."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=len(jobs))
        for job, result in _pooled(function, jobs, max(workers, 1), killed, chunk):
            bar.advance(task)
            yield job, result


def _pooled(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, killed: Callable[[Job], Result], chunk: int
) -> Iterator[tuple[Job, Result]]:
    parts = [jobs[i : i + chunk] for i in range(0, len(jobs), chunk)]
    done = 0
    while done < len(parts):
        pool = ProcessPoolExecutor(workers)
        try:
            for results in pool.map(partial(_each, function), parts[done:]):
                yield from zip(parts[done], results)
                done += 1
        except BrokenProcessPool:
            # The file that killed a worker is among those that were under way; one at a time shows which.
            for part in parts[done : done + 2 * workers]:
                yield from ((job, _alone(function, job, killed)) for job in part)
                done += 1
        finally:
            pool.shutdown(cancel_futures=True)


def _each(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    return [function(job) for job in jobs]


def _alone(function: Callable[[Job], Result], job: Job, killed: Callable[[Job], Result]) -> Result:
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(function, job).result()
        except BrokenProcessPool:
            return killed(job)
