"""Compute metrics from logits and labels: accuracies, calibration, confusion.

A video with a logit that is not finite (NaN or infinite) has no answer. One rule holds for it everywhere: it is wrong
in top-k and in class accuracies, for every label set; the confusion matrix and the calibration error, which need an
answer and a confidence, leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..model_config import joint_name
from .losses import cross_entropy

MOST_COMBINATIONS = 2**24  # scores held at once: EPIC-Kitchens has 97 x 300 combinations for each of 9668 videos


def accuracies(
    logits: Tensor, labels: Tensor, classes: Mapping[str, Sequence[str]], ks: Sequence[int] = (1, 5)
) -> dict[str, dict[str, float]]:
    """{"verb": {"top1": …, "top5": …}, …, "action": …}, as shares of the N rows; NaN for N = 0. See `ranks`."""
    found = ranks(logits, labels, classes)
    return {name: {f"top{k}": (r < k).float().mean().item() for k in ks} for name, r in found.items()}


def ranks(logits: Tensor, labels: Tensor, classes: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Return how many classes rank before the right one, (N,) per label set and, of several sets, for all together.

    logits (N, K), labels (N, L). A combination of classes ranks by the product of its softmax probabilities, as the
    "action" of EPIC-Kitchens does in the official code.
    """
    parts = split_logits(logits, classes)
    found = {name: rank(part, labels[:, i]) for i, (name, part) in enumerate(zip(classes, parts))}
    if len(parts) > 1:
        found[joint_name(classes)] = joint_rank(parts, labels)
    return found


def correct(logits: Tensor, labels: Tensor, classes: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Return which answers are right, (N,) bool per label set and, of several sets, for all together."""
    parts = zip(classes, split_logits(logits, classes), labels.unbind(dim=1))
    found = {name: predicted(part) == column for name, part, column in parts}
    if len(found) > 1:  # the most probable combination is that of the most probable classes
        found[joint_name(classes)] = torch.stack(list(found.values())).all(dim=0)
    return found


def split_logits(logits: Tensor, classes: Mapping[str, Sequence[str]]) -> tuple[Tensor, ...]:
    """Logits (N, K) → one (N, classes) float32 tensor per label set; a row without an answer becomes NaN in all."""
    logits = logits.float()
    logits = logits.where(finite(logits)[:, None], torch.nan)
    return logits.split([len(names) for names in classes.values()], dim=1)


def finite(logits: Tensor) -> Tensor:
    """Return which rows of (N, K) have finite logits only, so that there is an answer: (N,) bool."""
    return logits.isfinite().all(dim=1)


def predicted(logits: Tensor) -> Tensor:
    """Return the class (N,) of the highest logit of one label set, the first of equals; -1 without an answer."""
    return logits.argmax(dim=1).where(finite(logits), -1)


def rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes rank before the right one, (N, K) and (N,) → (N,); among equals the first class wins.

    In a row with NaN the right class ranks behind any number of classes, so it is in no top-k.
    """
    target = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    before = ((scores > target) | ((scores == target) & earlier)).sum(dim=1)
    return before.where(~scores.isnan().any(dim=1), torch.iinfo(before.dtype).max)


def joint_rank(parts: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the rank (N,) of the right combination among all combinations of one class from each label set."""
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


def compute_metrics(
    logits: Tensor, labels: Tensor, classes: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Per label set top1, top5, mean_class (not for all sets together) and calibration_error; see `ranks`.

    The confidence in a combination of classes is the product of the confidences in each.
    """
    parts, found = split_logits(logits, classes), ranks(logits, labels, classes)
    confidence = {name: part.softmax(dim=1).amax(dim=1) for name, part in zip(classes, parts)}  # NaN without an answer
    if len(parts) > 1:
        confidence[joint_name(classes)] = torch.stack(list(confidence.values())).prod(dim=0)
    result = {name: {f"top{k}": (r < k).float().mean().item() for k in (1, 5)} for name, r in found.items()}
    for i, (name, part) in enumerate(zip(classes, parts)):
        counts = confusion(part, labels[:, i], part.shape[1])
        shares = class_accuracies(counts, labels[:, i].bincount(minlength=part.shape[1]))
        result[name]["mean_class"] = shares.nanmean().item()
    for name, r in found.items():
        result[name]["calibration_error"] = calibration_error(confidence[name], r == 0)
    return result


def calibration_error(confidence: Tensor, right: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error: the gap between accuracy and confidence (Guo et al. 2017, eq. 3).

    (N,) probabilities of the answers, and whether these are right. Means are taken in bins of equal width, closed
    above, and the bins weigh as much as they hold. Answers without a confidence (NaN) are left out; of none it is NaN.
    """
    known = ~confidence.isnan()
    confidence, right = confidence[known], right[known]
    index = (confidence.double() * bins).ceil().clamp(1, bins).long()
    # A bin's |share right - mean confidence| times its number of rows is |sum of (right - confidence)|.
    gaps = torch.zeros(bins + 1, dtype=torch.float64).index_add_(0, index, right.double() - confidence.double())
    return (gaps.abs().sum() / len(right)).item() if len(right) else float("nan")


def confusion(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count (right class, predicted class) of one label set from (N, K) logits and (N,) labels.

    Videos without an answer are in no cell.
    """
    answers = predicted(logits)
    pairs = (labels * num_classes + answers)[answers >= 0]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracies(counts: Tensor, videos: Tensor | None = None) -> Tensor:
    """Return the share of right answers for each class of a confusion matrix (right, predicted); NaN without a video.

    `videos` (classes,) are the videos of each class; by default all of them are in the matrix. The `nanmean` of the
    shares is the mean class accuracy, in which a rare class counts as much as a frequent one.
    """
    return counts.diagonal() / (counts.sum(dim=1) if videos is None else videos)


def worst_classes(counts: Tensor, most: int = 5, videos: Tensor | None = None) -> list[int]:
    """Return the classes of lowest accuracy, worst first, then most frequent; none that is always right."""
    numbers, shares = (counts.sum(dim=1) if videos is None else videos).tolist(), class_accuracies(counts, videos)
    wrong = [i for i, (n, share) in enumerate(zip(numbers, shares.tolist())) if n and share < 1]
    return sorted(wrong, key=lambda i: (shares[i].item(), -numbers[i]))[:most]


def most_confused(counts: Tensor, most: int = 5) -> list[tuple[int, int, int]]:
    """Return the most frequent confusions as (right class, predicted class, count), the most frequent first."""
    rows, columns = counts.clone().fill_diagonal_(0).nonzero(as_tuple=True)
    pairs = zip(rows.tolist(), columns.tolist(), counts[rows, columns].tolist())
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


@dataclass(frozen=True)
class Score:
    """Scores of predictions; of several label sets, the mean."""

    accuracy: float
    balanced: float
    """The mean over classes of the accuracy within each."""
    loss: float
    joint: float
    """The share of videos of which all label sets are right."""

    @property
    def value(self) -> float:
        """The number by which heads are compared: the mean of accuracy and balanced accuracy."""
        return (self.accuracy + self.balanced) / 2


def score_logits(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Score:
    """Score logits (N, K) against labels (N, L)."""
    parts = logits.where(finite(logits)[:, None], torch.nan).split(list(sizes), dim=1)
    answers = torch.stack([predicted(part) for part in parts], dim=1)
    right = (answers == labels).double()
    balanced = [
        torch.stack([column[truth == k].mean() for k in truth.unique()]).mean()
        for column, truth in zip(right.unbind(1), labels.unbind(1))
    ]
    loss = cross_entropy(logits.double(), labels, sizes).mean().item()
    return Score(right.mean().item(), torch.stack(balanced).mean().item(), loss, right.prod(1).mean().item())
