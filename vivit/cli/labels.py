"""`vivit labels`: labels from and for annotation tools."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..text import printable
from .parse import parse, pick_verb

USAGES = {
    "import": "vivit labels import FILE --format FORMAT --root FOLDER [--out TABLE]",
    "export": "vivit labels export TABLE --format FORMAT --out FILE",
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


def run(args: list[str]) -> None:
    """Run the verb that the first argument names."""
    verb, rest = pick_verb("labels", args, {"import": import_file, "export": export_file}, [*USAGES.values()])
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
