"""Cache the decoded frames of short videos, so that training decodes each of them once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import VideoError
from ..files import atomic_write
from .sample import Sample, file_state
from .video.read_frames import OpenVideo, read_frames
from .views import open_sample, segment_frames

if TYPE_CHECKING:
    import torch

FOLDER = "frames"
LEAST, MOST = 2**20, 2**28  # bytes of one video: no cache for shares below, no video above


@dataclass(frozen=True)
class FrameCache:
    """A folder with a memory-mapped array of frames for each video, written when the video is first read.

    Processes may share it. A video whose file changes is decoded again.
    """

    folder: Path
    most_bytes: int
    """A video whose frames take more is decoded whenever it is read."""

    @staticmethod
    def within(folder: Path, most_bytes: float, *, videos: int) -> FrameCache | None:
        """Return a cache for a number of videos that stays below `most_bytes` and half of the free room.

        None if the share of a video is below LEAST.
        """
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        share = int(min(most_bytes, shutil.disk_usage(place).free / 2) / max(videos, 1))
        return FrameCache(folder, min(share, MOST)) if share >= LEAST else None

    def remove(self) -> None:
        """Delete the cached frames."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, sample: Sample) -> OpenVideo:
        """Open the video of a sample, as `open_sample` does. Raises VideoError."""
        video = open_sample(sample)
        segment = segment_frames(video, sample)
        state = [sample.path, sample.start, sample.end, sample.fps, sample.offset, *file_state(sample.path)]
        path = self.folder / f"{hashlib.sha256(repr(state).encode()).hexdigest()[:32]}.npy"
        try:
            images = np.load(path, mmap_mode="r")
        except (OSError, ValueError):
            if len(segment) * video.height * video.width * 3 > self.most_bytes:
                return video
            images = decode_into(path, video, segment)
        return CachedVideo(video, segment.start, images) if len(images) == len(segment) else video


class CachedVideo:
    """A video some of whose frames are in an array, with the interface of `Video`."""

    def __init__(self, video: OpenVideo, first: int, cached: np.ndarray):
        self.path, self.num_frames, self.times = video.path, video.num_frames, video.times
        self.duration, self.fps = video.duration, video.fps
        self.height, self.width = cached.shape[1:3]
        self._first, self._cached = first, cached

    def images(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8) of one frame after the other."""
        for index in indices:
            yield int(index), self._cached[index - self._first]

    def frames(
        self,
        indices: Sequence[int],
        *,
        box: tuple[int, int, int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Read the frames with these numbers, (T, C, H, W) uint8 RGB; see `Video.frames`."""
        return read_frames(self, indices, box=box, transform=transform)


def decode_into(path: Path, video: OpenVideo, segment: range) -> np.ndarray:
    """Decode the frames of a segment and write them; returns them, (n, H, W, 3), or none if one does not decode.

    A file that cannot be written is not kept.
    """
    images = np.empty((len(segment), video.height, video.width, 3), dtype=np.uint8)
    try:
        for row, (_, image) in zip(images, video.images(segment), strict=True):
            row[:] = image
    except VideoError:
        images = images[:0]  # it is never tried again: each clip is decoded, and fails only if it holds that frame
    with suppress(OSError), atomic_write(path, "wb") as file:
        np.save(file, images)
    return images
