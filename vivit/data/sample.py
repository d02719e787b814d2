"""Samples: a video file, its labels by label set, and where in the file it starts and ends.

`read` goes through a table of readers, one annotation format each; `class_names` and `encode_labels` turn names into
the numbers of a saved class list, on the CPU and before the first step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config import suggestion

Classes = Mapping[str, Sequence[str]]


class DataError(ValueError):
    """Annotations or videos that cannot be used; the message lists what, where and what to do."""


@dataclass(frozen=True)
class Sample:
    """One labelled video, or a part of one."""

    path: str
    labels: dict[str, str] = field(default_factory=dict)
    """Class name by label set."""
    start: float | None = None
    """Seconds; None: from the first frame."""
    end: float | None = None
    """Seconds; None: to the last frame."""
    where: str = ""
    """Where this was said, 'labels.csv:12', for messages."""


def read(dataset: str, root: str, split: str) -> list[Sample]:
    """The samples of one split, in a fixed order. Raises DataError when there are none or any of them is wrong."""
    from .folder import read_folder

    readers: dict[str, Callable[[Path, str], list[Sample]]] = {"folder": read_folder}
    if dataset not in readers:
        raise DataError(f"unknown dataset {dataset!r}{suggestion(dataset, readers)}")
    if not root:
        raise DataError("data.root is not set; give a folder with one subfolder per class, or a .csv or .jsonl file")
    if not Path(root).exists():
        raise DataError(f"data.root {root!r} does not exist (looked in {Path.cwd()})")
    samples = readers[dataset](Path(root), split)
    label_sets = {tuple(s.labels) for s in samples}
    if len(label_sets) > 1:
        raise DataError(f"{root}: samples differ in their label sets: {sorted(label_sets)}")
    return samples


def class_names(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """The class names of each label set, sorted."""
    label_sets = samples[0].labels if samples else {}
    return {name: tuple(sorted({s.labels[name] for s in samples})) for name in label_sets}


def encode_labels(samples: Sequence[Sample], classes: Classes) -> Tensor:
    """Class indices (N, L) int64, one column per label set of `classes`.

    Raises DataError that lists every sample without a label or with one outside the class list.
    """
    index = {name: {label: i for i, label in enumerate(labels)} for name, labels in classes.items()}
    problems = []
    for s in samples:
        for name in classes:
            label = s.labels.get(name, "")
            if label not in index[name]:
                got = f"{name} {label!r} is not among the {len(classes[name])} classes" if label else f"no {name}"
                problems.append(f"{s.where or s.path}: {got}{suggestion(label, classes[name]) if label else ''}")
    if problems:
        raise DataError(listing("labels do not fit the class list", problems))
    rows = [[index[name][s.labels[name]] for name in classes] for s in samples]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(samples), len(classes))


def list_hash(samples: Sequence[Sample], *, ordered: bool = False) -> str:
    """A short hash of the videos, parts and labels of a list (and of their order), wherever the files lie."""
    rows = [f"{Path(s.path).name}|{s.start}|{s.end}|{sorted(s.labels.items())}" for s in samples]
    return hashlib.sha256("\n".join(rows if ordered else sorted(rows)).encode()).hexdigest()[:12]


def listing(title: str, problems: Sequence[str], most: int = 20) -> str:
    """A message with one problem a line, the first `most` of them."""
    more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
    return "\n  ".join([f"{title} ({len(problems)}):", *problems[:most], *more])
