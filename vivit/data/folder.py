"""One's own videos: a folder with one subfolder per class, or a table of paths and labels (CSV or JSONL)."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .annotations import VIDEO_SUFFIXES, csv_rows, empty, find_videos, has_images, outside, part, seconds
from .sample import DataError, Sample, listing

LABEL_SET = "label"  # the name of the only label set of a folder
HELD_OUT = 5  # where no split is given, about one video of this many, per class, is held out


def read_folder(root: Path, split: str, missing: Sequence[str] = ()) -> list[Sample]:
    """The samples of `split` in a folder or table. A video is a file or a folder of images.

    * `root/<split>/<class>/*.mp4` where such a split folder exists;
    * `root/<class>/*.mp4`: of each class about one video in five is held out for every split but "train"; which ones
      depends on the file names alone, so that adding videos moves few;
    * a .csv or .jsonl file: columns `path` (relative to the file, in its folder), optional `start` and `end` in
      seconds, `fps` of folders of images and `split`, and any number of label columns, each one label set. Without
      splits one video in five is held out of each combination of labels, with all its parts.
    """
    samples = _read_table(root, split) if root.is_file() else _read_classes(root, split)
    if not samples:
        raise DataError(
            f"{root}: no video for split {split!r}. Of each class one video in {HELD_OUT} is held out, but none where "
            "a class has only one; add videos, or evaluate on the training videos with --data.eval-split train"
        )
    return samples


def folder_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """The class lists of classes.json, {"label": ["a", "b", …]}, beside a table or in a folder; {} without one."""
    file = (root.parent if root.is_file() else root) / "classes.json"
    try:
        classes = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}") from error
    if not isinstance(classes, dict) or not all(isinstance(names, list) for names in classes.values()):
        raise DataError(f'{file}: expected the class names by label set, {{"label": ["a", "b", …]}}')
    return {name: tuple(map(str, names)) for name, names in classes.items()}


def _read_classes(root: Path, split: str) -> list[Sample]:
    given = (root / split).is_dir() and any(p.is_dir() for p in (root / split).iterdir())
    base = root / split if given else root
    folders = sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    tables = [p for p in (*sorted(root.glob("*.csv")), *sorted(root.glob("*.jsonl"))) if p.name[:9] != "manifest."]
    if not folders or (len(folders) == 1 and tables):
        hint = f"; for the table give {tables[0]}" if tables else ""
        found = f"only {folders[0].name}" if folders else "no folder"
        raise DataError(f"{base}: expected one subfolder per class, found {found}{hint}")
    if not given and {"train", "val", "test"} & {p.name for p in folders}:
        names = ", ".join(p.name for p in folders)
        raise DataError(f"{root}: no split {split!r}; the folders are {names}. Name one with data.eval_split")
    samples: list[Sample] = []
    problems: list[str] = []
    for folder in folders:
        place, labels = folder.relative_to(root).as_posix(), {LABEL_SET: folder.name}
        videos = [f"{place}/{path}" for path in find_videos(folder, thorough=True)]
        if not videos:
            problems.append(f"{folder}: a class folder without videos ({', '.join(VIDEO_SUFFIXES)}, folders of images)")
        chosen = videos if given else _share(videos, split)
        samples += [Sample(f"{root}/{path}", labels, where=path) for path in chosen]
    if problems:
        raise DataError(listing(f"{base}: folders that cannot be used", problems))
    return samples


def _read_table(table: Path, split: str) -> list[Sample]:
    rows = list(_rows(table))
    if not rows:
        raise DataError(f"{table}: no rows; it takes a column 'path' and one or more label columns, one video a row")
    headers = dict.fromkeys(tuple(row) for _, row in rows)
    columns = list(dict.fromkeys(name for header in headers for name in header if name is not None))
    label_sets = [name for name in columns if name not in ("path", "start", "end", "fps", "split")]
    if "path" not in columns:
        raise DataError(f"{table}: no column 'path'; found {', '.join(columns)}. Label columns may have any name")
    if not label_sets:
        raise DataError(f"{table}: no label column beside {', '.join(columns)}")
    has_splits = any(_text(row, "split") for _, row in rows)
    required = ("path", *label_sets, *(["split"] if has_splits else []))
    problems: list[str] = []
    samples: list[Sample] = []
    splits: list[str] = []
    folder, exists = str(table.parent), _Listing(table.parent)
    labels: dict[tuple[str, ...], dict[str, str]] = {}
    places: dict[tuple[str, float | None, float | None], str] = {}
    for number, row in rows:
        where = f"{table.name}:{number}"
        cells = [_text(row, name) for name in required]
        wrong = empty(required, cells)
        if None in row:
            wrong.append(f"more fields than the {len(columns)} columns of the header")
        start, end = part(row.get("start"), row.get("end"), wrong)
        fps = seconds(row.get("fps"), "fps", wrong, what="images per second, above 0", least=1e-3)
        path = cells[0] and os.path.normpath(cells[0])
        if path and outside(path):
            wrong.append(f"{path} lies outside {folder}, the folder of the table")
        elif path and not exists(path):
            wrong.append(f"no file {os.path.join(folder, path)}, and no folder of images")
        first = where if wrong else places.setdefault((path, start, end), where)
        if first != where:
            wrong.append(f"the same part of the same video as {first}")
        problems += [f"{where}: {w}" for w in wrong]
        names = tuple(cells[1 : 1 + len(label_sets)])
        if names not in labels:
            labels[names] = dict(zip(label_sets, names))
        samples.append(Sample(os.path.join(folder, path), labels[names], start, end, where, fps))
        splits.append(cells[-1] if has_splits else "")
    if problems:
        raise DataError(listing(f"{table}: rows that cannot be used", problems))
    if not has_splits:
        return _without_held_out(samples, split)
    chosen = [s for s, name in zip(samples, splits) if name == split]
    if not chosen:
        raise DataError(f"{table}: no row has split {split!r}; there are {', '.join(sorted(set(splits)))}")
    return chosen


class _Listing:
    """Which normal paths below a folder are videos: each folder on the way is listed once, files are not touched."""

    def __init__(self, root: Path):
        self.root = str(root)
        self.folders: dict[str, dict[str, bool]] = {}

    def __call__(self, path: str) -> bool:
        folder, _, name = path.rpartition(os.sep)
        if folder not in self.folders:
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    self.folders[folder] = {entry.name: entry.is_file() for entry in entries}
            except OSError:
                self.folders[folder] = {}
        is_file = self.folders[folder].get(name)
        return is_file or (is_file is False and has_images(os.path.join(self.root, path)))


def _without_held_out(samples: list[Sample], split: str) -> list[Sample]:
    """The rows for "train", or those of the held-out files: all parts of a file are on one side.

    In the order of the hashes of their names, files are held out while every combination of labels in them has room:
    for ceil(n / HELD_OUT) of its n files, none if it has only one.
    """
    combinations: dict[str, set[tuple[str, ...]]] = {}
    for s in samples:
        combinations.setdefault(s.path, set()).add(tuple(s.labels.values()))
    files = Counter(c for several in combinations.values() for c in several)
    room = {c: math.ceil(n / HELD_OUT) if n > 1 else 0 for c, n in files.items()}
    held_out = set()
    for path in sorted(combinations, key=lambda path: _hash(os.path.basename(path)) + path.encode()):
        if all(room[c] for c in combinations[path]):
            held_out.add(path)
            room.update({c: room[c] - 1 for c in combinations[path]})
    return [s for s in samples if (s.path in held_out) != (split == "train")]


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a CSV with a header or a JSONL file."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        try:
            yield from _json_rows(file, table) if table.suffix == ".jsonl" else csv_rows(file, table)
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


def _text(row: dict[str, Any], name: str) -> str:
    """The trimmed text of a cell, "" where there is none."""
    value = row.get(name)
    return "" if value is None else str(value).strip()


def _share(names: list[str], split: str) -> list[str]:
    """The part of `names` for "train", or the held-out part: the first 1 / HELD_OUT in the order of their hashes.

    One more name moves at most one of the others.
    """
    order = sorted(names, key=_hash)
    held_out = set(order[: math.ceil(len(names) / HELD_OUT)] if len(names) > 1 else [])
    return [name for name in names if (name in held_out) != (split == "train")]


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
