"""Decode videos in a bounded number of child processes that can be killed, with limits on memory and time."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np

from ..config import ModelConfig, to_dict
from ..errors import VideoError, VivitError
from .decode_worker import DTYPES
from .engine import Observe
from .limits import Limits

START_SECONDS = 120  # a process imports PyTorch
MOST_BYTES = 2**30  # of one array
# What a decoding process knows of the server's environment: no token is among it.
ENVIRONMENT = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "SYSTEMROOT",
)

Answer = tuple[dict[str, Any], np.ndarray]


class DecoderFailed(VivitError):
    """A decoding process broke a limit or crashed; the message says which, for the client."""


class Worker:
    """One decoding process."""

    def __init__(self, process: Process):
        self.process = process

    @classmethod
    async def start(cls, config: ModelConfig, limits: Limits) -> Worker:
        """Start a process and wait until it can decode."""
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vivit.serve.decode_worker"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=2**20,
            env=environment | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches the server alone, which ends its processes
        )
        worker = cls(process)
        setup = {
            "model": to_dict(config),
            "memory_mb": limits.memory_mb,
            "pixels": int(limits.frame_megapixels * 1e6),
            "frames": limits.frames,
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                await worker.send(setup)
                await worker.header()
        except BaseException:
            await worker.end()
            raise
        return worker

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.returncode is None

    async def end(self) -> None:
        """End the process at once."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.communicate(b"")  # to the end of what it has sent

    async def send(self, job: dict[str, Any]) -> None:
        """Send a job."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        await self.process.stdin.drain()

    async def header(self, path: str = "") -> dict[str, Any]:
        """Receive the header of an answer. Raises VideoError where the video is at fault."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise EOFError("the process has ended")
        header = json.loads(line)
        if not isinstance(header, dict):
            raise ValueError("the process sent no header")
        if "reason" in header:
            raise VideoError(path, str(header["reason"]), str(header["expected"]))
        return header

    async def receive(self, path: str) -> Answer:
        """Receive an answer: its header and its array. Raises VideoError where the video is at fault."""
        header = await self.header(path)
        return header, await self.array(header)

    async def array(self, header: dict[str, Any]) -> np.ndarray:
        """Receive the array that a header announces."""
        shape, kind = [int(n) for n in header["shape"]], header["dtype"]
        if kind not in DTYPES or min(shape, default=0) < 0 or math.prod(shape) * np.dtype(kind).itemsize > MOST_BYTES:
            raise ValueError("the process sent an impossible array")
        dtype = np.dtype(kind)
        assert self.process.stdout is not None
        data = await self.process.stdout.readexactly(math.prod(shape) * dtype.itemsize)
        array = np.frombuffer(bytearray(data), dtype=dtype) if data else np.zeros(0, dtype=dtype)
        return array.reshape(shape)


class Decoders:
    """A pool of decoding processes: `number` work at a time, and one more is warm to replace one that is killed."""

    def __init__(self, config: ModelConfig, limits: Limits, *, number: int):
        self.config, self.limits, self.number = config, limits, number
        self.slots = asyncio.Semaphore(number)
        self.idle: asyncio.Queue[Worker] = asyncio.Queue()
        self.workers: set[Worker] = set()
        self.starting: set[asyncio.Task] = set()
        self.ending: set[asyncio.Task] = set()
        self.killed = 0
        """Processes that broke a limit or crashed so far."""

    async def start(self) -> None:
        """Start all processes and wait for one. Raises DecoderFailed if none comes up."""
        for _ in range(self.number + 1):
            self._start_one()
        done, _ = await asyncio.wait(self.starting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception():
                raise DecoderFailed(f"a decoding process does not start ({task.exception()!r})") from task.exception()

    async def close(self) -> None:
        """Kill all processes."""
        for task in self.starting:
            task.cancel()
        await asyncio.gather(*self.starting, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self.workers), *self.ending)

    @asynccontextmanager
    async def worker(self, path: str, seconds: float) -> AsyncIterator[Worker]:
        """Take a process for one video, for `seconds` at most; one that breaks a limit is killed and replaced.

        Raises VideoError where the video is at fault, DecoderFailed where the process had to be killed.
        """
        async with self.slots:
            worker = await self._take()
            try:
                async with asyncio.timeout(seconds):
                    yield worker
            except VideoError:
                self.idle.put_nowait(worker)
                raise
            except VivitError:  # of the one who asked; what the process still sends is for nobody
                self._replace(worker)
                raise
            except TimeoutError:
                self._replace(worker)
                raise DecoderFailed(f"the video is still being decoded after {seconds:g} s, and was given up") from None
            except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                self._replace(worker)
                reason = f"more than {self.limits.memory_mb} MiB of memory, or a crash of the decoder"
                raise DecoderFailed(f"the video cannot be decoded within the limits: {reason}") from error
            except BaseException:
                self._replace(worker)
                raise
            else:
                self.idle.put_nowait(worker)

    async def decode(
        self, kind: str, path: str, *, answers: int = 1, observe: Observe = lambda stage, seconds: None, **job: Any
    ) -> list[Answer]:
        """Return the answers of one job: "views" has one, "clip" has two; `observe` gets its seconds by stage.

        See `worker` for the errors.
        """
        asked = time.monotonic()
        async with self.worker(path, self.limits.decode_seconds) as worker:
            started = time.monotonic()
            observe("wait", started - asked)
            try:
                await worker.send({"kind": kind, "path": path, **job})
                return [await worker.receive(path) for _ in range(answers)]
            finally:
                observe("decode", time.monotonic() - started)

    async def _take(self) -> Worker:
        while True:
            if self.idle.empty() and len(self.workers) + len(self.starting) < self.number:
                self._start_one()
            worker = await self.idle.get()
            if worker.is_alive:
                return worker
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        self.killed += 1
        self.workers.discard(worker)
        task = asyncio.create_task(worker.end())
        self.ending.add(task)
        task.add_done_callback(self.ending.discard)
        self._start_one()

    def _start_one(self) -> None:
        async def start() -> None:
            worker = await Worker.start(self.config, self.limits)
            self.workers.add(worker)
            self.idle.put_nowait(worker)

        task = asyncio.create_task(start())
        self.starting.add(task)
        task.add_done_callback(self.starting.discard)
