"""Deletion and insertion: does a map order the parts of a clip better than chance (Petsiuk et al., 2018)?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig
from .occlusion import Fill, Score, fill_clip, hide


@dataclass(frozen=True)
class Evidence:
    """Deletion and insertion curves of a map, beside those of random orders over the same clip.

    A curve is the probability of the class while cells are hidden (deletion) or shown (insertion), in order of the
    map, in equal steps from none to all.
    """

    deletion: tuple[float, ...]
    """steps + 1 probabilities; a good map makes them fall early."""
    insertion: tuple[float, ...]
    """steps + 1 probabilities; a good map makes them rise early."""
    random_deletion: tuple[tuple[float, ...], ...]
    """The curve of each random order."""
    random_insertion: tuple[tuple[float, ...], ...]

    @property
    def deletion_area(self) -> float:
        """The area under the deletion curve, 0..1; small is good."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve, 0..1; large is good."""
        return area(self.insertion)

    @property
    def random_areas(self) -> tuple[float, float]:
        """The mean areas under the deletion and the insertion curves of the random orders."""
        orders = len(self.random_deletion)
        return sum(map(area, self.random_deletion)) / orders, sum(map(area, self.random_insertion)) / orders

    @property
    def beaten(self) -> int:
        """How many random orders have a smaller insertion area minus deletion area than the map."""
        own = self.insertion_area - self.deletion_area
        pairs = zip(self.random_deletion, self.random_insertion)
        return sum(area(insertion) - area(deletion) < own for deletion, insertion in pairs)

    @property
    def better_than_random(self) -> bool:
        """Whether the map beats every random order: by chance this happens once in (orders + 1) clips."""
        return self.beaten == len(self.random_deletion)


def area(curve: tuple[float, ...]) -> float:
    """Return the area under a curve of equally spaced values over 0..1 (trapezoids)."""
    return (sum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


def measure_evidence(
    probability: Score,
    video: Tensor,
    map: Tensor,
    config: ModelConfig,
    *,
    fill: Fill = "median",
    steps: int = 8,
    random_orders: int = 19,
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda clips: None,
) -> Evidence:
    """Measure deletion and insertion of a map (t, h, w) of a clip (T, 3, H, W), and of random orders of its cells.

    Cells of equal value keep the order of the grid. `advance` gets the number of clips of every batch; there are
    2 + 2 · (steps − 1) · (random_orders + 1) in all.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [map.flatten().argsort(descending=True, stable=True)]
    orders += [torch.randperm(map.numel(), generator=generator) for _ in range(random_orders)]
    filled = fill_clip(video, config, fill)
    masks = torch.stack([mask for order in orders for mask in step_masks(order, steps)]).unflatten(1, map.shape)
    both = torch.cat((torch.zeros(1, *map.shape, dtype=torch.bool), masks, ~masks, torch.ones(1, *map.shape) > 0))
    values: list[float] = []
    for part in both.split(batch_size):
        values += probability(hide(video, filled, part, config)).tolist()
        advance(len(part))
    shown, hidden, inner = values[0], values[-1], steps - 1
    deletions, insertions = (
        [values[i : i + inner] for i in range(1 + k * len(masks), 1 + (k + 1) * len(masks), inner)] for k in (0, 1)
    )
    deletion = [(shown, *curve, hidden) for curve in deletions]
    insertion = [(hidden, *curve, shown) for curve in insertions]
    return Evidence(deletion[0], insertion[0], tuple(deletion[1:]), tuple(insertion[1:]))


def step_masks(order: Tensor, steps: int) -> list[Tensor]:
    """Return steps − 1 masks (n,) bool: the first k / steps of an order of n cells, for k from 1 to steps − 1."""
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    return [rank < round(k * len(order) / steps) for k in range(1, steps)]
