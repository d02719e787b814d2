"""The jobs of `vivit corpus`: what each computes of a video, and the columns of its table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..data.sample import Sample
from ..inference.predict import predict
from ..inference.segment_fit import load_params
from ..inference.segments import SegmentParams, segments
from ..inference.timeline import compute_rows, plan_timeline
from ..model.vivit import ViViT

Settings = Mapping[str, Any]
Rows = list[list[Any]]
"""Cells in the order of the job's columns."""


@dataclass(frozen=True)
class Job:
    """What `vivit corpus` computes of each video or segment of a list."""

    columns: Callable[[ModelConfig, Settings], dict[str, type]]
    """Names and types of the columns between `path` and `error`."""
    compute: Callable[[ViViT, Sample, Settings, Path], Rows]
    """(model, sample, settings, file for the scores) → rows. Raises VivitError."""


def prediction_columns(config: ModelConfig, settings: Settings) -> dict[str, type]:
    """Return start, end and, per label set, the best `top_k` classes with their probabilities."""
    columns: dict[str, type] = {"start": float, "end": float}
    for name in config.classes:
        for place in range(1, settings["top_k"] + 1):
            suffix = "" if place == 1 else f"_{place}"
            columns |= {f"{name}{suffix}": str, f"{name}{suffix}_probability": float}
    return columns


def prediction_rows(model: ViViT, sample: Sample, settings: Settings, scores: Path) -> Rows:
    """Return the row of a video: its segment and its best classes."""
    views = {name: settings[name] for name in ("temporal_views", "spatial_views", "top_k", "precision")}
    found = predict(model, sample, **views)
    cells: list[Any] = [sample.start, sample.end]
    for best in found.classes.values():
        padded = best + [(None, None)] * (settings["top_k"] - len(best))
        cells += [cell for pair in padded for cell in pair]
    return [cells]


def timeline_columns(config: ModelConfig, settings: Settings) -> dict[str, type]:
    """Return the columns of a segment."""
    return {"start": float, "end": float, "label_set": str, "label": str, "score": float}


def timeline_rows(model: ViViT, sample: Sample, settings: Settings, scores: Path) -> Rows:
    """Return a row per segment of a video, or one without a label if there are none; keep the scores if asked."""
    plan = plan_timeline(model, sample, hop=settings["hop"], crops=settings["crops"])
    rows = compute_rows(model, plan, precision=settings["precision"], batch=settings["batch"])
    timeline = plan.timeline(np.stack([logits.numpy() for _, logits in rows]))
    if settings["scores"]:
        os.makedirs(scores.parent, exist_ok=True)
        timeline.save(scores)
    params = load_params(settings["thresholds"]) if settings["thresholds"] else SegmentParams()
    found = [one for name in timeline.classes for one in segments(timeline, name, params)]
    return [[s.start, s.end, s.label_set, s.label, s.score] for s in found] or [
        [float(timeline.start[0]), float(timeline.end[-1]), None, None, None]
    ]


JOBS = {
    "predict": Job(prediction_columns, prediction_rows),
    "timeline": Job(timeline_columns, timeline_rows),
}
