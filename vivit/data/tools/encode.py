"""Encode one video for training: small frames, frequent key frames, an even rate."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation

from ...errors import DataError, VideoError, as_video_error
from ...settings import check, positive
from ..clips import GRACE, frame_range
from ..sample import Sample
from ..video.decoder import Video
from ..video.frame_folder import FrameFolder
from ..views import open_sample, segment_frames

MIN_FPS = 1e-6  # a frame in 11 days
MAX_FRAMES = 2**22  # that one video is given beyond twice its own: 46 hours at 25 a second
KEY_EVERY = 32  # frames at most between two key frames


@dataclass(frozen=True)
class EncodingOptions:
    """How the videos are encoded."""

    short_side: int = 320
    """Pixels; smaller videos keep their size."""
    max_fps: float = 30.0
    """A higher rate is divided by an integer: of 60 frames a second every other one is kept."""
    crf: int = 20
    """Quality of H.264: lower is better and larger."""

    def __post_init__(self) -> None:
        positive(self, "short_side", "max_fps")
        check(0 <= self.crf <= 51, f"crf is {self.crf}; it must be 0 to 51")


class PrepareJob(NamedTuple):
    """One video to write."""

    sample: Sample
    """With start and end if only this segment is wanted."""
    dest: str
    encoding: EncodingOptions


def crash_message(job: PrepareJob) -> str:
    return f"{job.sample.path}: reading it ends the process (a crash in the decoder)"


def write_video(job: PrepareJob) -> str | None:
    """Write one video atomically; return what is wrong with its source, or None."""
    os.makedirs(os.path.dirname(job.dest), exist_ok=True)
    part = f"{job.dest}.part"
    try:
        with as_video_error(job.sample.path):
            _encode(job, part)
        os.replace(part, job.dest)
    except VideoError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise DataError(f"{part} cannot be written ({error.__cause__.strerror})") from error
        return str(error)
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return None


def _encode(job: PrepareJob, part: str) -> None:
    """Write the job's video, as H.264 in mp4, to the file `part`."""
    video = open_sample(job.sample)
    segment_frames(video, job.sample)  # raises where there are none
    start, end = job.sample.start, job.sample.end
    try:
        rate, shown = schedule(video.times, video.duration, max_fps=job.encoding.max_fps, start=start, end=end)
    except ValueError as error:
        raise VideoError(job.sample.path, str(error), "time stamps of a usual recording") from error
    size = scaled_size(video.height, video.width, job.encoding.short_side)
    try:
        with av.open(f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
            options = {"preset": "fast", "crf": str(job.encoding.crf), "threads": "1"}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = size
            stream.pix_fmt, stream.gop_size = "yuv420p", KEY_EVERY
            for number, image in enumerate(expand_repeats(video, shown)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                    width=size[1], height=size[0], format="yuv420p", interpolation=Interpolation.BICUBIC
                )
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except FFmpegError as error:
        raise VideoError(job.sample.path, f"cannot be written as H.264 ({error.strerror})") from error


def schedule(
    times: np.ndarray, duration: float, *, max_fps: float, start: float | None = None, end: float | None = None
) -> tuple[Fraction, np.ndarray]:
    """Return the even rate of the new video, and for each of its frames the number of the old frame shown then.

    `times`: seconds of the old frames. A video of an even rate gives each of its frames in [start, end) once, or every
    k-th. Raises ValueError for time stamps of which no video can be made.
    """
    frames = frame_range(times, duration, start, end)
    if not frames:
        return Fraction(1), np.empty(0, np.int64)
    first, last = frames[0], frames[-1]
    fps = (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 1 / (duration - float(times[0]))
    if not MIN_FPS <= fps < math.inf:
        raise ValueError(f"{len(times)} frames spread over {duration - times[0]:.4g} s, {fps:.4g} a second")
    rate = even_rate(fps, max_fps)
    begin = float(times[first])
    stop = max(duration, float(times[-1]) + 1 / fps) if last + 1 == len(times) else float(times[last + 1])
    if start is not None and begin < start - GRACE:  # a still: no frame appears in the part
        begin, stop = start, min(stop, math.inf if end is None else end)
    count = math.ceil((stop - begin) * float(rate) - 0.01)
    if count > max(MAX_FRAMES, 2 * len(frames)):
        raise ValueError(f"{len(frames)} frames spread over {stop - begin:.4g} s, at {float(rate):.4g} a second")
    ticks = np.arange(max(count, 1)) / float(rate) + begin
    shown = np.searchsorted(times, ticks + 0.5 / fps, side="right") - 1
    return rate, np.clip(shown, first, last)


def even_rate(fps: float, max_fps: float) -> Fraction:
    """Return `fps`, divided by an integer if it is above `max_fps`, as a ratio of small numbers."""
    rate = fps / max(math.ceil(fps / max_fps - 0.01), 1)
    return Fraction(rate).limit_denominator(1001) if rate > 1 else 1 / Fraction(1 / rate).limit_denominator(1001)


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return an even height and width of the same aspect, the smaller one at most `short_side`."""
    scale = min(short_side / min(height, width), 1.0)
    return max(round(height * scale / 2) * 2, 2), max(round(width * scale / 2) * 2, 2)


def expand_repeats(video: Video | FrameFolder, shown: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames with these ascending numbers, repeats included."""
    numbers, times = np.unique(shown, return_counts=True)
    expected = iter(zip(numbers.tolist(), times.tolist()))
    for number, image in video.images(numbers):
        wanted, repeats = next(expected)
        if number != wanted:
            raise VideoError(video.path, f"frame {wanted} does not decode in its turn", "intact packets")
        yield from (image for _ in range(repeats))
