"""Mixup and cutmix, on the device: two clips that stand side by side in the batch, and their labels, are mixed.

Partners are the positions 2j and 2j + 1 of a step's batch of all processes, and the loader gives a process whole pairs,
so that neither the number of processes nor the size of the micro-batches changes what is mixed.
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

TAG = 2**31  # keeps these draws apart from those of the clips


class Draw(NamedTuple):
    """How two clips are mixed: each keeps `share` of itself and takes the rest, all over or in a box, of the other."""

    share: float
    box: tuple[slice, slice] | None
    """Rows and columns that come from the other clip; None: every pixel is mixed."""


@dataclass(frozen=True)
class Part:
    """A micro-batch on the device; see `vivit.data.loader.Batch`."""

    video: Tensor
    labels: Tensor
    weights: Tensor
    seeds: Tensor
    last: bool
    """Whether it ends the batch."""
    partners: Tensor | None = None
    """(B, L) int64: the labels of the clips that were mixed in; None: nothing is mixed."""
    share: Tensor | None = None
    """(B,) float32: how much of a clip is its own."""


def draw(augment: AugmentConfig, *, seed: int, step: int, pair: int, image_size: tuple[int, int]) -> Draw:
    """The mixing of pair j of a step (positions 2j and 2j + 1), a pure function of its arguments.

    The share comes from Beta(mixup, mixup) (Zhang et al. 2018) or Beta(cutmix, cutmix) (Yun et al. 2019), with equal
    probability where both are on. A box has a random centre and is cut off at the edges of the frame; `share` is what
    it really leaves.
    """
    rng = np.random.default_rng((seed, step, pair, TAG))
    cut = augment.cutmix > 0 and (augment.mixup == 0 or rng.uniform() < 0.5)
    alpha = augment.cutmix if cut else augment.mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return Draw(share, None)
    sides = []
    for side in image_size:
        half, centre = side * (1 - share) ** 0.5 / 2, rng.uniform(0, side)
        sides.append(slice(max(round(centre - half), 0), min(round(centre + half), side)))
    area = float(np.prod([side.stop - side.start for side in sides]))
    return Draw(1 - area / (image_size[0] * image_size[1]), (sides[0], sides[1]))


def mixed(video: Tensor, how: Draw) -> Tensor:
    """Two clips (2, T, C, H, W) uint8, each mixed with the other; rounded."""
    if how.box is None:
        x = video.float()
        return torch.lerp(x.flip(0), x, how.share).round_().to(torch.uint8)
    video = video.clone()
    video[..., how.box[0], how.box[1]] = video[..., how.box[0], how.box[1]].flip(0)
    return video


def parts(
    batch: Batch, size: int | None, augment: AugmentConfig, *, seed: int, step: int, world: World
) -> Iterator[Part]:
    """One process's batch in micro-batches of at most `size` clips, on its device, mixed as `augment` says.

    A clip whose partner could not be read, or is missing at the end of an odd batch, stays as it is.
    """
    tensors, readable = (batch.video, batch.labels, batch.weights, batch.seeds), batch.weights.tolist()
    total = len(readable)
    image_size = batch.video.shape[-2], batch.video.shape[-1]
    for first in range(0, total, size or total):
        last = min(first + (size or total), total)
        start, stop = first, last
        if augment.mixes:  # pairs that stick out of the micro-batch come along, and are cut off again
            start, stop = first - first % 2, last + last % 2
        video, labels, weights, seeds = (x[start:stop].to(world.device, non_blocking=True) for x in tensors)
        if not augment.mixes:
            yield Part(video, labels, weights, seeds, last == total)
            continue
        partners, clips, shares = labels.clone(), list(video), [1.0] * len(video)
        for place in range(0, len(video), 2):
            position, two = start + place, slice(place, place + 2)
            if readable[position : position + 2] == [1, 1]:
                pair = position // 2 * world.size + world.rank
                how = draw(augment, seed=seed, step=step, pair=pair, image_size=image_size)
                clips[two], shares[two] = mixed(video[two], how).unbind(), [how.share] * 2
                partners[two] = labels[two].flip(0)
        kept = slice(first - start, last - start)
        share = torch.tensor(shares[kept], device=world.device)
        video = torch.stack(clips[kept])
        yield Part(video, labels[kept], weights[kept], seeds[kept], last == total, partners[kept], share)
