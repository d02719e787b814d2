"""Accuracies per label set and for all sets together, and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from ..config import ALL

MOST_COMBINATIONS = 2**24  # scores held at once: EPIC-Kitchens has 97 x 300 combinations for each of 9668 videos


def accuracies(
    logits: Tensor, labels: Tensor, classes: Mapping[str, Sequence[str]], ks: Sequence[int] = (1, 5)
) -> dict[str, dict[str, float]]:
    """{"verb": {"top1": …, "top5": …}, …, "all": …}, as shares of the N rows; "all" only for several label sets.

    logits (N, K), labels (N, L). A combination of classes ranks by the product of its softmax probabilities, as the
    "action" of EPIC-Kitchens does in the official code. NaN for N = 0.
    """
    sizes = [len(names) for names in classes.values()]
    parts = logits.float().split(sizes, dim=1)
    ranks = {name: rank(part, labels[:, i]) for i, (name, part) in enumerate(zip(classes, parts))}
    if len(sizes) > 1:
        ranks[ALL] = joint_rank(parts, labels)
    return {name: {f"top{k}": (r < k).float().mean().item() for k in ks} for name, r in ranks.items()}


def rank(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes rank before the right one, (N, K) and (N,) → (N,); among equals the first class wins.

    A NaN ranks before everything, so that a model that gives NaN is never right.
    """
    target = scores.gather(1, labels[:, None])
    not_before = torch.arange(scores.shape[1], device=scores.device) >= labels[:, None]
    return (~((scores < target) | ((scores == target) & not_before))).sum(dim=1)


def joint_rank(parts: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The rank (N,) of the right combination among all combinations of one class from each label set."""
    sizes = [part.shape[1] for part in parts]
    strides = torch.tensor([prod(sizes[i + 1 :]) for i in range(len(sizes))], device=labels.device)
    rows = max(MOST_COMBINATIONS // prod(sizes), 1)
    chunks = zip(*(part.log_softmax(dim=1).split(rows) for part in parts))
    ranks = []
    for chunk, target in zip(chunks, (labels * strides).sum(dim=1).split(rows)):
        scores = chunk[0]
        for part in chunk[1:]:
            scores = (scores[:, :, None] + part[:, None, :]).flatten(1)
        ranks.append(rank(scores, target))
    return torch.cat(ranks)


def confusion(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Counts (right class, predicted class) of one label set from (N, K) logits and (N,) labels."""
    pairs = labels * num_classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
