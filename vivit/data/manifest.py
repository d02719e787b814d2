"""The manifest: what `vivit data check` found out about a data set, so that training need not touch every file again.

A JSON-lines file beside the data. The first line is an object: the names of the columns, classes, and the stamps by
which a change is noticed. Then follow one array per file (`FILE_COLUMNS`), then one per sample: the file's number,
split, start, end, fps, labels. A quarter of a million of each load in about a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .sample import Classes, DataError, Sample
from .table import Columns, Files, SampleTable, Texts, encode, numbers_or_nan

FORMAT = 1
ANNOTATIONS = (".csv", ".json", ".jsonl", ".txt")
SAMPLE_COLUMNS = ("file", "split", "start", "end", "fps")  # and the label sets


class Facts(NamedTuple):
    """What is known of one file, as it stands in the manifest."""

    path: str
    """Relative to the data set."""
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
    """Of the content; known where another file has the same size."""
    packets: str = ""
    """A packet index, see `vivit.data.packets`."""
    offset: int | None = None
    """In a tar file, where the bytes begin."""


FILE_COLUMNS = Facts._fields


def default_path(dataset: str, root: str) -> Path:
    """manifest.<dataset>.jsonl in the folder of a data set, manifest.<table>.jsonl beside a table."""
    place = Path(root)
    return place.parent / f"manifest.{place.stem}.jsonl" if place.is_file() else place / f"manifest.{dataset}.jsonl"


def base_of(root: str) -> str:
    """What the paths of a data set are relative to."""
    return os.path.dirname(root) if os.path.isfile(root) else root


def write(
    path: Path,
    *,
    dataset: str,
    files: Sequence[Facts],
    samples: Mapping[str, Sequence[Sample]],
    classes: Classes,
    missing: Mapping[str, Sequence[str]],
    stamps: Mapping[str, Any],
    number: Mapping[str, int],
) -> None:
    """Write the manifest at once or not at all. `number` gives the place in `files` of each sample's path."""
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
    }

    def rows() -> Iterable[Any]:
        yield header
        yield from files
        for split, table in samples.items():
            for s in table:
                yield (number[s.path], split, s.start, s.end, s.fps, *(s.labels[name] for name in label_sets))

    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows())
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); give another place with --manifest") from error


def read_facts(path: Path) -> dict[str, Facts]:
    """What a manifest says of each file, by path; {} if there is none that can be used."""
    try:
        with path.open(encoding="ascii") as file:
            header = json.loads(file.readline())
            if header.get("manifest") != FORMAT:
                return {}
            rows = (Facts(*json.loads(file.readline())) for _ in range(header["files"]))
            return {row.path: row for row in rows}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


class Manifest(NamedTuple):
    header: dict[str, Any]
    columns: Columns
    split: np.ndarray
    """(n,) which of header["splits"] each sample is in."""

    def samples(self, split: str) -> SampleTable:
        """Those of one split, in the order of the annotations."""
        rows = np.flatnonzero(self.split == self.header["splits"].index(split))
        return SampleTable(self.columns, rows.astype(np.int32))


def parse(text: str, *, base: str, name: str) -> Manifest:
    """The manifest with this text; `base`: what its paths are relative to. Raises DataError."""
    try:
        head, _, body = text.partition("\n")
        header = json.loads(head)
        if header["manifest"] != FORMAT:
            raise DataError(
                f"{name}: format {header['manifest']}, this version reads {FORMAT}; run vivit data check again"
            )
        lines = body.split("\n")
        n, m = header["files"], header["samples"]
        f = _columns(lines[:n], header["file_columns"])
        s = _columns(lines[n : n + m], header["sample_columns"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: not a manifest, or a damaged one ({error}); run vivit data check again") from error
    known = Files(
        base,
        Texts.of(f["path"]),
        np.array([size or 0 for size in f["bytes"]], np.int64),
        np.array(f["mtime_ns"], np.int64),
        Texts.of(f["packets"]),
        np.array(f["offset"], np.int64) if n and f["offset"][0] is not None else None,
        {i: p for i, (p, count) in enumerate(zip(f["problem"], f["num_frames"])) if not count},
    )
    names, codes = encode({name: s[name] for name in header["sample_columns"][len(SAMPLE_COLUMNS) :]}, m)
    places = {split: i for i, split in enumerate(header["splits"])}
    columns = Columns(
        known,
        np.array(s["file"], np.int32),
        names,
        codes,
        numbers_or_nan(s["start"]),
        numbers_or_nan(s["end"]),
        numbers_or_nan(s["fps"]),
    )
    return Manifest(header, columns, np.array([places[split] for split in s["split"]], np.int32))


def _columns(lines: Sequence[str], names: Sequence[str]) -> dict[str, list]:
    """Arrays of equal length, one a line → columns. One flat array is what Python's JSON reader is quickest with."""
    flat = json.loads("[" + "\n".join(lines)[1:-1].replace("]\n[", ",") + "]")
    if len(flat) != len(lines) * len(names):
        raise ValueError(f"{len(flat)} values in {len(lines)} rows of {len(names)} columns")
    return {name: flat[i :: len(names)] for i, name in enumerate(names)}


def load(path: Path, root: str) -> Manifest:
    """The manifest in a file; read once while the file stays as it is."""
    facts = path.stat()
    return _load(str(path), base_of(root), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1)
def _load(path: str, base: str, size: int, mtime_ns: int) -> Manifest:
    return parse(Path(path).read_text(encoding="utf-8"), base=base, name=path)


def find(
    dataset: str, root: str, split: str, manifest: str = "", labels: Sequence[str] = ()
) -> tuple[SampleTable, list[str]] | None:
    """(samples, missing rows) of a split from the manifest; None where there is none that fits the data.

    Raises DataError if `manifest` names a file that is not there or of another data set.
    """
    path = Path(manifest) if manifest else default_path(dataset, root)
    if not path.is_file():
        if manifest:
            raise DataError(f"no manifest {path}; vivit data check {dataset} {root} --manifest {path} writes it")
        return None
    found = load(path, root)
    if found.header["dataset"] != dataset:
        raise DataError(f"{path} is a manifest of {found.header['dataset']}, not of {dataset}")
    changed = next(changes(found.header["stamps"], root), None)
    if changed:
        logging.getLogger("vivit").warning(
            "%s is not used: %s has changed since; vivit data check brings it up to date", path, changed
        )
    if changed or split not in found.header["splits"]:
        return None
    return found.samples(split), found.header["missing"].get(split, [])


def stamps(root: str, paths: Iterable[str]) -> dict[str, list]:
    """Of every annotation file size and date, of every folder with videos the date or the names in it.

    `paths` are those of the videos, relative to the data set. By these stamps a manifest knows that it still fits.
    """
    base = base_of(root)
    if os.path.isfile(root):
        beside = [os.path.basename(root), "classes.json"]
        return {name: _stamp(base, name) for name in beside if os.path.exists(os.path.join(base, name))}
    folders = {""}
    for path in paths:
        folder = os.path.dirname(path)
        while folder not in folders and not os.path.isabs(folder):
            folders.add(folder)
            folder = os.path.dirname(folder)
    return {name: _stamp(base, name) for name in sorted(folders | set(_annotations(base, folders)))}


def changes(stamps: Mapping[str, list], root: str) -> Iterator[str]:
    """What is no longer as it was when the stamps were taken."""
    base = base_of(root)
    return (os.path.join(base, name) for name, stamp in stamps.items() if _stamp(base, name) != stamp)


def _annotations(base: str, folders: set[str], folder: str = "", depth: int = 2) -> Iterator[str]:
    """Annotation files in the data set, down to `depth` folders, leaving out those that hold videos."""
    for entry in os.scandir(os.path.join(base, folder)):
        name = os.path.join(folder, entry.name)
        if entry.name.startswith((".", "manifest.")):
            continue
        if entry.is_file() and entry.name.endswith(ANNOTATIONS):
            yield name
        elif depth and entry.is_dir() and name not in folders:
            yield from _annotations(base, folders, name, depth - 1)


def _stamp(base: str, name: str) -> list:
    path = os.path.join(base, name)
    try:
        if not name:  # the manifest itself may be written here, which changes the folder's date
            names = sorted(n for n in os.listdir(path or ".") if not n.startswith((".", "manifest.")))
            return [len(names), hashlib.sha256("/".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]]
        facts = os.stat(path)
    except OSError:
        return []
    return [0 if os.path.isdir(path) else facts.st_size, facts.st_mtime_ns]
