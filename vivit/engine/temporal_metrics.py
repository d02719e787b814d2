"""Compare segments with the ground truth: average precision, F1, edit score and accuracy over time.

Segments are objects with `start`, `end` (seconds) and `label`, predicted ones also with `score`, in a dictionary by
video. A predicted segment of a video without ground truth is wrong. All scores are shares of 1; without any ground
truth they are NaN.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

ACTIVITYNET_IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # 0.5, 0.55 … 0.95


class Labelled(Protocol):
    """A segment of the ground truth."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def label(self) -> str: ...


class Scored(Labelled, Protocol):
    """A predicted segment."""

    @property
    def score(self) -> float: ...


def temporal_iou(segment: Labelled, others: Sequence[Labelled]) -> np.ndarray:
    """Return intersection over union (n,) of a segment with each of n others."""
    starts, ends = np.array([o.start for o in others]), np.array([o.end for o in others])
    shared = np.maximum(np.minimum(segment.end, ends) - np.maximum(segment.start, starts), 0.0)
    union = (ends - starts) + (segment.end - segment.start) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def average_precisions(
    predicted: Mapping[str, Sequence[Scored]],
    truth: Mapping[str, Sequence[Labelled]],
    ious: Sequence[float] = ACTIVITYNET_IOUS,
) -> dict[str, np.ndarray]:
    """Return the average precision (len(ious),) of each class that the ground truth has.

    As defined by ActivityNet (Caba Heilbron et al., CVPR 2015; Evaluation/eval_detection.py): by falling score, each
    prediction takes the free segment of the truth, of its video and class, with the highest IoU of at least the
    threshold; the precision is interpolated as in PASCAL VOC 2011. Of equal scores the first prediction comes first.
    Their mean over classes is the mAP; predictions of classes that the truth does not have are in no number.
    """
    by_class: dict[str, list[tuple[str, Scored]]] = defaultdict(list)
    for video, found in predicted.items():
        for one in found:
            by_class[one.label].append((video, one))
    labels = sorted({one.label for rows in truth.values() for one in rows})
    return {
        label: _average_precision(
            sorted(by_class[label], key=lambda pair: -pair[1].score),
            {video: [one for one in rows if one.label == label] for video, rows in truth.items()},
            ious,
        )
        for label in labels
    }


def _average_precision(
    ranked: Sequence[tuple[str, Scored]], truth: Mapping[str, Sequence[Labelled]], ious: Sequence[float]
) -> np.ndarray:
    total = sum(map(len, truth.values()))
    hits = np.zeros((len(ious), len(ranked)))
    taken = {video: np.zeros((len(ious), len(rows)), dtype=bool) for video, rows in truth.items()}
    for i, (video, one) in enumerate(ranked):
        rows = truth.get(video, ())
        overlap = temporal_iou(one, rows)
        for j in np.argsort(overlap, kind="stable")[::-1]:
            free = (overlap[j] >= np.asarray(ious)) & ~taken[video][:, j] & (hits[:, i] == 0)
            hits[free, i], taken[video][free, j] = 1, True
    correct = np.cumsum(hits, axis=1)
    recall, precision = correct / total, correct / np.arange(1, len(ranked) + 1)
    return np.array([_area(r, p) for r, p in zip(recall, precision)])


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the area under the precision that is reached at each recall (n,) or later."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def f1_scores(
    predicted: Mapping[str, Sequence[Labelled]], truth: Mapping[str, Sequence[Labelled]], ious: Iterable[float]
) -> dict[float, float]:
    """Return the segmental F1 score at each IoU threshold (Lea et al., CVPR 2017, "Temporal Convolutional Networks").

    In the order of time each prediction is compared with the segment of its class that it overlaps most; it is right if
    their IoU reaches the threshold and no earlier prediction took that segment. Right and wrong ones are counted over
    all videos.
    """
    counts = dict.fromkeys(ious, 0)
    for video, found in predicted.items():
        rows = truth.get(video, ())
        labels = np.array([one.label for one in rows], dtype=object)
        taken = {iou: set() for iou in counts}
        for one in sorted(found, key=lambda s: (s.start, s.end)) if rows else ():
            overlap = temporal_iou(one, rows) * (labels == one.label)
            best = int(np.argmax(overlap))
            for iou in counts:
                if overlap[best] >= iou and best not in taken[iou]:
                    taken[iou].add(best)
                    counts[iou] += 1
    total = sum(map(len, predicted.values())) + sum(map(len, truth.values()))
    return {iou: 2 * right / total if total else math.nan for iou, right in counts.items()}


def edit_score(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """Return 1 - Levenshtein distance / length of the longer list, for the labels of one video in order.

    The segmental edit score of Lea et al. (ICRA 2016, CVPR 2017). Two empty lists are equal.
    """
    row = list(range(len(truth) + 1))
    for i, label in enumerate(predicted, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(truth, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (label != other))
    return 1 - row[-1] / max(len(predicted), len(truth), 1)


def mean_edit_score(predicted: Mapping[str, Sequence[Labelled]], truth: Mapping[str, Sequence[Labelled]]) -> float:
    """Return the mean edit score of all videos; segments are in the order of their starts."""

    def labels(rows: Sequence[Labelled]) -> list[str]:
        return [one.label for one in sorted(rows, key=lambda s: (s.start, s.end))]

    videos = {*predicted, *truth}
    scores = [edit_score(labels(predicted.get(v, ())), labels(truth.get(v, ()))) for v in sorted(videos)]
    return sum(scores) / len(scores) if scores else math.nan


def correct_seconds(predicted: Sequence[Scored], truth: Sequence[Labelled], start: float, end: float) -> float:
    """Return for how many of the seconds from `start` to `end` of a video the label is right.

    This is the frame accuracy of Lea et al. with frames of no length. Where predictions overlap, that of the highest
    score counts; where segments of the truth overlap, any of their labels is right; where there is no segment, having
    no prediction is.
    """
    times = [t for one in (*predicted, *truth) for t in (one.start, one.end)]
    edges = np.unique(np.clip([start, end, *times], start, end))
    numbers = {label: i for i, label in enumerate(dict.fromkeys(one.label for one in (*predicted, *truth)))}

    def pieces(one: Labelled) -> slice:
        first, last = np.searchsorted(edges, np.clip([one.start, one.end], start, end))
        return slice(int(first), int(last))

    shown = np.full(len(edges) - 1, -1)
    for one in sorted(predicted, key=lambda s: s.score):
        shown[pieces(one)] = numbers[one.label]
    right, labelled = (np.zeros(len(edges) - 1, dtype=bool) for _ in range(2))
    for one in truth:
        right[pieces(one)] |= shown[pieces(one)] == numbers[one.label]
        labelled[pieces(one)] = True
    right |= ~labelled & (shown == -1)
    return float(np.diff(edges)[right].sum())
