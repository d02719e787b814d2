"""Choose the thresholds of segments on labelled videos, and keep them in a small JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..config import from_dict, suggestion, to_dict
from ..data.sample import Sample
from ..engine.progress import progress_bar
from ..errors import DataError
from ..files import atomic_write
from .segments import (
    Runs,
    Segment,
    SegmentParams,
    Thresholds,
    class_probabilities,
    find_runs,
    in_order,
    join_runs,
    measure,
    row_spans,
)
from .timeline import Timeline
from .timeline_scores import SCORES, Found, match_truth, span_of

ON = (0.5, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)  # of equal scores the first wins
OFF = (0.5, 0.75, 1.0)  # of `on`
LENGTHS = (0.0, 0.125, 0.25, 0.5)  # of the median length in the ground truth: min_length, merge_gap
MIN_ROWS = 5  # segments of a class that has thresholds of its own


@dataclass(frozen=True)
class Fit:
    """Thresholds that were chosen, and how good they are on the videos that chose them."""

    params: SegmentParams
    label_set: str
    score: str
    value: float
    default_value: float
    """The score with the thresholds that hold without a fit."""
    videos: int

    def save(self, path: str | os.PathLike) -> None:
        """Write the file that `load_params` reads. Raises OSError."""
        fitted = {name: getattr(self, name) for name in ("label_set", "score", "value", "default_value", "videos")}
        with atomic_write(path) as file:
            json.dump({"segments": to_dict(self.params), "fitted": fitted}, file, indent=2, ensure_ascii=False)
            file.write("\n")


def load_params(path: str | os.PathLike) -> SegmentParams:
    """Read thresholds from a file that `Fit.save` wrote. Raises DataError for any other file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return from_dict(SegmentParams, content["segments"], "segments.")
    except (ValueError, KeyError, TypeError, OSError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else error
        raise DataError(
            f"{path}: no thresholds of segments ({what}); vivit timeline --fit writes such a file"
        ) from error


@dataclass(frozen=True)
class _Scores:
    """What the search needs of one timeline: the columns of the classes that can be on."""

    columns: dict[str, np.ndarray]
    starts: np.ndarray
    ends: np.ndarray
    span: tuple[float, float]


def fit(
    timelines: Sequence[Timeline],
    truth: Sequence[Sample],
    *,
    label_set: str = "",
    score: str = "f1@50",
    background: Sequence[str] = (),
    per_class: bool = False,
    progress: bool = True,
) -> Fit:
    """Try a small grid of thresholds on labelled videos and return the best; the same input gives the same answer.

    `score` is one of f1@10, f1@25, f1@50, average_map, edit and accuracy. `min_length` and `merge_gap` are fractions of
    the median length in the ground truth. With `per_class`, each class that has 5 segments or more gets the thresholds
    that are best for it alone; then the score must be an F1 or average_map. Raises DataError if the ground truth does
    not fit the timelines, and ValueError for an unknown score.
    """
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}{suggestion(score, SCORES)}")
    if per_class and score in ("edit", "accuracy"):
        raise ValueError(f"{score} is of all classes together; with per_class use f1@50 or average_map")
    label_set, by_video, _ = match_truth(timelines, truth, label_set, background=background)
    lengths = [one.length for rows in by_video.values() for one in rows]
    if not lengths:
        raise DataError("the ground truth has no segment besides background; nothing can be fitted")
    unit, params = median(lengths), SegmentParams(background=tuple(background))
    params.check_names(timelines[0].classes)
    scores = {t.path: _scores(t, label_set, params) for t in timelines}
    labels = [one.label for rows in by_video.values() for one in rows]
    alone = sorted(label for label in {*labels} if labels.count(label) >= MIN_ROWS) if per_class else []
    with progress_bar("thresholds tried", (1 + len(alone)) * len(ON) * len(OFF), enabled=progress) as update:
        default, _ = _search(scores, by_video, label_set, score, unit, update, 0)
        own = {}
        for i, label in enumerate(alone, start=1):
            rows = {video: [one for one in several if one.label == label] for video, several in by_video.items()}
            mine = {
                v: replace(s, columns={n: c for n, c in s.columns.items() if n == label}) for v, s in scores.items()
            }
            own[label], _ = _search(mine, rows, label_set, score, unit, update, i)
    params = replace(params, default=default, classes=own)
    value, default_value = (
        _value({v: _found(s, label_set, p) for v, s in scores.items()}, by_video, scores, score)
        for p in (params, replace(params, default=Thresholds(), classes={}))
    )
    return Fit(params, label_set, score, value, default_value, len(timelines))


def _scores(timeline: Timeline, label_set: str, params: SegmentParams) -> _Scores:
    names, probabilities = class_probabilities(timeline, label_set, min(ON))
    columns = {n: c for n, c in zip(names, probabilities.T) if params.is_event(n) and c.max(initial=0) >= min(ON)}
    return _Scores(columns, *row_spans(timeline), span_of(timeline))


def _search(
    scores: Mapping[str, _Scores],
    truth: Found,
    label_set: str,
    score: str,
    unit: float,
    update: Any,
    done: int,
) -> tuple[Thresholds, float]:
    """Return the thresholds of the highest score and that score."""
    best, best_value = Thresholds(), -math.inf
    for i, (on, off) in enumerate(product(ON, OFF), start=1):
        base = Thresholds(on, on * off)
        runs = {v: {name: find_runs(c, base) for name, c in s.columns.items()} for v, s in scores.items()}
        for length, gap in product(LENGTHS, LENGTHS):
            thresholds = replace(base, min_length=round(length * unit, 3), merge_gap=round(gap * unit, 3))
            found = {v: _joined(s, label_set, runs[v], dict.fromkeys(runs[v], thresholds)) for v, s in scores.items()}
            value = _value(found, truth, scores, score)
            if value > best_value:
                best, best_value = thresholds, value
        update(done * len(ON) * len(OFF) + i)
    return best, best_value


def _found(scores: _Scores, label_set: str, params: SegmentParams) -> list[Segment]:
    thresholds = {name: params.of(name) for name in scores.columns}
    runs = {name: find_runs(c, thresholds[name]) for name, c in scores.columns.items()}
    return _joined(scores, label_set, runs, thresholds)


def _joined(
    scores: _Scores, label_set: str, runs: Mapping[str, Runs], thresholds: Mapping[str, Thresholds]
) -> list[Segment]:
    found = []
    for name, column in scores.columns.items():
        joined = join_runs(runs[name], scores.starts, scores.ends, thresholds[name])
        rows = measure(joined, column, scores.starts, scores.ends)
        found += [Segment(start, end, name, mean, label_set) for start, end, mean in rows]
    return in_order(found)


def _value(found: Found, truth: Found, scores: Mapping[str, _Scores], score: str) -> float:
    return SCORES[score](found, truth, {video: one.span for video, one in scores.items()})
