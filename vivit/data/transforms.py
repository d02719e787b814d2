"""Crop and resize clips, (T, C, H, W) uint8: one draw for all frames of a clip.

Functions that need PyTorch import it, so that an exported model reads its clips, arrays of numpy, without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .resize import resize_uint8

if TYPE_CHECKING:
    from torch import Tensor

MAX_ASPECT = 16  # sides of a test frame, in units of the model's; a longer one would take gigabytes once resized
SIDES = re.compile(r"(?<![a-z])(left|right)(wards?)?(?![a-z])", re.IGNORECASE)  # a word, also left-to-right, turn_left


class Box(NamedTuple):
    """A rectangle in the frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def cover_scale(height: int, width: int, image_size: tuple[int, int]) -> float:
    """Return the factor by which frames must be resized to just cover the model's (H, W)."""
    return max(image_size[0] / height, image_size[1] / width)


def random_box(
    height: int,
    width: int,
    *,
    image_size: tuple[int, int],
    crop_fraction: float,
    scale_jitter: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw the box of a training crop.

    It is the same as to resize the frame so that the crop covers `crop_fraction` of it, times a factor drawn from
    `scale_jitter`, and to crop (H, W) pixels at a random place (paper, section 4.1).
    """
    cover = cover_scale(height, width, image_size)
    scale = max(cover / crop_fraction * rng.uniform(*scale_jitter), cover)
    h, w = (min(max(round(want / scale), 1), have) for want, have in zip(image_size, (height, width)))
    return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)


def draw_train_crop(
    height: int,
    width: int,
    *,
    image_size: tuple[int, int],
    crop_fraction: float,
    scale_jitter: tuple[float, float],
    flip: float,
    rng: np.random.Generator,
) -> tuple[Box, Callable[[Tensor], Tensor]]:
    """Draw scale jitter, random crop and flip for a clip; return the box, and the function to apply to its crop."""
    box = random_box(
        height, width, image_size=image_size, crop_fraction=crop_fraction, scale_jitter=scale_jitter, rng=rng
    )
    return box, partial(resize_and_flip, image_size=image_size, flip=rng.uniform() < flip)


def resize_and_flip(frames: Tensor, *, image_size: tuple[int, int], flip: bool) -> Tensor:
    """Resize and, if `flip`, mirror frames: (n, C, H', W') → (n, C, H, W); the memory layout is kept."""
    frames = resize(frames, image_size)
    return frames.flip(-1) if flip else frames


def resize(frames: Any, size: Sequence[int]) -> Any:
    """Resize (n, C, H', W') to (n, C, H, W), bilinear with antialiasing, bit-identical to torchvision.

    Takes and returns a tensor or an array. torchvision itself is not used: importing it takes longer than importing
    PyTorch and this package.
    """
    if isinstance(frames, np.ndarray):
        return resize_uint8(frames, size)
    from torch.nn import functional as F

    if not len(frames):
        return frames.new_empty(*frames.shape[:2], *size)
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return F.interpolate(frames, tuple(size), mode="bilinear", antialias=True, align_corners=False)


def has_direction(labels: Tensor, classes: Mapping[str, Sequence[str]]) -> Tensor:
    """Return which samples have a class, in any label set, whose name says left or right: labels (N, L) → (N,) bool.

    Mirrored, these would show another class. In Something-Something v2 they are six: "Pulling" and "Pushing something
    from left to right" and "from right to left", "Turning the camera left" and "right while filming something".
    """
    import torch

    found = torch.zeros(len(labels), dtype=torch.bool)
    for column, names in zip(labels.T, classes.values()):
        found |= torch.tensor([bool(SIDES.search(name)) for name in names])[column]
    return found


def center_box(height: int, width: int, *, image_size: tuple[int, int]) -> Box:
    """Return the box of a test frame that is resized: all of it, or the center of an extremely wide or tall one."""
    scale = cover_scale(height, width, image_size)
    h, w = (min(have, max(round(MAX_ASPECT * want / scale), 1)) for want, have in zip(image_size, (height, width)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resize_for_eval(clip: Any, *, image_size: tuple[int, int], crop_fraction: float) -> Any:
    """Resize (T, C, H', W') so that a crop of `image_size` covers `crop_fraction` of the frame."""
    height, width = clip.shape[-2:]
    scale = cover_scale(height, width, image_size) / crop_fraction
    size = [max(round(have * scale), want) for have, want in zip((height, width), image_size)]
    return resize(clip, size)


def eval_boxes(height: int, width: int, *, image_size: tuple[int, int], views: int) -> list[Box]:
    """Return one center crop, or three along the axis with more room: first, center and last."""
    room = height - image_size[0], width - image_size[1]
    center = [math.ceil(r / 2) for r in room]
    axis = 0 if room[0] > room[1] else 1
    corners = []
    for offset in {1: (center[axis],), 3: (0, center[axis], room[axis])}[views]:
        corner = list(center)
        corner[axis] = offset
        corners.append(corner)
    return [Box(top, left, *image_size) for top, left in corners]


def crop(clip: Any, box: Box) -> Any:
    """Crop (…, H', W'), a tensor or an array, to the box."""
    return clip[..., box.top : box.top + box.height, box.left : box.left + box.width]


def shuffle_frames(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """Shuffle the frames of a clip (T, …): this removes motion and keeps the images."""
    return clip[rng.permutation(clip.shape[0]).tolist()]
