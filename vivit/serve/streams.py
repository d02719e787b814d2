"""Streams: a camera sends its recording in chunks, and gets the rows of `vivit.stream` as soon as they are there.

The chunks of a stream are one video, cut anywhere. A decoding process keeps the decoder open between them, and the
model the positions of a window, so that a position is encoded once. A stream ends when its client says so, goes away
in a chunk or is silent for too long, when it is damaged, and after its time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from ..errors import VivitError
from ..inference.positions import Position
from ..inference.sliding import SlidingModel, choose_batch, make_windows
from ..inference.stream import Lane, PositionQueue, Statistics, StreamRow
from .decoders import DecoderFailed, Decoders, Worker
from .engine import Engine
from .limits import Limits

Rows = list[StreamRow]


class Stream:
    """One stream: its chunks that wait, and the windows of the model."""

    def __init__(self, asked: dict[str, Any]):
        self.asked, self.id = asked, secrets.token_urlsafe(16)
        self.chunks: asyncio.Queue[tuple[Path | None, asyncio.Future[Rows]]] = asyncio.Queue()
        self.is_busy = False  # with a chunk, from its first byte to its rows
        self.has_chunks = False
        self.lane: Lane | None = None
        self.task: asyncio.Task | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other chunks away. Raises HTTPException 409 if one is there already."""
        if self.is_busy:
            raise HTTPException(409, "a chunk of this stream is still being taken; send the next one after its answer")
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False

    def put(self, chunk: Path | None) -> asyncio.Future[Rows]:
        """Let a chunk, or the end, wait for its turn; return what will be its rows."""
        rows: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        if self.task is None or self.task.done():
            raise gone()
        self.chunks.put_nowait((chunk, rows))
        return rows

    def end(self) -> None:
        """End the stream when its turn comes; nobody waits for its last rows."""
        self.chunks.put_nowait((None, unwanted()))


def unwanted() -> asyncio.Future[Rows]:
    """Return rows that nobody waits for."""
    rows: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
    rows.set_result([])
    return rows


def gone() -> HTTPException:
    """Return the answer to those who ask for a stream that is over."""
    return HTTPException(404, "there is no such stream; it has ended, was silent for too long, or had its time")


class Streams:
    """The open streams of a server, each with a task and a decoding process."""

    def __init__(self, engine: Engine, decoders: Decoders, limits: Limits):
        self.engine, self.decoders, self.limits = engine, decoders, limits
        self.open: dict[str, Stream] = {}

    async def start(self, asked: dict[str, Any]) -> Stream:
        """Open a stream and wait until it can take chunks."""
        stream = Stream(asked)
        self.open[stream.id] = stream
        started: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        stream.task = asyncio.create_task(self._run(stream, started))
        await started
        return stream

    async def close(self) -> None:
        """End all streams."""
        tasks = [stream.task for stream in self.open.values() if stream.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, stream: Stream, asks: asyncio.Future[Rows]) -> None:
        """Serve a stream to its end; `asks` is what waits for an answer, at first that to the opening."""
        limits = self.limits
        try:
            async with self.decoders.worker("the video", limits.stream_seconds + limits.decode_seconds) as worker:
                await worker.send({"kind": "stream", "path": "the video", **stream.asked})
                stream.lane = self._lane(stream.asked)
                await self._take(worker, stream)
                asks.set_result([])
                end, is_over = time.monotonic() + limits.stream_seconds, False
                while not is_over:
                    chunk, asks = await self._next(stream, end)
                    stream.has_chunks |= chunk is not None
                    await worker.send({"chunk": None if chunk is None else str(chunk)})
                    is_over, rows = await self._take(worker, stream)
                    if not asks.done():
                        asks.set_result(rows)
        except Exception as error:
            if not isinstance(error, VivitError):
                logging.getLogger("vivit").exception("a stream failed")
            if not asks.done():
                asks.set_exception(error)
        finally:
            self.open.pop(stream.id, None)
            asks.cancel()
            while not stream.chunks.empty():
                _, late = stream.chunks.get_nowait()
                if not late.done():
                    late.set_exception(gone())

    def _lane(self, asked: dict[str, Any]) -> Lane:
        """Return a lane that waits for its windows, which the first frame decides."""
        drops, model = asked["when_slow"] == "drop", self.engine.model
        batch = choose_batch(model, 1 if drops else None)
        sliding = SlidingModel(model, make_windows(model, hop=1), precision=self.engine.precision, batch=batch)
        return Lane(0, sliding, PositionQueue(threading.Condition()), Statistics(), drops)

    async def _next(self, stream: Stream, end: float) -> tuple[Path | None, asyncio.Future[Rows]]:
        """Wait for the next chunk; after too long a silence and at the end of the time, return the end."""
        while (left := end - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self.limits.silence_seconds, left)):
                    return await stream.chunks.get()
            if not stream.is_busy:  # with a chunk on its way, whose pace the guard watches
                break
        return None, unwanted()

    async def _take(self, worker: Worker, stream: Stream) -> tuple[bool, Rows]:
        """Receive the positions of a chunk and compute them; return whether the stream is over, and the rows."""
        assert stream.lane is not None
        lane, rows = stream.lane, []
        while True:
            try:
                async with asyncio.timeout(self.limits.decode_seconds):
                    header = await worker.header("the video")
                    if "wants" in header or "over" in header:
                        break
                    if "positions" in header:
                        windows = make_windows(self.engine.model, hop=int(header["positions"]))
                        lane.begin(windows, float(header["hop"]))
                        lane.queue.most += windows.span
                        continue
                    frames = await worker.array(header)
            except TimeoutError:
                seconds = f"{self.limits.decode_seconds:g} s"
                raise DecoderFailed(f"the chunk is still being decoded after {seconds}, and was given up") from None
            lane.queue.put(self._position(header, frames, stream))
            if lane.queue.max_age is None:
                rows += await self._compute(lane)
        rows += await self._compute(lane)
        if "over" in header:
            rows += await self.engine.call(finish, lane)
        return "over" in header, rows

    def _position(self, header: dict[str, Any], frames: np.ndarray, stream: Stream) -> Position:
        """Return a position as the decoding process tells it. Raises ValueError for one that cannot be."""
        assert stream.lane is not None
        c, depth = self.engine.model.config, stream.lane.engine.windows.depth
        shown = tuple((float(begin), float(end)) for begin, end in header["shown"])
        end = float(header["end"])
        sizes = (stream.asked["crops"], depth, 3, *c.image_size)
        if frames.shape != sizes or frames.dtype != np.uint8 or len(shown) != depth:
            raise ValueError(f"got a position of shape {frames.shape}")
        if not all(math.isfinite(seconds) for pair in (*shown, (end,)) for seconds in pair):
            raise ValueError("got a position outside time")
        key = tuple(int(number) for number in header["key"])
        return Position(key, frames, shown, end, bool(header["padded"]), 0, time.monotonic())

    async def _compute(self, lane: Lane) -> Rows:
        """Return the rows of the positions that wait; between two of them others may use the model."""
        rows = []
        while lane.queue.waiting:
            rows += await self.engine.call(step, lane)
        return rows


def step(lane: Lane) -> Rows:
    """Compute the position that waits longest, if its batch is full, and return the rows that this finishes."""
    position = lane.queue.take()
    return finish(lane) if position is not None and lane.add(position) else []


def finish(lane: Lane) -> Rows:
    """Compute what waits for a full batch, and return its rows."""
    return [row for _, row in lane.rows(lane.engine.flush())]
