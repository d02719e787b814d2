"""Handle what interrupts a run: signals, a second training in the same folder, crashed workers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..data.frame_cache import FOLDER, PARTIAL, remove_frames
from ..errors import FolderInUse, WorkerDied
from ..files import exclusive_lock, write_json
from .distributed import World
from .run import Run

SKIPPED_FILES = "skipped_files.json"
OLD_SKIPPED_FILES = "given_up.json"  # the name in runs of earlier versions


@dataclass
class StopRequest:
    """Whether a signal asked the process to stop, which one, and whether it came twice."""

    number: int | None = None
    repeated: bool = False
    waiting: bool = False

    def __bool__(self) -> bool:
        return self.number is not None

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on the first signal inside: the process only waits and has nothing to finish."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False


@contextmanager
def stop_signals(answer: str = "", processes: int = 1) -> Iterator[StopRequest]:
    """Record the first SIGINT or SIGTERM and print `answer` to stderr; the next signal raises KeyboardInterrupt.

    Inside `StopRequest.interrupts()` the first signal raises it too. One Ctrl-C can arrive twice, from the terminal
    and from a parent process: a second signal within 0.3 s (2 s with several processes) is ignored. Outside the main
    thread no signal is recorded.
    """
    request, first = StopRequest(), 0.0
    same_within = 0.3 if processes == 1 else 2.0  # seconds

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request:
            if time.monotonic() - first > same_within:
                request.repeated = True
                raise KeyboardInterrupt
            return
        request.number, first = number, time.monotonic()
        if answer:
            os.write(2, f"{answer}\n".encode())  # not print: the signal may have interrupted one
        if request.waiting:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Lock a run folder against other trainings, and remove the temporary files of a killed one.

    In all processes, raises FolderInUse if another training works there, and OSError if locking or removing fails.
    """
    with ExitStack() as stack:
        problem: Exception | None = None
        if world.is_main:
            try:
                stack.enter_context(exclusive_lock(folder, what="vivit train"))
                remove_stale_files(folder)
            except (FolderInUse, OSError) as error:
                problem = error
        if problem := world.gather(problem)[0]:
            raise problem
        yield


def remove_stale_files(folder: Path) -> None:
    """Remove temporary files of what training writes (see vivit.files); those of other commands may be in use."""
    names = ("config.json", "environment.json", "metrics.jsonl", SKIPPED_FILES, OLD_SKIPPED_FILES, "model.safetensors")
    for path in [*folder.glob("*"), *folder.glob("best/*"), *folder.glob("weights/*")]:
        old = path.name in (*(f"{name}.tmp" for name in names), "metrics.tmp")
        if path.is_file() and (old or path.name.startswith(tuple(f".{name}." for name in names))):
            path.unlink()
    remove_frames(folder / FOLDER, PARTIAL)


@contextmanager
def attribute_worker_crash(run: Run) -> Iterator[None]:
    """Record the files that crashed worker processes were reading, so that the next start skips them."""
    try:
        yield
    except WorkerDied as error:
        write_json(run.folder / SKIPPED_FILES, skipped_files(run.folder) | error.problems)
        for path, why in error.problems.items():
            run.log_line(f"{path}: {why}; it is skipped, and training resumes from the last checkpoint")
        raise


def note_skipped_files(folder: Path, skipped: dict[str, str], world: World) -> None:
    """Add the files that any process skips to the list in the run folder, skipped_files.json."""
    known = skipped_files(folder)
    found = known | {path: why for share in world.gather(skipped) for path, why in share.items()}
    if found != known and world.is_main:
        write_json(folder / SKIPPED_FILES, found)
    world.barrier()


def skipped_files(folder: Path) -> dict[str, str]:
    """Return the files that a run does not open again, and why."""
    found: dict[str, str] = {}
    for name in (OLD_SKIPPED_FILES, SKIPPED_FILES):
        if (folder / name).exists():
            found |= json.loads((folder / name).read_text())
    return found
