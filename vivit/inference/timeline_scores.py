"""Score segments against ground truth that is a table of labels: `vivit timeline --truth`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import suggestion
from ..data.datasets.label_table import read_table, table_samples
from ..data.sample import Sample
from ..engine.temporal_metrics import (
    ACTIVITYNET_IOUS,
    average_precisions,
    correct_seconds,
    f1_scores,
    mean_edit_score,
)
from ..errors import DataError
from ..text import printable, shorten_list, shorten_texts
from .segments import Segment, SegmentParams, label_sets, row_spans, segments
from .timeline import Timeline


def read_truth(table: str | os.PathLike, split: str = "") -> list[Sample]:
    """Read the segments of a table in the form of a training table, of one split or of all. Raises DataError."""
    path = Path(table)
    try:
        samples, splits = table_samples(path, read_table(path))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a CSV or JSON lines file of labels"
        ) from error
    chosen = [sample for sample, name in zip(samples, splits) if split in ("", name)]
    if not chosen:
        raise DataError(f"{path}: no row has split {split!r}; there are {', '.join(sorted({*splits}))}")
    return chosen


def match_truth(
    timelines: Sequence[Timeline], truth: Sequence[Sample], label_set: str = "", *, background: Sequence[str] = ()
) -> tuple[str, dict[str, list[Segment]], list[str]]:
    """Return (label set, segments of the truth by the path of its timeline, paths without a timeline).

    `label_set` names the one to compare; it may be left out where the model and the table have one in common, or one
    each. Rows of a class in `background` are left out. A row without start or end lasts as long as its video. Rows are
    cut to the time of the timeline, and those outside are left out. Raises DataError if no row belongs to any of the
    timelines.
    """
    own, column = _common_label_set(timelines[0], truth[0], label_set)
    by_path = {os.path.realpath(timeline.path): timeline for timeline in timelines}
    spans = {timeline.path: span_of(timeline) for timeline in timelines}
    found: dict[str, list[Segment]] = {path: [] for path in spans}
    missing: dict[str, None] = {}
    for sample in truth:
        timeline = by_path.get(os.path.realpath(sample.path))
        if timeline is None:
            missing[sample.path] = None
        elif sample.labels[column] not in background:
            first, last = spans[timeline.path]
            start = first if sample.start is None else max(sample.start, first)
            end = last if sample.end is None else min(sample.end, last)
            if start < end:
                found[timeline.path].append(Segment(start, end, sample.labels[column], 1.0, own))
    if len(missing) == len({sample.path for sample in truth}):
        raise DataError(
            f"no row of the ground truth is about {printable(timelines[0].path)}"
            f"{f' or the other {len(timelines) - 1} videos' if len(timelines) > 1 else ''}; the table has "
            f"{', '.join(map(printable, shorten_list([*missing], 3)))}"
        )
    return own, found, [*missing]


def span_of(timeline: Timeline) -> tuple[float, float]:
    """Return the seconds at which the first row of a timeline starts and the last one ends."""
    starts, ends = row_spans(timeline)
    return float(starts[0]), float(ends[-1])


def _common_label_set(timeline: Timeline, sample: Sample, label_set: str) -> tuple[str, str]:
    """Return the label set of the model, and the column of the table that it is compared with."""
    own, columns = label_sets(timeline), list(sample.labels)
    if label_set:
        if label_set not in own:
            raise DataError(f"unknown label set {label_set!r}{suggestion(label_set, own)}")
        if label_set in columns or len(columns) == 1:
            return label_set, label_set if label_set in columns else columns[0]
        raise DataError(f"the ground truth has no column {label_set!r}{suggestion(label_set, columns)}")
    common = [name for name in own if name in columns]
    if len(common) == 1 or (len(own) == 1 and len(columns) == 1):
        return (common or own)[0], (common or columns)[0]
    raise DataError(
        f"the model has the label sets {', '.join(own)}, the ground truth {', '.join(columns)}; name the one to compare"
    )


def score_timelines(
    timelines: Sequence[Timeline],
    truth: Sequence[Sample],
    *,
    label_set: str = "",
    params: SegmentParams | None = None,
) -> dict[str, Any]:
    """Compare the segments of timelines with the ground truth; see `match_truth` and `score_segments`.

    Returns label_set, videos, missing (paths of the truth without a timeline), unknown_classes (of the truth, not of
    the model), and the numbers of `score_segments`. Raises DataError if they have nothing in common.
    """
    params = params or SegmentParams()
    label_set, by_video, missing = match_truth(timelines, truth, label_set, background=params.background)
    predicted = {timeline.path: segments(timeline, label_set, params) for timeline in timelines}
    known = set(timelines[0].classes.get(label_set, ()))
    labels = {one.label for rows in by_video.values() for one in rows}
    return {
        "label_set": label_set,
        "videos": len(timelines),
        "missing": missing,
        "unknown_classes": sorted(labels - known) if known else [],
        **score_segments(predicted, by_video, {t.path: span_of(t) for t in timelines}),
    }


Found = Mapping[str, Sequence[Segment]]  # by video
Spans = Mapping[str, tuple[float, float]]  # first and last second of each video


def average_map(predicted: Found, truth: Found) -> float:
    """Return the mAP averaged over the thresholds of ActivityNet; NaN without ground truth."""
    maps = _maps(average_precisions(predicted, truth))
    return sum(maps.values()) / len(maps)


def _maps(precisions: Mapping[str, np.ndarray]) -> dict[float, float]:
    means = np.mean([*precisions.values()], axis=0) if precisions else np.full(len(ACTIVITYNET_IOUS), math.nan)
    return dict(zip(ACTIVITYNET_IOUS, map(float, means)))


def accuracy(predicted: Found, truth: Found, spans: Spans) -> float:
    """Return the share of the time of all videos in which the label is right."""
    right = sum(correct_seconds(predicted[video], truth.get(video, ()), *span) for video, span in spans.items())
    seconds = sum(end - start for start, end in spans.values())
    return right / seconds if seconds else math.nan


SCORES: dict[str, Callable[[Found, Found, Spans], float]] = {
    "f1@50": lambda predicted, truth, spans: f1_scores(predicted, truth, [0.5])[0.5],
    "f1@25": lambda predicted, truth, spans: f1_scores(predicted, truth, [0.25])[0.25],
    "f1@10": lambda predicted, truth, spans: f1_scores(predicted, truth, [0.1])[0.1],
    "average_map": lambda predicted, truth, spans: average_map(predicted, truth),
    "edit": lambda predicted, truth, spans: mean_edit_score(predicted, truth),
    "accuracy": accuracy,
}


def score_segments(predicted: Found, truth: Found, spans: Spans) -> dict[str, Any]:
    """Compute the numbers of `vivit timeline --truth` from segments by video and the seconds that each video spans.

    Returns those of `SCORES`, map ({IoU: mAP}), segments (predicted, truth) and classes ({name: {truth, predicted,
    ap@50}}). Definitions: `vivit/engine/temporal_metrics.py`.
    """
    precisions = average_precisions(predicted, truth)
    return {
        **{name: score(predicted, truth, spans) for name, score in SCORES.items()},
        "map": _maps(precisions),
        "segments": (sum(map(len, predicted.values())), sum(map(len, truth.values()))),
        "classes": {
            label: {"truth": _count(truth, label), "predicted": _count(predicted, label), "ap@50": float(ap[0])}
            for label, ap in precisions.items()
        },
    }


def _count(by_video: Found, label: str) -> int:
    return sum(one.label == label for rows in by_video.values() for one in rows)


def format_scores(scores: Mapping[str, Any], most: int = 20) -> str:
    """Format what `score_timelines` returns as a table, with the `most` classes of lowest average precision."""
    predicted, true = scores["segments"]
    videos = f"{scores['videos']} video{'' if scores['videos'] == 1 else 's'}"
    lines = [f"{scores['label_set']}: {predicted} segments found, {true} in the ground truth, {videos}"]
    if scores["missing"]:
        lines.append(f"not scored, because they have no timeline: {len(scores['missing'])} videos of the ground truth")
        lines += map(printable, shorten_list(scores["missing"], 5, indent="  "))
    if scores["unknown_classes"]:
        lines.append(f"classes that the model does not have: {', '.join(map(printable, scores['unknown_classes']))}")
    shown = {f"mAP@{iou:g}": scores["map"][iou] for iou in (0.5, 0.75, 0.95)}
    shown |= {"average": scores["average_map"]} | {f"F1@{n}": scores[f"f1@{n}"] for n in (10, 25, 50)}
    shown |= {"edit": scores["edit"], "accuracy": scores["accuracy"]}
    lines.append("".join(f"{name:>10}" for name in shown))
    lines.append("".join(f"{_percent(value):>10}" for value in shown.values()))
    worst = sorted(scores["classes"].items(), key=lambda item: item[1]["ap@50"])[:most]
    names = shorten_texts([printable(name) for name, _ in worst], 40)
    width = max(map(len, ["class", *names]))
    lines.append(f"{'class':{width}}  {'AP@0.5':>7}  {'found':>6}  {'truth':>6}")
    for name, (_, row) in zip(names, worst):
        lines.append(f"{name:{width}}  {_percent(row['ap@50']):>7}  {row['predicted']:>6}  {row['truth']:>6}")
    if len(scores["classes"]) > most:
        lines.append(f"… and {len(scores['classes']) - most} classes of higher precision")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"
