"""Compute means over seeds, and differences between rows with two kinds of interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..engine.compare import Video, difference, match_videos, video_of
from ..engine.evaluation import Evaluation
from ..engine.metrics import correct, joint_name

Answers = dict[Video, tuple[tuple[str, ...], bool]]
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


def compare(a: Mapping[int, Evaluation], b: Mapping[int, Evaluation], label_set: str) -> dict[str, Any]:
    """Compute b - a in top-1, all views, over the seeds that both have.

    low, high: 95 % over other seeds, paired: the same seed, order and augmentation. videos_low, videos_high: 95 % over
    other test videos, by a bootstrap over the videos that all of them could read. Raises ValueError without a common
    seed or video, or if the labels of a video differ.
    """
    seeds = [seed for seed in a if seed in b]
    if not seeds:
        raise ValueError(f"no seed in both: {', '.join(map(str, a))} and {', '.join(map(str, b))}")
    videos, right = align([answers(side[seed], label_set) for side in (a, b) for seed in seeds])
    right_a, right_b = right[: len(seeds)], right[len(seeds) :]
    files = np.unique([path for path, _, _ in videos], return_inverse=True)[1]
    found = difference(
        right_a.ravel(),
        right_b.ravel(),
        np.tile(files, len(seeds)),
        resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    per_seed = (right_b.mean(axis=1) - right_a.mean(axis=1)).tolist()
    return {**over_seeds(per_seed), "videos_low": found.low, "videos_high": found.high, "seeds": len(seeds)}


def answers(evaluation: Evaluation, label_set: str) -> Answers:
    """Return, for each video, its labels and whether the answer from all views is correct."""
    found = correct(evaluation.multi, evaluation.labels, evaluation.classes)[label_set].tolist()
    names = [label_set] if label_set in evaluation.classes else sorted(evaluation.classes)
    return {video_of(s): (tuple(s.labels[n] for n in names), hit) for s, hit in zip(evaluation.samples, found)}


def align(tests: Sequence[Answers]) -> tuple[list[Video], np.ndarray]:
    """Return the videos that all tests have, as the first one names them, and the (tests, videos) bool answers.

    Raises ValueError if no video is in all, or if the labels of one differ.
    """
    first = tests[0]
    names = [match_videos(first, test) for test in tests]
    videos = [video for video in first if all(video in there for there in names)]
    if not videos:
        shown = ", ".join(dict.fromkeys(next(iter(test), ("no video",))[0] for test in tests))
        raise ValueError(f"no video was measured in all (the first ones: {shown})")
    rows = [[test[there[video]] for video in videos] for test, there in zip(tests, names)]
    for row in rows:
        for video, (expected, _), (labels, _) in zip(videos, rows[0], row):
            if labels != expected:
                raise ValueError(f"{video[0]} is labelled {', '.join(expected)} in one, {', '.join(labels)} in another")
    return videos, np.array([[hit for _, hit in row] for row in rows])
