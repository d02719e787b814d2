"""Load one split of a dataset with its classes and labels: the one way for all verbs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..config import DataConfig
from ..errors import DataError
from ..text import listing
from .datasets.registry import known_classes, read_samples
from .sample import Classes
from .sample_table import SampleTable, class_names, encode_labels


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
    samples = read_samples(data.dataset, data.root, split, manifest=data.manifest, labels=data.labels)
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
