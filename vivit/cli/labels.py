"""`vivit labels`: labels from and for annotation tools, what to label next, and doubtful labels."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from ..text import printable
from .parse import parse, pick_verb

if TYPE_CHECKING:
    from ..model.vivit import ViViT

USAGES = {
    "import": "vivit labels import FILE --format FORMAT --root FOLDER [--out TABLE]",
    "export": "vivit labels export TABLE --format FORMAT --out FILE",
    "next": "vivit labels next WEIGHTS LIST [--labelled LIST] [options]",
    "doubtful": "vivit labels doubtful WEIGHTS ROOT [options]",
}
Format = Literal["label-studio", "cvat", "fiftyone", "via", "activitynet", "epic", "csv"]


@dataclass(frozen=True)
class Import:
    """Write the labels of an annotation tool as a table that trains a model."""

    file: Positional[str]
    """What the tool exported; for cvat and epic a file or a folder."""
    format: Format
    """The tool."""
    root: str
    """The folder of the videos, which are found by their path or name."""
    out: str = ""
    """The table to write; by default labels.csv in the folder of the videos."""


@dataclass(frozen=True)
class Export:
    """Write the labels of a table in the format of an annotation tool."""

    table: Positional[str]
    """A table of labels, as `vivit train` reads it."""
    format: Format
    """The tool."""
    out: str
    """The file to write; for cvat and epic a folder."""


@dataclass(frozen=True)
class Next:
    """Choose the videos whose labels would help most, and write a table to fill in, with the model's suggestions."""

    weights: Positional[str]
    """A run folder, a folder with model.safetensors, a file or a hub id."""
    list: Positional[str]
    """The unlabelled videos: a folder, or a table with a column path."""
    labelled: str = ""
    """A list of the videos that have labels: they are left out, and not chosen again by coverage."""
    count: int = 20
    """How many videos to choose."""
    strategy: Literal["mixed", "uncertainty", "coverage"] = "mixed"
    """Where the model is unsure, where it has seen nothing similar, or the product of both."""
    out: str = "next.csv"
    """The table to write; fill in its empty label columns to train on it."""
    workers: int | None = None
    """Processes that decode. None: one per core."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it is 1 or more videos")


@dataclass(frozen=True)
class Doubtful:
    """List all labelled videos, the one whose label looks most wrong first.

    A linear head on the features of the model, fitted without the video, says how likely its label is.
    """

    weights: Positional[str]
    """A run folder, a folder with model.safetensors, a file or a hub id."""
    root: Positional[str]
    """The folder of the dataset, or a table of labels."""
    dataset: str = "folder"
    """Reader of the annotations."""
    split: str = "train"
    """The split to examine."""
    out: str = "doubtful.csv"
    """The table to write."""
    workers: int | None = None
    """Processes that decode. None: one per core."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def run(args: list[str]) -> None:
    """Run the verb that the first argument names."""
    verbs = {"import": import_file, "export": export_file, "next": choose, "doubtful": list_doubtful}
    verb, rest = pick_verb("labels", args, verbs, [*USAGES.values()])
    verb(rest)


def import_file(args: list[str]) -> None:
    """Write a table of the labels of a tool."""
    asked = parse(Import, args, usage=USAGES["import"])

    from ..corpus.labels import import_labels

    out = Path(asked.out or Path(asked.root, "labels.csv"))
    rows = import_labels(Path(asked.file), asked.format, Path(asked.root), out)
    print(f"{len(rows)} rows of {len({row.path for row in rows})} videos in {printable(str(out))}", file=sys.stderr)


def export_file(args: list[str]) -> None:
    """Write the labels of a table for a tool."""
    asked = parse(Export, args, usage=USAGES["export"])

    from ..corpus.labels import export_labels

    count = export_labels(Path(asked.table), asked.format, Path(asked.out))
    print(f"{count} labels in {printable(asked.out)}", file=sys.stderr)


def choose(args: list[str]) -> None:
    """Write a table of the videos to label next."""
    asked = parse(Next, args, usage=USAGES["next"])

    from ..corpus.label_choice import write_next

    count = write_next(
        load_model(asked.weights, asked.device),
        asked.list,
        Path(asked.out),
        labelled=asked.labelled,
        count=asked.count,
        strategy=asked.strategy,
        workers=asked.workers,
    )
    print(f"{count} videos to label next in {printable(asked.out)}, the most useful first", file=sys.stderr)


def list_doubtful(args: list[str]) -> None:
    """Write a table of labelled videos, the most doubtful first."""
    asked = parse(Doubtful, args, usage=USAGES["doubtful"])

    from ..corpus.label_choice import write_doubtful
    from ..data.datasets.registry import read_samples

    samples = read_samples(asked.dataset, asked.root, asked.split)
    model = load_model(asked.weights, asked.device)
    count = write_doubtful(model, samples, Path(asked.out), workers=asked.workers)
    print(f"{count} videos in {printable(asked.out)}, the most doubtful label first", file=sys.stderr)


def load_model(weights: str, device: str) -> ViViT:
    """Load weights onto a device."""
    from ..engine.device import choose_attention, pick_device
    from ..engine.evaluate import load_weights

    chosen = pick_device(device)
    choose_attention(chosen)
    return load_weights(weights).to(chosen)
