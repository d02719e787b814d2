"""Classify a stream while it comes: rows as of `timeline`, each as soon as the last frame of its window is there.

A thread reads and resizes frames; the caller computes. Between them wait at most a few positions. A source that can
wait, a file or a pipe, waits for the computation, and its rows are those of `timeline`, to the bit. From a live source
positions that have waited longer than one hop are dropped, oldest first, so that answers stay recent; `dropped` counts
them, and `start` and `end` of a row say what its window really spans.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ModelConfig
from ..data.video.decoder import Video
from ..data.video.live import Frame, Source, read_frames
from ..errors import VideoError
from .exported import ExportedModel
from .sliding import SlidingModel, Windows, choose_batch
from .timeline import HOP, check_numbers, frame_preparation, stacker, windows_for

if TYPE_CHECKING:
    from .sliding import AnyModel

FPS = 25.0  # of a live source, to choose the hop; the frames themselves have their own times


@dataclass(frozen=True)
class Position:
    """The frames of one temporal position on their way to the model."""

    key: tuple[int, ...]
    """The numbers of its frames."""
    frames: Any
    """(crops, depth, C, H, W) uint8."""
    shown: tuple[tuple[float, float], ...]
    """Seconds at which each frame appears and ends."""
    padded: bool
    """It repeats the first or last frame of the stream."""
    connection: int
    captured: float
    """time.monotonic() when its last frame was read."""


@dataclass(frozen=True)
class StreamRow:
    """The answer for one window of a stream; times are seconds since the first frame."""

    start: float
    end: float
    center: float
    padded: bool
    logits: np.ndarray
    """(K,) float32."""
    dropped: int
    """Positions of the stream that were dropped so far, because computing is too slow."""
    connection: int
    """How often the source was opened before."""
    latency: float
    """Seconds from the reading of the window's last frame to this answer."""


@dataclass
class Statistics:
    """What a stream has gone through."""

    rows: int = 0
    dropped: int = 0
    hop: float = 0.0
    """Seconds between two rows, rounded to positions; known when the first row comes."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))

    def __str__(self) -> str:
        if not self.latencies:
            return "no row"
        p50, p95 = np.percentile(self.latencies, [50, 95])
        latency = f"p50 {p50:.3f} s, p95 {p95:.3f} s, max {max(self.latencies):.3f} s"
        return f"{self.rows} rows; latency {latency}; {self.dropped} positions dropped"


class FrameSampler:
    """Choose the frames of a stream that `timeline` would sample: every `stride`-th, or by the clock at `fps`."""

    def __init__(self, stride: float, *, fps: float | None):
        self.stride, self.fps = stride, fps
        self.count = 0
        """Frames sampled so far."""
        self.first: Frame | None = None
        self.last: Frame | None = None

    def push(self, frame: Frame) -> list[Frame]:
        """Take the next frame; return the sampled ones, repeats included."""
        if self.fps is None:
            return self._until(frame.number + 1, frame)
        self.first = self.first or frame
        before, self.last = self.last, frame
        if before is None:
            return []
        tick = math.floor(self.count * self.stride)
        found = []
        while tick / self.fps + self.first.time + 0.5 / self.fps < frame.time:
            found.append(before)
            self.count += 1
            tick = math.floor(self.count * self.stride)
        return found

    def finish(self) -> list[Frame]:
        """Return the frames that the end of the stream adds."""
        if self.fps is None or self.last is None or self.first is None:
            return []
        return self._until(round((self.last.time - self.first.time) * self.fps + 1), self.last)

    def _until(self, stop: int, frame: Frame) -> list[Frame]:
        found = []
        while math.floor(self.count * self.stride) < stop:
            found.append(frame)
            self.count += 1
        return found


class PositionBuilder:
    """Make positions of the sampled frames of one connection, with those that pad both ends."""

    def __init__(
        self, config: ModelConfig, windows: Windows, *, crops: int, sampler: FrameSampler, as_arrays: bool = False
    ):
        self.as_arrays = as_arrays
        self.config, self.windows, self.crops, self.sampler = config, windows, crops, sampler
        self.prepare: Callable[[np.ndarray], Any] | None = None
        self.samples: list[tuple[Frame, Any]] = []
        self.last: tuple[Frame, Any] | None = None
        self.complete = 0  # positions of the stream itself, without padding

    def push(self, frame: Frame) -> list[Position]:
        """Take the next frame; return the positions that it completes."""
        return [position for one in self.sampler.push(frame) for position in self._add(one)]

    def finish(self) -> list[Position]:
        """Return the positions that the end of the stream completes, with the padding of the last window."""
        found = [position for one in self.sampler.finish() for position in self._add(one)]
        if self.last is None:
            return found
        if self.samples:
            self.samples += [self.last] * (self.windows.depth - len(self.samples))
            found += self._complete(padded=True)
        missing = self.windows.total(self.complete) - self.windows.lead - self.complete
        return found + [self._padding(self.last)] * missing

    def _add(self, frame: Frame) -> list[Position]:
        is_first = self.last is None
        if self.last is None or self.last[0].number != frame.number:
            image = frame.image()
            if self.prepare is None:
                height, width, _ = image.shape
                self.prepare = frame_preparation(self.config, height, width, crops=self.crops, as_arrays=self.as_arrays)
            self.last = frame, self.prepare(image)
        before = [self._padding(self.last)] * self.windows.lead if is_first else []
        self.samples.append(self.last)
        return before + (self._complete(padded=False) if len(self.samples) == self.windows.depth else [])

    def _padding(self, sample: tuple[Frame, Any]) -> Position:
        return make_position([sample] * self.windows.depth, padded=True, stack=stacker(self.as_arrays))

    def _complete(self, *, padded: bool) -> list[Position]:
        position = make_position(self.samples, padded=padded, stack=stacker(self.as_arrays))
        self.samples = []
        self.complete += 1
        return [position]


def make_position(
    samples: list[tuple[Frame, Any]], *, padded: bool, stack: Callable[[list[Any], int], Any]
) -> Position:
    """Make a position of the frames of its samples."""
    frames = [frame for frame, _ in samples]
    return Position(
        key=tuple(frame.number for frame in frames),
        frames=stack([pixels for _, pixels in samples], 1),
        shown=tuple((frame.time, frame.end) for frame in frames),
        padded=padded,
        connection=frames[-1].connection,
        captured=frames[-1].captured,
    )


class PositionQueue:
    """Positions between the thread that reads and the one that computes, at most `most` of them.

    With `max_age` seconds, putting never waits: positions that are older, or too many, are dropped, oldest first, as
    long as a newer one is there. Without, putting waits for room.
    """

    def __init__(self, *, most: int, max_age: float | None):
        self.most, self.max_age = most, max_age
        self.waiting: deque[Position] = deque()
        self.changed = threading.Condition()
        self.dropped = 0
        self.closed = False
        self.error: BaseException | None = None

    def put(self, position: Position) -> bool:
        """Add a position; False if nobody reads any more."""
        with self.changed:
            while self.max_age is None and len(self.waiting) >= self.most and not self.closed:
                self.changed.wait()
            if self.closed:
                return False
            self.waiting.append(position)
            self._drop()
            self.changed.notify_all()
            return True

    def get(self) -> Position | None:
        """Take the oldest position, or wait for one; None at the end. Raises what `close` was given."""
        with self.changed:
            while not self.waiting and not self.closed:
                self.changed.wait(0.2)  # so that Ctrl-C is noticed
            self._drop()
            if not self.waiting:
                if self.error is not None:
                    raise self.error
                return None
            position = self.waiting.popleft()
            self.changed.notify_all()
            return position

    def close(self, error: BaseException | None = None) -> None:
        """End the stream; what waits can still be taken."""
        with self.changed:
            self.closed, self.error = True, self.error or error
            self.changed.notify_all()

    def _drop(self) -> None:
        if self.max_age is None:
            return
        oldest = time.monotonic() - self.max_age
        while len(self.waiting) > 1 and (self.waiting[0].captured < oldest or len(self.waiting) > self.most):
            self.waiting.popleft()
            self.dropped += 1


def stream(
    model: AnyModel,
    source: Source,
    *,
    hop: float = HOP,
    crops: int = 1,
    precision: str = "auto",
    drop: bool | None = None,
    batch: int | None = None,
    log: Callable[[str], None] = lambda text: None,
    statistics: Statistics | None = None,
    frames: Iterator[Frame] | None = None,
) -> Generator[StreamRow, None, None]:
    """Yield a row every `hop` seconds of a stream, until it ends; see `timeline` for the windows and the settings.

    `drop` says whether positions are dropped where computing is too slow; None: from live sources. `batch` is how many
    positions are encoded together; None: one if positions may be dropped, for the shortest latency, else as many as in
    `timeline`, for the same bits. After a source was
    opened again, windows begin anew. `log` takes what happens to the source; `statistics` is kept up to date.
    `frames` replaces reading the source. The state is bounded: the positions of one window and those that wait. Close
    the generator to stop reading. Raises VideoError for a source that cannot be read.
    """
    check_numbers(hop, crops)
    p, fps = model.config.preprocessing, FPS
    if source.kind == "file" and frames is None:
        fps = Video(source.name).fps
    stride = p.frame_stride if p.clip_seconds is None else p.clip_seconds * fps / model.config.num_frames
    windows, hop = windows_for(model, stride=stride, fps=fps, hop=hop)
    drop = source.is_live if drop is None else drop
    batch = choose_batch(model, batch or (1 if drop else None))
    queue = PositionQueue(most=2 * windows.hop, max_age=hop if drop else None)
    stop, statistics = threading.Event(), statistics or Statistics()
    statistics.hop = hop

    def read() -> None:
        builder, connection = None, -1
        try:
            for frame in frames or read_frames(source, stop, log):
                if builder is None or frame.connection != connection:
                    connection = frame.connection
                    sampler = FrameSampler(stride, fps=None if p.clip_seconds is None else fps)
                    builder = PositionBuilder(
                        model.config, windows, crops=crops, sampler=sampler, as_arrays=isinstance(model, ExportedModel)
                    )
                if not all(queue.put(position) for position in builder.push(frame)):
                    return
            for position in builder.finish() if builder else ():
                queue.put(position)
            queue.close(None if builder else VideoError(source.name, "ended without a frame"))
        except BaseException as error:
            queue.close(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield from _rows(model, windows, queue, statistics, precision=precision, batch=batch)
    finally:
        stop.set()
        queue.close()
        reader.join(timeout=source.read_timeout)


def _rows(
    model: AnyModel,
    windows: Windows,
    queue: PositionQueue,
    statistics: Statistics,
    *,
    precision: str,
    batch: int,
) -> Iterator[StreamRow]:
    """Compute the positions that come out of the queue."""
    current = None
    try:
        while (position := queue.get()) is not None:
            if current is None or position.connection != current.connection:
                if current is not None:
                    yield from current.finish(queue, statistics)
                engine = SlidingModel(model, windows, precision=precision, batch=batch)
                current = Connection(position.connection, engine)
            yield from current.push(position, queue, statistics)
    except VideoError:
        if current is not None:
            yield from current.finish(queue, statistics)
        raise
    if current is not None:
        yield from current.finish(queue, statistics)


@dataclass
class Connection:
    """The windows of one connection: the engine, and the times of the positions since the start of the next window."""

    connection: int
    engine: SlidingModel
    shown: deque[Position] = field(default_factory=deque)
    first: int = 0
    """The number of the first position in `shown`."""

    def push(self, position: Position, queue: PositionQueue, statistics: Statistics) -> Iterator[StreamRow]:
        """Compute a position; yield the rows that this finishes."""
        self.shown.append(replace(position, frames=None))
        yield from self._rows(self.engine.push(position.key, position.frames), queue, statistics)

    def finish(self, queue: PositionQueue, statistics: Statistics) -> Iterator[StreamRow]:
        """Yield the rows that wait for a full batch."""
        yield from self._rows(self.engine.flush(), queue, statistics)

    def _rows(
        self, finished: list[tuple[int, Any]], queue: PositionQueue, statistics: Statistics
    ) -> Iterator[StreamRow]:
        windows = self.engine.windows
        for window, logits in finished:
            while self.first < window * windows.hop:
                self.shown.popleft()
                self.first += 1
            row = make_row(list(islice(self.shown, windows.span)), logits, dropped=queue.dropped)
            statistics.rows, statistics.dropped = statistics.rows + 1, row.dropped
            statistics.latencies.append(row.latency)
            yield row


def make_row(shown: list[Position], logits: Any, *, dropped: int) -> StreamRow:
    """Make the row of a window from its positions."""
    times = [seconds for position in shown for seconds in position.shown]
    begin, end = times[len(times) // 2]
    return StreamRow(
        start=times[0][0],
        end=times[-1][1],
        center=begin if len(times) % 2 == 0 else (begin + end) / 2,
        padded=any(position.padded for position in shown),
        logits=np.asarray(logits),
        dropped=dropped,
        connection=shown[-1].connection,
        latency=time.monotonic() - shown[-1].captured,
    )
