"""The jobs of `vivit corpus`: what each computes of a video, and the columns of its table."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import EvalConfig
from ..data.sample import Sample
from ..errors import FolderInUse
from ..inference.feature_files import FeatureFile, FeatureOptions, name_outputs, write_features
from ..inference.feature_files import write_table as write_features_table
from ..inference.features import check_level
from ..inference.formats.common import import_pyarrow
from ..inference.predict import predict
from ..inference.segment_fit import load_params
from ..inference.segments import SegmentParams, segments
from ..inference.timeline import compute_rows, plan_timeline
from ..model.vivit import ViViT

Settings = Mapping[str, Any]
Rows = list[list[Any]]
"""Cells in the order of the job's columns."""


POLL = 0.2  # seconds between two attempts at what a process of a killed driver still computes


@dataclass(frozen=True)
class Target:
    """Where the files of a video or segment are written, and by which weights."""

    folder: Path
    name: str
    """Below the folder, without a suffix."""
    weights: str
    """Hash of the weights."""


@dataclass(frozen=True)
class Job:
    """What `vivit corpus` computes of each video or segment of a list."""

    columns: Callable[[ViViT, Settings], dict[str, type]]
    """Names and types of the columns between `path` and `error`. Raises ValueError for what the model cannot do."""
    compute: Callable[[ViViT, Sample, Settings, Target], Rows]
    """(model, sample, settings, target) → rows. Raises VivitError."""
    folder: str = ""
    """In the folder of the results, for the files of the videos."""
    names: Callable[[Sequence[Sample], Sequence[str]], list[str]] | None = None
    """Names of the files by the samples and their paths in the list; None: numbers."""
    finish: Callable[[Path], object] | None = None
    """What to do with the folder of the files at the end; it finds the JSON files there."""


def prediction_columns(model: ViViT, settings: Settings) -> dict[str, type]:
    """Return start, end and, per label set, the best `top_k` classes with their probabilities."""
    EvalConfig(temporal_views=settings["temporal_views"], spatial_views=settings["spatial_views"])  # checks them
    columns: dict[str, type] = {"start": float, "end": float}
    for name in model.config.classes:
        for place in range(1, settings["top_k"] + 1):
            suffix = "" if place == 1 else f"_{place}"
            columns |= {f"{name}{suffix}": str, f"{name}{suffix}_probability": float}
    return columns


def prediction_rows(model: ViViT, sample: Sample, settings: Settings, target: Target) -> Rows:
    """Return the row of a video: its segment and its best classes."""
    views = {name: settings[name] for name in ("temporal_views", "spatial_views", "top_k", "precision")}
    found = predict(model, sample, **views)
    cells: list[Any] = [sample.start, sample.end]
    for best in found.classes.values():
        padded = best + [(None, None)] * (settings["top_k"] - len(best))
        cells += [cell for pair in padded for cell in pair]
    return [cells]


def timeline_columns(model: ViViT, settings: Settings) -> dict[str, type]:
    """Return the columns of a segment. Raises ValueError for thresholds of a class that the model does not have."""
    chosen_params(settings).check_names(model.config.classes)
    return {"start": float, "end": float, "label_set": str, "label": str, "score": float}


def timeline_rows(model: ViViT, sample: Sample, settings: Settings, target: Target) -> Rows:
    """Return a row per segment of a video, or one without a label if there are none; keep the scores if asked."""
    plan = plan_timeline(model, sample, hop=settings["hop"], crops=settings["crops"])
    rows = compute_rows(model, plan, precision=settings["precision"], batch=settings["batch"])
    timeline = plan.timeline(np.stack([logits.numpy() for _, logits in rows]))
    if settings["scores"]:
        scores = target.folder / f"{target.name}.npz"
        os.makedirs(scores.parent, exist_ok=True)
        timeline.save(scores)
    found = [one for name in timeline.classes for one in segments(timeline, name, chosen_params(settings))]
    return [[s.start, s.end, s.label_set, s.label, s.score] for s in found] or [
        [float(timeline.start[0]), float(timeline.end[-1]), None, None, None]
    ]


def chosen_params(settings: Settings) -> SegmentParams:
    """Return the thresholds of the settings, or those that hold without any."""
    return load_params(settings["thresholds"]) if settings["thresholds"] else SegmentParams()


def feature_columns(model: ViViT, settings: Settings) -> dict[str, type]:
    """Return the columns of a video: its segment, the file of its features and what the rows in it are."""
    check_level(model, settings["level"], settings["hop"])
    if settings["file_format"] == "parquet":
        import_pyarrow()  # says what is missing
    columns: dict[str, type] = {"start": float, "end": float, "file": str, "rows": int}
    return columns | dict.fromkeys(("feat_stride", "num_frames", "fps", "duration"), float)


def feature_rows(model: ViViT, sample: Sample, settings: Settings, target: Target) -> Rows:
    """Write the features of a video as `vivit features` does, and return its row."""
    form = settings["file_format"]
    file = FeatureFile(target.folder, target.name, sample, form)
    options = FeatureOptions(format=form, **{name: settings[name] for name in settings if name != "file_format"})
    while True:
        try:
            about = write_features(model, file, options, weights=target.weights)
            break
        except FolderInUse:
            time.sleep(POLL)
    about = about or json.loads(file.about.read_bytes())
    numbers = [float(about[name]) for name in ("feat_stride", "num_frames", "fps", "duration")]
    return [[sample.start, sample.end, f"{target.folder.name}/{about['file']}", about["shape"][0], *numbers]]


JOBS = {
    "predict": Job(prediction_columns, prediction_rows),
    "timeline": Job(timeline_columns, timeline_rows, "timelines"),
    "features": Job(feature_columns, feature_rows, "features", name_outputs, write_features_table),
}
