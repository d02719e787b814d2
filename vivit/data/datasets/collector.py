"""Collect the samples and problems of a dataset while its annotations are read.

A reader collects `problems` (wrong rows, which end in one error that lists them all) and `missing` (rows of an official
list whose video is not there, as is common: they are left out and reported).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...config import suggestion
from ...errors import DataError
from ...text import listing
from ..sample import Sample


@dataclass
class SampleCollector:
    """Samples and problems that a reader has found so far in the annotations of `root`."""

    root: Path
    missing: list[str]
    layouts: Sequence[str]
    """Descriptions of the accepted layouts, for the error when there is no video."""
    problems: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        where: str,
        name: str,
        path: str | None,
        labels: dict[str, str],
        wrong: list[str],
        *,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
    ) -> None:
        """Add a row as a sample, a missing video (`path` None) or a problem; its `name` must be unique."""
        if not wrong and self.places.setdefault(name, where) != where:
            wrong.append(f"{name} again, after {self.places[name]}")
        if wrong:
            self.problems += [f"{where}: {w}" for w in wrong]
        elif path is None:
            self.missing.append(f"{where}: no video {name}")
        else:
            self.samples.append(Sample(path, labels, start, end, where, fps))

    def checked(self) -> list[Sample]:
        """Return the samples. Raises DataError with all problems, or if there is no video."""
        if self.problems:
            raise DataError(listing(f"{self.root}: annotations that cannot be used", self.problems))
        if self.samples:
            return self.samples
        if not self.missing:
            raise DataError(f"{self.root}: the list of the split has no rows")
        accepted = "\n  ".join(["accepted, below this folder:", *self.layouts])
        title = f"{self.root}: none of the videos is there"
        raise DataError(f"{listing(title, self.missing, most=3)}\n{accepted}")


def checked_classes(classes: dict[str, list[str]], problems: list[str], root: Path) -> dict[str, tuple[str, ...]]:
    """Return the classes by label set. Raises DataError if there are `problems` with their files."""
    if problems:
        raise DataError(listing(f"{root}: no list of classes", problems))
    return {label_set: tuple(names) for label_set, names in classes.items()}


def unknown_label(what: str, label: str, classes: Iterable[str]) -> str:
    """Return the error for a label that is not in the class list."""
    classes = list(classes)
    return f"{what} {label!r} is not among the {len(classes)} classes{suggestion(label, classes)}"
