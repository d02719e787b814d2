"""Load one split of a dataset with its classes and labels: the one way for all verbs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..config import DataConfig
from ..errors import DataError
from ..text import listing
from .datasets.folder import HELD_OUT, folder_splits, held_out
from .datasets.registry import known_classes, read_samples
from .datasets.split_names import usual_split
from .groups import recordings_known_by
from .manifest import find_in_manifest
from .sample import Classes
from .sample_table import SampleTable, class_names, encode_labels

UNKNOWN = "; videos of one recording may be on both sides: a column group in a table keeps them together"


@dataclass(frozen=True)
class Split:
    """Samples in the order of the list, with their classes."""

    samples: SampleTable
    labels: Tensor
    """(N, L) int64: the class of each sample in each label set."""
    classes: dict[str, tuple[str, ...]]
    """Class names by label set, in the order of the logits."""
    unreadable: dict[str, str]
    """Files that `vivit data check` found unreadable, and why; their samples are left out of a training split."""


def load_split(data: DataConfig, split: str, *, classes: Classes | None = None, training: bool = False) -> Split:
    """Read one split and encode its labels.

    `classes` defaults to the official ones of the dataset or, if there are none, to the labels of this split. Training
    leaves out the samples of unreadable files; a test keeps them, so that they count as missing.

    Raises DataError for labels outside the classes, and for a training split in which no file is readable.
    """
    samples = read_split(data, split)
    if classes is None:
        classes = known_classes(data) or class_names(samples)
    readable, unreadable = samples.readable()
    if training:
        samples = readable
        if not len(samples):
            lines = [f"{path}: {problem}" for path, problem in unreadable.items()]
            raise DataError(listing("none of the training videos can be read", lines))
    named = {name: tuple(names) for name, names in classes.items()}
    return Split(samples, encode_labels(samples, named), named, unreadable)


def read_split(data: DataConfig, split: str) -> SampleTable:
    """Read the samples of one split.

    Where a folder or table has a training split but none to validate on, about a fifth of the training videos, by
    class and recording, is held out for that; another split such as "test" is not used. Raises DataError.
    """
    if split not in (data.train_split, data.eval_split) or not lacks_validation(data):
        return read_samples(data.dataset, data.root, split, manifest=data.manifest, labels=data.labels)
    samples = read_samples(data.dataset, data.root, data.train_split, manifest=data.manifest, labels=data.labels)
    held = np.array(held_out(samples))
    if held.any() and split != data.eval_split:
        return samples.take(~held)
    known_by = recordings_known_by(samples)
    if not held.any():
        raise DataError(
            f"{data.root}: no split {data.eval_split!r}. Of each class one training video in {HELD_OUT} would be held "
            f"out for it, but no class has two recordings{known_by and f', known by {known_by}'}; add videos, or give "
            "another split with --data.eval-split"
        )
    logging.getLogger("vivit").warning(
        "%s has no split %r: %d of the %d training videos are held out for it, by class%s",
        *(data.root, data.eval_split, held.sum(), len(samples)),
        f" and recording, known by {known_by}" if known_by else UNKNOWN,
    )
    return samples.take(held)


def lacks_validation(data: DataConfig) -> bool:
    """Return whether the data is a folder or table with a training split, and "val" is asked for but not there."""
    if data.dataset != "folder" or usual_split(data.eval_split) != "val" or not Path(data.root).exists():
        return False
    if find_in_manifest(data.dataset, data.root, data.eval_split, data.manifest, data.labels):
        return False
    splits = folder_splits(Path(data.root), data.labels)
    return (usual_split(data.train_split) or data.train_split) in splits and "val" not in splits
