"""Losses on logits of one or several label sets, which stand side by side in (B, K)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    *,
    label_smoothing: float = 0.0,
    partners: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy of each clip, averaged over the label sets (as in the official code): (B,) float32.

    logits (B, sum(sizes)), labels (B, L) int64 with L = len(sizes). Of mixed clips, `share` (B,) is their own and the
    rest has the labels `partners` (B, L): share · loss(labels) + (1 − share) · loss(partners).
    """
    if partners is not None and share is not None:
        own, other = (
            cross_entropy(logits, target, sizes, label_smoothing=label_smoothing) for target in (labels, partners)
        )
        return share * own + (1 - share) * other
    parts = logits.float().split(list(sizes), dim=1)
    losses = [
        F.cross_entropy(part, labels[:, i], label_smoothing=label_smoothing, reduction="none")
        for i, part in enumerate(parts)
    ]
    return torch.stack(losses).mean(dim=0)
