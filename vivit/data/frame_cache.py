"""Cache the decoded frames of short videos, so that training decodes each of them once."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DecodeTimeout, VideoError
from ..files import atomic_write
from .remote import is_url
from .sample import Sample, file_state
from .video.frames import Frames, OpenVideo
from .views import open_sample, segment_frames

FOLDER = "frames"
MIN_VIDEO_BYTES, MAX_VIDEO_BYTES = 2**20, 2**28  # no cache if a video may have less; no video may have more
COMPLETE, PARTIAL = r"[0-9a-f]{32}\.rgb", r"\.[0-9a-f]{32}\.rgb\..+\.tmp"  # names of the files of a cache
HEADER = np.dtype("<u4")  # three numbers: frames, height, width; then come the pixels

_unwritable: set[Path] = set()  # folders that this process could not write to


@dataclass(frozen=True)
class FrameCache:
    """A folder with a file of RGB pixels for each video, written when the video is first read; processes share it.

    A video file that changes is decoded again. Of a folder of images only added and removed images are noticed.
    """

    folder: Path
    max_video_bytes: int
    """A video whose frames take more is decoded whenever it is read."""
    max_seconds: float = math.inf
    """So is one whose frames take longer to decode and write."""

    @staticmethod
    def within(folder: Path, max_bytes: float, *, videos: int, max_seconds: float = math.inf) -> FrameCache | None:
        """Return a cache that stays below `max_bytes`, and takes at most half of the room on the disk.

        None if each of the `videos` may have less than MIN_VIDEO_BYTES.
        """
        if not max_bytes:
            return None
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        written = sum(file.stat().st_size for file in folder.glob("*.rgb"))
        room = min(max_bytes, (shutil.disk_usage(place).free + written) / 2)
        share = min(int(room / max(videos, 1)), MAX_VIDEO_BYTES)
        return FrameCache(folder, share, max_seconds) if share >= MIN_VIDEO_BYTES else None

    def open(self, sample: Sample) -> OpenVideo:
        """Open the video of a sample, as `open_sample` does. Raises VideoError."""
        video = open_sample(sample)
        if is_url(sample.path):  # what is behind it may change
            return video
        segment = segment_frames(video, sample)
        state = [sample.path, sample.start, sample.end, sample.fps, sample.offset, *file_state(sample.path)]
        path = self.folder / f"{hashlib.sha256(repr(state).encode()).hexdigest()[:32]}.rgb"
        if not path.exists():
            size = len(segment) * video.height * video.width * 3
            if size > self.max_video_bytes or self.folder in _unwritable:
                return video
            self.decode_into(path, video, segment)
        shape = frames_in(path)
        return CachedVideo(video, segment.start, path, shape) if shape and shape[0] == len(segment) else video

    def decode_into(self, path: Path, video: OpenVideo, segment: range) -> None:
        """Write the frames of a segment to `path`, with one of them in memory at a time.

        The file is empty if a frame does not decode, or if it takes too long. After a decoder that is stuck, or an
        error of the disk, this process writes no further videos.
        """
        deadline = time.monotonic() + self.max_seconds
        try:
            with atomic_write(path, "wb", sync=False) as file:  # `frames_in` finds out about a file that is cut off
                file.write(np.array([len(segment), video.height, video.width], dtype=HEADER).tobytes())
                try:
                    for _, image in video.images(segment):
                        file.write(image.tobytes())
                        if time.monotonic() > deadline:
                            raise VideoError(video.path, f"not decoded after {self.max_seconds:g} s")
                except DecodeTimeout:
                    raise
                except VideoError:  # then each clip is decoded, and may be intact
                    file.truncate(0)
        except DecodeTimeout:
            _unwritable.add(self.folder)
            raise
        except OSError as error:
            _unwritable.add(self.folder)
            logging.getLogger("vivit").warning("%s: %s; further videos are decoded for each clip", self.folder, error)


class CachedVideo(Frames):
    """An `OpenVideo` whose frames from number `first` on are in a file."""

    def __init__(self, video: OpenVideo, first: int, file: Path, shape: tuple[int, int, int]):
        self.path, self.num_frames, self.times = video.path, video.num_frames, video.times
        self.duration, self.fps = video.duration, video.fps
        self.count, self.height, self.width = shape
        self._first, self._file = first, file

    def images(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8) of one frame after the other. Raises ValueError for one not in the file."""
        size = self.height * self.width * 3
        with self._file.open("rb") as file:
            for index in indices:
                if not 0 <= index - self._first < self.count:
                    raise ValueError(f"frame {index} of {self.path} is outside the segment whose frames are cached")
                file.seek(3 * HEADER.itemsize + int(index - self._first) * size)
                pixels = np.frombuffer(file.read(size), dtype=np.uint8)
                yield int(index), pixels.reshape(self.height, self.width, 3)


def remove_frames(folder: Path, names: str = f"{COMPLETE}|{PARTIAL}") -> None:
    """Remove the files of a cache that have these names, and the folder if nothing else is in it."""
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if re.fullmatch(names, path.name)]:
            path.unlink()
        folder.rmdir()


def frames_in(path: Path) -> tuple[int, int, int] | None:
    """Return (frames, height, width) of a file of pixels; None for one that is empty, torn or gone."""
    try:
        with path.open("rb") as file:
            shape = np.frombuffer(file.read(3 * HEADER.itemsize), dtype=HEADER).tolist()
        expected = 3 * HEADER.itemsize + 3 * math.prod(shape)
        return tuple(shape) if len(shape) == 3 and path.stat().st_size == expected else None
    except (OSError, ValueError):
        return None
