"""Occlusion: how much the score of a class drops when a part of the clip is hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..model.tokenizer import FRAME_INDEX

Fill = Literal["median", "mean", "blur"]
TimeFill = Literal["frozen", "neighbors"]
Score = Callable[[Tensor], Tensor]  # clips (B, T, C, H, W) uint8 → (B,)
MOST_TILES = 512  # forward passes of one map; tiles of several cells keep to it
BLUR = 0.25  # the coarse picture of a blurred frame has this many pixels per token and side, at least two


def fill_clip(video: Tensor, config: ModelConfig, fill: Fill) -> Tensor:
    """Return what hides a clip (T, 3, H, W) uint8, in the same shape: a color of each frame, or the frame blurred.

    The median of each channel is close to the color of most of the frame, so hiding a part of that shows no new patch;
    the mean lies between background and object and does show one. The blurred frame is its reduction to a quarter of
    the token grid, at least 2 x 2 pixels, enlarged again.
    """
    frames = video.float()
    if fill == "median":
        filled = frames.flatten(2).median(dim=2).values[:, :, None, None].expand_as(frames)
    elif fill == "mean":
        filled = frames.mean(dim=(2, 3), keepdim=True).expand_as(frames)
    else:
        coarse = [max(2, round(BLUR * side)) for side in config.grid[1:]]
        small = F.interpolate(frames, coarse, mode="bilinear", antialias=True)
        filled = F.interpolate(small, frames.shape[2:], mode="bilinear", align_corners=False)
    return filled.round().to(torch.uint8)


def hide(video: Tensor, filled: Tensor, masks: Tensor, config: ModelConfig) -> Tensor:
    """Hide cells of a clip (T, 3, H, W): masks (B, t, h, w), True where hidden, → clips (B, T, 3, H, W).

    Any grid h x w whose cells divide the frame will do.
    """
    height, width = (size // cells for size, cells in zip(config.image_size, masks.shape[2:]))
    pixels = masks.repeat_interleave(height, 2).repeat_interleave(width, 3)  # (B, t, H, W)
    of_frames = torch.zeros(len(masks), len(video), *pixels.shape[2:], dtype=torch.bool, device=masks.device)
    of_frames[:, token_frames(config).flatten()] = pixels.repeat_interleave(config.tubelet_size[0], 1)
    return torch.where(of_frames[:, :, None], filled, video)


def cell_grid(config: ModelConfig) -> tuple[int, int, int]:
    """Return the grid of an occlusion map: the token grid with its height and width doubled, where pixels allow it."""
    (t, h, w), (_, height, width) = config.grid, config.tubelet_size
    return (t, 2 * h, 2 * w) if height % 2 == width % 2 == 0 else (t, h, w)


def token_frames(config: ModelConfig) -> Tensor:
    """Return the frames of the clip that each temporal position is made of, (t, depth)."""
    frames = torch.arange(config.num_frames)[FRAME_INDEX[config.tokenizer](config)]
    return frames.unflatten(0, (-1, config.tubelet_size[0]))


def default_tile(grid: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the smallest tile (t, h, w), in cells, of which at most MOST_TILES cover a grid; first h and w grow."""
    tile = [1, 1, 1]
    growing = ([1, 2], [0])
    while len(tile_index(grid, (tile[0], tile[1], tile[2])).unique()) > MOST_TILES:
        axes = [axis for axis in growing[0] if tile[axis] < grid[axis]]
        for axis in axes:
            tile[axis] *= 2
        growing = growing[::-1]
    return tile[0], tile[1], tile[2]


def tile_index(grid: tuple[int, int, int], tile: tuple[int, int, int]) -> Tensor:
    """Return the number of the tile of each cell, (t, h, w) int64; the last tiles may be smaller than `tile`."""
    t, h, w = (torch.arange(n) // size for n, size in zip(grid, tile))
    return (t[:, None, None] * (h[-1] + 1) + h[:, None]) * (w[-1] + 1) + w


def spatial_drops(
    score: Score,
    video: Tensor,
    config: ModelConfig,
    *,
    fill: Fill = "median",
    tile: tuple[int, int, int] | None = None,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda clips: None,
) -> Tensor:
    """Hide one tile of a clip (T, 3, H, W) after the other; return the drop of the score per cell, `cell_grid`.

    A tile of several cells divides its drop equally among them. Negative where hiding raises the score. `advance` gets
    the number of clips of every batch.
    """
    grid = cell_grid(config)
    tiles = tile_index(grid, tile or default_tile(grid))
    filled = fill_clip(video, config, fill)
    numbers, sizes = tiles.unique(return_counts=True)
    scores = []
    for part in numbers.split(batch_size):
        scores.append(score(hide(video, filled, tiles == part[:, None, None, None], config)))
        advance(len(part))
    drops = score(video[None]) - torch.cat(scores)
    return (drops / sizes)[tiles]


def temporal_drops(
    score: Score,
    video: Tensor,
    config: ModelConfig,
    *,
    fill: TimeFill = "frozen",
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda clips: None,
) -> Tensor:
    """Replace one temporal position of a clip (T, 3, H, W) after the other; return the drop of the score, (t,).

    `frozen` shows the last frame before the position, or the first one after it where there is none; `neighbors` shows
    the mean of both. A clip with one position has nothing to take its place: its drop is 0.
    """
    positions = token_frames(config)
    if len(positions) == 1:
        return torch.zeros(1)
    scores = []
    for part in torch.arange(len(positions)).split(batch_size):
        scores.append(score(torch.stack([replace_position(video, positions, int(p), fill) for p in part])))
        advance(len(part))
    return score(video[None]) - torch.cat(scores)


def replace_position(video: Tensor, positions: Tensor, number: int, fill: TimeFill) -> Tensor:
    """Replace the frames of one of the positions (t, depth) of a clip (T, 3, H, W); return the clip."""
    around = [video[positions[number - 1, -1]]] if number else []
    if number + 1 < len(positions) and (fill == "neighbors" or not around):
        around.append(video[positions[number + 1, 0]])
    changed = video.clone()
    changed[positions[number]] = torch.stack(around).float().mean(dim=0).round().to(torch.uint8)
    return changed
