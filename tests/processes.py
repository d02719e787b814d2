"""Start processes in milliseconds from a server process that has imported PyTorch and has no threads.

A fork of a process with threads keeps the locks that one of them holds at that moment, for ever. A store of PyTorch has
a thread that asks glibc's resolver for names; a fork of its process then waits for the resolver without end.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = ["tests.engine.worker"]


def forkserver() -> ForkServerContext:
    """Return the context whose processes are forks of that server; what they do is a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def hang(folder: Path) -> None:
    """Write this process's id as the name of a file, and never end."""
    (folder / str(os.getpid())).touch()
    while True:
        time.sleep(0.1)


def outlive(act: Callable[..., None], start_method: str, folder: Path, *, children: int) -> list[int]:
    """Kill a process in the middle of `act(folder)`, when that many of its children `hang`.

    `start_method` is how multiprocessing starts these children. Returns those that still run 15 s later.
    """
    parent = forkserver().Process(target=_act, args=(act, start_method, folder))
    parent.start()
    deadline = time.monotonic() + 60
    while len(pids := [int(path.name) for path in folder.iterdir()]) < children and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.join()
    assert len(pids) == children
    deadline = time.monotonic() + 15
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def _act(act: Callable[..., None], start_method: str, folder: Path) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    act(folder)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
