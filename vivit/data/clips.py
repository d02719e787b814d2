"""Which frames a part of a video has, and which of them make a clip. Randomness is an argument."""

from __future__ import annotations

import math

import numpy as np

GRACE = 1e-6  # seconds, so that rounding does not separate a frame from a time that is meant to be its own


def frame_range(times: np.ndarray, duration: float, start: float | None, end: float | None) -> range:
    """The numbers of the frames in [start, end): those that appear in it or, where none does, the one on display.

    `times` are the seconds at which the frames appear, ascending; the last one is shown until `duration`. None stands
    for the beginning and the end. The range is empty if the video shows nothing in this part: it lies before the first
    frame or after the end, or ends before it starts.
    """
    begin, stop = -math.inf if start is None else start, math.inf if end is None else end
    first, last = np.searchsorted(times, [begin - GRACE, stop - GRACE]).tolist()
    if first == last > 0 and begin < stop and begin < duration - GRACE:
        first -= 1
    return range(first, max(first, last))


def clip_span(num_frames: int, frame_stride: float) -> int:
    """Frames of the video from a clip's first to its last."""
    return math.floor((num_frames - 1) * frame_stride) + 1


def random_start(num_video_frames: int, *, num_frames: int, frame_stride: float, u: float) -> int:
    """First frame of a training clip for u in [0, 1): uniform over the places where the clip fits, 0 if none."""
    room = max(num_video_frames - clip_span(num_frames, frame_stride), 0)
    return int(u * (room + 1))


def view_starts(num_video_frames: int, *, num_frames: int, frame_stride: float, views: int) -> list[int]:
    """First frames of `views` evenly spaced test clips; one view lies in the middle (paper, section 4.1)."""
    room = max(num_video_frames - clip_span(num_frames, frame_stride), 0)
    if views == 1:
        return [room // 2]
    return [round(i * room / (views - 1)) for i in range(views)]


def clip_frames(start: int, num_video_frames: int, *, num_frames: int, frame_stride: float) -> list[int]:
    """The `num_frames` frames of the clip that begins at `start`; a short video loops from its beginning."""
    return [(start + math.floor(k * frame_stride)) % num_video_frames for k in range(num_frames)]
