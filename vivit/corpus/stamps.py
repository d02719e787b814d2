"""Turn seconds into frame numbers and back by the time stamps of the file itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.clips import GRACE
from ..data.sample import Sample
from ..data.views import open_sample


@dataclass(frozen=True)
class Stamps:
    """When the frames of a video appear; constant and variable rates are the same here."""

    times: np.ndarray
    """(n,) float64 seconds, ascending."""
    duration: float
    """Seconds at which the last frame ends."""
    size: tuple[int, int]
    """Width and height in pixels."""

    @cached_property
    def bounds(self) -> np.ndarray:
        """(n + 1,) float64 seconds: where each frame begins, and where the last one ends."""
        return np.append(self.times, max(self.duration, self.times[-1] + GRACE))

    def frames(self, start: float | None, end: float | None) -> tuple[int, int]:
        """Return the first and the last frame of a segment; each end moves to the nearest border of a frame.

        So it moves by at most half a frame, unless the segment would be empty: one frame is the least.
        """
        first = min(self._nearest(start), len(self.times) - 1) if start is not None else 0
        stop = self._nearest(end) if end is not None else len(self.times)
        return first, max(stop, first + 1) - 1

    def seconds(self, first: int, last: int) -> tuple[float | None, float | None]:
        """Return when these frames are shown; None: from the beginning, to the end. Raises ValueError for others."""
        if not 0 <= first <= last < len(self.times):
            raise ValueError(f"frames {first} to {last} of a video with {len(self.times)} frames")
        return self.open_ends(float(self.bounds[first]), float(self.bounds[last + 1]))

    def open_ends(self, start: float | None, end: float | None) -> tuple[float | None, float | None]:
        """Return None in place of a start or end that cuts nothing off."""
        starts_late = start is not None and start > self.bounds[0] + GRACE
        ends_early = end is not None and end < self.bounds[-1] - GRACE
        return start if starts_late else None, end if ends_early else None

    def closed(self, start: float | None, end: float | None) -> tuple[float, float]:
        """Return numbers in place of None."""
        bounds = self.bounds
        return float(bounds[0]) if start is None else start, float(bounds[-1]) if end is None else end

    @property
    def clock_rate(self) -> float:
        """Ticks per second of a clock that tells all frames apart: the frame rate, twice the highest if it varies."""
        gaps = np.diff(self.bounds)
        least = max(float(gaps.min()), 1e-3)
        return round(1 / float(gaps.mean()), 6) if gaps.max() - least < 0.01 * least else round(2 / least, 6)

    def snap(self, seconds: float) -> float:
        """Return the nearest border of a frame."""
        return float(self.bounds[self._nearest(seconds)])

    def _nearest(self, seconds: float) -> int:
        return int(np.abs(self.bounds - seconds).argmin())


def read_stamps(path: str, fps: float | None = None) -> Stamps:
    """Read the time stamps of a video file or a folder of images. Raises VideoError."""
    video = open_sample(Sample(path, fps=fps))
    return Stamps(np.asarray(video.times, np.float64), float(video.duration), (video.width, video.height))
