"""Choose the frames of a segment and of a clip. Randomness is an argument."""

from __future__ import annotations

import math

import numpy as np

GRACE = 1e-6  # seconds, so that rounding does not move a frame out of its own segment


def frame_range(times: np.ndarray, duration: float, start: float | None, end: float | None) -> range:
    """Return the numbers of the frames that appear in [start, end) or, if none does, of the one on display.

    `times` are the seconds at which the frames appear, ascending; the last one is shown until `duration`. None stands
    for the beginning and the end. The range is empty if the video shows nothing in this segment: if it is before the
    first frame or after the end, or ends before it starts.
    """
    begin, stop = -math.inf if start is None else start, math.inf if end is None else end
    first, last = np.searchsorted(times, [begin - GRACE, stop - GRACE]).tolist()
    if first == last > 0 and begin < stop and begin < duration - GRACE:
        first -= 1
    return range(first, max(first, last))


def clip_span(num_frames: int, frame_stride: float) -> int:
    """Count the frames of the video from a clip's first frame to its last."""
    return math.floor((num_frames - 1) * frame_stride) + 1


def random_start(num_video_frames: int, *, num_frames: int, frame_stride: float, u: float) -> int:
    """Return the first frame of a training clip for u in [0, 1): uniform over all that fit, 0 if none does."""
    room = max(num_video_frames - clip_span(num_frames, frame_stride), 0)
    return int(u * (room + 1))


def view_starts(num_video_frames: int, *, num_frames: int, frame_stride: float, views: int) -> list[int]:
    """Return the first frames of `views` evenly spaced test clips; one view is in the middle (paper, section 4.1)."""
    room = max(num_video_frames - clip_span(num_frames, frame_stride), 0)
    if views == 1:
        return [room // 2]
    return [round(i * room / (views - 1)) for i in range(views)]


def clip_frames(start: int, num_video_frames: int, *, num_frames: int, frame_stride: float) -> list[int]:
    """Return the `num_frames` frames of the clip that begins at `start`; a short video loops from its beginning."""
    return [(start + math.floor(k * frame_stride)) % num_video_frames for k in range(num_frames)]
