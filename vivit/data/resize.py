"""Resize uint8 images with numpy, to the bit as PyTorch does, for where PyTorch is not installed.

PyTorch's bilinear resize with antialiasing weighs the pixels by a triangle, as wide as the step from one output pixel
to the next. For uint8 it rounds the weights to 16-bit integers with a common power of two as the denominator, and
rounds to whole pixels after the columns and again after the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MAX_WEIGHT = 2**15  # weights are int16
MAX_BITS = 22


def resize_uint8(frames: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize (n, C, H', W') uint8 to (n, C, H, W), bilinear with antialiasing."""
    height, width = size
    columns = frames if frames.shape[-1] == width else _resize_last(frames, width)
    if frames.shape[-2] == height:
        return columns
    return _resize_last(columns.swapaxes(-1, -2), height).swapaxes(-1, -2)


def _resize_last(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize the last axis of (…, n) uint8 to `size`."""
    first, weights, bits = triangle_weights(frames.shape[-1], size)
    pixels = np.ascontiguousarray(frames.reshape(-1, frames.shape[-1]).T, dtype=np.int32)  # whole rows are taken below
    total = np.full((size, pixels.shape[1]), 1 << (bits - 1), dtype=np.int32)
    for tap, weight in enumerate(weights):
        taken = pixels[np.minimum(first + tap, len(pixels) - 1)]  # beyond the end the weight is 0
        taken *= weight[:, None]
        total += taken
    total >>= bits
    return np.clip(total, 0, 255).astype(np.uint8).T.reshape(*frames.shape[:-1], size)


@lru_cache(maxsize=64)
def triangle_weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the first input pixel (new,) of each output pixel, the weights (taps, new) int32, and their bits.

    The weights of an output pixel are fractions of 2 ** bits.
    """
    scale = old / new
    reach = max(scale, 1.0)  # half the width of the triangle, in input pixels
    center = (np.arange(new) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((center + reach + 0.5).astype(np.int64), old) - first
    taps = np.arange(count.max())[:, None]
    weights = np.maximum(1 - np.abs((taps + first - center + 0.5) / reach), 0) * (taps < count)
    weights /= weights.sum(axis=0)
    bits = next(
        b for b in range(MAX_BITS + 1) if b == MAX_BITS or int(0.5 + weights.max() * 2 ** (b + 1)) >= MAX_WEIGHT
    )
    return first, np.floor(weights * 2**bits + 0.5).astype(np.int32), bits
