"""Read a folder of images as a video; `open_video` opens a file or a folder."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image  # comes with torchvision
from PIL.Image import Transpose

from ...errors import VideoError
from ..datasets.find_videos import IMAGE_SUFFIXES
from ..datasets.rows import MAX_FPS, MIN_FPS
from ..packet_index import PacketIndex
from .container import MAX_PIXELS, MAX_SIDE
from .decoder import Video, frame_ids_at
from .frame_names import NUMBER, order_images
from .frames import Frames

if TYPE_CHECKING:
    import torch

FPS = 25.0  # of a folder without a given rate
EXIF_TRANSPOSE = {  # by the EXIF orientation: what brings the picture upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
IMAGES = f"images ({', '.join(IMAGE_SUFFIXES)}) numbered in their names"


class FrameFolder(Frames):
    """A folder of images, in the order of the numbers in their names, with the interface of `Video`.

    The first image is shown at 0 s, the others at `fps` images per second, upright as EXIF says. If the numbers count
    images and some are missing, the frames around the gap keep their times and `problem` names the gap; time stamps in
    names only give the order (see `frame_names.order_images`). Raises VideoError for a
    folder without images, an image without a number, two with the same; ValueError for `fps` outside 1e-6 ... 1e6.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float = FPS):
        if not MIN_FPS <= fps <= MAX_FPS:
            raise ValueError(f"got fps {fps} for {path}; allowed are {MIN_FPS:g} to {MAX_FPS:g} images a second")
        self.path, self.fps = os.fsdecode(path), float(fps)
        try:
            self._names, numbers = _list_images(self.path, os.stat(self.path).st_mtime_ns)
        except OSError as error:
            raise VideoError(self.path, f"cannot be listed ({error.strerror})", f"a folder of {IMAGES}") from error
        self.num_frames = len(numbers)
        contiguous = isinstance(numbers, range)
        self.times: np.ndarray[Any, Any] = (
            np.arange(len(numbers)) if contiguous else np.asarray(numbers) - numbers[0]
        ) / self.fps
        self.duration = float(self.times[-1]) + 1 / self.fps
        lost = numbers[-1] - numbers[0] + 1 - len(numbers)
        self.problem = None
        if lost:
            before = int(np.flatnonzero(np.diff(numbers) > 1)[0])
            self.problem = f"{lost} of {lost + len(numbers)} images missing, the first after {self._names(before)}"
            logging.getLogger("vivit").warning("%s: %s", self.path, self.problem)

    @property
    def height(self) -> int:
        """Pixels; the first image is read for it once."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self._size[1]

    def images(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8) of one frame after the other."""
        for index in indices:
            yield int(index), self._image(int(index))

    def frames_at(self, seconds: Sequence[float]) -> torch.Tensor:
        """Read the frames shown at these times; see `Video.frames_at`."""
        return self.frames(frame_ids_at(seconds, self.times, self.path))

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width, _ = self._read(0).shape
        return height, width

    def _image(self, index: int) -> np.ndarray:  # (H, W, 3) uint8
        image = self._read(index)
        if image.shape[:2] != self._size:
            height, width, _ = image.shape
            expected = f"{self.width}x{self.height} pixels as {self._names(0)} has"
            raise VideoError(f"{self.path}/{self._names(index)}", f"has {width}x{height} pixels", expected)
        return image

    def _read(self, index: int) -> np.ndarray:
        file = f"{self.path}/{self._names(index)}"
        try:
            if os.path.exists(file) and not os.path.isfile(file):  # a pipe would block
                raise VideoError(file, "is not a regular file", "a JPEG or PNG")
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
                    limit = f"at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all"
                    raise VideoError(file, f"claims {image.width}x{image.height} pixels", limit)
                if image.mode.startswith(("I", "F")):
                    raise VideoError(file, f"has pixels of {image.mode}", "8 bits a colour")
                pixels = np.array(_upright(image.convert("RGB"), image))
        except VideoError:
            raise
        except Exception as error:  # Pillow raises what its many readers raise
            raise VideoError(
                file, f"cannot be read as an image ({type(error).__name__}: {error})", "a JPEG or PNG"
            ) from error
        return pixels


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Rotate and mirror `pixels` as the EXIF orientation of `image` says, if it has one."""
    turn = None
    with suppress(Exception):  # damaged EXIF data do not damage the image
        turn = EXIF_TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else pixels.transpose(turn)


def open_video(
    path: str | os.PathLike, *, fps: float | None = None, index: PacketIndex | None = None
) -> Video | FrameFolder:
    """Open a video file, or a folder of images at `fps` (25 if None; a file knows its own). Raises VideoError.

    `index`: what is known about the file, see `Video`.
    """
    if index is not None:
        return Video(path, index=index)
    return FrameFolder(path, fps=fps or FPS) if os.path.isdir(path) else Video(path)


class _ImageNames:
    """Image names by index; stored as a pattern if possible, since a worker may know many folders of 100 000 images."""

    def __init__(self, names: list[str], numbers: Sequence[int] | None):
        self.names: list[str] | None = names
        if numbers is not None:
            stem = os.path.commonprefix([names[0], names[-1]]).rstrip("0123456789")
            digits = re.match(r"\d*", names[0][len(stem) :])[0]  # type: ignore[index]
            self.prefix, self.digits, self.suffix = stem, len(digits), names[0][len(stem) + len(digits) :]
            self.numbers = numbers
            self.names = None if [self._from_pattern(i) for i in range(len(names))] == names else names

    def __call__(self, index: int) -> str:
        return self.names[index] if self.names else self._from_pattern(index)

    def _from_pattern(self, index: int) -> str:
        return f"{self.prefix}{self.numbers[index]:0{self.digits}d}{self.suffix}"


@lru_cache(maxsize=2048)
def _list_images(path: str, changed: int) -> tuple[_ImageNames, Sequence[int]]:
    """List the names and numbers of the images of a folder, in order; `changed` is a part of the cache key."""
    names = [n for n in os.listdir(path) if n[0] != "." and os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
    if not names:
        raise VideoError(path, "is a folder without images", f"a folder of {IMAGES}, or a video file")
    unnumbered = [name for name in names if not NUMBER.search(os.path.splitext(name)[0])]
    if unnumbered:
        raise VideoError(f"{path}/{min(unnumbered)}", "has no number in its name", IMAGES)
    try:
        names, numbers = order_images(names)
    except ValueError as error:
        raise VideoError(path, str(error), IMAGES) from error
    if numbers is None:
        return _ImageNames(names, None), range(len(names))
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        numbers = range(numbers[0], numbers[-1] + 1)
    return _ImageNames(names, numbers), numbers
