"""The frame index of a video, packed small enough to keep for every file.

Time stamps are stored as runs of equal steps, or as a line if only rounding makes the steps uneven (webm counts
milliseconds). Key frames are stored as runs of equal distances.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

Ints = np.ndarray
FORMAT = "frames 2"  # of the text; one without it is of an older version, and the file is read again


@dataclass(frozen=True)
class PacketIndex:
    """Lets `Video(path, index=…)` open a file without reading all of it, as long as its size and date are these."""

    size: int
    """Bytes."""
    mtime_ns: int
    """Date of the last change in nanoseconds; 0 for bytes inside a tar file."""
    text: str
    """A `FrameIndex` as JSON."""


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video and where decoding may start."""

    track: int
    """The number of the video's stream in the container."""
    height: int
    width: int
    time_base: float
    """Seconds per tick."""
    start: float
    """Seconds from the container's earliest time stamp, that of sound included, to the first frame."""
    last_duration: float
    """Seconds for which the last frame is shown."""
    pts_unordered: bool
    """The time stamps do not order the frames: a frame is named by its position in the decoder's output."""
    seek_early: int
    """How far before a key frame's time stamp a seek must aim, in ticks."""
    pts: Ints
    """(num_frames,) int64, ascending, in ticks."""
    keys: list[int]
    """Numbers of the frames at which decoding may start; the first is 0."""
    problem: str | None
    note: str | None

    def number_of(self, position: int, pts: int | None) -> int:
        """Return the number of the frame that the decoder gives as the `position`-th, with the time stamp `pts`.

        -1 for a frame that is not in the index.
        """
        if self.pts_unordered:
            return position if position < len(self.pts) else -1
        return find_pts(self.pts, pts)

    def to_text(self) -> str:
        values = {**asdict(self), "pts": pack(self.pts), "keys": _runs(np.array(self.keys))}
        return json.dumps([FORMAT, *values.values()], separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str, size: int) -> FrameIndex | None:
        """Read what `to_text` wrote for a file of `size` bytes; None for another format or impossible values."""
        try:
            form, *values = json.loads(text)
            if form != FORMAT:
                return None
            named = dict(zip((field.name for field in fields(cls)), values, strict=True))
            named["pts"] = unpack(named["pts"], size)
            named["keys"] = unpack(named["keys"], size).tolist()
            index = cls(**named)
            return index if index._is_possible(size) else None
        except (ValueError, TypeError, OverflowError, LookupError):
            return None

    def _is_possible(self, size: int) -> bool:
        seconds = (
            self.time_base,
            self.last_duration,
            float(self.pts[-1] - self.pts[0]) * self.time_base + self.start + self.last_duration,
        )
        keys = np.array(self.keys)
        return (
            all(0 < value < float("inf") for value in seconds)
            and self.start >= 0
            and self.track >= 0
            and min(self.height, self.width) > 0
            and len(self.pts) <= size
            and bool((np.diff(self.pts) > 0).all() and (np.diff(keys) > 0).all())
            and keys[0] == 0
            and keys[-1] < len(self.pts)
        )


def find_pts(pts: Ints, wanted: int | None) -> int:
    """Return the place of a time stamp among ascending ones, -1 if it is not there."""
    if wanted is None:
        return -1
    place = int(np.searchsorted(pts, wanted))
    return place if place < len(pts) and pts[place] == wanted else -1


def pack(stamps: Ints) -> list:
    """Pack ascending integers as ["line", first, slope, begin, n] or [first, step, times, step, times …]."""
    runs = _runs(stamps)
    line = _line(stamps) if len(runs) > 5 else None
    return line or runs


def unpack(packed: Sequence, most: int = 2**31) -> Ints:
    """Unpack what `pack` returned: (n,) int64. Raises ValueError for more than `most` numbers."""
    number = packed[4] if packed[0] == "line" else sum(packed[2::2]) + 1
    if not 0 < number <= most:
        raise ValueError(f"got {number} packed numbers; allowed are 1 to {most}")
    if packed[0] == "line":
        _, first, slope, begin, n = packed
        return first + np.floor(begin + slope * np.arange(n)).astype(np.int64)
    steps = np.repeat(packed[1::2], packed[2::2]) if len(packed) > 1 else []
    return np.cumsum([packed[0], *steps], dtype=np.int64)


def _runs(stamps: Ints) -> list[int]:
    steps = np.diff(stamps)
    if not len(steps):
        return [int(stamps[0])]
    begins = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
    times = np.diff(begins, append=len(steps))
    return [int(stamps[0]), *np.stack([steps[begins], times], axis=1).ravel().tolist()]


def _line(stamps: Ints) -> list | None:
    """Find a line whose values, rounded down, are the time stamps; None if there is none.

    For each slope, the possible starts of the line form an interval whose width is concave in the slope: hence the
    ternary search.
    """
    rises, places = stamps - stamps[0], np.arange(len(stamps))

    def begins(slope: float) -> tuple[float, float]:
        rest = rises - slope * places
        return float(rest.max()), float(rest.min()) + 1

    mean = rises[-1] / places[-1]
    low, high = mean - 1 / places[-1], mean + 1 / places[-1]
    for _ in range(60):
        third = (high - low) / 3
        left, right = ((b - a) for a, b in (begins(low + third), begins(high - third)))
        low, high = (low + third, high) if left < right else (low, high - third)
    slope = float(low + high) / 2
    line = ["line", int(stamps[0]), slope, sum(begins(slope)) / 2, len(stamps)]
    return line if np.array_equal(unpack(line), stamps) else None
