"""Mixup and cutmix on the device, for pairs of neighboring clips and their labels.

Pairs are the positions 2j and 2j + 1 of the batch of all processes. The loader gives a process complete pairs, so that
neither the number of processes nor the size of the micro-batches changes what is mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig
from ..data.loader import Batch
from .distributed import World

TAG = 2**31  # separates these random streams from those of the clips


class Draw(NamedTuple):
    """How two clips are mixed: each keeps the fraction `lam`; the rest comes from the other."""

    lam: float
    box: tuple[slice, slice] | None
    """Rows and columns that come from the other clip; None: every pixel is mixed."""


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch on the device; see `vivit.data.loader.Batch`."""

    video: Tensor
    labels: Tensor
    weights: Tensor
    seeds: Tensor
    last: bool
    """Whether it ends the batch."""
    partner_labels: Tensor | None = None
    """(B, L) int64: labels of the clips that were mixed in; None: nothing is mixed."""
    lam: Tensor | None = None
    """(B,) float32: the fraction of each clip that is its own."""


def draw(augment: AugmentConfig, *, seed: int, step: int, pair: int, image_size: tuple[int, int]) -> Draw:
    """Draw the mixing of pair j of a step (positions 2j and 2j + 1), a pure function of its arguments.

    `lam` comes from Beta(mixup, mixup) (Zhang et al. 2018) or Beta(cutmix, cutmix) (Yun et al. 2019), with equal
    probability where both are on. A box has a random center and is clipped at the edges of the frame; `lam` is then
    the fraction that it leaves.
    """
    rng = np.random.default_rng((seed, step, pair, TAG))
    cut = augment.cutmix > 0 and (augment.mixup == 0 or rng.uniform() < 0.5)
    alpha = augment.cutmix if cut else augment.mixup
    lam = float(rng.beta(alpha, alpha))
    if not cut:
        return Draw(lam, None)
    sides = []
    for side in image_size:
        half, center = side * (1 - lam) ** 0.5 / 2, rng.uniform(0, side)
        sides.append(slice(max(round(center - half), 0), min(round(center + half), side)))
    area = float(np.prod([side.stop - side.start for side in sides]))
    return Draw(1 - area / (image_size[0] * image_size[1]), (sides[0], sides[1]))


def mix_pair(video: Tensor, drawn: Draw) -> Tensor:
    """Mix two clips (2, T, C, H, W) uint8 with each other and round."""
    if drawn.box is None:
        x = video.float()
        return torch.lerp(x.flip(0), x, drawn.lam).round_().to(torch.uint8)
    video = video.clone()
    video[..., drawn.box[0], drawn.box[1]] = video[..., drawn.box[0], drawn.box[1]].flip(0)
    return video


def micro_batches(
    batch: Batch, size: int | None, augment: AugmentConfig, *, seed: int, step: int, world: World
) -> Iterator[MicroBatch]:
    """Divide the batch of a process into micro-batches of at most `size` clips, on its device, mixed by `augment`.

    A clip whose partner is unreadable, or missing at the end of an odd batch, stays as it is.
    """
    tensors, readable = (batch.video, batch.labels, batch.weights, batch.seeds), batch.weights.tolist()
    total = len(readable)
    image_size = batch.video.shape[-2], batch.video.shape[-1]
    for first in range(0, total, size or total):
        last = min(first + (size or total), total)
        start, stop = first, last
        if augment.mixes:  # pairs that cross the edge of the micro-batch are mixed in full, then cut
            start, stop = first - first % 2, last + last % 2
        video, labels, weights, seeds = (x[start:stop].to(world.device, non_blocking=True) for x in tensors)
        if not augment.mixes:
            yield MicroBatch(video, labels, weights, seeds, last == total)
            continue
        partner_labels, clips, lams = labels.clone(), list(video), [1.0] * len(video)
        for i in range(0, len(video), 2):
            position, two = start + i, slice(i, i + 2)
            if readable[position : position + 2] == [1, 1]:
                pair = position // 2 * world.size + world.rank
                drawn = draw(augment, seed=seed, step=step, pair=pair, image_size=image_size)
                clips[two], lams[two] = mix_pair(video[two], drawn).unbind(), [drawn.lam] * 2
                partner_labels[two] = labels[two].flip(0)
        kept = slice(first - start, last - start)
        lam = torch.tensor(lams[kept], device=world.device)
        video = torch.stack(clips[kept])
        yield MicroBatch(video, labels[kept], weights[kept], seeds[kept], last == total, partner_labels[kept], lam)
