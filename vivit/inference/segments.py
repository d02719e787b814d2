"""Turn scores over time into segments, all rows at once or row by row: hysteresis, gaps, minimum length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..config import check, suggestion
from ..model_config import joint_name
from .timeline import Timeline

TOLERANCE = 1e-6  # seconds: sums of hops are not exact
JOINT = " + "  # between the classes of several label sets: "take + cup"


@dataclass(frozen=True)
class Segment:
    """A class that is on from `start` to `end`."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    label: str
    score: float
    """Mean probability of the rows from start to end."""
    label_set: str

    @property
    def length(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class Thresholds:
    """When a class is on.

    A run of rows with a probability of at least `off` counts if one of them reaches `on`. Runs at most `merge_gap`
    apart become one segment; then segments shorter than `min_length` are dropped.
    """

    on: float = 0.5
    off: float = 0.3
    min_length: float = 0.5
    """Seconds."""
    merge_gap: float = 0.5
    """Seconds."""

    def __post_init__(self):
        check(0 < self.on <= 1, f"on is {self.on}; it is a probability above 0, at most 1")
        check(0 < self.off <= self.on, f"off is {self.off}; it must be above 0 and at most on={self.on}")
        for name in ("min_length", "merge_gap"):
            value = getattr(self, name)
            check(0 <= value < np.inf, f"{name} is {value}; it is 0 or more seconds")


@dataclass(frozen=True)
class SegmentParams:
    """Thresholds of all classes."""

    default: Thresholds = Thresholds()
    classes: dict[str, Thresholds] = field(default_factory=dict)
    """Classes with thresholds of their own."""
    background: tuple[str, ...] = ()
    """Classes that are no event; they get no segments."""

    def of(self, label: str) -> Thresholds:
        """Return the thresholds of a class."""
        return self.classes.get(label, self.default)

    def is_event(self, label: str) -> bool:
        """Return whether a class gets segments; of a class of several label sets, every part must be an event."""
        return not {label, *label.split(JOINT)} & set(self.background)

    def check_names(self, label_sets: Mapping[str, Sequence[str]]) -> None:
        """Raise ValueError for a class that none of the label sets, with their classes, has."""
        known = {name for names in label_sets.values() for name in names}
        for label in (*self.background, *self.classes):
            if label not in known and not set(label.split(JOINT)) <= known:
                raise ValueError(f"segments: unknown class {label!r}{suggestion(label, known)}")


def segments(timeline: Timeline, label_set: str, params: SegmentParams | None = None) -> list[Segment]:
    """Find the segments of all classes of a label set, ordered by start, end and label.

    Row i stands for [center - hop/2, center + hop/2]. The first row begins and the last one ends with the video; where
    the hop is longer than half a window, the last row ends at the latest with its window. With several label sets,
    their joint name ("action" for verb and noun, else "all") gives segments of combinations of classes, whose
    probability is the product. Raises ValueError for an unknown label set or class.
    """
    params = params or SegmentParams()
    params.check_names(timeline.classes)
    least = min(thresholds.on for thresholds in (params.default, *params.classes.values()))
    names, probabilities = class_probabilities(timeline, label_set, least)
    starts, ends = row_spans(timeline)
    found = []
    for name, column, peak in zip(names, probabilities.T, probabilities.max(axis=0, initial=0)):
        thresholds = params.of(name)
        if params.is_event(name) and peak >= thresholds.on:
            runs = join_runs(find_runs(column, thresholds), starts, ends, thresholds)
            rows = measure(runs, column, starts, ends)
            found += [Segment(start, end, name, score, label_set) for start, end, score in rows]
    return in_order(found)


def in_order(found: Sequence[Segment]) -> list[Segment]:
    """Sort segments by start, end and label."""
    return sorted(found, key=lambda s: (s.start, s.end, s.label))


def class_probabilities(timeline: Timeline, label_set: str, least: float = 0.0) -> tuple[list[str], np.ndarray]:
    """Return the class names (k) and probabilities (n, k) float64 of a label set; NaN becomes 0.

    For several label sets together: the combinations of classes that reach `least` in any row.
    """
    if label_set in timeline.classes:
        return list(timeline.classes[label_set]), np.nan_to_num(timeline.probabilities(label_set).astype(np.float64))
    allowed = label_sets(timeline)
    if label_set not in allowed:
        raise ValueError(f"unknown label set {label_set!r}{suggestion(label_set, allowed)}")
    products: dict[tuple[str, ...], np.ndarray] = {(): np.ones(len(timeline.center))}
    for name, classes in timeline.classes.items():
        columns = np.nan_to_num(timeline.probabilities(name).astype(np.float64)).T
        likely = [(c, column) for c, column in zip(classes, columns) if column.max(initial=0) >= least]
        pairs = (((*left, c), product * column) for left, product in products.items() for c, column in likely)
        products = {combination: column for combination, column in pairs if column.max(initial=0) >= least}
    columns = np.stack(list(products.values()), axis=1) if products else np.zeros((len(timeline.center), 0))
    return list(map(JOINT.join, products)), columns


def label_sets(timeline: Timeline) -> list[str]:
    """Return the label sets of a timeline and, of several, their joint name."""
    names = list(timeline.classes)
    return names if len(names) == 1 else [*names, joint_name(names)]


def row_spans(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds (n,) at which each row starts and ends."""
    starts, ends = timeline.center - timeline.hop / 2, timeline.center + timeline.hop / 2
    starts[:1] = np.maximum(starts[:1], timeline.start[:1])
    ends[-1:] = timeline.end[-1:] if timeline.reaches_end else np.minimum(ends[-1:], timeline.end[-1:])
    return starts, ends


Runs = list[tuple[int, int]]  # (first row, last row)


def find_runs(column: np.ndarray, thresholds: Thresholds) -> Runs:
    """Return the runs of rows of at least `off` of which one reaches `on`; column (n,)."""
    edges = np.flatnonzero(np.diff(column >= thresholds.off, prepend=False, append=False)).tolist()
    return [(a, b - 1) for a, b in zip(edges[::2], edges[1::2]) if column[a:b].max() >= thresholds.on]


def join_runs(runs: Runs, starts: np.ndarray, ends: np.ndarray, thresholds: Thresholds) -> Runs:
    """Join runs that are at most `merge_gap` apart, then drop those shorter than `min_length`."""
    joined: Runs = []
    for first, last in runs:
        if joined and starts[first] - ends[joined[-1][1]] <= thresholds.merge_gap + TOLERANCE:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return [(a, b) for a, b in joined if ends[b] - starts[a] >= thresholds.min_length - TOLERANCE]


def measure(runs: Runs, column: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[tuple[float, float, float]]:
    """Return (start, end, mean probability) of runs; the mean adds row by row, as a stream does."""
    return [
        (float(starts[a]), float(ends[b]), float(np.add.accumulate(column[a : b + 1])[-1] / (b - a + 1)))
        for a, b in runs
    ]


class SegmentStream:
    """The segments of one label set of a stream, row by row: the same as `segments` of all rows, to the bit.

    `push` takes a row and returns the segments that it completes; `finish` returns the rest. The state is a few numbers
    per class. After a jump of the clock call `finish` and start a new stream.
    """

    def __init__(self, names: Sequence[str], label_set: str, *, hop: float, params: SegmentParams | None = None):
        """Take the class names (k) of the label set and the seconds between rows."""
        self.names, self.label_set, self.hop = list(names), label_set, hop
        params = params or SegmentParams()
        rows = [params.of(name) for name in names]
        self.on, self.off, self.min_length, self.merge_gap = (
            np.array([getattr(row, name) for row in rows], dtype=np.float64)
            for name in ("on", "off", "min_length", "merge_gap")
        )
        self.is_event = np.array([params.is_event(name) for name in names], dtype=bool)
        k = len(names)
        # A run is the rows since the probability reached `off`; a segment is what is certain of a class that reached
        # `on`. The run becomes part of the segment, or replaces it, in the row that reaches `on`.
        self.in_run, self.in_segment, self.has_segment = (np.zeros(k, dtype=bool) for _ in range(3))
        self.run_start, self.run_sum, self.run_rows = (np.zeros(k) for _ in range(3))
        self.start, self.end, self.sum, self.rows = (np.zeros(k) for _ in range(4))
        self.sum_now, self.rows_now = np.zeros(k), np.zeros(k)  # from the segment's start to the last row
        self.window_end: float | None = None

    def push(self, center: float, start: float, end: float, probabilities: np.ndarray) -> list[Segment]:
        """Take one row of a timeline, probabilities (k,); return the segments that no later row can change."""
        p = np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
        row_start, row_end = center - self.hop / 2, center + self.hop / 2
        if self.window_end is None:
            row_start = max(row_start, start)
        self.window_end = end

        above = (p >= self.off) & self.is_event
        first = above & ~self.in_run
        self.run_start[first] = row_start
        self.run_sum = np.where(first, p, self.run_sum + p)
        self.run_rows = np.where(first, 1, self.run_rows + 1)
        self.sum_now, self.rows_now = self.sum_now + p, self.rows_now + 1
        self.in_run = above
        self.in_segment &= above

        reaches_on = above & ~self.in_segment & (p >= self.on)
        joins = reaches_on & self.has_segment & (self.run_start - self.end <= self.merge_gap + TOLERANCE)
        begins = reaches_on & ~joins
        next_start = np.where(above & ~self.in_segment & ~joins, self.run_start, row_start)
        is_over = self.has_segment & ~self.in_segment & ~joins & (next_start - self.end > self.merge_gap + TOLERANCE)
        complete = self._segments(is_over | (begins & self.has_segment))
        self.has_segment &= ~is_over

        for mine, of_run in (
            (self.start, self.run_start),
            (self.sum_now, self.run_sum),
            (self.rows_now, self.run_rows),
        ):
            mine[begins] = of_run[begins]
        self.has_segment |= begins
        self.in_segment |= reaches_on
        inside = self.in_segment
        self.end[inside], self.sum[inside], self.rows[inside] = row_end, self.sum_now[inside], self.rows_now[inside]
        return complete

    def finish(self) -> list[Segment]:
        """Return the segments that the end of the stream completes; the stream takes no more rows."""
        if self.window_end is not None:
            self.end[self.in_segment] = self.window_end
        complete = self._segments(self.has_segment)
        self.has_segment[:] = False
        return complete

    def current(self) -> list[Segment]:
        """Return the segments that go on or may still be joined, as they are up to the last row."""
        return self._segments(self.has_segment)

    def _segments(self, which: np.ndarray) -> list[Segment]:
        """Make the segments of the classes `which` (k,) that are long enough, in the order of the classes."""
        which = which & (self.end - self.start >= self.min_length - TOLERANCE)
        return [
            Segment(
                float(self.start[i]),
                float(self.end[i]),
                self.names[i],
                float(self.sum[i] / self.rows[i]),
                self.label_set,
            )
            for i in np.flatnonzero(which)
        ]
