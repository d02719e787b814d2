"""`vivit labels`: labels from and for annotation tools, what to label next, and doubtful labels."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..errors import DataError
from ..text import printable
from .parse import WithWeights, parse, pick_verb

USAGES = {
    "edit": "vivit labels edit FOLDER --classes NAME [NAME ...] [options]",
    "import": "vivit labels import FILE --format FORMAT --root FOLDER [--out TABLE]",
    "export": "vivit labels export TABLE --format FORMAT --out FILE",
    "next": "vivit labels next WEIGHTS LIST [--labelled LIST ...] [options]",
    "doubtful": "vivit labels doubtful WEIGHTS ROOT [options]",
}
Format = Literal["label-studio", "cvat", "fiftyone", "via", "activitynet", "epic", "csv"]


@dataclass(frozen=True)
class Edit:
    """Serve a page on this machine to label the videos of a folder by keys; every change is saved at once.

    The same command resumes: the labels of the table are there again.
    """

    folder: Positional[str]
    """The folder of the videos."""
    classes: tuple[str, ...] = ()
    """Class names; keys 1 to 9 are the first nine. Those of the table and of --weights are added."""
    out: str = ""
    """The table of labels; by default labels.csv in the folder."""
    weights: str = ""
    """A model that suggests a label for each video: a run, a folder, a file, a hub id or a start."""
    port: int = 8765
    """Port on 127.0.0.1; 0 for a free one."""
    workers: int | None = None
    """Processes that decode for --weights. None: one per core."""
    device: str = "auto"
    """auto, cpu, cuda or mps, for --weights."""

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; it is 0 to 65535")


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
    """The table to write, a new file; by default labels.csv in the folder of the videos."""


@dataclass(frozen=True)
class Export:
    """Write the labels of a table in the format of an annotation tool."""

    table: Positional[str]
    """A table of labels, as `vivit train` reads it."""
    format: Format
    """The tool."""
    out: str
    """The file to write, a new one; for cvat and epic a folder, new or empty."""


@dataclass(frozen=True)
class Next(WithWeights):
    """Choose the videos whose labels would help most, and write a table to fill in, with the model's suggestions."""

    list: Positional[str]
    """The unlabelled videos: a folder, or a table with a column path."""
    labelled: tuple[str, ...] = ()
    """Lists of the videos that have labels: they are left out, and not chosen again by coverage."""
    count: int = 20
    """How many videos to choose."""
    strategy: Literal["mixed", "uncertainty", "coverage"] = "mixed"
    """Where the model is unsure, where it has seen nothing similar, or the product of both."""
    out: str = "next.csv"
    """The table to write, a new file; fill in its empty label columns to train on it."""
    workers: int | None = None
    """Processes that decode. None: one per core."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it is 1 or more videos")


@dataclass(frozen=True)
class Doubtful(WithWeights):
    """List the labels of all videos, the one that looks most wrong first.

    A linear head on the features of the model, fitted without the video, says how likely its label is.
    """

    root: Positional[str]
    """The folder of the dataset, or a table of labels."""
    dataset: str = "folder"
    """Reader of the annotations."""
    split: str = "train"
    """The split to examine."""
    out: str = "doubtful.csv"
    """The table to write, a new file."""
    workers: int | None = None
    """Processes that decode. None: one per core."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def run(args: list[str]) -> None:
    """Run the verb that the first argument names."""
    verbs = {"edit": edit, "import": import_file, "export": export_file, "next": choose, "doubtful": list_doubtful}
    verb, rest = pick_verb("labels", args, verbs, [*USAGES.values()])
    verb(rest)


def edit(args: list[str]) -> None:
    """Serve the page until Ctrl-C."""
    asked = parse(Edit, args, usage=USAGES["edit"])

    from ..corpus.label_page import LabelServer, open_labelling, suggest
    from ..engine.device import load_to_device

    model = load_to_device(asked.weights, asked.device) if asked.weights else None
    names = [name for several in model.config.classes.values() for name in several] if model else ()
    table = Path(asked.out or Path(asked.folder, "labels.csv"))
    labelling = open_labelling(Path(asked.folder), table, [*asked.classes, *names])
    if model:
        suggest(labelling, model, asked.workers)
    with LabelServer(labelling, asked.port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"open {address}; labels go into {printable(str(table))}; Ctrl-C ends", file=sys.stderr)
        server.serve_forever()


def import_file(args: list[str]) -> None:
    """Write a table of the labels of a tool."""
    asked = parse(Import, args, usage=USAGES["import"])

    from ..corpus.labels import import_labels

    out = Path(asked.out or Path(asked.root, "labels.csv"))
    refuse_existing(out)
    rows = import_labels(Path(asked.file), asked.format, Path(asked.root), out)
    print(f"{len(rows)} rows of {len({row.path for row in rows})} videos in {printable(str(out))}", file=sys.stderr)


def export_file(args: list[str]) -> None:
    """Write the labels of a table for a tool."""
    asked = parse(Export, args, usage=USAGES["export"])

    from ..corpus.labels import export_labels

    refuse_existing(Path(asked.out))
    count = export_labels(Path(asked.table), asked.format, Path(asked.out))
    print(f"{count} labels in {printable(asked.out)}", file=sys.stderr)


def choose(args: list[str]) -> None:
    """Write a table of the videos to label next."""
    asked = parse(Next, args, usage=USAGES["next"])

    from ..corpus.label_choice import write_next
    from ..engine.device import load_to_device

    refuse_existing(Path(asked.out))
    count = write_next(
        load_to_device(asked.weights, asked.device),
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
    from ..engine.device import load_to_device

    refuse_existing(Path(asked.out))
    samples = read_samples(asked.dataset, asked.root, asked.split)
    model = load_to_device(asked.weights, asked.device)
    count = write_doubtful(model, samples, Path(asked.out), workers=asked.workers)
    print(f"{count} videos in {printable(asked.out)}, the most doubtful label first", file=sys.stderr)


def refuse_existing(out: Path) -> None:
    """Raise DataError for a file, or a folder with something in it: both may hold labels that a person made."""
    if any(out.iterdir()) if out.is_dir() else out.exists():
        raise DataError(f"{out} exists, and may hold labels made by hand; give another --out, or move it away")
