"""The result of an evaluation: logits of every video, and metrics."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from ..config import EvalConfig, from_dict
from ..data.sample import Sample
from ..files import atomic_write
from .metrics import accuracies, class_accuracies, compute_metrics, confusion, finite, split_logits


@dataclass(frozen=True)
class Evaluation:
    """Logits of every readable video, single view and multi view, and what follows from them."""

    protocol: EvalConfig
    classes: dict[str, tuple[str, ...]]
    samples: list[Sample]
    """The videos that could be read, in the order of the list."""
    labels: Tensor
    """(N, L)."""
    single: Tensor
    """(N, K): logits of the middle clip's centre crop."""
    multi: Tensor
    """(N, K): logits averaged over all views."""
    missing: dict[int, str]
    """Index in the list → problem of the videos that could not be read; no accuracy counts them."""
    list_hash: str = field(default="")

    def __repr__(self) -> str:
        top1 = ", ".join(f"{name} {shares['top1']:.1%}" for name, shares in self.accuracy.items())
        return f"Evaluation({len(self.samples)} videos, {len(self.missing)} missing; top-1 {top1})"

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Multi view: {"verb": {"top1": …, "top5": …}, …}; "action" or "all": every label set right at once."""
        return accuracies(self.multi, self.labels, self.classes)

    @property
    def single_view_accuracy(self) -> dict[str, dict[str, float]]:
        return accuracies(self.single, self.labels, self.classes)

    @property
    def not_finite(self) -> list[Sample]:
        """The videos with a logit that is NaN or infinite; every metric counts them as wrong, see `metrics`."""
        found = ~(finite(self.single) & finite(self.multi))
        return [self.samples[i] for i in found.nonzero()[:, 0].tolist()]

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """{"single_view": {"verb": {"top1": …, "mean_class": …}, …}, "multi_view": …}; see `compute_metrics`."""
        views = {"single_view": self.single, "multi_view": self.multi}
        return {view: compute_metrics(logits, self.labels, self.classes) for view, logits in views.items()}

    def confusion(self, label_set: str) -> Tensor:
        """Return the (right, predicted) counts of one label set, multi view, without videos that are `not_finite`."""
        i = list(self.classes).index(label_set)
        logits = split_logits(self.multi, self.classes)[i]
        return confusion(logits, self.labels[:, i], logits.shape[1])

    def videos_of_classes(self, label_set: str) -> Tensor:
        """Return how many videos each class of a label set has."""
        i = list(self.classes).index(label_set)
        return self.labels[:, i].bincount(minlength=len(self.classes[label_set]))

    def results(self) -> dict[str, Any]:
        """Return all metrics, and the protocol and videos that they belong to, ready for JSON: NaN is None."""
        per_class, matrices = {}, {}
        for name, names in self.classes.items():
            counts, videos = self.confusion(name), self.videos_of_classes(name)
            shares = zip(names, videos.tolist(), class_accuracies(counts, videos).tolist())
            per_class[name] = {one: {"videos": n, "accuracy": nan_to_none(share)} for one, n, share in shares}
            matrices[name] = {"classes": list(names), "counts": counts.tolist()}
        return {
            "protocol": asdict(self.protocol),
            "videos": len(self.samples),
            "missing": len(self.missing),
            "missing_videos": list(self.missing.values()),
            "not_finite": len(self.not_finite),
            "not_finite_videos": [sample.path for sample in self.not_finite],
            "list_hash": self.list_hash,
            **{
                view: {name: {k: nan_to_none(x) for k, x in found.items()} for name, found in metrics.items()}
                for view, metrics in self.metrics.items()
            },
            "per_class": per_class,
            "confusion": matrices,
        }

    def save(self, path: Path) -> None:
        """Write an .npz that numpy reads without pickle, for `load_evaluation`."""
        arrays = {
            "path": [s.path for s in self.samples],
            "start": [math.nan if s.start is None else s.start for s in self.samples],
            "end": [math.nan if s.end is None else s.end for s in self.samples],
            "labels": self.labels.numpy(),
            "single_view": self.single.numpy(),
            "multi_view": self.multi.numpy(),
            "missing": [*self.missing],
            "missing_why": [*self.missing.values()],
            "list_hash": self.list_hash,
            "protocol": json.dumps(asdict(self.protocol)),
            **{f"classes/{name}": names for name, names in self.classes.items()},
        }
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})


def load_evaluation(path: Path) -> Evaluation:
    """Load what `Evaluation.save` wrote. Raises ValueError for any other file."""
    try:
        with path.open("rb") as file:  # numpy leaves a path open where the file is broken
            if not is_zipfile(file):
                raise ValueError("it is no .npz file")
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
        classes = {k.removeprefix("classes/"): tuple(v.tolist()) for k, v in arrays.items() if k.startswith("classes/")}
        labels = torch.from_numpy(arrays["labels"])
        rows = zip(arrays["path"].tolist(), arrays["start"].tolist(), arrays["end"].tolist(), labels.tolist())
        return Evaluation(
            protocol=from_dict(EvalConfig, json.loads(str(arrays["protocol"]))),
            classes=classes,
            samples=[
                Sample(
                    video,
                    {name: names[i] for (name, names), i in zip(classes.items(), row)},
                    nan_to_none(t0),
                    nan_to_none(t1),
                )
                for video, t0, t1, row in rows
            ],
            labels=labels,
            single=torch.from_numpy(arrays["single_view"]),
            multi=torch.from_numpy(arrays["multi_view"]),
            missing=dict(zip(arrays["missing"].tolist(), arrays["missing_why"].tolist())),
            list_hash=str(arrays["list_hash"]),
        )
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} holds no predictions of vivit eval ({error}); write them again with vivit eval"
        ) from error


def nan_to_none(number: float) -> float | None:
    """Replace a number that is NaN or infinite by None, which JSON has."""
    return number if math.isfinite(number) else None
