"""Augment clips: color, RandAugment and erasing, one draw for all frames of a clip.

Clips are (T, 3, H, W) uint8 and are changed in place. Each kind of operation runs once for speed: operations on levels
become one table of 256 entries per channel, color changes one 3 x 3 matrix and a shift, geometry one gather.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig

GRAY = np.array([0.299, 0.587, 0.114])
"""The weights of red, green and blue in the gray level: the Y of YIQ."""
TO_YIQ = np.array([GRAY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
BRIGHTNESS, CONTRAST, HUE = 32.0, 0.4, 0.2  # largest change: in levels, as a factor 1 ± x, in turns
MAX_LEVEL = 10  # the official code's scale of magnitudes, on which the paper's 15 and 20 are beyond the end
CUTOUT, TRANSLATE, FILL = 40 / 224, 100 / 224, 128  # half a box and a step as shares of the side; a grey level
LEVELS = np.arange(256)
REAL_LEVELS = LEVELS.astype(np.float32)


def augment_clip(clip: Tensor, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Apply color jitter and grayscale, RandAugment and erasing, as `augment` says; may change `clip` in place."""
    if not (augment.color_jitter or augment.grayscale or augment.rand_augment_layers or augment.random_erasing):
        return clip
    clip = clip.contiguous()
    jitter = augment.color_jitter > 0 and rng.uniform() < augment.color_jitter
    drop = augment.grayscale > 0 and rng.uniform() < augment.grayscale
    if jitter or drop:
        recolor(clip, random_color(rng) if jitter else color(), drop=drop)
    if augment.rand_augment_layers:
        names = OFFICIAL + GEOMETRIC if augment.rand_augment_geometry else OFFICIAL
        chosen = [names[i] for i in rng.integers(len(names), size=augment.rand_augment_layers)]
        rand_augment(clip, chosen, augment.rand_augment_magnitude, rng)
    if augment.random_erasing and rng.uniform() < augment.random_erasing:
        erase(clip, rng)
    return clip


class ColorChange(NamedTuple):
    """Maps rgb to matrix · rgb + shift + of_mean · (mean gray level of the frame)."""

    matrix: np.ndarray
    shift: float
    of_mean: float


def random_color(rng: np.random.Generator) -> ColorChange:
    """Draw a change of brightness by up to 32 levels, saturation and contrast by 0.6 to 1.4, hue by up to 0.2 turns."""
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation, contrast = (rng.uniform(1 - CONTRAST, 1 + CONTRAST) for _ in range(2))
    return color(brightness=brightness, saturation=saturation, contrast=contrast, hue=rng.uniform(-HUE, HUE))


def color(*, brightness: float = 0.0, saturation: float = 1.0, contrast: float = 1.0, hue: float = 0.0) -> ColorChange:
    """Combine brightness (levels added), saturation, contrast (factors) and hue (turns), in this order, in one matrix.

    The order, the ranges of `random_color` and contrast about the mean of each frame are those of the official code
    (DeepMind video readers, color_default_augm). Clamping comes once at the end, there too; torchvision clamps and
    rounds in between. Saturation blends with the gray level and hue rotates the color plane of YIQ; both keep the gray
    level. The official code scales and rotates in HSV instead. Contrast is about the mean gray level here, and about
    the mean of each channel there.
    """
    blend = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), GRAY)
    c, s = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    turn = np.linalg.inv(TO_YIQ) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ TO_YIQ
    return ColorChange(contrast * turn @ blend, brightness, 1 - contrast)


def recolor(clip: Tensor, change: ColorChange, *, drop: bool = False) -> None:
    """Change the colors of each frame, with rounding and clamping; `drop` keeps only the gray level of the result."""
    matrix = np.outer(np.ones(3), GRAY @ change.matrix) if drop else change.matrix
    weights = torch.from_numpy(matrix).float()
    gray = torch.from_numpy(GRAY).float()
    before = torch.empty(3, clip.shape[-2] * clip.shape[-1])  # one frame at a time stays in the cache
    after = torch.empty_like(before)
    for frame in clip.flatten(2):
        before.copy_(frame)
        shift = change.shift + (change.of_mean * float(gray @ before.mean(1)) if change.of_mean else 0.0)
        torch.addmm(torch.tensor(shift + 0.5, dtype=torch.float32), weights, before, out=after)
        np.copyto(frame.numpy(), after.clamp_(0, 255).numpy(), casting="unsafe")  # six times as fast as copy_


# RandAugment

OFFICIAL = (
    "identity", "auto_contrast", "equalize", "invert", "posterize", "solarize", "color", "contrast", "brightness",
    "sharpness", "cutout", "solarize_add",
)  # fmt: skip
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def rand_augment(clip: Tensor, names: Sequence[str], magnitude: float, rng: np.random.Generator) -> None:
    """Apply the operations `names` one after the other, all of one magnitude (Cubuk et al. 2020).

    This follows the official code for video (scenic, dataset_lib/video_ops.py, distort_image_with_randaugment): twelve
    equally likely operations, none of which moves pixels; those that depend on the image (auto_contrast, equalize,
    contrast) look at all frames together. Magnitudes count tenths (_MAX_LEVEL = 10), and the paper's 15 and 20 are
    beyond the scale. At 15: a factor of 2.8 for color, contrast, brightness and sharpness, 6 bits for posterize, 165
    levels for solarize_add, a black box of 120 of 224 pixels for cutout, and for solarize a threshold beyond white,
    which changes nothing; at 20 posterize changes nothing either. GEOMETRIC holds the other operations of RandAugment
    for images; they fill empty areas with gray.
    """
    strength = magnitude / MAX_LEVEL
    waiting = UNCHANGED  # operations on levels wait for the next of another kind, and are then done in one pass

    def look() -> np.ndarray:
        nonlocal waiting
        apply_tables(clip, waiting)
        waiting = UNCHANGED
        return clip.numpy()

    for name in names:
        if name in ON_LEVELS:
            tables = ON_LEVELS[name](strength, look)
            waiting = np.take_along_axis(np.broadcast_to(tables, (3, 256)), waiting, axis=1)
        else:
            ON_PIXELS[name](torch.from_numpy(look()), strength, rng)
    look()


def apply_tables(clip: Tensor, tables: np.ndarray) -> None:
    """Replace each level of each channel by its entry in `tables` (3, 256)."""
    if np.array_equal(tables, UNCHANGED):
        return
    texts = [table.astype(np.uint8).tobytes() for table in tables]
    for frame in clip.flatten(2).numpy():
        for plane, text in zip(frame, texts):
            plane[:] = np.frombuffer(plane.tobytes().translate(text), np.uint8)  # ten times as fast as fancy indexing


Look = Callable[[], np.ndarray]  # gives the clip as it is now


def _levels(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)  # cut off as TensorFlow and torchvision do, not rounded


def _invert(strength: float, look: Look) -> np.ndarray:
    return 255 - LEVELS


def _posterize(strength: float, look: Look) -> np.ndarray:
    lost = 8 - min(int(4 * strength), 8)
    return LEVELS >> lost << lost


def _solarize(strength: float, look: Look) -> np.ndarray:
    return np.where(int(256 * strength) > LEVELS, LEVELS, 255 - LEVELS)


def _solarize_add(strength: float, look: Look) -> np.ndarray:
    return np.where(LEVELS < 128, _levels(LEVELS + int(110 * strength)), LEVELS)


def _brightness(strength: float, look: Look) -> np.ndarray:
    return _levels(REAL_LEVELS * np.float32(_factor(strength)))


def _contrast(strength: float, look: Look) -> np.ndarray:
    clip = look()
    means = clip.sum((2, 3), dtype=np.uint64).mean(0) / clip[0, 0].size
    factor = _factor(strength)
    return _levels(factor * LEVELS + (1 - factor) * float(GRAY @ means))


def _auto_contrast(strength: float, look: Look) -> np.ndarray:
    """Stretch each channel to 0 … 255."""
    clip = look()
    low, high = (x.astype(np.float32)[:, None] for x in (clip.min((0, 2, 3)), clip.max((0, 2, 3))))
    scale = (high - low) * np.float32(1 / 255)
    return np.where(high > low, _levels((REAL_LEVELS - low) / np.where(high > low, scale, 1)), LEVELS)


def _equalize(strength: float, look: Look) -> np.ndarray:
    """Spread each channel so that all levels are about equally frequent, as PIL does."""
    tables = []
    for counts in histogram(look()):
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        spread = (np.concatenate([[0], counts.cumsum()[:-1]]) + step // 2) // max(step, 1)
        tables.append(_levels(spread) if step else LEVELS)
    return np.stack(tables)


def histogram(clip: np.ndarray) -> np.ndarray:
    """Count how often each level occurs in each channel: (T, 3, H, W) uint8 → (3, 256)."""
    counts = np.zeros((3, 256), np.int64)
    for channel, count in zip(clip.swapaxes(0, 1), counts):
        flat = channel.reshape(-1)
        pairs = flat[: flat.size // 2 * 2].view(np.uint16)  # two levels at a time
        both = np.bincount(pairs, minlength=2**16).reshape(256, 256)
        count += both.sum(0) + both.sum(1)
        count[flat[-1]] += flat.size % 2
    return counts


def _factor(strength: float) -> float:
    return 1.8 * strength + 0.1


def _color(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    recolor(clip, color(saturation=_factor(strength)))


def _sharpness(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    """Move away from a blurred copy (5 in the middle, 1 around); pixels at the border stay."""
    factor = _factor(strength)
    for frame in clip:
        x = frame.float()
        rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
        blurred = ((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[:, 1:-1, 1:-1]) / 13).round_()
        sharp = blurred.add_(x[:, 1:-1, 1:-1] - blurred, alpha=factor).clamp_(0, 255)
        np.copyto(frame[:, 1:-1, 1:-1].numpy(), sharp.numpy(), casting="unsafe")


def _cutout(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    height, width = clip.shape[-2:]
    half = int(CUTOUT * strength * min(height, width))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    clip[..., max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0


def _rotate(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    angle = math.radians(30 * strength * rng.choice((-1, 1)))
    c, s = math.cos(angle), math.sin(angle)
    centre = np.array(clip.shape[:1:-1]) / 2
    turn = np.array([[c, -s], [s, c]])
    warp(clip, turn, centre - turn @ centre)


def _shear_x(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    warp(clip, np.array([[1, 0.3 * strength * rng.choice((-1, 1))], [0, 1]]))


def _shear_y(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    warp(clip, np.array([[1, 0], [0.3 * strength * rng.choice((-1, 1)), 1]]))


def _translate_x(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    warp(clip, np.eye(2), np.array([round(TRANSLATE * strength * clip.shape[-1]) * rng.choice((-1, 1)), 0]))


def _translate_y(clip: Tensor, strength: float, rng: np.random.Generator) -> None:
    warp(clip, np.eye(2), np.array([0, round(TRANSLATE * strength * clip.shape[-2]) * rng.choice((-1, 1))]))


def warp(clip: Tensor, matrix: np.ndarray, shift: np.ndarray | tuple[float, float] = (0, 0)) -> None:
    """Replace the pixel around (x, y) by the one around matrix · (x, y) + shift, or FILL outside the frame."""
    height, width = clip.shape[-2:]
    y, x = np.mgrid[:height, :width]
    source = np.einsum("ij,jyx->iyx", matrix, np.stack([x, y]) + 0.5) + np.reshape(shift, (2, 1, 1))
    source = np.floor(source).astype(int)
    inside = ((source >= 0) & (source < np.reshape((width, height), (2, 1, 1)))).all(0)
    index = np.where(inside, source[1] * width + source[0], height * width).reshape(-1)
    fill = np.array([FILL], np.uint8)
    for plane in clip.reshape(-1, height * width).numpy():
        plane[:] = np.concatenate([plane, fill])[index]


UNCHANGED = np.broadcast_to(LEVELS, (3, 256))
ON_LEVELS: dict[str, Callable[[float, Look], np.ndarray]] = {
    "identity": lambda strength, look: LEVELS,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "contrast": _contrast,
    "brightness": _brightness,
    "solarize_add": _solarize_add,
}
"""Operations that map levels to levels: (strength, current clip) → (256,), or (3, 256) with one row per channel."""
ON_PIXELS: dict[str, Callable[[Tensor, float, np.random.Generator], None]] = {
    "color": _color,
    "sharpness": _sharpness,
    "cutout": _cutout,
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""The other operations, in place."""


def erase(clip: Tensor, rng: np.random.Generator) -> None:
    """Fill a random box with noise, the same box in all frames: 2 to 33 % of the area, aspect 0.3 to 3.3.

    After Zhong et al. 2020. A box that does not fit is drawn again, ten times at most.
    """
    frames, channels, height, width = clip.shape
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = np.frombuffer(rng.bytes(frames * channels * h * w), np.uint8).reshape(frames, channels, h, w)
            clip.numpy()[..., top : top + h, left : left + w] = noise
            return
