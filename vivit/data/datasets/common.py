"""What all readers share: finding videos, reading rows, collecting all problems.

A reader collects `problems` (wrong rows, which end in one error that lists them all) and `missing` (rows of an official
list whose video is not there, as is common: they are left out and reported).
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import suggestion
from ...errors import DataError
from ...text import listing
from ..sample import Sample

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".webm", ".mkv", ".avi", ".divx", ".wmv", ".asf", ".flv"),
    *(".mpg", ".mpeg", ".mpe", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".ogv", ".ogm", ".mxf", ".gif"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validate", "validation", "validating", "dev", "develop", "development", "eval"),
    "test": ("test", "testing", "tst"),
}
SYSTEM_FOLDERS = {  # folders that photo tools, network drives and operating systems leave; all in lower case
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler"),
    *("system volume information", "lost+found", "__macosx"),
}
GLANCE = 64  # after this many images and nothing else a folder counts as a folder of frames


# Splits


def usual_split(name: str) -> str | None:
    """Return "train", "val" or "test" for its usual spellings (Training, valid, dev-set, test_videos …), else None."""
    word = re.sub(r"^(videos?|data)[-_ ]|[-_ ]?(sets?|splits?|data|videos?)$", "", name.strip().lower())
    return next((split for split, spellings in SPLITS.items() if word in spellings), None)


def split_name(split: str) -> str:
    """Return "train", "val" or "test" for any usual spelling of one of them. Raises DataError for another name."""
    name = usual_split(split)
    if name is None:
        hint = suggestion(split, SPLITS) or "; allowed are train, val and test"
        raise DataError(f"unknown split {split!r}{hint}")
    return name


def labelled_split(split: str, files: Container[str]) -> str:
    """Return `split_name(split)`, if the owners publish labels of that split. Raises DataError for another."""
    name = split_name(split)
    if name not in files:
        raise DataError(f"split {split!r}: the owners keep the labels of the test videos; use train or val")
    return name


# Files


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not the user's: a dot file, or a folder that a system keeps for itself."""
    return name[0] == "." or name.lower() in SYSTEM_FOLDERS


def find_videos(root: str | Path, *, thorough: bool = False, passed_over: Counter[str] | None = None) -> list[str]:
    """Return the sorted paths, relative to `root`, of all videos: video files, and folders with only images.

    Every folder is listed once and no file is opened. Hidden files and folders are skipped. A folder of a million
    frames is not read to its end, unless `thorough`; then the stills of a video file (`_are_stills`) are skipped as
    well. `passed_over` counts everything else by suffix.
    """
    found: list[str] = []
    folders: list[tuple[str, set[str]]] = [("", set())]
    counts: Counter[str] = Counter() if passed_over is None else passed_over
    while folders:
        folder, films = folders.pop()
        videos, below, images = [], [], []
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = entry.name
                suffix = name[name.rfind(".") :].lower()
                if is_hidden(name):
                    if entry.is_dir():
                        counts[f"{name}/"] += 1
                elif suffix in VIDEO_SUFFIXES and entry.is_file():
                    videos.append(name)
                elif suffix in IMAGE_SUFFIXES and not entry.is_dir():
                    images.append(name)
                    if len(images) >= GLANCE and not (videos or below or thorough):
                        break
                elif entry.is_dir():
                    if not (entry.is_symlink() and _leads_back(entry.path)):
                        below.append(f"{folder}{name}/")
                else:
                    counts[os.path.splitext(name)[1].lower() or "no suffix"] += 1
        stems = {name[: name.rfind(".")] for name in videos if name[-4:].lower() != ".gif"}
        if thorough:  # a preview next to its video
            videos = [name for name in videos if name[-4:].lower() != ".gif" or name[:-4] not in stems]
        if images and folder and not (videos or below) and not (thorough and _are_stills(folder, images, films)):
            found.append(folder[:-1])
        else:
            counts.update(os.path.splitext(name)[1].lower() for name in images)
        found += [folder + name for name in videos]
        folders += [(name, stems) for name in below]
    return sorted(found)


def _are_stills(folder: str, images: Sequence[str], films: set[str]) -> bool:
    """Return whether the images of a folder belong to video files next to it: thumbnails, a cover, extracted frames.

    They do if the folder or every image is named after one of the videos (`films`, without suffixes), or if there is
    only one image.
    """
    if not films:
        return False
    if len(images) == 1 or name_of(folder[:-1]) in films:
        return True
    return all(
        any(stem[:end] in films for end in (len(stem), *(m.start() for m in re.finditer("[-_. ]", stem))))
        for stem in (os.path.splitext(name)[0] for name in images)
    )


def has_images(folder: str | Path) -> bool:
    """Return whether a folder holds an image."""
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in entries)


def _leads_back(link: str) -> bool:
    """Return whether a link to a folder points at a folder that contains it."""
    target = os.path.realpath(link)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(link))]) == target


def videos_by(key: Callable[[str], str], root: Path, *, order: Callable[[str], Any] = lambda path: 0) -> dict[str, str]:
    """Map `key(relative path without suffix)` to the path of each video; of several, the first in `order`."""
    paths: dict[str, str] = {}
    for path in find_videos(root):
        stem, dot, suffix = path.rpartition(".")
        name = key(stem if dot + suffix.lower() in VIDEO_SUFFIXES else path)
        if name not in paths or order(path) < order(paths[name]):
            paths[name] = path
    return {name: f"{root}/{path}" for name, path in paths.items()}


def is_file_name(path: str) -> bool:
    """Return whether a path from `find_videos` is a video file rather than a folder."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def name_of(path: str) -> str:
    """Return the last part of a relative path."""
    return path.rsplit("/", 1)[-1]


def find_file(root: Path, names: Sequence[str], what: str, problems: list[str]) -> Path | None:
    """Find the annotation file with the first of these names (or patterns) in root, root/annotations or root/labels.

    Returns None and adds a line to `problems` if there is no such file or a pattern fits several.
    """
    places = [place for place in (root, root / "annotations", root / "labels") if place.is_dir()]
    for name in names:
        found = [path for place in places for path in sorted(place.glob(name)) if path.is_file()]
        if len(found) > 1:
            several = ", ".join(str(path.relative_to(root)) for path in found)
            problems.append(f"{what}: {several} could all be it; keep one of them in {root}")
        if found:
            return found[0] if len(found) == 1 else None
    problems.append(f"{what}: no {' or '.join(names)} in {', '.join(map(str, places)) or root}")
    return None


# Rows


def table_rows(
    table: Path | None, columns: Sequence[str], problems: list[str], *, header: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """Yield ("table.csv:12", trimmed cells of `columns`) from a CSV; errors in the file or a row go to `problems`.

    Without a header the columns are in this order, and more may follow.
    """
    if table is None:
        return
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            names = [name.strip() for name in next(reader, [])] if header else list(columns)
            lacking = [name for name in columns if name not in names]
            if lacking:
                problems.append(f"{table.name}: no column {', '.join(lacking)}; the header is {','.join(names) or '-'}")
                return
            places = [names.index(name) for name in columns]
            last, empty = max(places), True
            for row in reader:
                if not row:
                    continue
                empty = False
                if len(row) > last:
                    yield f"{table.name}:{reader.line_num}", [row[place].strip() for place in places]
                elif any(cell.strip() for cell in row):
                    problems.append(f"{table.name}:{reader.line_num}: {len(row)} fields, expected {','.join(names)}")
                else:
                    problems.append(f"{table.name}:{reader.line_num}: an empty row")
            if empty:
                problems.append(f"{table.name}: no rows")
    except (UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{table.name}: not a readable UTF-8 table: {error}")


def json_rows(path: Path | None, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("list.json:12", object) from a JSON list of objects. Errors go to `problems`."""
    if path is None:
        return
    text, decoder, between = path.read_text(encoding="utf-8-sig"), json.JSONDecoder(), re.compile(r"[\s,]*")
    position, line = len(text) - len(text.lstrip()), 1
    if text[position : position + 1] != "[":
        problems.append(f"{path.name}: a list of objects is expected, it begins with {text[:20]!r}")
        return
    rest = position + 1
    while True:
        start = between.match(text, rest).end()  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        position = start
        if text[start : start + 1] == "]":
            return
        try:
            row, rest = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            problems.append(f"{path.name}:{line}: not JSON: {error.msg}")
            return
        if isinstance(row, dict):
            yield f"{path.name}:{line}", row
        else:
            problems.append(f"{path.name}:{line}: got {str(row)[:80]}; expected an object")


def parse_number(
    value: Any, name: str, wrong: list[str], *, what: str = "seconds, 0 or more", least: float = 0.0
) -> float | None:
    """Parse a number of a row, None for an empty cell; anything else adds a line to `wrong`."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        if str(value).strip() == "":
            return None
        number = math.nan
    if not least <= number < math.inf:
        wrong.append(f"{name} is {value!r}; it takes {what}")
        return None
    return number


def parse_segment(
    start: Any, end: Any, wrong: list[str], names: tuple[str, str] = ("start", "end")
) -> list[float | None]:
    """Parse [start, end] in seconds; errors are added to `wrong`."""
    first, last = parse_number(start, names[0], wrong), parse_number(end, names[1], wrong)
    if first is not None and last is not None and first >= last:
        wrong.append(f"{names[1]} {last} is not after {names[0]} {first}")
    return [first, last]


def empty_fields(names: Sequence[str], cells: Sequence[str]) -> list[str]:
    """Return an error for each empty cell."""
    return [] if all(cells) else [f"{name} is empty" for name, cell in zip(names, cells) if not cell]


def escapes_root(path: str) -> bool:
    """Return whether a path leads out of the folder to which it is relative."""
    return os.path.isabs(path) or (".." in path and os.path.normpath(path).split(os.sep)[0] == "..")


def unknown_label(what: str, label: str, classes: Iterable[str]) -> str:
    """Return the error for a label that is not in the class list."""
    classes = list(classes)
    return f"{what} {label!r} is not among the {len(classes)} classes{suggestion(label, classes)}"


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
