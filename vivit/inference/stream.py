"""Classify streams while they come: rows as of `timeline`, each as soon as the last frame of its window is there.

A thread per source reads and resizes frames; the caller computes, the positions of all sources together. Between them
wait at most a few positions. A source that can wait, a file or a pipe, waits for the computation, and its rows are
those of `timeline`, of a single source to the bit. From a live source positions that have waited longer than one hop
are dropped, oldest first, so that answers stay recent; `dropped` counts them, and `start` and `end` of a row say what
its window really spans.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ModelConfig
from ..data.video.frame_folder import open_video
from ..data.video.live import Frame, Source, read_frames
from ..errors import VideoError
from .exported import ExportedModel
from .positions import FrameSampler, Position, PositionBuilder
from .prediction import Prediction, top_classes
from .sliding import SlidingModel, Windows, choose_batch, flush_together, make_windows
from .timeline import HOP, check_numbers, windows_for

if TYPE_CHECKING:
    from .sliding import AnyModel


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

    def to_dict(self, classes: Mapping[str, Sequence[str]], top_k: int) -> dict[str, Any]:
        """Return the row for JSON: its times, how the stream is doing, and the best classes of each label set."""
        values = {name: value for name, value in asdict(self).items() if name != "logits"}
        values |= {name: round(values[name], 6) for name in ("start", "end", "center", "latency")}
        return values | {"classes": Prediction("", top_classes(classes, self.logits, top_k)).to_dict()["classes"]}


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


class PositionQueue:
    """Positions between the thread that reads a source and the one that computes, at most `most` of them.

    With `max_age` seconds, putting never waits: positions that are older, or too many, are dropped, oldest first, as
    long as a newer one is there. Without, putting waits for room. `changed` is notified of all that happens.
    """

    def __init__(self, changed: threading.Condition):
        self.changed, self.most = changed, 1
        self.max_age: float | None = None
        self.waiting: deque[Position] = deque()
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

    def take(self) -> Position | None:
        """Take the oldest position; None if there is none now."""
        with self.changed:
            self._drop()
            if not self.waiting:
                return None
            position = self.waiting.popleft()
            self.changed.notify_all()
            return position

    @property
    def is_over(self) -> bool:
        """Whether the source has ended and all its positions were taken."""
        with self.changed:
            return self.closed and not self.waiting

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
    rows = streams(
        model,
        [source],
        hop=hop,
        crops=crops,
        precision=precision,
        drop=drop,
        batch=batch,
        log=log,
        statistics=[statistics or Statistics()],
        frames=None if frames is None else [frames],
    )
    try:
        for _, row in rows:
            yield row
    finally:
        rows.close()


def streams(
    model: AnyModel,
    sources: Sequence[Source],
    *,
    hop: float = HOP,
    crops: int = 1,
    precision: str = "auto",
    drop: bool | None = None,
    batch: int | None = None,
    log: Callable[[str], None] = lambda text: None,
    statistics: Sequence[Statistics] | None = None,
    frames: Sequence[Iterator[Frame]] | None = None,
) -> Generator[tuple[int, StreamRow], None, None]:
    """Yield (number of the source, row) of several streams until all have ended; see `stream`.

    Positions that several sources have at the same time are encoded in one forward pass; `batch` counts those of one
    source. A source that fails ends alone, and its VideoError is raised when the others have ended.
    """
    check_numbers(hop, crops)
    changed, stop = threading.Condition(), threading.Event()
    lanes, readers = [], []
    first = SlidingModel(model, make_windows(model, hop=1), precision=precision)
    for number, source in enumerate(sources):
        own = None if frames is None else frames[number]
        if source.kind == "file" and own is None:
            open_video(source.name)  # one that cannot be read ends all before anything is computed
        drops = source.is_live if drop is None else drop
        engine = first.restarted(first.windows, batch=choose_batch(model, batch or (1 if drops else None)))
        lane = Lane(number, engine, PositionQueue(changed), statistics[number] if statistics else Statistics(), drops)
        lanes.append(lane)
        positions = partial(stream_positions, model=model, hop=hop, crops=crops, begin=lane.begin)
        read = partial(feed, lane.queue, source, positions, frames=own, stop=stop, log=log)
        readers.append(threading.Thread(target=read, daemon=True))
    for reader in readers:
        reader.start()
    try:
        for lane, row in compute_lanes(lanes, changed, log):
            yield lane.number, row
    finally:
        stop.set()
        for lane in lanes:
            lane.queue.close()
        for reader, source in zip(readers, sources):
            reader.join(timeout=source.read_timeout)


@dataclass(frozen=True)
class StreamPlan:
    """How the frames of a source become windows."""

    config: ModelConfig
    windows: Windows
    hop: float
    stride: float
    clock: float | None
    """Frames per second of the clock by which frames are sampled; None: every `stride`-th is."""
    numpy_only: bool = False
    """Frames are resized by numpy, for an exported model."""


def plan_stream(model: AnyModel, fps: float, *, hop: float) -> StreamPlan:
    """Choose the windows of a source with this many frames per second."""
    p = model.config.preprocessing
    stride = p.frame_stride if p.clip_seconds is None else p.clip_seconds * fps / model.config.num_frames
    windows, rounded = windows_for(model, stride=stride, fps=fps, hop=hop)
    clock = None if p.clip_seconds is None else fps
    return StreamPlan(model.config, windows, rounded, stride, clock, numpy_only=isinstance(model, ExportedModel))


def feed(
    queue: PositionQueue,
    source: Source,
    positions: Callable[[Iterable[Frame], str], Iterator[Position]],
    *,
    frames: Iterator[Frame] | None,
    stop: threading.Event,
    log: Callable[[str], None],
) -> None:
    """Read a source and put its positions into the queue, until it ends or nobody takes them."""
    try:
        for position in positions(frames or read_frames(source, stop, log), source.name):
            if not queue.put(position):
                return
        queue.close()
    except BaseException as error:
        queue.close(error)


def stream_positions(
    frames: Iterable[Frame],
    name: str,
    *,
    model: AnyModel,
    hop: float,
    crops: int,
    begin: Callable[[Windows, float], None],
) -> Iterator[Position]:
    """Yield the positions of the frames of a source; another connection starts with a new window. Raises VideoError.

    The first frame tells the rate, by which the windows are chosen; `begin` gets them before the first position.
    """
    plan = builder = None
    connection = -1
    for frame in frames:
        if plan is None:
            plan = plan_stream(model, frame.fps, hop=hop)
            begin(plan.windows, plan.hop)
        if builder is None or frame.connection != connection:
            connection = frame.connection
            sampler = FrameSampler(plan.stride, fps=plan.clock)
            builder = PositionBuilder(
                plan.config, plan.windows, crops=crops, sampler=sampler, numpy_only=plan.numpy_only
            )
        yield from builder.push(frame)
    if builder is None:
        raise VideoError(name, "ended without a frame")
    yield from builder.finish()


def compute_lanes(
    lanes: Sequence[Lane], changed: threading.Condition, log: Callable[[str], None]
) -> Iterator[tuple[Lane, StreamRow]]:
    """Compute the positions that come out of the queues, what all sources have together, until all have ended.

    Then raises the first error of a source.
    """
    running, full = list(lanes), []
    while running:
        taken = False
        for lane in [lane for lane in running if lane not in full]:
            position = lane.queue.take()
            if position is None:
                if lane.queue.is_over:
                    yield from lane.rows(lane.engine.flush())
                    running.remove(lane)
                    if running and lane.queue.error is not None:
                        log(f"{lane.queue.error}; the other sources continue")
                continue
            taken = True
            if lane.connection not in (None, position.connection):
                yield from lane.rows(lane.engine.flush())
                lane.restart()
            if lane.add(position):
                full.append(lane)
        if taken:
            continue
        if full:
            for lane, finished in zip(full, flush_together([lane.engine for lane in full])):
                yield from lane.rows(finished)
            full = []
        else:
            with changed:
                if not any(lane.queue.waiting or lane.queue.closed for lane in running):
                    changed.wait(0.2)  # so that Ctrl-C is noticed
    for lane in lanes:
        if lane.queue.error is not None:
            raise lane.queue.error


@dataclass(eq=False)
class Lane:
    """One of several sources: the windows of its connection, and its positions since the start of the next window."""

    number: int
    engine: SlidingModel
    queue: PositionQueue
    statistics: Statistics
    drops: bool
    """Leave out positions that have waited for longer than a hop."""
    connection: int | None = None
    shown: deque[Position] = field(default_factory=deque)
    first: int = 0
    """The number of the first position in `shown`."""

    def begin(self, windows: Windows, hop: float) -> None:
        """Take the windows of the source and the seconds between two, before its first position comes."""
        self.engine = self.engine.restarted(windows, batch=self.engine.batch)
        self.queue.most, self.queue.max_age = 2 * windows.hop, hop if self.drops else None
        self.statistics.hop = hop

    def restart(self) -> None:
        """Begin the windows of another connection."""
        self.engine = self.engine.restarted(self.engine.windows, batch=self.engine.batch)
        self.shown, self.first = deque(), 0

    def add(self, position: Position) -> bool:
        """Let a position wait for the model; say whether a batch is full."""
        self.connection = position.connection
        self.shown.append(replace(position, frames=None))
        return self.engine.add(position.key, position.frames)

    def rows(self, finished: list[tuple[int, Any]]) -> Iterator[tuple[Lane, StreamRow]]:
        """Yield the rows of finished windows."""
        windows = self.engine.windows
        for window, logits in finished:
            while self.first < window * windows.hop:
                self.shown.popleft()
                self.first += 1
            row = make_row(list(islice(self.shown, windows.span)), logits, dropped=self.queue.dropped)
            self.statistics.rows, self.statistics.dropped = self.statistics.rows + 1, row.dropped
            self.statistics.latencies.append(row.latency)
            yield self, row


def make_row(shown: list[Position], logits: Any, *, dropped: int) -> StreamRow:
    """Make the row of a window from its positions."""
    times = [seconds for position in shown for seconds in position.shown]
    begin, end = times[len(times) // 2]
    return StreamRow(
        start=times[0][0],
        end=shown[-1].end,
        center=begin if len(times) % 2 == 0 else (begin + end) / 2,
        padded=any(position.padded for position in shown),
        logits=np.asarray(logits),
        dropped=dropped,
        connection=shown[-1].connection,
        latency=time.monotonic() - shown[-1].captured,
    )
