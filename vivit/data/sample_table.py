"""Hold hundreds of thousands of samples in columns that workers share.

Every worker would end up with a copy of a list of Python objects, because reference counts are written to. The columns
are a handful of objects whatever the number of rows, so a forked worker keeps sharing their memory. A `Sample` is
created when it is asked for.
"""

from __future__ import annotations

import hashlib
import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from ..config import suggestion
from ..errors import DataError
from ..text import listing
from .packet_index import PacketIndex
from .sample import Classes, Sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StringColumn:
    """A column of strings."""

    blob: bytes
    """All strings, one after the other, as UTF-8."""
    ends: np.ndarray
    """(n,) int64: where each one ends."""

    @classmethod
    def of(cls, strings: Sequence[str]) -> StringColumn:
        joined = "".join(strings)
        blob = joined.encode("utf-8", "surrogateescape")  # names of files may be no UTF-8
        if len(blob) == len(joined):
            lengths = map(len, strings)
        else:
            lengths = (len(s.encode("utf-8", "surrogateescape")) for s in strings)
        return cls(blob, np.cumsum(np.fromiter(lengths, np.int64, len(strings))))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        begin = int(self.ends[i - 1]) if i else 0
        return self.blob[begin : int(self.ends[i])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for end in self.ends.tolist():
            yield self.blob[begin:end].decode("utf-8", "surrogateescape")
            begin = end


@dataclass(frozen=True)
class FileColumns:
    """What is known about the files of a dataset, by their number."""

    base: str
    """The folder to which the paths are relative."""
    paths: StringColumn
    sizes: np.ndarray
    """(n,) int64, bytes."""
    mtimes: np.ndarray
    """(n,) int64, nanoseconds."""
    indices: StringColumn
    """Packet indices, "" where there is none."""
    offsets: np.ndarray | None = None
    """(n,) int64: where the bytes begin in the tar file named before "#" in the path; None: not in tar files."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """What is wrong with the files without a readable frame."""


@dataclass(frozen=True)
class SampleColumns:
    """The samples of all splits."""

    files: FileColumns
    file: np.ndarray
    """(n,) int32."""
    names: dict[str, tuple[str, ...]]
    """The labels that occur, sorted, by label set."""
    codes: np.ndarray
    """(n, L) int32: places in `names`."""
    start: np.ndarray
    """(n,) float64 seconds, NaN for none."""
    end: np.ndarray
    fps: np.ndarray
    where: StringColumn | None = None
    groups: StringColumn | None = None
    """`Sample.group`; None: no row has one."""


class SampleTable(Sequence[Sample]):
    """A sequence of samples, stored as rows of `SampleColumns`: about 20 bytes a row, plus the file names."""

    def __init__(self, columns: SampleColumns, rows: np.ndarray):
        self.columns, self.rows = columns, rows

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SampleTable:
        """Make a table of samples, which have the same label sets."""
        if isinstance(samples, SampleTable):
            return samples
        numbers: dict[str, int] = {}
        file = [numbers.setdefault(s.path, len(numbers)) for s in samples]
        first = {number: s for s, number in zip(reversed(samples), reversed(file))}
        known = [first[i].index for i in range(len(numbers))]
        offsets = [first[i].offset for i in range(len(numbers))]
        files = FileColumns(
            "",
            StringColumn.of(list(numbers)),
            np.array([index.size if index else 0 for index in known], np.int64),
            np.array([index.mtime_ns if index else 0 for index in known], np.int64),
            StringColumn.of([index.text if index else "" for index in known]),
            None if None in offsets else np.array(offsets, np.int64),
        )
        label_sets = dict.fromkeys(name for s in samples for name in s.labels)
        labels = {name: [s.labels.get(name, "") for s in samples] for name in label_sets}
        names, codes = encode_strings(labels, len(samples))
        columns = SampleColumns(
            files,
            np.array(file, np.int32),
            names,
            codes,
            numbers_or_nan([s.start for s in samples]),
            numbers_or_nan([s.end for s in samples]),
            numbers_or_nan([s.fps for s in samples]),
            StringColumn.of([s.where for s in samples]),
            StringColumn.of(groups) if any(groups := [s.group for s in samples]) else None,
        )
        return cls(columns, np.arange(len(samples), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        sets = ", ".join(f"{name} ({len(names)} classes)" for name, names in self.columns.names.items())
        return f"SampleTable({len(self)} samples: {sets or 'no labels'})"

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> SampleTable: ...
    def __getitem__(self, i):
        if isinstance(i, slice):
            return SampleTable(self.columns, self.rows[i])
        c, row = self.columns, int(self.rows[i])
        file, known = int(c.file[row]), c.files
        text = known.indices[file]
        return Sample(
            os.path.join(known.base, known.paths[file]),
            {
                name: label
                for (name, labels), code in zip(c.names.items(), c.codes[row].tolist())
                if (label := labels[code])
            },
            *(None if math.isnan(value) else value for value in (float(c.start[row]), float(c.end[row]))),
            where=c.where[row] if c.where else "",
            fps=None if math.isnan(c.fps[row]) else float(c.fps[row]),
            index=PacketIndex(int(known.sizes[file]), int(known.mtimes[file]), text) if text else None,
            offset=None if known.offsets is None else int(known.offsets[file]),
            group=c.groups[row] if c.groups else "",
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def take(self, rows: np.ndarray) -> SampleTable:
        """Return the samples with these numbers."""
        return SampleTable(self.columns, self.rows[rows])

    def with_labels(self, label_sets: Sequence[str]) -> SampleTable:
        """Return the same samples with only these label sets."""
        names = self.columns.names
        codes = self.columns.codes[:, [list(names).index(name) for name in label_sets]]
        columns = replace(self.columns, names={name: names[name] for name in label_sets}, codes=codes)
        return SampleTable(columns, self.rows)

    def readable(self) -> tuple[SampleTable, dict[str, str]]:
        """Return the samples of files not known to be unreadable, and the problem of each unreadable file by path."""
        files, unreadable = self.columns.file[self.rows], self.columns.files.unreadable
        out = np.isin(files, list(unreadable))
        base, paths = self.columns.files.base, self.columns.files.paths
        return self.take(~out), {os.path.join(base, paths[i]): unreadable[i] for i in np.unique(files[out]).tolist()}

    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Return the labels that occur, sorted, by label set."""
        present = {name: np.unique(codes) for name, codes in self._codes().items()}
        return {name: tuple(self.columns.names[name][i] for i in codes.tolist()) for name, codes in present.items()}

    def class_indices(self, label_set: str, classes: Sequence[str]) -> np.ndarray:
        """Return the places of the labels among `classes`, (N,) int64; -1 for a label that is not there."""
        index = {unify(label): i for i, label in enumerate(classes)}
        if label_set not in self.columns.names:
            return np.full(len(self), -1)
        table = np.array([index.get(unify(label), -1) for label in self.columns.names[label_set]], np.int64)
        return table[self._codes()[label_set]]

    def list_hash(self, *, ordered: bool) -> str:
        """See the function `list_hash`."""
        c, rows = self.columns, self.rows
        names = [
            os.path.basename(path.rpartition("#")[2] if c.files.offsets is not None else path) for path in c.files.paths
        ]
        combinations, which = np.unique(c.codes[rows], axis=0, return_inverse=True)
        labels = [
            str(sorted((n, c.names[n][i]) for n, i in zip(c.names, row) if c.names[n][i]))
            for row in combinations.tolist()
        ]
        parts = zip(
            c.file[rows].tolist(), none_for_nan(c.start[rows]), none_for_nan(c.end[rows]), which.ravel().tolist()
        )
        lines = [f"{names[file]}|{start}|{end}|{labels[k]}" for file, start, end, k in parts]
        text = "\n".join(lines if ordered else sorted(lines))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _codes(self) -> dict[str, np.ndarray]:
        return {name: self.columns.codes[self.rows, i] for i, name in enumerate(self.columns.names)}


def unify(name: str) -> str:
    """Normalize the name of a class: composed (NFC), with bytes that are not UTF-8 as visible escapes."""
    if name.isascii():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def encode_strings(labels: Mapping[str, Sequence[str]], n: int) -> tuple[dict[str, tuple[str, ...]], np.ndarray]:
    """Encode columns of labels as the sorted names of each column and the places in them, (n, L) int32."""
    names = {name: tuple(sorted(set(column))) for name, column in labels.items()}
    codes = np.empty((n, len(labels)), np.int32)
    for i, (name, column) in enumerate(labels.items()):
        place = {label: code for code, label in enumerate(names[name])}
        codes[:, i] = [place[label] for label in column]
    return names, codes


def numbers_or_nan(values: Sequence[float | None]) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def none_for_nan(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def class_names(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """Return the class names of each label set, sorted."""
    return SampleTable.of(samples).class_names()


def encode_labels(samples: Sequence[Sample], classes: Classes) -> Tensor:
    """Return class indices (N, L) int64, one column per label set of `classes`.

    Raises DataError that lists every sample without a label or with one outside the class list.
    """
    table = SampleTable.of(samples)
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
    import torch  # not above: reading tables needs only numpy

    return torch.from_numpy(indices)


def list_hash(samples: Sequence[Sample], *, ordered: bool = False) -> str:
    """Hash the file names, segments and labels of a list (and their order, if `ordered`), wherever the files are."""
    return SampleTable.of(samples).list_hash(ordered=ordered)
