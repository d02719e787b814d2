"""One's own videos: a folder with one subfolder per class, or a table of paths and labels (CSV or JSONL)."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .sample import DataError, Sample, listing

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
LABEL_SET = "label"  # the name of the only label set of a folder
HELD_OUT = 5  # where no split is given, about one video of this many, per class, is held out


def read_folder(root: Path, split: str) -> list[Sample]:
    """The samples of `split` in a folder or table.

    * `root/<split>/<class>/*.mp4` where such a split folder exists;
    * `root/<class>/*.mp4`: of each class about one video in five is held out for every split but "train"; which ones
      depends on the file names alone, so that adding videos moves few;
    * a .csv or .jsonl file: columns `path` (relative to the file), optional `start` and `end` in seconds and `split`,
      and any number of label columns, each one label set. Without splits one row in five is held out of each
      combination of labels.
    """
    samples = list(_read_table(root, split) if root.is_file() else _read_classes(root, split))
    if not samples:
        raise DataError(
            f"{root}: no video for split {split!r}. Of each class one video in {HELD_OUT} is held out, but none where "
            "a class has only one; add videos, or evaluate on the training videos with --data.eval-split train"
        )
    return samples


def _read_classes(root: Path, split: str) -> Iterator[Sample]:
    given = (root / split).is_dir() and any(p.is_dir() for p in (root / split).iterdir())
    base = root / split if given else root
    folders = sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        tables = [p.name for p in sorted(root.glob("*.csv")) + sorted(root.glob("*.jsonl"))]
        hint = f"; for the table give {root / tables[0]}" if tables else ""
        raise DataError(f"{base}: expected one subfolder per class, found no folder{hint}")
    if not given and {"train", "val", "test"} & {p.name for p in folders}:
        names = ", ".join(p.name for p in folders)
        raise DataError(f"{root}: no split {split!r}; the folders are {names}. Name one with data.eval_split")
    for folder in folders:
        videos = sorted(p for p in folder.rglob("[!.]*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        if not videos:
            raise DataError(f"{folder}: a class folder without videos ({', '.join(VIDEO_SUFFIXES)})")
        chosen = videos if given else _share(videos, split, [str(v.relative_to(root)) for v in videos])
        for video in chosen:
            yield Sample(str(video), {LABEL_SET: folder.name}, where=str(video.relative_to(root)))


def _read_table(table: Path, split: str) -> Iterator[Sample]:
    rows = list(_rows(table))
    if not rows:
        raise DataError(f"{table}: no rows; it takes a column 'path' and one or more label columns, one video a row")
    columns = list(dict.fromkeys(name for _, row in rows for name in row if name is not None))
    label_sets = [name for name in columns if name not in ("path", "start", "end", "split")]
    if "path" not in columns:
        raise DataError(f"{table}: no column 'path'; found {', '.join(columns)}. Label columns may have any name")
    if not label_sets:
        raise DataError(f"{table}: no label column beside {', '.join(columns)}")
    has_splits = any(_text(row, "split") for _, row in rows)
    required = ("path", *label_sets, *(["split"] if has_splits else []))
    problems, samples, splits = [], [], []
    for number, row in rows:
        where = f"{table.name}:{number}"
        wrong = [f"{name} is empty" for name in required if not _text(row, name)]
        if None in row:
            wrong.append(f"more fields than the {len(columns)} columns of the header")
        times = [_seconds(row.get(name), name, wrong) for name in ("start", "end")]
        if None not in times and times[0] >= times[1]:  # type: ignore[operator]
            wrong.append(f"end {times[1]} is not after start {times[0]}")
        path = table.parent / _text(row, "path")
        if _text(row, "path") and not path.is_file():
            wrong.append(f"no file {path}")
        problems += [f"{where}: {w}" for w in wrong]
        samples.append(Sample(str(path), {name: _text(row, name) for name in label_sets}, *times, where=where))
        splits.append(_text(row, "split"))
    if problems:
        raise DataError(listing(f"{table}: rows that cannot be used", problems))
    if has_splits:
        chosen = [s for s, name in zip(samples, splits) if name == split]
        if not chosen:
            raise DataError(f"{table}: no row has split {split!r}; there are {', '.join(sorted(set(splits)))}")
        yield from chosen
    else:
        alike: dict[tuple[str, ...], list[int]] = {}
        for i, s in enumerate(samples):
            alike.setdefault(tuple(s.labels.values()), []).append(i)
        names = [f"{Path(s.path).name}|{s.start}" for s in samples]
        shares = (_share(group, split, [names[i] for i in group]) for group in alike.values())
        yield from (samples[i] for i in sorted(i for share in shares for i in share))


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a CSV with a header or a JSONL file."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        try:
            yield from _json_rows(file, table) if table.suffix == ".jsonl" else _csv_rows(file, table)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table}: not a readable UTF-8 {table.suffix or 'csv'} table: {error}") from error


def _json_rows(lines: Iterable[str], table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{table}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f'{table}:{number}: got {line.strip()[:80]}; a line is an object {{"path": …, "label": …}}')
        yield number, row


def _csv_rows(lines: Iterable[str], table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, skipinitialspace=True)
    names = [name.strip() for name in reader.fieldnames or []]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated or "" in names:
        wrong = f"column {repeated[0]!r} stands there more than once" if any(repeated) else "a column without a name"
        raise DataError(f"{table}: {wrong}, in the header {','.join(names)}")
    reader.fieldnames = names
    for row in reader:
        yield reader.line_num, row


def _text(row: dict[str, Any], name: str) -> str:
    """The trimmed text of a cell, "" where there is none."""
    value = row.get(name)
    return "" if value is None else str(value).strip()


def _seconds(value: Any, name: str, wrong: list[str]) -> float | None:
    if value is None or str(value).strip() == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        wrong.append(f"{name} is {value!r}; it takes seconds, 0 or more")
        return None
    return seconds


def _share(items: list, split: str, names: list[str]) -> list:
    """The part of `items` for "train", or the held-out part: the first 1 / HELD_OUT in the order of names' hashes.

    One more item moves at most one of the others.
    """
    order = sorted(range(len(items)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    held_out = set(order[: math.ceil(len(items) / HELD_OUT)] if len(items) > 1 else [])
    return [item for i, item in enumerate(items) if (i in held_out) != (split == "train")]
