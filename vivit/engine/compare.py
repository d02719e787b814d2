"""Compare two evaluations on the same videos, by a paired bootstrap and an exact test."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.datasets.split_names import named_splits
from ..data.sample import Sample
from ..model_config import joint_name
from ..text import format_table, listing, printable
from .eval_tables import describe_protocol
from .evaluate import PREDICTIONS
from .evaluation import Evaluation, load_evaluation
from .metrics import correct, finite

Video = tuple[str, float | None, float | None]  # path, start and end in seconds
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Top-1 accuracies of A and B on the same videos, as shares of 1, in one label set or in all together."""

    a: float
    b: float
    low: float
    high: float
    """95 % interval of b - a: 2.5 % of the resamples are below it, 2.5 % above."""
    b_ahead: float
    """The share of the resamples in which B is better."""
    only_a: int
    only_b: int
    """The numbers of videos that only A, or only B, gets right."""
    p: float
    """Exact McNemar test: the probability that equally good models have only_a and only_b at least as unequal."""

    @property
    def verdict(self) -> str:
        """Say which is better, if the interval and the exact test agree; the interval of few videos is too narrow."""
        points = f"{abs(100 * self.low):.1f} to {abs(100 * self.high):.1f} points"
        if self.only_a == self.only_b == 0:
            return "A and B are right on the same videos"
        if self.low > 0 and self.p < 0.05:
            return f"B is better, by {points}"
        if self.high < 0 and self.p < 0.05:
            return f"A is better, by {abs(100 * self.high):.1f} to {abs(100 * self.low):.1f} points"
        if self.low > 0 or self.high < 0:
            return f"undecided: {self.only_a + self.only_b} videos on which only one is right are too few"
        return f"undecided: B may be {abs(100 * self.low):.1f} points worse or {100 * self.high:.1f} better"


@dataclass(frozen=True)
class Comparison:
    """The differences of two evaluations on their common videos. `str` formats the table."""

    names: tuple[str, str]
    protocols: tuple[str, str]
    videos: int
    """The number of videos in both; all else is measured on these."""
    files: int
    """The number of files that hold these videos. Files are resampled, as segments of one file are correlated."""
    first_video: tuple[str, str]
    """The path of the first of these videos, in A and in B."""
    only_in: tuple[int, int]
    not_finite: tuple[int, int]
    """How many common videos have logits that are not finite, in A and in B; they count as wrong."""
    differences: dict[str, Difference]
    """Per label set, and for all together."""
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{x}  {printable(n)}  ({protocol})" for x, n, protocol in zip("AB", self.names, self.protocols)]
        if self.protocols[0] != self.protocols[1]:
            lines.append("warning: the protocols differ, not only the models; --single-view compares the same view")
        files = f", parts of {self.files} files" if self.files < self.videos else ""
        lines += [f"{self.videos} videos in both{files}; {self.only_in[0]} only in A, {self.only_in[1]} only in B"]
        if self.first_video[0] != self.first_video[1]:
            a, b = map(printable, self.first_video)
            lines.append(f"their paths differ; matched by the ends of these: {a} in A is {b} in B")
        lines += [
            f"{x}: {n} videos with logits that are not finite count as wrong"
            for x, n in zip("AB", self.not_finite)
            if n
        ]
        rows = [["top-1", "A", "B", "B - A", "95 % interval", "B ahead", "only A/B right"]]
        for name, d in self.differences.items():
            interval = f"[{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
            shares = f"{d.a:.1%}", f"{d.b:.1%}", f"{100 * (d.b - d.a):+.1f}"
            rows.append([name, *shares, interval, f"{d.b_ahead:.1%}", f"{d.only_a} / {d.only_b}"])
        lines += ["", format_table(rows, min_widths=(10, 6, 6, 6, 16, 7, 14))]
        lines += ["", *(f"{printable(name)}: {d.verdict} (p = {d.p:.2g})" for name, d in self.differences.items())]
        return "\n".join(lines)


def compare(
    a: str | Path | Evaluation,
    b: str | Path | Evaluation,
    *,
    single_view: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations on the videos that both could read.

    `a` and `b` are Evaluations, predictions.npz of `vivit eval`, or folders that hold it. Raises ValueError if the
    labels of a video differ or no video is in both.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1, for a stable interval some thousands")
    first, second = (e if isinstance(e, Evaluation) else load_predictions(e) for e in (a, b))
    row_of = [{video_of(s): i for i, s in reversed([*enumerate(e.samples)])} for e in (first, second)]
    common = match_videos(map(video_of, first.samples), map(video_of, second.samples))
    rows = [torch.tensor([*map(side.get, videos)]) for side, videos in zip(row_of, (common, common.values()))]
    check_labels(first, second, *(row.tolist() for row in rows))

    logits = [(e.single if single_view else e.multi)[row] for e, row in zip((first, second), rows)]
    right_a = correct(logits[0], first.labels[rows[0]], first.classes)
    right_b = correct(logits[1], second.labels[rows[1]], second.classes)
    files = np.unique([first.samples[i].path for i in rows[0].tolist()], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    return Comparison(
        names=(describe_source(a), describe_source(b)),
        protocols=(describe_views(first, single_view), describe_views(second, single_view)),
        videos=len(common),
        files=int(files.max()) + 1,
        first_video=next((one[0], other[0]) for one, other in common.items()),
        only_in=(len(row_of[0]) - len(common), len(row_of[1]) - len(common)),
        not_finite=(int((~finite(logits[0])).sum()), int((~finite(logits[1])).sum())),
        differences={
            label_set: difference(
                right_a[label_set].numpy(), right_b[label_set].numpy(), files, resamples=resamples, rng=rng
            )
            for label_set in common_label_sets(first, second)
        },
        resamples=resamples,
    )


def describe_source(source: str | Path | Evaluation) -> str:
    """Name an evaluation for the table."""
    return "an evaluation" if isinstance(source, Evaluation) else str(source)


def describe_views(evaluation: Evaluation, single_view: bool) -> str:
    """Describe the views that are compared."""
    p = evaluation.protocol
    return describe_protocol(replace(p, temporal_views=1, spatial_views=1) if single_view else p)


def common_label_sets(a: Evaluation, b: Evaluation) -> list[str]:
    """List the label sets of both; if both have the same several sets, also the name of all together."""
    both = [label_set for label_set in a.classes if label_set in b.classes]
    together = [joint_name(both)] if len(both) > 1 and {*a.classes} == {*b.classes} else []
    return both + together


def load_predictions(source: str | Path) -> Evaluation:
    """Load the predictions in a folder or a file. Raises ValueError if there are none."""
    path = Path(source) / PREDICTIONS if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `vivit eval` writes {PREDICTIONS} and results.json")
    return load_evaluation(path)


def video_of(sample: Sample) -> Video:
    """Name the video of a sample, for `match_videos`."""
    return sample.path, sample.start, sample.end


def match_videos(a: Iterable[Video], b: Iterable[Video]) -> dict[Video, Video]:
    """Return the videos of A that B has too, in the order of A, with their names in B.

    Equal paths match. Without any, the videos of one side have moved, or were encoded again. Then paths match by their
    ends: by those that match most videos and tell the videos of each side apart, and of these by the longest.
    """
    sides = dict.fromkeys(a), dict.fromkeys(b)
    found = {video: video for video in sides[0] if video in sides[1]}
    if found:
        return found
    # A shard counts as its folder.
    paths = {video: re.sub(r"[^/]*\.tar#", "", video[0]) for side in sides for video in side}
    with_suffix = {video: Path(path).parts for video, path in paths.items()}
    without = {video: Path(os.path.splitext(path)[0]).parts for video, path in paths.items()}
    longest = max(map(len, without.values()), default=0)
    for parts, length in product((with_suffix, without), range(longest, 0, -1)):
        if len(found) == min(map(len, sides)):
            break
        ends = [{(parts[video][-length:], *video[1:]): video for video in side} for side in sides]
        if [*map(len, ends)] != [*map(len, sides)]:
            continue
        pairs = {video: ends[1][end] for end, video in ends[0].items() if end in ends[1]}
        if len(pairs) > len(found) and have_moved([(parts[one], parts[other]) for one, other in pairs.items()]):
            found = pairs
    return found


def have_moved(pairs: Iterable[tuple[Parts, Parts]]) -> bool:
    """Tell whether paths differ as those of moved videos: on one side at least, the same folders differ in all pairs.

    Folders of different splits are no move: val/0.mp4 is not test/0.mp4.
    """
    moves = {differing_folders(a[:-1], b[:-1]) for a, b in pairs}
    splits = [[named_splits(folders[-1]) if folders else set() for folders in move] for move in moves]
    return any(len({*side}) == 1 for side in zip(*moves)) and all(a & b or not (a and b) for a, b in splits)


def differing_folders(a: Parts, b: Parts) -> tuple[Parts, Parts]:
    """Return the folders of two paths without those at the end, and then at the start, that they have in common."""
    end = len(os.path.commonprefix([a[::-1], b[::-1]]))
    a, b = a[: len(a) - end], b[: len(b) - end]
    start = len(os.path.commonprefix([a, b]))
    return a[start:], b[start:]


def check_labels(a: Evaluation, b: Evaluation, rows_a: Sequence[int], rows_b: Sequence[int]) -> None:
    """Raise ValueError without common videos or label sets, or if the labels of a video differ."""
    if not rows_a:
        shown = ", ".join(e.samples[0].path if e.samples else "no video" for e in (a, b))
        raise ValueError(f"no video was measured in both (the first ones: {shown}); evaluate both on the same list")
    label_sets = {*a.classes} & {*b.classes}
    if not label_sets:
        raise ValueError(f"no label set in common: A has {', '.join(a.classes)}; B has {', '.join(b.classes)}")
    problems = []
    for i, j in zip(rows_a, rows_b):
        one, other = a.samples[i], b.samples[j]
        wrong = [n for n in a.classes if n in label_sets and one.labels[n] != other.labels[n]]
        problems += [f"{one.path}: {n} is {one.labels[n]!r} in A, {other.labels[n]!r} in B" for n in wrong]
    if problems:
        title = "videos with different labels in A and B; evaluate both with the same annotations"
        raise ValueError(listing(title, problems, most=5))


def difference(
    right_a: np.ndarray, right_b: np.ndarray, files: np.ndarray, *, resamples: int, rng: np.random.Generator
) -> Difference:
    """Bootstrap the difference from (N,) bool answers of A and B and the number (N,) int of each video's file.

    Files are drawn with replacement. Files with the same number of videos and the same difference between A and B are
    interchangeable, so one multinomial draw counts each kind: the same bootstrap, thousands of times faster.
    """
    better = right_b.astype(np.int64) - right_a
    per_file = np.stack([np.bincount(files), np.bincount(files, weights=better)], axis=1)
    kinds, counts = np.unique(per_file, axis=0, return_counts=True)
    drawn = rng.multinomial(len(per_file), counts / len(per_file), size=resamples)
    means = (drawn @ kinds[:, 1]) / (drawn @ kinds[:, 0])
    low, high = np.quantile(means, [0.025, 0.975])
    only_a, only_b = int((better < 0).sum()), int((better > 0).sum())
    return Difference(
        a=float(right_a.mean()),
        b=float(right_b.mean()),
        low=float(low),
        high=float(high),
        b_ahead=float((means > 0).mean()),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p: n fair coins show heads, or tails, at most as often as the smaller count."""
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(2 * tail / 2**n, 1.0) if n else 1.0
