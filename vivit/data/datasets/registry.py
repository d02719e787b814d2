"""Read the samples and classes of any dataset by its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from ...config import DataConfig, suggestion
from ...errors import DataError
from ...text import printable
from ..manifest import find_in_manifest
from ..sample import Classes, Sample
from ..sample_table import SampleTable
from ..shards import read_shards, shard_classes
from .epic_kitchens import epic_kitchens_classes, read_epic_kitchens
from .folder import folder_classes, read_folder
from .kinetics import kinetics_classes, read_kinetics
from .moments import moments_classes, read_moments
from .ssv2 import read_ssv2, ssv2_classes
from .ucf101 import hmdb51_classes, read_hmdb51, read_ucf101, ucf101_classes

Reader = Callable[[Path, str, list[str]], list[Sample]]
"""(root, split, missing) → samples, in the order of the annotations; rows without a video are added to `missing`."""


ClassReader = Callable[[Path], dict[str, tuple[str, ...]]]
"""root → classes in the order of the owners of the dataset, by label set; {} if no file lists them."""

DATASETS: dict[str, tuple[Reader, ClassReader]] = {
    "folder": (read_folder, folder_classes),
    "kinetics400": (read_kinetics, kinetics_classes),
    "kinetics600": (read_kinetics, kinetics_classes),
    "kinetics700": (read_kinetics, kinetics_classes),
    "ssv2": (read_ssv2, ssv2_classes),
    "epic_kitchens": (read_epic_kitchens, epic_kitchens_classes),
    "moments": (read_moments, moments_classes),
    "ucf101": (read_ucf101, ucf101_classes),
    "hmdb51": (read_hmdb51, hmdb51_classes),
}


def official_classes(dataset: str, root: str) -> dict[str, tuple[str, ...]]:
    """Read the classes of a dataset in the order of its owners, by label set; {} if no file lists them.

    For "folder" that file is classes.json in the folder or next to the table, as `vivit data prepare` writes it.
    Raises DataError if the file is missing or wrong.
    """
    if dataset == "shards":
        return shard_classes(root)
    return DATASETS[dataset][1](Path(root)) if dataset in DATASETS else {}


def known_classes(data: DataConfig) -> Classes:
    """Read the official classes (`official_classes`) of the label sets that the settings choose."""
    classes = official_classes(data.dataset, data.root)
    return {name: classes[name] for name in data.labels if name in classes} if data.labels else classes


def read_samples(dataset: str, root: str, split: str, *, manifest: str = "", labels: Sequence[str] = ()) -> SampleTable:
    """Read the samples of one split, in a fixed order.

    They come from the manifest of `vivit data check` if there is one that fits (at `manifest`, or next to the data),
    else from the annotations. Rows of an official list whose video is not there are left out, with a warning. `labels`
    chooses label sets (of a table: columns); the default is all (of a table: those that look like labels). Raises
    DataError if there are no samples or any of them is wrong.
    """
    if dataset == "shards":
        return choose_labels(read_shards(root, split), labels, root)
    samples, missing = find_in_manifest(dataset, root, split, manifest, labels) or read_annotations(
        dataset, root, split, labels
    )
    if missing:
        share = len(missing) / (len(samples) + len(missing))
        logging.getLogger("vivit").warning(
            "%s %s: %d of %d videos (%.1f %%) are not in %s and left out: %s%s",
            *(dataset, split, len(missing), len(samples) + len(missing), 100 * share, root),
            *(printable("; ".join(missing[:3])), " …" if len(missing) > 3 else ""),
        )
    return SampleTable.of(samples)


def choose_labels(samples: Sequence[Sample], labels: Sequence[str], root: str) -> SampleTable:
    """Return the same samples with only the label sets `labels`, in that order; with all if none is named."""
    table = SampleTable.of(samples)
    there = table.columns.names
    if not labels or tuple(there) == tuple(labels):
        return table
    unknown = [name for name in labels if name not in there]
    if unknown:
        hint = suggestion(unknown[0], there)
        raise DataError(f"{root}: data.labels names no label set {unknown[0]!r}; there are {', '.join(there)}{hint}")
    return table.with_labels(labels)


def left_out(dataset: str, root: str, split: str) -> list[str]:
    """List the rows of an official list that `read_samples` leaves out because the video is not there."""
    return [] if dataset == "folder" else read_annotations(dataset, root, split)[1]


def read_annotations(
    dataset: str, root: str, split: str, labels: Sequence[str] = ()
) -> tuple[Sequence[Sample], list[str]]:
    """Read (samples, rows without a video) of one split from the annotations, without a manifest."""
    if dataset == "shards":
        raise DataError(f"{root}: shards have no annotations; give the dataset from which vivit data prepare made them")
    if dataset not in DATASETS:
        raise DataError(f"unknown dataset {dataset!r}{suggestion(dataset, [*DATASETS, 'shards'])}")
    if not root:
        raise DataError("data.root is not set; give a folder with one subfolder per class, or a .csv or .jsonl file")
    if not Path(root).exists():
        raise DataError(f"data.root {root!r} does not exist (looked in {Path.cwd()})")
    if dataset != "folder" and not Path(root).is_dir():
        raise DataError(f"data.root {root!r} is a file; give the folder that holds the annotations and videos")
    missing: list[str] = []
    if dataset == "folder" and Path(root).is_file():  # whose columns are chosen before its rows are checked
        return read_folder(Path(root), split, missing, labels), missing
    samples = DATASETS[dataset][0](Path(root), split, missing)
    label_sets = {tuple(s.labels) for s in samples}
    if len(label_sets) > 1:
        raise DataError(f"{root}: samples differ in their label sets: {sorted(label_sets)}")
    return choose_labels(samples, labels, root) if labels else samples, missing
