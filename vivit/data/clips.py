"""Which frames of a video make a clip: integers in, integers out. Randomness is an argument."""

from __future__ import annotations

import math


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
