"""Import labels from annotation tools into a table that trains a model, and export such a table to them."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from ..data.datasets.find_videos import escapes_root, find_videos
from ..data.datasets.label_table import SPECIAL, read_table, table_samples
from ..data.reading import show_reading
from ..data.remote import is_url
from ..data.sample import Sample
from ..errors import DataError, VideoError
from ..files import atomic_write
from ..text import listing
from .label_formats import FORMATS, Label, Labels, VideoKey, read_labels
from .stamps import Stamps, read_stamps


def export_labels(table: Path, name: str, out: Path) -> int:
    """Write the labels of a table of `vivit train` in the format `name`; return how many.

    Formats that count frames get those of the file's own time stamps. Raises DataError, and VideoError for a video
    whose time stamps cannot be read.
    """
    samples, splits = table_samples(table, read_table(table))
    if any(splits):
        logging.getLogger("vivit").warning("%s: the column split is not part of the format %s", table, name)
    videos: Labels = {}
    for sample in show_reading(samples, "labels"):
        path = Path(os.path.relpath(sample.path, table.parent)).as_posix()
        if path not in videos:
            videos[path] = read_stamps(sample.path, sample.fps), []
        videos[path][1].extend(
            Label(path, label, label_set, sample.start, sample.end) for label_set, label in sample.labels.items()
        )
    FORMATS[name].write(out, videos)
    return sum(len(labels) for _, labels in videos.values())


def import_labels(file: Path, name: str, root: Path, out: Path) -> list[Sample]:
    """Write the labels of a tool as a table that trains a model; return its rows.

    Videos are found below `root` by their path, else by their name, which must be that of one video alone. Labels
    of several label sets with the same segment become one row. Raises DataError that lists every label without a
    video, with a segment outside it, without a name, with another label of the same segment, or without a label in
    one of the label sets.
    """
    check_folder(root)
    if not file.exists():
        raise DataError(f"{file}: does not exist; give what {name} exported")
    labels = read_labels(file, name)
    if not labels:
        raise DataError(f"{file}: no label in it")
    find = VideoFinder(root, FORMATS[name].key)
    problems: dict[str, None] = {}
    rows: dict[tuple[str, float | None, float | None], dict[str, str]] = {}
    for one in show_reading(labels, "labels"):
        try:
            path, start, end = in_seconds(one, find)
        except (DataError, VideoError, ValueError) as error:
            problems[str(error)] = None
            continue
        if not str(one.label or "").strip():
            problems[f"{path}: an empty {one.label_set} {describe(start, end)}"] = None
            continue
        found = rows.setdefault((path, start, end), {})
        if found.setdefault(one.label_set, one.label) != one.label:
            problems[
                f"{path}: two labels {describe(start, end)}, {found[one.label_set]!r} and {one.label!r}; one is allowed"
            ] = None
    label_sets = list(dict.fromkeys(one.label_set for one in labels))
    samples = [Sample(path, found, start, end) for (path, start, end), found in rows.items()]
    for sample in samples:
        for missing in set(label_sets) - sample.labels.keys():
            problems[f"{sample.path}: no {missing} {describe(sample.start, sample.end)}"] = None
    if problems:
        raise DataError(listing(f"{file}: labels that cannot be imported", list(problems)))
    write_label_table(out, samples, label_sets)
    return samples


def in_seconds(one: Label, find: VideoFinder) -> tuple[str, float | None, float | None]:
    """Return the path of a label's video and its segment. Raises DataError, VideoError and ValueError."""
    path, stamps = find(one.video)
    if one.frames:
        try:
            return path, *stamps.seconds(*one.frames)
        except ValueError as error:
            raise ValueError(f"{path}: {one.label!r} is from {error}") from error
    start, end = one.start, one.end
    if one.snaps:
        start, end = (None if time is None else stamps.snap(time) for time in (start, end))
    start, end = stamps.open_ends(start, end)
    if start is not None and start >= (stamps.bounds[-1] if end is None else end):
        raise ValueError(f"{path}: {one.label!r} is from {start} s to {end} s; the video lasts {stamps.duration:.3f} s")
    return path, start, end


def describe(start: float | None, end: float | None) -> str:
    """Describe a segment: "from 0 s to the end"."""
    return f"from {start or 0} s to {'the end' if end is None else f'{end:g} s'}"


def check_folder(root: Path) -> None:
    """Raise DataError if there is no folder of videos."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give that of the videos")


class VideoFinder:
    """Finds the videos below a folder as a format names them, see `VideoKey`; keeps time stamps.

    Of a path that leads elsewhere, such as that of another machine, the longest part that fits counts.
    """

    def __init__(self, root: Path, key: VideoKey = "path"):
        self.root, self.stamps = root, dict[str, Stamps]()
        self.paths, self.without_suffix, self.names, self.prefixed = (dict[str, list[str]]() for _ in range(4))
        for path in find_videos(root):
            pure = PurePath(path)
            short, stem = str(pure.with_suffix("")), pure.stem
            for table, names in (
                (self.paths, {path}),
                (self.without_suffix, {short}),
                (self.names, {path, short, pure.name, stem}),
                (self.prefixed, {f"v_{stem}", stem.removeprefix("v_")}),  # as files of ActivityNet may be called
            ):
                for name in names:
                    table.setdefault(name, []).append(path)
        exact = [self.paths, self.without_suffix]
        self.exact = {"path": exact, "path without suffix": exact[::-1], "name": []}[key]

    def __call__(self, video: str) -> tuple[str, Stamps]:
        """Return (path, time stamps). Raises DataError for none or several videos, VideoError for a broken one."""
        pure = PurePath(video if video in self.paths else video.replace("\\", "/"))
        if pure.is_relative_to(root := os.path.abspath(self.root)):
            pure = pure.relative_to(root)
        parts = ["/".join(pure.parts[i:]) for i in range(len(pure.parts))]
        tries = [(parts[0], table) for table in self.exact if parts]
        tries += [(part, table) for part in parts for table in (self.names, self.prefixed)]
        found = next((table[name] for name, table in tries if name in table), [])
        if len(found) != 1:
            what = f"{len(found)} videos ({', '.join(found[:3])})" if found else "no video"
            raise DataError(f"{video}: {what} of this name below {self.root}")
        if found[0] not in self.stamps:
            self.stamps[found[0]] = read_stamps(os.path.join(self.root, found[0]))
        return os.path.join(self.root, found[0]), self.stamps[found[0]]


def write_label_table(out: Path, samples: Iterable[Sample], label_sets: Sequence[str]) -> None:
    """Write a table for `vivit train`, all or nothing. Raises DataError for videos outside its folder, and OSError."""
    columns = ["label" if name in SPECIAL else name for name in label_sets]
    with atomic_write(out, newline="", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "start", "end", *columns])
        for one in samples:
            times = ["" if time is None else repr(time) for time in (one.start, one.end)]
            table.writerow([path_in_table(one.path, out), *times, *(one.labels[name] for name in label_sets)])


def path_in_table(path: str, table: Path) -> str:
    """Return the path of a video in a table to train on. Raises DataError for a video outside the table's folder."""
    folder = os.path.abspath(table.parent)
    inside = os.path.relpath(path, folder)
    if is_url(path) or escapes_root(inside):
        raise DataError(f"{path} is outside {folder}, the folder of {table.name}; give an --out above all videos")
    return Path(inside).as_posix()
