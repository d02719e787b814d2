"""Compute means over seeds, and differences between rows with two kinds of interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..engine.compare import difference
from ..engine.evaluation import Evaluation
from ..engine.metrics import correct, joint_name

RESAMPLES = 10_000
# The 97.5 % quantile of Student's t, by degrees of freedom.
QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    if degrees <= len(QUANTILES):
        return QUANTILES[degrees - 1]
    z = 1.959964  # the normal's, corrected in powers of 1 / degrees (Abramowitz and Stegun, 26.7.5)
    powers = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / degrees ** (i + 1) for i, term in enumerate(powers))


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Compute the mean and its 95 % interval over other seeds; low and high are None for one seed."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main_label_set(evaluation: Evaluation) -> str:
    """Return the label set that a table shows first: all together, if there are several."""
    names = [*evaluation.classes]
    return joint_name(names) if len(names) > 1 else names[0]


def compare(a: Mapping[int, Evaluation], b: Mapping[int, Evaluation], label_set: str) -> dict[str, Any] | None:
    """Compute b - a in top-1, all views, over the seeds that both have; None without a common seed or video.

    low, high: 95 % over other seeds, paired: the same seed, order and augmentation. videos_low, videos_high: 95 % over
    other test videos, by a bootstrap over the videos that all of them could read.
    """
    seeds = [seed for seed in a if seed in b]
    if not seeds:
        return None
    sides = [[correct_videos(side[seed], label_set) for seed in seeds] for side in (a, b)]
    common = [video for video in sides[0][0] if all(video in one for side in sides for one in side)]
    if not common:
        return None
    right_a, right_b = (np.array([[one[video] for video in common] for one in side]) for side in sides)
    files = np.unique([path for path, _, _ in common], return_inverse=True)[1]
    found = difference(
        right_a.ravel(),
        right_b.ravel(),
        np.tile(files, len(seeds)),
        resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    per_seed = (right_b.mean(axis=1) - right_a.mean(axis=1)).tolist()
    return {**over_seeds(per_seed), "videos_low": found.low, "videos_high": found.high, "seeds": len(seeds)}


def correct_videos(evaluation: Evaluation, label_set: str) -> dict[tuple[str, float | None, float | None], bool]:
    """Tell for each video (path, start, end) whether its answer from all views is correct."""
    found = correct(evaluation.multi, evaluation.labels, evaluation.classes)[label_set].tolist()
    return {(s.path, s.start, s.end): hit for s, hit in zip(evaluation.samples, found)}
