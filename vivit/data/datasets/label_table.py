"""Read a table of paths and labels: CSV of any tool, or JSON lines; UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import suggestion
from ...errors import DataError
from ...text import listing, printable
from ..reading import show_reading
from ..sample import Sample
from ..sample_table import unify
from .find_videos import has_images
from .rows import csv_records, empty_fields, parse_fps, parse_segment
from .split_names import usual_split

SPECIAL = ("path", "start", "end", "fps", "split")
LABEL_NAMES = {
    *("label", "labels", "label_name", "class", "classes", "class_name", "classname", "category", "action", "activity"),
    *("verb", "noun", "object", "target", "gesture", "event", "emotion", "sign", "gloss", "exercise", "behavior"),
    *("behaviour", "scene"),
}
NOT_LABELS = {
    *(
        "id",
        "index",
        "number",
        "no",
        "row",
        "uid",
        "uuid",
        "video_id",
        "clip_id",
        "youtube_id",
        "ytid",
        "video",
        "clip",
    ),
    *("file", "filename", "file_name", "name", "url", "link", "source", "dataset", "md5", "sha256", "hash", "checksum"),
    *("camera", "camera_id", "cam", "view", "subject", "subject_id", "person", "person_id", "participant", "actor"),
    *("actor_id", "participant_id", "session", "annotator", "user", "group", "fold", "date", "time", "timestamp"),
    *("frames", "num_frames", "nframes", "n_frames", "frame_count", "nb_frames", "start_frame", "end_frame"),
    *("stop_frame", "frame_rate", "framerate", "width", "height", "resolution", "duration", "length", "seconds"),
    *("time_start", "time_end", "start_time", "end_time", "bytes", "file_size", "codec", "format", "bitrate"),
    *("confidence", "score", "votes", "weight", "is_cc", "note", "notes", "comment", "comments", "remarks", "subset"),
    *("caption", "description", "narration", "text", "transcript", "sentence"),
}
GAPS = {  # what pandas.read_csv takes for a missing value, and R writes for one; a class may be called so
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
}
HOW_TO_LABEL = (
    "Where the label is the name of the video's folder, give that folder's parent instead of a table; where it is part "
    "of the file's name, add a column with it (docs/guides/datasets.md, 'A table', shows how)"
)


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table, and what its columns are."""

    rows: list[tuple[int, dict[str, Any]]]
    """(line number, cells by column)."""
    columns: tuple[str, ...]
    label_sets: tuple[str, ...]
    choice: str
    """Which columns are the labels and why, for people."""


def read_table(
    table: Path, labels: Sequence[str] = (), listed: Sequence[str] = (), *, need_labels: bool = True
) -> LabelTable:
    """Read the rows and choose the label columns: `labels`, else those that classes.json has (`listed`), else by name.

    Raises DataError for a file that is no table or has no column `path`, or that needs a label and has none.
    """
    rows = read_rows(table)
    if not rows:
        raise DataError(f"{table}: no rows; it takes a column 'path' and one or more label columns, one video a row")
    columns = tuple(dict.fromkeys(name for _, row in rows for name in row if name is not None))
    if "path" not in columns:
        raise DataError(f"{table}: no column 'path'; found {', '.join(columns)}. Label columns may have any name")
    if not need_labels and {_key(name) for name in columns} <= {*SPECIAL, *NOT_LABELS}:
        return LabelTable(rows, columns, (), "no label columns")
    return LabelTable(rows, columns, *choose_labels(table, columns, labels, listed))


def read_rows(table: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read (line number, cells by column) of a CSV of any delimiter or of JSON lines. Raises DataError and OSError."""
    text = read_text(table)
    return list(_json_rows(text, table) if table.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(text, table))


def choose_labels(
    table: Path, columns: Sequence[str], labels: Sequence[str], listed: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    """Return the label columns, and a sentence that says why these."""
    others = [name for name in columns if name not in SPECIAL]
    names = {_key(name): name for name in others}
    if labels:
        unknown = [name for name in labels if _key(name) not in names]
        if unknown:
            hint = suggestion(unknown[0], others)
            raise DataError(f"{table}: data.labels names no column {unknown[0]!r}; there are {', '.join(others)}{hint}")
        chosen, why = tuple(dict.fromkeys(names[_key(name)] for name in labels)), "as data.labels says"
    elif any(name in listed for name in others):
        chosen, why = tuple(name for name in others if name in listed), "as classes.json says"
    elif any(key in LABEL_NAMES for key in names):
        chosen, why = tuple(name for name in others if _key(name) in LABEL_NAMES), "by the usual names of labels"
    else:
        chosen = tuple(name for name in others if _key(name) not in NOT_LABELS)
        why = "every column that is not known to be something else"
    if not chosen:
        known = f"; {', '.join(others)} are not taken for labels, --data.labels {others[0]} would" if others else ""
        raise DataError(f"{table}: no label column besides {', '.join(columns)}{known}. {HOW_TO_LABEL}")
    left = [name for name in others if name not in chosen]
    rest = f"; not labels: {', '.join(left)} (--data.labels NAME … chooses others)" if left else ""
    return chosen, f"label columns: {', '.join(chosen)} ({why}){rest}"


def table_samples(table: Path, read: LabelTable) -> tuple[list[Sample], list[str]]:
    """Return (samples, split of each, "" without splits). Raises DataError that lists every unusable row."""
    has_splits = any(_text(row, "split") for _, row in read.rows)
    required = ("path", *read.label_sets, *(["split"] if has_splits else []))
    group_columns = [name for name in read.columns if _key(name) == "group" and name not in read.label_sets][:1]
    problems: list[str] = []
    samples: list[Sample] = []
    splits: list[str] = []
    folder, find = str(table.parent), _Finder(str(table.parent))
    labels: dict[tuple[str, ...], dict[str, str]] = {}
    places: dict[tuple[str, float | None, float | None], str] = {}
    for number, row in show_reading(read.rows, f"rows of {printable(table.name)}"):
        where = f"{table.name}:{number}"
        cells = [_text(row, name) for name in required]
        wrong = empty_fields(required, cells)
        if None in row:
            wrong.append(f"more fields than the {len(read.columns)} columns of the header")
        for name in (*required[1:], *group_columns):
            wrong += _faults(row, name)
        group = _text(row, group_columns[0]) if group_columns else ""
        group = "" if group in GAPS else group
        start, end = parse_segment(row.get("start"), row.get("end"), wrong)
        path, is_file = find(cells[0], wrong)
        fps = None
        if not is_file:  # a file knows its own rate
            fps = parse_fps(row.get("fps"), wrong)
        first = where if wrong else places.setdefault((path, start, end), where)
        if first != where:
            wrong.append(f"the same segment of the same video as {first}")
        problems += [f"{where}: {w}" for w in wrong]
        names = tuple(map(unify, cells[1 : 1 + len(read.label_sets)])) if not wrong else ()
        samples.append(
            Sample(
                os.path.join(folder, path),
                labels.setdefault(names, dict(zip(read.label_sets, names))),
                start,
                end,
                where,
                fps,
                group="" if wrong else unify(group),
            )
        )
        splits.append(usual_split(cells[-1]) or cells[-1] if has_splits else "")
    if problems:
        raise DataError(listing(f"{table}: rows that cannot be used", problems))
    return samples, splits


class _Finder:
    """Finds the videos of a table below its folder; each folder is listed once, files are not opened."""

    def __init__(self, root: str):
        self.root, self.real = os.path.abspath(root), os.path.realpath(root)
        self.folders: dict[str, dict[str, bool]] = {}
        self.composed: dict[str, dict[str, str]] = {}

    def __call__(self, path: str, wrong: list[str]) -> tuple[str, bool]:
        """Return (path below the root as it is on the disk, whether it is a file); errors are added to `wrong`."""
        if not path:
            return "", True
        for spelling in dict.fromkeys((path, path.replace("\\", "/"))):  # as Windows writes it
            inside = self._inside(spelling)
            found = inside and self._find(inside)
            if inside and found:
                is_file = self._list(os.path.dirname(found))[os.path.basename(found)]
                try:
                    if is_file or has_images(os.path.join(self.root, found)):
                        return found, is_file
                    fault = "is a folder without images"
                except OSError as error:  # a folder that cannot be listed, a pipe, a broken link
                    fault = f"cannot be opened ({error.strerror})"
                wrong.append(f"{os.path.join(self.root, found)} {fault}")
                return path, True
        inside = self._inside(path) and self._inside(path.replace("\\", "/"))
        if inside:
            wrong.append(f"no file {os.path.join(self.root, inside)}, and no folder of images{self._hint(inside)}")
        else:
            wrong.append(f"{path} is outside {self.root}, the folder of the table")
        return path, True

    def _inside(self, path: str) -> str:
        """Return the path relative to the root; "" for one that leads out of it."""
        if os.path.isabs(path):
            path = os.path.normpath(path)
            for root in dict.fromkeys((self.root, self.real)):
                if path.startswith(root.rstrip("/") + "/"):
                    return os.path.relpath(path, root)
            return ""
        inside = os.path.relpath(os.path.normpath(os.path.join(self.root, path)), self.root)
        return "" if inside == ".." or inside.startswith("../") else inside

    def _find(self, path: str) -> str | None:
        """Return the path as the disk spells it: letters with accents may be composed (NFC) or not (NFD)."""
        folder, name = os.path.split(path)
        if name in self._list(folder):
            return path
        actual = self._find(folder) if folder else folder
        if actual is None:
            return None
        if actual not in self.composed:
            self.composed[actual] = {unicodedata.normalize("NFC", other): other for other in self._list(actual)}
        other = self.composed[actual].get(unicodedata.normalize("NFC", name))
        return other and os.path.join(actual, other)

    def _list(self, folder: str) -> dict[str, bool]:
        if folder not in self.folders:
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    self.folders[folder] = {entry.name: entry.is_file() for entry in entries}
            except (OSError, ValueError):  # a null byte or half a surrogate pair is no path
                self.folders[folder] = {}
        return self.folders[folder]

    def _hint(self, path: str) -> str:
        """Suggest a file of the same name in other capitals, or with a suffix."""
        folder, name = os.path.split(path)
        names = self._list(folder)
        near = [n for n in names if n.lower() == name.lower() or os.path.splitext(n)[0] == name]
        return f"; did you mean {near[0]}?" if near else ""


# Rows


def read_text(table: Path) -> str:
    """Read a UTF-8 or UTF-16 file, with or without a byte order mark; other bytes become surrogate escapes.

    Raises DataError for a file that is not text.
    """
    data = table.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif (
        data[:64:2].count(0) > 8 or data[1:64:2].count(0) > 8
    ):  # UTF-16 without a mark has a zero in every Latin letter
        encoding = "utf-16-le" if data[1:64:2].count(0) > 8 else "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not a readable UTF-8 or UTF-16 table: {error}") from error
    if "\0" in text:
        raise DataError(f"{table}: not a readable UTF-8 or UTF-16 table: it holds null bytes; save it as CSV (UTF-8)")
    return text


def delimiter_of(header: str) -> str:
    """Choose comma, semicolon or tab: the one that splits the header into most columns, if possible with `path`."""

    def columns(delimiter: str) -> tuple[bool, int]:
        cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        return "path" in map(_key, cells), len(cells)

    return max((",", ";", "\t"), key=columns)


def _csv_rows(text: str, table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (first line, row by column) of a CSV with any columns; cells beyond the header have the key None."""
    lines = io.StringIO(text, newline="")
    header = lines.readline()
    skipped = 0
    if re.fullmatch(r'"?sep=.\s*"?\s*', header):  # written by and for Excel
        header, skipped = lines.readline(), 1
    delimiter = delimiter_of(header)
    try:
        rows = csv_records(header + lines.read(), delimiter, first_line=skipped + 1)
        names = [_column(name) for name in next(rows)[1]]
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if repeated or "" in names:
            wrong = f"column {repeated[0]!r} occurs more than once" if any(repeated) else "a column without a name"
            raise DataError(f"{table}: {wrong}, in the header {','.join(names)}")
        for line, cells in rows:
            if not cells:
                continue
            row: dict[Any, Any] = dict(zip(names, cells))
            if len(cells) < len(names):
                row |= dict.fromkeys(names[len(cells) :], "")
            elif len(cells) > len(names):
                row[None] = cells[len(names) :]
            if delimiter != ",":  # where a comma separates nothing it may be a decimal point
                for name in ("start", "end", "fps"):
                    if re.fullmatch(r"\s*\d*,\d+\s*", row.get(name, "")):
                        row[name] = row[name].replace(",", ".")
            yield line, row
    except csv.Error as error:
        raise DataError(f"{table}: not a readable table, {error}") from error


def _json_rows(text: str, table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=lambda name: None if name == "NaN" else float(name))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{table}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f'{table}:{number}: got {line.strip()[:80]}; a line is an object {{"path": …, "label": …}}')
        yield number, {_column(name): value for name, value in row.items()}


def _key(column: str) -> str:
    """Normalize capitals, spaces and dashes in the name of a column."""
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _column(name: str) -> str:
    """Normalize the name of a column if it is `path`, `start` … in any capitals; keep other names."""
    return _key(name) if _key(name) in SPECIAL else name.strip()


def _text(row: dict[str, Any], name: str) -> str:
    """Return the trimmed text of a cell, "" for none."""
    value = row.get(name)
    return "" if value is None else str(value).strip()


def _faults(row: dict[str, Any], name: str) -> list[str]:
    """Return what keeps a cell from being the name of a class, split or group."""
    text = _text(row, name)
    if isinstance(row.get(name), list | dict):
        return [f"{name} is {text[:80]}; it takes one text"]
    if "\n" in text:
        return [f"{name} has a line break: {text[:80]!r}; is a quote missing?"]
    try:
        text.encode()
    except UnicodeEncodeError:
        return [f"{name} is not UTF-8: {text!r}"]
    return []
