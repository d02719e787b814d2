"""Losses on the logits (B, K) of one or several label sets."""

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
    partner_labels: Tensor | None = None,
    lam: Tensor | None = None,
) -> Tensor:
    """Return the softmax cross-entropy of each clip, averaged over the label sets (as in the official code): (B,).

    Computed in float32, or in float64 for float64 logits.

    logits (B, sum(sizes)), labels (B, L) int64 with L = len(sizes). Of mixed clips, `lam` (B,) is their own and the
    rest has the labels `partner_labels` (B, L): lam · loss(labels) + (1 − lam) · loss(partner_labels).
    """
    if partner_labels is not None and lam is not None:
        own, other = (
            cross_entropy(logits, target, sizes, label_smoothing=label_smoothing) for target in (labels, partner_labels)
        )
        return lam * own + (1 - lam) * other
    parts = logits.to(torch.promote_types(logits.dtype, torch.float32)).split(list(sizes), dim=1)
    losses = [
        F.cross_entropy(part, labels[:, i], label_smoothing=label_smoothing, reduction="none")
        for i, part in enumerate(parts)
    ]
    return torch.stack(losses).mean(dim=0)
