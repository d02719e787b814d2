"""Samples: a video, its labels by label set, and where in the video it starts and ends.

`read` goes through a table of readers, one annotation format each; `official_classes` or `class_names` say which
classes there are, and `encode_labels` turns names into the numbers of a class list, on the CPU and before the first
step.
"""

from __future__ import annotations

import hashlib
import logging
import os
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
    """A video file, or a folder of images."""
    labels: dict[str, str] = field(default_factory=dict)
    """Class name by label set."""
    start: float | None = None
    """Seconds; None: from the first frame."""
    end: float | None = None
    """Seconds; None: to the last frame."""
    where: str = ""
    """Where this was said, 'labels.csv:12', for messages."""
    fps: float | None = None
    """Images per second of a folder of images; None: 25. A video file knows its own rate."""


Reader = Callable[[Path, str, list[str]], list[Sample]]
"""(root, split, missing) → samples, in the order of the annotations; rows without a video are added to `missing`."""


def readers() -> dict[str, Reader]:
    """The annotation formats by name."""
    from .epic_kitchens import read_epic_kitchens
    from .folder import read_folder
    from .kinetics import read_kinetics
    from .moments import read_moments
    from .ssv2 import read_ssv2
    from .ucf101 import read_hmdb51, read_ucf101

    return {
        "folder": read_folder,
        "kinetics400": read_kinetics,
        "kinetics600": read_kinetics,
        "kinetics700": read_kinetics,
        "ssv2": read_ssv2,
        "epic_kitchens": read_epic_kitchens,
        "moments": read_moments,
        "ucf101": read_ucf101,
        "hmdb51": read_hmdb51,
    }


def official_classes(dataset: str, root: str) -> dict[str, tuple[str, ...]]:
    """Classes and their order as the owners of a data set give them, by label set; {} for "folder", which has none.

    Raises DataError if their file is missing or wrong.
    """
    from .epic_kitchens import epic_kitchens_classes
    from .kinetics import kinetics_classes
    from .moments import moments_classes
    from .ssv2 import ssv2_classes
    from .ucf101 import hmdb51_classes, ucf101_classes

    tables: dict[str, Callable[[Path], dict[str, tuple[str, ...]]]] = {
        "kinetics400": kinetics_classes,
        "kinetics600": kinetics_classes,
        "kinetics700": kinetics_classes,
        "ssv2": ssv2_classes,
        "epic_kitchens": epic_kitchens_classes,
        "moments": moments_classes,
        "ucf101": ucf101_classes,
        "hmdb51": hmdb51_classes,
    }
    return tables[dataset](Path(root)) if dataset in tables else {}


def read(dataset: str, root: str, split: str) -> list[Sample]:
    """The samples of one split, in a fixed order. Raises DataError when there are none or any of them is wrong.

    Rows of an official list whose video is not there are left out, with a warning; `left_out` names them.
    """
    samples, missing = _read(dataset, root, split)
    if missing:
        share = len(missing) / (len(samples) + len(missing))
        logging.getLogger("vivit").warning(
            "%s %s: %d of %d videos (%.1f %%) are not in %s and left out: %s%s",
            *(dataset, split, len(missing), len(samples) + len(missing), 100 * share, root),
            *("; ".join(missing[:3]), " …" if len(missing) > 3 else ""),
        )
    return samples


def left_out(dataset: str, root: str, split: str) -> list[str]:
    """Every row of an official list that `read` leaves out because its video is not there: file, line, name."""
    return _read(dataset, root, split)[1]


def _read(dataset: str, root: str, split: str) -> tuple[list[Sample], list[str]]:
    known = readers()
    if dataset not in known:
        raise DataError(f"unknown dataset {dataset!r}{suggestion(dataset, known)}")
    if not root:
        raise DataError("data.root is not set; give a folder with one subfolder per class, or a .csv or .jsonl file")
    if not Path(root).exists():
        raise DataError(f"data.root {root!r} does not exist (looked in {Path.cwd()})")
    if dataset != "folder" and not Path(root).is_dir():
        raise DataError(f"data.root {root!r} is a file; give the folder that holds the annotations and videos")
    missing: list[str] = []
    samples = known[dataset](Path(root), split, missing)
    label_sets = {tuple(s.labels) for s in samples}
    if len(label_sets) > 1:
        raise DataError(f"{root}: samples differ in their label sets: {sorted(label_sets)}")
    return samples, missing


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
    rows = [f"{os.path.basename(s.path)}|{s.start}|{s.end}|{sorted(s.labels.items())}" for s in samples]
    return hashlib.sha256("\n".join(rows if ordered else sorted(rows)).encode()).hexdigest()[:12]


def listing(title: str, problems: Sequence[str], most: int = 20) -> str:
    """A message with one problem a line, the first `most` of them."""
    more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
    return "\n  ".join([f"{title} ({len(problems)}):", *problems[:most], *more])
