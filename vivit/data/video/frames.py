"""Read, cut and resize frames of an open video."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

CHUNK = 8  # frames that are held in full size while they are resized


class OpenVideo(Protocol):
    """What has the frames of a video; see `vivit.data.video.decoder.Video` for the attributes."""

    path: str
    num_frames: int
    times: np.ndarray
    duration: float
    fps: float

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def images(self, indices: Sequence[int] | np.ndarray, /) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8) of one frame after the other, for ascending numbers."""
        ...

    def frames(
        self,
        indices: Sequence[int],
        /,
        *,
        box: tuple[int, int, int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Read frames, (T, C, H, W) uint8 RGB; see `Frames`."""
        ...


class Frames:
    """Iteration and the method `frames` of all that has `images`: a file, a folder of images, a cache of frames."""

    def __iter__(self: OpenVideo) -> Iterator[torch.Tensor]:
        """Decode the frames one after the other, (C, H, W) uint8 RGB; indexing would begin at a key frame for each."""
        import torch

        for _, image in self.images(range(self.num_frames)):
            yield torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def frames(
        self: OpenVideo,
        indices: Sequence[int],
        *,
        box: tuple[int, int, int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Read the frames with these numbers, in this order, repeats allowed: (T, C, H, W) uint8 RGB.

        `box` (top, left, height, width) is the part of each frame that is kept. `transform` maps a few frames
        (n, C, H, W) to what is kept of them, (n, …); then at most CHUNK frames are held in full size. Raises
        ValueError for a number outside 0 ... num_frames - 1, VideoError for a frame that cannot be read.
        """
        import torch  # not above: `images` needs only numpy

        wanted = np.array([operator.index(index) for index in indices], dtype=np.int64)
        if ((wanted < 0) | (wanted >= self.num_frames)).any():
            raise ValueError(f"got frames {wanted.tolist()} of {self.path}; allowed are 0 to {self.num_frames - 1}")
        top, left, height, width = box or (0, 0, self.height, self.width)
        unique, positions = np.unique(wanted, return_inverse=True)
        images = self.images(unique)
        size = min(CHUNK, len(unique)) if transform else len(unique)
        parts = list[torch.Tensor]()
        for first in range(0, max(len(unique), 1), max(size, 1)):
            count = min(size, len(unique) - first)
            pixels = np.empty((count, height, width, 3), dtype=np.uint8)
            for row, (_, image) in zip(pixels, islice(images, count)):
                row[:] = image[top : top + height, left : left + width]
            part = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            parts.append(transform(part) if transform else part)
        found = torch.cat(parts) if len(parts) > 1 else parts[0]
        return found if np.array_equal(unique, wanted) else found[positions.tolist()]
