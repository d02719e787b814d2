"""Look at a data set once, before training does: every label and every video, and keep what was found in a manifest."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np

from ...config import DataConfig, ModelConfig
from ...errors import DataError, VideoError
from ...text import printable, shorten_list
from ..clips import frame_range
from ..dataset import time_limit
from ..datasets.common import escapes_root, find_videos, usual_split
from ..datasets.label_table import read_table
from ..datasets.registry import known_classes, read_annotations
from ..manifest import FileInfo, base_of, default_path, read_file_info, take_fingerprints, write_manifest
from ..packet_index import PacketIndex
from ..sample import Classes, Sample
from ..sample_table import SampleTable, class_names
from ..video.decoder import Video
from ..video.frame_folder import FrameFolder, open_video
from .process_pool import cores, map_in_processes

MOST = 10  # of one kind, on the terminal
FEW_CLASSES = 50  # as many as are shown one by one
TIMEOUT = 600  # seconds for one file
HANGS = 3 * TIMEOUT  # after which a process that stops for nothing is killed; twenty times that where all is decoded

PROBLEMS = {
    "annotations": "labels that cannot be used",
    "unreadable": "files without a frame that decodes; training leaves them out",
    "damaged": "files of which a part can be used",
    "mislabelled": "labels that are not among the classes",
    "outside": "parts in which their video shows nothing: after its end, or before its first frame",
    "leak": "the same video in more than one split",
    "duplicated": "the same video more than once in a split",
    "manifest": "what was found is not kept",
}
WARNINGS = {
    "missing": "in the official list, but not there; common, and left out",
    "classes": "classes that cannot be learned or measured well",
    "passed over": "not read as videos of the data set",
    "not kept": "the next check and training read everything again",
}


@dataclass(frozen=True)
class Report:
    """Counts per split and class, and everything that is wrong."""

    videos: dict[str, int] = field(default_factory=dict)
    """By split."""
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    """Split → label set → class → videos."""
    classes: Classes = field(default_factory=dict)
    columns: str = ""
    """Of a table: which columns are labels and why."""
    files: Sequence[FileInfo] = ()
    opened: int = 0
    """How many files were opened; the others are as they were when the manifest was written."""
    found: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong, by kind, see `PROBLEMS` and `WARNINGS`."""
    short: list[str] = field(default_factory=list)
    """Videos shorter than a clip, shortest first. No fault: a clip of them starts over at the beginning."""
    clip: str = ""
    manifest: Path | None = None
    """Where the manifest was written."""

    @property
    def problems(self) -> list[str]:
        """What is to be mended."""
        return [line for kind in PROBLEMS for line in self.found.get(kind, ())]

    @property
    def warnings(self) -> list[str]:
        """What is worth knowing."""
        return [line for kind in WARNINGS for line in self.found.get(kind, ())]

    @property
    def seconds(self) -> float:
        return sum(info.duration for info in self.files)

    def __str__(self) -> str:
        lines = [f"{n} videos in {split}" for split, n in self.videos.items()]
        lines += [self.columns] if self.columns else []
        for label_set, names in self.classes.items():
            lines += ["", *self._table(label_set, names)]
        lines += ["", *self._files()]
        if self.short:
            lines += ["", f"{len(self.short)} shorter than {self.clip}: a clip of them starts over at the beginning"]
            lines += shorten_list(self.short, 3, indent="  ")
        for title, kinds, several in (("warnings", WARNINGS, self.warnings), ("problems", PROBLEMS, self.problems)):
            if several or kinds is PROBLEMS:
                lines += ["", f"{len(several)} {title}"]
            for kind, what in kinds.items():
                if self.found.get(kind):
                    lines += [
                        f"{kind} ({len(self.found[kind])}): {what}",
                        *shorten_list(self.found[kind], MOST, indent="  "),
                    ]
        if self.manifest:
            lines += ["", f"written to {self.manifest}"]
        return "\n".join(map(printable, lines))

    def _table(self, label_set: str, names: Sequence[str]) -> list[str]:
        """Videos of every class, or, of many classes, those with the most and the fewest."""
        rows = [(name, [sets[label_set][name] for sets in self.counts.values()]) for name in names]
        lines = [f"{label_set:24}" + "".join(f"{split:>10}" for split in self.counts)]
        if len(rows) > FEW_CLASSES:
            rows.sort(key=lambda row: -row[1][0])
            absent = sum(not numbers[0] for _, numbers in rows)
            first = next(iter(self.counts))
            lines[0] += f"   ({len(rows)} classes, the most and least frequent; {absent} have no video in {first})"
            rows = [*rows[:MOST], ("…", []), *rows[-MOST:]]
        return lines + [f"  {printable(name):22}" + "".join(f"{n:>10}" for n in numbers) for name, numbers in rows]

    def _files(self) -> list[str]:
        usable = [f for f in self.files if f.num_frames]
        size = sum(f.bytes or 0 for f in self.files)
        as_before = len(self.files) - self.opened
        lines = [
            f"{len(self.files)} files, {size / 2**20:.1f} MiB, {self.seconds / 60:.1f} minutes"
            f" ({self.opened} opened now" + (f", {as_before} unchanged since the last check)" if as_before else ")")
        ]
        if usable:
            for name, values in {
                "size": Counter(f"{f.width}x{f.height}" for f in usable),
                "rate": Counter(f"{f.fps:.4g}/s" for f in usable),
            }.items():
                most = ", ".join(f"{value} {n}" for value, n in values.most_common(4))
                lines.append(f"  {name}: {most}" + (f" and {len(values) - 4} others" if len(values) > 4 else ""))
            counts = sorted(f.num_frames for f in usable)
            lines.append(f"  frames: {counts[0]} to {counts[-1]}, half have at least {counts[len(counts) // 2]}")
        return lines


def check(
    root: str,
    /,
    dataset: str = "folder",
    splits: tuple[str, ...] = ("train", "val"),
    labels: tuple[str, ...] = (),
    thorough: bool = False,
    workers: int | None = None,
    manifest: str = "",
    num_frames: int = ModelConfig().num_frames,
    frame_stride: float = ModelConfig().preprocessing.frame_stride,
) -> Report:
    """Read every label, open every video that has changed since the last check, write the manifest, report.

    Args:
        root: The folder of the data set, or a .csv or .jsonl file.
        dataset: The reader of the annotations.
        splits: The splits to look at.
        labels: The label columns of a table, as data.labels; those whose names say so if not given.
        thorough: Decode every frame, not only the first and the last: finds damage in the middle.
        workers: Processes that open videos; one per core if not given.
        manifest: Where to write the manifest; beside the data if not given.
        num_frames: Frames of a clip, to tell which videos are shorter.
        frame_stride: Every which frame of the video a clip takes.
    """
    workers = workers or cores()
    found: defaultdict[str, list[str]] = defaultdict(list)
    path = Path(manifest) if manifest else default_path(dataset, root)
    samples, missing = read_splits(dataset, root, splits, found, labels)
    refused = why_not_writable(path)  # known before hours of reading
    if refused and manifest:
        raise DataError(f"{refused}; give another place with --manifest")

    base = base_of(root)
    jobs = {
        s.path: CheckJob(s.path, relative(s.path, base), s.fps, thorough) for rows in samples.values() for s in rows
    }
    files, opened = probe_files(list(jobs.values()), read_file_info(path), workers)
    files = add_hashes(files, base, workers)
    number = {path: i for i, path in enumerate(jobs)}

    official = known_classes(DataConfig(root=root, dataset=dataset, labels=labels))
    classes = {name: tuple(names) for name, names in (official or class_names(next(iter(samples.values())))).items()}
    counts = {s: {name: Counter(x.labels.get(name, "") for x in r) for name in classes} for s, r in samples.items()}
    note_files(files, found)
    note_duplicates(files, number, samples, found)
    note_labels(samples, classes, found)
    note_classes(counts, found)
    note_passed_over(dataset, root, jobs.values(), found)
    span = round((num_frames - 1) * frame_stride) + 1
    short = note_parts(samples, files, number, span, found)

    if not refused:
        try:
            write_manifest(
                path,
                dataset=dataset,
                files=files,
                samples=samples,
                classes=classes,
                missing=missing,
                stamps=take_fingerprints(dataset, root, [info.path for info in files]),
                number=number,
                labels=labels,
            )
        except OSError as error:  # the report is worth more than the manifest
            found["manifest"].append(f"{path} cannot be written ({error.strerror})")
    else:
        found["not kept"].append(
            f"{refused}; --manifest PATH, then train with --data.manifest PATH, uses another place"
        )
    return Report(
        videos={split: len(rows) for split, rows in samples.items()},
        counts=counts,
        classes=classes,
        columns=read_table(Path(root), labels, tuple(official)).choice if Path(root).is_file() else "",
        files=files,
        opened=opened,
        found=dict(found),
        short=short,
        clip=f"the {span} frames of one clip ({num_frames} frames, stride {frame_stride:g})",
        manifest=None if refused or found["manifest"] else path,
    )


def why_not_writable(path: Path) -> str:
    """Why no file can be written at this place; "" if one can."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            return ""
    except OSError as error:
        return f"{path} cannot be written ({error.strerror})"


def read_splits(
    dataset: str, root: str, splits: Sequence[str], found: dict[str, list[str]], labels: Sequence[str] = ()
) -> tuple[dict[str, SampleTable], dict[str, list[str]]]:
    """The samples and missing rows of each split; what is wrong with annotations is noted, all of it."""
    samples: dict[str, SampleTable] = {}
    missing: dict[str, list[str]] = {}
    for split in splits:
        try:
            rows, missing[split] = read_annotations(dataset, root, split, labels)
            samples[split] = SampleTable.of(rows)
            found["missing"] += [f"{split}, {line}" for line in missing[split]]
        except DataError as error:
            if len(splits) == 1 or not Path(root).exists():
                raise
            found["annotations"] += [line for line in str(error).split("\n") if line not in found["annotations"]]
    if not samples:
        raise DataError("\n".join(found["annotations"]))
    return samples, missing


def relative(path: str, base: str) -> str:
    """`path` as it stands in the manifest: relative to the data set where it lies inside."""
    inside = os.path.relpath(path, base or ".")
    return os.path.abspath(path) if escapes_root(inside) else inside


class CheckJob(NamedTuple):
    """A file to look at."""

    path: str
    name: str
    """Its path in the manifest."""
    fps: float | None
    thorough: bool = False
    """Whether to decode every frame."""


def probe_files(jobs: Sequence[CheckJob], known: Mapping[str, FileInfo], workers: int) -> tuple[list[FileInfo], int]:
    """What each file is, and how many had to be opened because size or date are not those in `known`."""
    files = {job: unchanged_info(job, known.get(job.name)) for job in jobs}
    todo = [job for job, info in files.items() if info is None]
    for job, info in map_in_processes(
        probe_video, todo, workers=workers, title="reading videos", on_crash=crash_info, timeout=HANGS
    ):
        files[job] = info
    return [info for info in files.values() if info is not None], len(todo)


def unchanged_info(job: CheckJob, before: FileInfo | None) -> FileInfo | None:
    """What can be said of a file without opening it: that it is as it was, or is not there."""
    try:
        now = os.stat(job.path)
    except OSError as error:
        return FileInfo(job.name, problem=error.strerror)
    size = 0 if stat.S_ISDIR(now.st_mode) else now.st_size
    same = before and (before.bytes, before.mtime_ns) == (size, now.st_mtime_ns)
    return before if before and same and before.thorough >= job.thorough else None


def probe_video(job: CheckJob) -> FileInfo:
    """Open a video, decode its first and last frame, or every frame; whatever goes wrong is its problem."""
    info = FileInfo(job.name, thorough=job.thorough)
    try:
        now = os.stat(job.path)
        info = info._replace(bytes=0 if stat.S_ISDIR(now.st_mode) else now.st_size, mtime_ns=now.st_mtime_ns)
        with time_limit(job.path, seconds=TIMEOUT):
            video = open_video(job.path, fps=job.fps)
            video.frames([0, video.num_frames - 1])
        damage = None
        if job.thorough:
            with time_limit(job.path, seconds=TIMEOUT + 10 * video.duration):
                damage = video.damage() if isinstance(video, Video) else damaged_images(video)
    except VideoError as error:
        return info._replace(problem=f"{error.reason}; expected {error.expected}")
    except Exception as error:  # of any library: one file must not end the check of all
        return info._replace(problem=f"cannot be read ({type(error).__name__}: {error}); expected a video")
    return info._replace(
        duration=round(video.duration, 6),
        width=video.width,
        height=video.height,
        fps=round(video.fps, 6),
        num_frames=video.num_frames,
        problem="; ".join(filter(None, (video.problem, damage))) or None,
        packets=video.packet_index().text if isinstance(video, Video) else "",
    )


def damaged_images(folder: FrameFolder) -> str | None:
    """Which images of a folder cannot be read; None if all can."""
    problems = []
    for index in range(folder.num_frames):
        try:
            folder.frames([index])
        except VideoError as error:
            problems.append(f"{os.path.basename(error.path)} {error.reason}")
    return ", ".join(shorten_list(problems, most=3)) or None


def crash_info(job: CheckJob) -> FileInfo:
    """What is said of a file whose worker ended."""
    reason = "reading it ends the process (a crash in the decoder)"
    try:
        now = os.stat(job.path)
    except OSError as error:
        return FileInfo(job.name, problem=error.strerror)
    return FileInfo(job.name, now.st_size, now.st_mtime_ns, problem=reason, thorough=job.thorough)


def add_hashes(files: Sequence[FileInfo], base: str, workers: int) -> list[FileInfo]:
    """The same files with the hash of the content of those that share their size with another."""
    sizes = Counter(info.bytes for info in files if info.bytes)
    todo = [
        os.path.join(base, info.path) for info in files if info.bytes and sizes[info.bytes] > 1 and info.sha256 is None
    ]
    hashes = dict(
        map_in_processes(sha256, todo, workers=workers, title="comparing equal sizes", on_crash=lambda path: "")
    )
    return [info._replace(sha256=hashes.get(os.path.join(base, info.path), info.sha256)) for info in files]


def sha256(path: str) -> str:
    """The hash of the content; "" for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def note_files(files: Sequence[FileInfo], found: dict[str, list[str]]) -> None:
    for info in files:
        if info.problem:
            found["damaged" if info.num_frames else "unreadable"].append(f"{info.path}: {info.problem}")


def note_duplicates(
    files: Sequence[FileInfo],
    number: Mapping[str, int],
    samples: Mapping[str, SampleTable],
    found: dict[str, list[str]],
) -> None:
    """Files with the same bytes."""
    splits: list[set[str]] = [set() for _ in files]
    for split, rows in samples.items():
        for s in rows:
            splits[number[s.path]].add(split)
    same: defaultdict[str, list[int]] = defaultdict(list)
    for i, info in enumerate(files):
        if info.sha256:
            same[info.sha256].append(i)
    for group in same.values():
        if len(group) > 1:
            leak = len(set.union(*(splits[i] for i in group))) > 1
            line = " = ".join(f"{files[i].path}" for i in group)
            found["leak" if leak else "duplicated"].append(line)


def note_labels(samples: Mapping[str, SampleTable], classes: Classes, found: dict[str, list[str]]) -> None:
    for table in samples.values():
        for name, names in classes.items():
            for i in (table.class_indices(name, names) < 0).nonzero()[0].tolist():
                s = table[i]
                got = (
                    f"{name} {s.labels[name]!r} is not among the {len(names)} classes"
                    if name in s.labels
                    else f"no {name}"
                )
                found["mislabelled"].append(f"{s.where or s.path}: {got}")


def note_classes(counts: Mapping[str, Mapping[str, Counter[str]]], found: dict[str, list[str]]) -> None:
    """Classes that training or the test sees too little of; the first split is that of training."""

    def note(label_set: str, names: Sequence[str], what: str) -> None:
        if names:
            shown = ", ".join(shorten_list([repr(name) for name in sorted(names)], most=5))
            found["classes"].append(f"{label_set}: {what}: {shown}")

    first, *others = counts
    for label_set, train in counts[first].items():
        train = +train
        if len(train) == 1:
            note(label_set, list(train), "a single class, so there is nothing to tell apart")
        note(label_set, [name for name, n in train.items() if n == 1], f"a single clip in {first}")
        for split in others:
            there = counts[split][label_set]
            note(label_set, [name for name in train if not there[name]], f"no clip in {split}")
        by_spelling: defaultdict[str, set[str]] = defaultdict(set)
        for name in {name for split in counts for name in counts[split][label_set]}:
            by_spelling[re.sub(r"[\s_-]+", " ", name.casefold().strip())].add(name)
        for names in by_spelling.values():
            if len(names) > 1:
                note(label_set, list(names), "classes whose names differ in capitals, spaces or dashes only")


def note_passed_over(dataset: str, root: str, jobs: Collection[CheckJob], found: dict[str, list[str]]) -> None:
    """Files below the data set that are no videos, by suffix; of class folders also videos that are in no class."""
    if os.path.isfile(root):
        return
    counts: Counter[str] = Counter()
    videos = find_videos(root, thorough=dataset == "folder", passed_over=counts)
    counts = Counter({what: n for what, n in counts.items() if what not in (".csv", ".json", ".jsonl")})
    if counts:
        shown = ", ".join(shorten_list([f"{n} {what}" for what, n in counts.most_common()], most=8))
        found["passed over"].append(f"other files and system folders: {shown}")
    if dataset != "folder":
        return
    used = {job.name.split("/")[0] for job in jobs}
    unused = Counter(path.split("/")[0] if "/" in path else "" for path in videos)
    for top, n in unused.items():
        if top not in used and not usual_split(top):
            place = f"the folder {top}" if top else "no folder"
            found["passed over"].append(f"{n} videos in {place}, which is neither a class nor one of the splits")
    below = defaultdict(set)
    for job in jobs:
        below[job.name.split("/")[0]].add(job.name.split("/")[1] if job.name.count("/") > 1 else "")
    if len(below) > 1 and not any(map(usual_split, below)):
        shared = set.intersection(*below.values()) - {""}
        if shared and not any("" in inside for inside in below.values()):
            names = ", ".join(shorten_list(sorted(shared), most=3))
            tops = ", ".join(shorten_list(sorted(below), most=3))
            found["classes"].append(f"every folder ({tops}) holds folders {names}; the classes are the outer ones")


def note_parts(
    samples: Mapping[str, Sequence[Sample]],
    files: Sequence[FileInfo],
    number: Mapping[str, int],
    span: int,
    found: dict[str, list[str]],
) -> list[str]:
    """Videos or parts of fewer frames than `span`, shortest first; parts outside their video are noted."""
    short: list[tuple[int, str]] = []
    for rows in samples.values():
        for s in rows:
            info = files[number[s.path]]
            if not info.num_frames:
                continue
            name, frames = info.path, info.num_frames
            if s.start is not None or s.end is not None:
                name += f" from {s.start or 0:g} to {info.duration if s.end is None else s.end:g} s"
                times = frame_times(s.path, s.fps, PacketIndex(info.bytes or 0, info.mtime_ns, info.packets))
                frames = len(frame_range(times, info.duration, s.start, s.end))
                if not frames:
                    late = f"shows frames from {times[0]:.2f} s to" if times[0] > 0 else "lasts"
                    found["outside"].append(f"{s.where or name}: {name}, which {late} {info.duration:.2f} s")
            if frames < span:
                short.append((frames, f"{name}: {frames} frames"))
    return [line for _, line in sorted(short)]


@lru_cache(maxsize=4)
def frame_times(path: str, fps: float | None, index: PacketIndex | None) -> np.ndarray:
    """When each frame of a video appears; the file is read for it only if there is no packet index."""
    return open_video(path, fps=fps, index=index if index and index.text else None).times
