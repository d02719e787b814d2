"""Read and write the manifest, in which `vivit data check` keeps what it found.

With a manifest, training need not open every file again. It is a JSON-lines file in the folder of the data. The first
line is an object: the names of the columns, the classes, and fingerprints of files and folders (`stamps`) that reveal
changes. Then follows one array per file (`FILE_COLUMNS`), then one per sample: number of the file, split, start, end,
fps, group, labels. 250 000 of each load in about a second.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files import atomic_write
from ..text import printable
from .datasets.find_videos import escapes_root, is_hidden
from .sample import Classes, Sample
from .sample_table import FileColumns, SampleColumns, SampleTable, StringColumn, encode_strings, numbers_or_nan

FORMAT = 3
WITHOUT_GROUPS = 2  # a format that is the same but for the groups
READABLE = (1, WITHOUT_GROUPS, FORMAT)  # formats of an index of shards; a manifest of the first is not used
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
ANNOTATIONS = (".csv", ".json", ".jsonl", ".txt")
SAMPLE_COLUMNS = ("file", "split", "start", "end", "fps", "group")  # and the label sets
LABEL = "label "


class FileInfo(NamedTuple):
    """What the manifest says about one file."""

    path: str
    """Relative to the dataset."""
    bytes: int | None = None
    """None: there is no such file."""
    mtime_ns: int = 0
    duration: float = 0.0
    """Seconds."""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    num_frames: int = 0
    """0: unreadable."""
    problem: str | None = None
    sha256: str | None = None
    """Hash of the content; known if another file has the same size."""
    packets: str = ""
    """A packet index, see `vivit.data.packet_index`."""
    offset: int | None = None
    """Where the bytes begin in a tar file."""
    thorough: bool = False
    """Every frame was decoded, not only the first and the last."""


FILE_COLUMNS = FileInfo._fields


def default_path(dataset: str, root: str) -> Path:
    """Return manifest.<dataset>.jsonl in the folder of a dataset, manifest.<table>.jsonl in the folder of a table."""
    place = Path(root)
    return place.parent / f"manifest.{place.stem}.jsonl" if place.is_file() else place / f"manifest.{dataset}.jsonl"


def base_of(root: str) -> str:
    """Return the folder to which the paths of a dataset are relative."""
    return os.path.dirname(root) if os.path.isfile(root) else root


def write_manifest(
    path: Path,
    *,
    dataset: str,
    files: Sequence[FileInfo],
    samples: Mapping[str, Sequence[Sample]],
    classes: Classes,
    missing: Mapping[str, Sequence[str]],
    stamps: Mapping[str, Any],
    number: Mapping[str, int],
    labels: Sequence[str] = (),
) -> None:
    """Write the manifest at once or not at all. `number` gives the place in `files` of each sample's path.

    `labels` are the label sets that were asked for. Raises OSError.
    """
    label_sets = list(next((rows[0].labels for rows in samples.values() if rows), {}))
    header = {
        "manifest": FORMAT,
        "dataset": dataset,
        "file_columns": FILE_COLUMNS,
        "files": len(files),
        "sample_columns": (*SAMPLE_COLUMNS, *label_sets),
        "samples": sum(map(len, samples.values())),
        "splits": list(samples),
        "classes": {name: list(names) for name, names in classes.items()},
        "missing": {split: list(rows) for split, rows in missing.items()},
        "stamps": stamps,
        "labels": list(labels),
    }

    def rows() -> Iterable[Any]:
        yield header
        yield from files
        for split, table in samples.items():
            for s in table:
                yield (number[s.path], split, s.start, s.end, s.fps, s.group, *(s.labels[name] for name in label_sets))

    with atomic_write(path, encoding="ascii") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows())


def read_file_info(path: Path) -> dict[str, FileInfo]:
    """Read what a manifest says about each file, by path; {} if there is no usable manifest."""
    try:
        head, _, body = path.read_text(encoding="ascii").partition("\n")
        header = json.loads(head)
        if header["manifest"] not in (WITHOUT_GROUPS, FORMAT):
            return {}
        columns = _file_columns(header, body.split("\n"))
        return {row[0]: FileInfo(*row) for row in zip(*(columns[name] for name in FILE_COLUMNS))}
    except (OSError, *MALFORMED):
        return {}


class Manifest(NamedTuple):
    header: dict[str, Any]
    columns: SampleColumns
    split: np.ndarray
    """(n,) the place in header["splits"] of each sample's split."""

    def samples(self, split: str) -> SampleTable:
        """Return the samples of one split, in the order of the annotations."""
        rows = np.flatnonzero(self.split == self.header["splits"].index(split))
        return SampleTable(self.columns, rows.astype(np.int32))


def parse_manifest(text: str, *, base: str, name: str) -> Manifest:
    """Parse the text of a manifest whose paths are relative to `base`. Raises DataError."""
    try:
        head, _, body = text.partition("\n")
        header = json.loads(head)
        if header["manifest"] not in READABLE:
            raise ValueError(f"format {header['manifest']!r}, this version reads {FORMAT}")
        lines = body.split("\n")
        f = _file_columns(header, lines)
        s = _sample_columns(header, lines)
        known = FileColumns(
            base,
            StringColumn.of(f["path"]),
            np.array([size or 0 for size in f["bytes"]], np.int64),
            np.array(f["mtime_ns"], np.int64),
            StringColumn.of(f["packets"]),
            np.array(f["offset"], np.int64) if f["offset"] and f["offset"][0] is not None else None,
            {i: p or "unreadable" for i, (p, count) in enumerate(zip(f["problem"], f["num_frames"])) if not count},
        )
        names, codes = encode_strings(
            {name.removeprefix(LABEL): s[name] for name in s if name.startswith(LABEL)}, len(s["file"])
        )
        places = {split: i for i, split in enumerate(header["splits"])}
        columns = SampleColumns(
            known,
            np.array(s["file"], np.int32),
            names,
            codes,
            numbers_or_nan(s["start"]),
            numbers_or_nan(s["end"]),
            numbers_or_nan(s["fps"]),
            groups=StringColumn.of(s["group"]) if any(s.get("group", ())) else None,
        )
        return Manifest(header, columns, np.array([places[split] for split in s["split"]], np.int32))
    except MALFORMED as error:
        what = printable(str(error))[:200]
        raise DataError(f"{name}: not a manifest, or a damaged one ({what}); run vivit data check again") from error


def _file_columns(header: Mapping[str, Any], lines: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Parse and check the columns of files. Raises one of `MALFORMED`."""
    n, names = header["files"], header["file_columns"]
    old = {"thorough"}  # columns that the first format does not have
    if type(n) is not int or not 0 <= n <= len(lines) or not set(FILE_COLUMNS) - old <= set(names) <= set(FILE_COLUMNS):
        raise ValueError(f"{n!r} files with the columns {names!r}")
    columns = _columns(lines[:n], names)
    for name in ("path", "packets"):
        _check(columns, name, {str})
    for name in ("problem", "sha256"):
        _check(columns, name, {str, NoneType})
    for name in ("mtime_ns", "width", "height", "num_frames"):
        _check(columns, name, {int}, -(2**63) if name == "mtime_ns" else 0)
    for name in ("bytes", "offset"):
        _check(columns, name, {int, NoneType})
    for name in ("duration", "fps"):
        _check(columns, name, {int, float})
    if "thorough" in columns:
        _check(columns, "thorough", {bool})
    if len({value is None for value in columns["offset"]}) > 1:
        raise ValueError("only some files have an offset")
    for path in columns["path"]:
        if not path or "\0" in path or escapes_root(path):
            raise ValueError(f"the path {path!r} is not inside the dataset")
    "".join(columns["path"]).encode("utf-8", "surrogateescape")  # a UnicodeEncodeError is a ValueError
    if len(set(columns["path"])) < n:
        raise ValueError("a path occurs twice")
    return columns


def _sample_columns(header: Mapping[str, Any], lines: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Parse and check the columns of samples, and check the rest of the header. Raises one of `MALFORMED`.

    The name of a label set has `LABEL` before it, since it may be that of another column.
    """
    n, m, names, splits = header["files"], header["samples"], header["sample_columns"], header["splits"]
    fixed = SAMPLE_COLUMNS if header["manifest"] == FORMAT else SAMPLE_COLUMNS[:-1]
    label_sets = names[len(fixed) :]
    if type(m) is not int or not 0 <= m <= len(lines) - n or tuple(names[: len(fixed)]) != fixed:
        raise ValueError(f"{m!r} samples with the columns {names!r}")
    if not all(isinstance(name, str) for name in (*names, *splits)) or len(set(label_sets)) < len(label_sets):
        raise ValueError(f"the columns {names!r} and splits {splits!r}")
    missing, stamps, labels = header["missing"], header["stamps"], header.get("labels", [])
    lists = [*missing.values(), labels, splits]
    if (
        not isinstance(header["dataset"], str)
        or not isinstance(stamps, dict)
        or not all(type(x) is list for x in lists)
    ):
        raise ValueError("fields of the header have other types")
    if not all(isinstance(line, str) for rows in (*missing.values(), labels) for line in rows):
        raise ValueError("fields of the header have other types")
    if any("\0" in name or escapes_root(name) for name in stamps):
        raise ValueError("a stamp of a file that is not inside the dataset")
    columns = _columns(lines[n : n + m], [*fixed, *(f"{LABEL}{name}" for name in label_sets)])
    _check(columns, "file", {int}, 0, n - 1)
    for name in ("start", "end", "fps"):
        _check(columns, name, {int, float, NoneType})
    for name in ("split", *[*columns][SAMPLE_COLUMNS.index("group") :]):
        _check(columns, name, {str})
        "".join(set(columns[name])).encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
    if any(a is not None and b is not None and a >= b for a, b in zip(columns["start"], columns["end"])):
        raise ValueError("a part ends before it starts")
    if 0 in columns["fps"]:
        raise ValueError("fps is 0")
    return columns


def _columns(lines: Sequence[str], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Parse lines, one array each, into columns. Python's JSON reader is fastest on a single array of all lines.

    The garbage collector pauses: it would walk over the rows, and over all else in the process, again and again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        rows = json.loads("[" + ",".join(lines) + "]")
        if len(rows) != len(lines) or any(type(row) is not list or len(row) != len(names) for row in rows):
            raise ValueError(f"rows that do not have the {len(names)} columns {', '.join(names)}")
        return dict(zip(names, zip(*rows))) if rows else dict.fromkeys(names, ())
    finally:
        if collects:
            gc.enable()


def _check(
    columns: Mapping[str, Sequence[Any]], name: str, types: set[type], low: int = 0, high: int = 2**63 - 1
) -> None:
    """Raise ValueError for values of other types, and for numbers that are not finite or outside [low, high]."""
    values = columns[name]
    found = set(map(type, values))
    if not found <= types:
        raise ValueError(f"{name} holds {', '.join(sorted(t.__name__ for t in found - types))}")
    if found & {int, float}:
        numbers = [value for value in values if value is not None] if NoneType in found else values
        if not all(low <= value <= high for value in numbers):  # false for NaN
            raise ValueError(f"{name} holds {next(v for v in numbers if not low <= v <= high)!r}")


def load_manifest(path: Path, root: str) -> Manifest:
    """Load the manifest in a file; an unchanged file is read only once."""
    info = path.stat()
    return _load(str(path), base_of(root), info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=1)
def _load(path: str, base: str, size: int, mtime_ns: int) -> Manifest:
    return parse_manifest(Path(path).read_text(encoding="utf-8", errors="replace"), base=base, name=path)


def find_in_manifest(
    dataset: str, root: str, split: str, manifest: str = "", labels: Sequence[str] = ()
) -> tuple[SampleTable, list[str]] | None:
    """Return (samples, missing rows) of a split from the manifest; None if there is none that fits the data.

    Raises DataError if `manifest` names a file that is not there or of another dataset.
    """
    path = Path(manifest) if manifest else default_path(dataset, root)
    if not path.is_file():
        if manifest:
            raise DataError(f"no manifest {path}; vivit data check {dataset} {root} --manifest {path} writes it")
        return None
    found = load_manifest(path, root)
    if found.header["dataset"] != dataset:
        raise DataError(f"{path} is a manifest of {printable(found.header['dataset'])}, not of {dataset}")
    changed = next(changed_paths(found.header["stamps"], root), None)
    why = f"{printable(changed)} has changed since" if changed else ""
    if (os.path.basename(root) if os.path.isfile(root) else "") not in found.header["stamps"]:
        why = "it is of another table or folder"
    oldest = FORMAT if os.path.isfile(root) else WITHOUT_GROUPS  # only a table has groups
    if found.header["manifest"] < oldest:
        why = "it is of an older version"
    elif found.header["labels"] != list(labels):
        asked = " ".join(found.header["labels"]) or "none"
        why = f"it is for other data.labels ({printable(asked)})"
    if why:
        logging.getLogger("vivit").warning("%s is not used: %s; vivit data check brings it up to date", path, why)
    if why or split not in found.header["splits"]:
        return None
    return _recheck(found.samples(split)), found.header["missing"].get(split, [])


def _recheck(samples: SampleTable) -> SampleTable:
    """Return the same samples, without the mark "unreadable" on files that have changed since in size or date."""
    files = samples.columns.files

    def changed(i: int) -> bool:
        try:
            now = os.stat(os.path.join(files.base, files.paths[i]))
        except OSError:
            return False
        size = 0 if stat.S_ISDIR(now.st_mode) else now.st_size
        return (size, now.st_mtime_ns) != (int(files.sizes[i]), int(files.mtimes[i]))

    unreadable = {i: problem for i, problem in files.unreadable.items() if not changed(i)}
    if len(unreadable) == len(files.unreadable):
        return samples
    return SampleTable(replace(samples.columns, files=replace(files, unreadable=unreadable)), samples.rows)


def take_fingerprints(dataset: str, root: str, paths: Sequence[str]) -> dict[str, list]:
    """Take size and date of every annotation file, and the date or the file names of every folder that may hold videos.

    `paths` are those of the videos, relative to the dataset. These fingerprints reveal whether a manifest still fits.
    """
    base = base_of(root)
    if os.path.isfile(root):
        return {name: _fingerprint(base, name) for name in (os.path.basename(root), "classes.json")}
    folders = {""}
    if dataset == "folder":
        videos = set(paths)
        for place, below, _ in os.walk(base, followlinks=False):
            inside = os.path.relpath(place, base)
            below[:] = [n for n in below if not is_hidden(n) and os.path.normpath(f"{inside}/{n}") not in videos]
            folders |= {os.path.normpath(f"{inside}/{n}") for n in below}
    for path in paths:
        folder = os.path.dirname(path)
        while folder not in folders and not os.path.isabs(folder):
            folders.add(folder)
            folder = os.path.dirname(folder)
    return {name: _fingerprint(base, name) for name in sorted({*folders, "classes.json", *_annotations(base, folders)})}


def changed_paths(stamps: Mapping[str, list], root: str) -> Iterator[str]:
    """Yield the paths that have changed since the fingerprints were taken."""
    base = base_of(root)
    return (os.path.join(base, name) for name, stamp in stamps.items() if _fingerprint(base, name) != stamp)


def _annotations(base: str, folders: set[str], folder: str = "", depth: int = 2) -> Iterator[str]:
    """Yield the annotation files of the dataset, down to `depth` folders, outside of the folders that hold videos."""
    for entry in os.scandir(os.path.join(base, folder)):
        name = os.path.join(folder, entry.name)
        if entry.name.startswith((".", "manifest.")):
            continue
        if entry.is_file() and entry.name.endswith(ANNOTATIONS):
            yield name
        elif depth and entry.is_dir() and name not in folders:
            yield from _annotations(base, folders, name, depth - 1)


def _fingerprint(base: str, name: str) -> list:
    path = os.path.join(base, name)
    try:
        if not name:  # the manifest itself may be written here, which changes the folder's date
            names = sorted(n for n in os.listdir(path or ".") if not n.startswith((".", "manifest.")))
            return [len(names), hashlib.sha256("/".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]]
        info = os.stat(path)
    except OSError:
        return []
    return [0 if os.path.isdir(path) else info.st_size, info.st_mtime_ns]
