"""Tell which of several processes is late or gone, and what it was doing, from a record of each in their store.

A thread of every process writes the record every few seconds: where the process is, and which files its loaders read.
The time-out of a collective of gloo or NCCL does not name the late process; the records name it and its file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # documented, not in __all__

from ..data.loader import files_being_read
from ..errors import ProcessLost
from ..text import printable, shorten_list

BEAT = 5.0  # seconds between two records; a shorter time-out has shorter ones
WARN = 60.0  # seconds in one collective after which the first process says for whom it waits
FAILURES = 3  # calls of the store one after the other, after which it is gone
BUSY = 0.01  # of the time: a process that computes less than this waits for something
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"

Record = dict[str, Any]
T = TypeVar("T")


class Heartbeat:
    """The records of all processes of a run, and the thread that writes the one of this process.

    Args:
        store: What the processes of the run share.
        rank: The number of this process.
        size: The number of processes.
        timeout: Seconds that a collective waits, and after which a process that does nothing is late.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float):
        self.rank, self.size, self.timeout = rank, size, timeout
        self.every = min(BEAT, timeout / 8)
        self.collectives = 0  # counted up by whoever starts one
        self._hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._patience = min(30.0, timeout)
        self._store, self._beats_store = store.clone(), store.clone()  # a connection is locked while it waits
        for clone in (self._store, self._beats_store):
            clone.set_timeout(timedelta(seconds=self._patience))
        self._meetings = 0
        self._caller = threading.get_ident()
        self._record: Record = {"host": socket.gethostname(), "pid": os.getpid(), "beat": 0, "changes": 0, "ended": ""}
        self._place, self._since, self._said = ("", 0), time.monotonic(), False
        self._before: list[Record] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vivit heartbeat", daemon=True)
        self._write()
        self._thread.start()

    def meet(self) -> None:
        """Wait for all processes, as long as those that are missing get on. Raises ProcessLost."""
        self._meetings += 1
        self.collectives += 1
        name = f"meeting {self._meetings}"
        if self._ask(lambda: self._store.add(f"{name}: arrived", 1)) == self.size:
            self._store.set(name, "")
        pause, before, due = 0.001, list[Record](), time.monotonic() + 2 * self.every
        while not self._ask(lambda: self._store.check([name])):
            time.sleep(pause)
            pause = min(2 * pause, self.every / 5)
            if self._ask(lambda: self._store.check(["ended"])):
                raise self.lost("at a place that all must reach")
            if time.monotonic() > due:
                now = self._ask(lambda: self._read(self._store))
                pairs = [pair for pair in zip(before, now) if pair[1]["meetings"] < self._meetings]
                if not all(self._gets_on(*pair) for pair in pairs):
                    raise self.lost(f"at a place that all must reach, for more than {self.timeout:g} s")
                before, due = now, time.monotonic() + self.timeout

    def _gets_on(self, before: Record, now: Record) -> bool:
        """Return whether a process computed, or went from place to place or file to file, in the time of `timeout`."""
        return now["changes"] > before["changes"] or now["cpu"] > before["cpu"] + BUSY * self.timeout

    def lost(self, what: str) -> ProcessLost:
        """Return an error that names the processes that are late or gone, from two looks at all records."""
        try:
            before = self._ask(lambda: self._read(self._store))
            if not any(record["ended"] for record in before):
                time.sleep(2.5 * self.every)
            lines = who_is_late(before, self._ask(lambda: self._read(self._store)), self.rank)
        except dist.DistError as error:
            lines = [
                f"the store of process 0 at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} cannot be "
                f"reached ({_first_line(error)}): that machine or the network to it is gone"
            ]
        return ProcessLost([*lines, f"process {self.rank} waited {what}"])

    def end(self, error: BaseException) -> None:
        """Tell the others why this process ends before its work is done."""
        self._record["ended"] = f"{type(error).__name__}: {_first_line(error)}" if str(error) else type(error).__name__
        self._stop_thread()
        with suppress(dist.DistError):
            self._ask(self._write)
            self._ask(lambda: self._store.set("ended", ""))

    def leave(self) -> None:
        """Stop writing. A process that ended early and holds the store gives the others two beats to read why."""
        self._stop_thread()
        until = time.monotonic() + 2 * self.every
        with suppress(dist.DistError):
            while self._hosts_store and self._record["ended"] and time.monotonic() < until:
                if all(record["ended"] for record in self._read(self._store)):
                    break
                time.sleep(0.1)

    def _ask(self, call: Callable[[], T]) -> T:
        """Return what a call of the store returns; it would wait forever for a machine that is cut off."""
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            return answer.result(self._patience)
        except TimeoutError as error:
            raise dist.DistNetworkError(f"no answer for {self._patience:g} s") from error

    def _stop_thread(self) -> None:
        self._stopping.set()
        self._thread.join(2 * self.every)

    def _run(self) -> None:
        failures = 0
        while failures < FAILURES and not self._stopping.wait(self.every):
            try:
                self._write()
                if self.rank == 0:
                    self._say_who_is_late()
                failures = 0
            except dist.DistError:  # if the store is gone, the caller will find out and say so
                failures += 1

    def _say_who_is_late(self) -> None:
        """Print once for whom this process waits, when it has been in one collective for WARN seconds."""
        place = (self._record["where"], self.collectives)
        if place != self._place:
            self._place, self._since, self._before, self._said = place, time.monotonic(), None, False
        seconds = time.monotonic() - self._since
        if self._said or seconds < min(WARN, self.timeout / 2):
            return
        now = self._read(self._beats_store)
        if self._before is None:
            self._before = now
        elif now[0]["beat"] > self._before[0]["beat"] + 2 and (lines := who_is_late(self._before, now, self.rank)):
            line = f"waiting for {seconds:.0f} s, at most {self.timeout:g} s: {'; '.join(lines)}"
            print(printable(f"vivit: {line}"), file=sys.stderr, flush=True)
            self._said = True

    def _write(self) -> None:
        """Write the record of this process as it is now."""
        record = self._record
        where, waiting = _position(sys._current_frames().get(self._caller))
        now = {"where": where, "waiting": waiting, "files": files_being_read(), "collectives": self.collectives}
        record["changes"] += any(record.get(name) != value for name, value in now.items())
        record["beat"] += 1
        record.update(now, meetings=self._meetings, cpu=_cpu_seconds(self._caller))
        self._beats_store.set(f"process {self.rank}", json.dumps(record))

    def _read(self, store: Store) -> list[Record]:
        return [json.loads(text) for text in store.multi_get([f"process {rank}" for rank in range(self.size)])]


@contextmanager
def naming_the_late(heart: Heartbeat) -> Iterator[None]:
    """Turn an error of a collective into a ProcessLost that names who is late, and tell the others of any error."""
    try:
        yield
    except BaseException as error:
        lost = heart.lost(f"for a collective: {_first_line(error)}") if _of_a_collective(error) else error
        heart.end(lost)
        if lost is error:
            raise
        raise lost from error


def who_is_late(before: Sequence[Record], now: Sequence[Record], rank: int) -> list[str]:
    """Return a line for each process but `rank` that has ended or has written nothing since `before`.

    If there is none, and `rank` itself waits, return a line for each process that does not. `before` and `now` are the
    records of all processes at two times, some beats apart.
    """
    gone, late = [], []
    for other, (old, new) in enumerate(zip(before, now, strict=True)):
        who = f"process {other} of {len(now)} (host {new['host']}, pid {new['pid']})"
        doing = f"at {new['where']}"
        if new["files"]:
            doing += f", reading {', '.join(shorten_list(new['files'], 3))}"
        if other == rank:
            continue
        if new["ended"]:
            gone.append(f"{who} ended: {new['ended']}")
        elif old["beat"] == new["beat"]:
            gone.append(f"{who} does not answer; it was {doing}")
        elif now[rank]["waiting"] and not new["waiting"]:
            late.append(f"{who} is late: {doing}")
    return gone or late


def _position(frame: FrameType | None) -> tuple[str, bool]:
    """Return the innermost line of this package that a thread is in, and whether it waits for other processes there."""
    waiting = False
    while frame is not None:
        path = frame.f_code.co_filename
        waiting |= path == __file__ or path.endswith("distributed_c10d.py")
        if path.startswith(PACKAGE) and path != __file__:
            return f"{frame.f_code.co_name} ({path[len(PACKAGE) :]}:{frame.f_lineno})", waiting
        frame = frame.f_back
    return "a place outside vivit", waiting


def _cpu_seconds(thread: int) -> float:
    """Return the processor time of a thread; of the whole process where a system does not count by thread."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _of_a_collective(error: BaseException) -> bool:
    """Return whether gloo, NCCL or the store raised this error, or PyTorch's checkpoint in their stead."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError | OSError) and "/gloo/" in str(error))


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
