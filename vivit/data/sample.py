"""Samples: a video, its labels by label set, and where in the video it starts and ends.

`read` goes through a table of readers, one annotation format each; `official_classes` or `class_names` say which
classes there are, and `encode_labels` turns names into the numbers of a class list, on the CPU and before the first
step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..config import DataConfig, suggestion
from ..errors import DataError
from ..text import printable, shorten_list
from .packets import PacketIndex

if TYPE_CHECKING:
    from .table import SampleTable

Classes = Mapping[str, Sequence[str]]


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
    index: PacketIndex | None = field(default=None, compare=False, repr=False)
    """What `vivit data check` found when it read the file through."""
    offset: int | None = field(default=None, compare=False, repr=False)
    """Of a video inside a tar file, "shard.tar#member": where its bytes begin; their number is `index.size`."""


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
    """Classes and their order as the owners of a data set give them, by label set; {} where nobody does.

    For "folder" that is classes.json beside the table or in the folder, as `vivit data prepare` writes it.
    Raises DataError if their file is missing or wrong.
    """
    from .epic_kitchens import epic_kitchens_classes
    from .folder import folder_classes
    from .kinetics import kinetics_classes
    from .moments import moments_classes
    from .ssv2 import ssv2_classes
    from .ucf101 import hmdb51_classes, ucf101_classes

    if dataset == "shards":
        from .shards import shard_classes

        return shard_classes(root)
    tables: dict[str, Callable[[Path], dict[str, tuple[str, ...]]]] = {
        "folder": folder_classes,
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


def known_classes(data: DataConfig) -> Classes:
    """The official classes (`official_classes`) of the label sets that the settings choose."""
    classes = official_classes(data.dataset, data.root)
    return {name: classes[name] for name in data.labels if name in classes} if data.labels else classes


def read(dataset: str, root: str, split: str, *, manifest: str = "", labels: Sequence[str] = ()) -> SampleTable:
    """The samples of one split, in a fixed order. Raises DataError when there are none or any of them is wrong.

    They come from the manifest of `vivit data check` where there is one that fits (at `manifest`, or beside the data),
    else from the annotations. Rows of an official list whose video is not there are left out, with a warning. `labels`
    chooses label sets (of a table: columns); without it all are taken (of a table: those that look like labels).
    """
    from .manifest import find

    if dataset == "shards":
        from .shards import read_shards

        return choose_labels(read_shards(root, split), labels, root)
    samples, missing = find(dataset, root, split, manifest, labels) or read_annotations(dataset, root, split, labels)
    if missing:
        share = len(missing) / (len(samples) + len(missing))
        logging.getLogger("vivit").warning(
            "%s %s: %d of %d videos (%.1f %%) are not in %s and left out: %s%s",
            *(dataset, split, len(missing), len(samples) + len(missing), 100 * share, root),
            *(printable("; ".join(missing[:3])), " …" if len(missing) > 3 else ""),
        )
    return _table(samples)


def choose_labels(samples: Sequence[Sample], labels: Sequence[str], root: str) -> SampleTable:
    """The same samples with the label sets `labels` alone, in that order; with all if none is named."""
    table = _table(samples)
    there = table.columns.names
    if not labels or tuple(there) == tuple(labels):
        return table
    unknown = [name for name in labels if name not in there]
    if unknown:
        hint = suggestion(unknown[0], there)
        raise DataError(f"{root}: data.labels names no label set {unknown[0]!r}; there are {', '.join(there)}{hint}")
    return table.with_labels(labels)


def left_out(dataset: str, root: str, split: str) -> list[str]:
    """Every row of an official list that `read` leaves out because its video is not there: file, line, name."""
    return [] if dataset == "folder" else read_annotations(dataset, root, split)[1]


def read_annotations(
    dataset: str, root: str, split: str, labels: Sequence[str] = ()
) -> tuple[Sequence[Sample], list[str]]:
    """(samples, rows without a video) of one split as the annotations say it, without a manifest."""
    from .folder import read_folder

    known = readers()
    if dataset not in known:
        raise DataError(f"unknown dataset {dataset!r}{suggestion(dataset, [*known, 'shards'])}")
    if not root:
        raise DataError("data.root is not set; give a folder with one subfolder per class, or a .csv or .jsonl file")
    if not Path(root).exists():
        raise DataError(f"data.root {root!r} does not exist (looked in {Path.cwd()})")
    if dataset != "folder" and not Path(root).is_dir():
        raise DataError(f"data.root {root!r} is a file; give the folder that holds the annotations and videos")
    missing: list[str] = []
    if dataset == "folder" and Path(root).is_file():  # whose columns are chosen before its rows are checked
        return read_folder(Path(root), split, missing, labels), missing
    samples = known[dataset](Path(root), split, missing)
    label_sets = {tuple(s.labels) for s in samples}
    if len(label_sets) > 1:
        raise DataError(f"{root}: samples differ in their label sets: {sorted(label_sets)}")
    return choose_labels(samples, labels, root) if labels else samples, missing


def class_names(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """The class names of each label set, sorted."""
    return _table(samples).class_names()


def encode_labels(samples: Sequence[Sample], classes: Classes) -> Tensor:
    """Class indices (N, L) int64, one column per label set of `classes`.

    Raises DataError that lists every sample without a label or with one outside the class list.
    """
    table = _table(samples)
    columns = [table.class_indices(name, labels) for name, labels in classes.items()]
    indices = np.stack(columns, axis=1) if columns else np.empty((len(table), 0), np.int64)
    problems = []
    for i, column in np.argwhere(indices < 0).tolist():
        s, (name, labels) = table[i], list(classes.items())[column]
        label = s.labels.get(name, "")
        got = f"{name} {label!r} is not among the {len(labels)} classes" if label else f"no {name}"
        problems.append(f"{s.where or s.path}: {got}{suggestion(label, labels) if label else ''}")
    if problems:
        raise DataError(listing("labels do not fit the class list", problems))
    return torch.from_numpy(indices)


def list_hash(samples: Sequence[Sample], *, ordered: bool = False) -> str:
    """A short hash of the videos, parts and labels of a list (and of their order), wherever the files lie."""
    return _table(samples).list_hash(ordered=ordered)


def _table(samples: Sequence[Sample]) -> SampleTable:
    from .table import SampleTable

    return SampleTable.of(samples)


def listing(title: str, problems: Sequence[str], most: int = 20) -> str:
    """A message with one problem a line, the first `most` of them."""
    return "\n  ".join([f"{title} ({len(problems)}):", *map(printable, shorten_list(problems, most))])
