"""Look at a data set once, before training does: every label and every video, and keep what was found in a manifest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import ModelConfig
from ..errors import VideoError, as_video_error
from .clips import frame_range
from .dataset import time_limit
from .decode import Video
from .frames import open_video
from .manifest import Facts, base_of, default_path, read_facts, stamps, write
from .packets import PacketIndex
from .parallel import cores, in_processes
from .sample import Classes, DataError, Sample, class_names, official_classes, read_annotations
from .table import SampleTable

MOST = 10  # of one kind, on the terminal
FEW_CLASSES = 50  # as many as are shown one by one
TIMEOUT = 600  # seconds for one file

KINDS = {
    "annotations": "labels that cannot be used",
    "missing": "listed, but not there",
    "unreadable": "files without a frame that decodes; training leaves them out",
    "damaged": "files of which a part can be used",
    "mislabelled": "labels that are not among the classes",
    "outside": "parts in which their video shows nothing: after its end, or before its first frame",
    "leak": "the same video in more than one split",
    "duplicated": "the same video more than once in a split",
}


@dataclass(frozen=True)
class Report:
    """Counts per split and class, and everything that is wrong."""

    videos: dict[str, int] = field(default_factory=dict)
    """By split."""
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    """Split → label set → class → videos."""
    classes: Classes = field(default_factory=dict)
    files: Sequence[Facts] = ()
    opened: int = 0
    """How many files were opened; the others are as they were when the manifest was written."""
    found: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong, by kind, see `KINDS`."""
    short: list[str] = field(default_factory=list)
    """Videos shorter than a clip, shortest first. No fault: a clip of them starts over at the beginning."""
    clip: str = ""
    manifest: Path | None = None
    """Where the manifest was written."""

    @property
    def problems(self) -> list[str]:
        return [line for kind in KINDS for line in self.found.get(kind, ())]

    @property
    def seconds(self) -> float:
        return sum(facts.duration for facts in self.files)

    def __str__(self) -> str:
        lines = [f"{n} videos in {split}" for split, n in self.videos.items()]
        for label_set, names in self.classes.items():
            lines += ["", *self._table(label_set, names)]
        lines += ["", *self._files()]
        if self.short:
            lines += [f"\n{len(self.short)} shorter than {self.clip}: a clip of them starts over at the beginning"]
            lines += shortened(self.short, most=3)
        lines += [f"\n{len(self.problems)} problems"]
        for kind, what in KINDS.items():
            if self.found.get(kind):
                lines += [f"{kind} ({len(self.found[kind])}): {what}", *shortened(self.found[kind])]
        if self.manifest:
            lines += [f"\nwritten to {self.manifest}"]
        return "\n".join(lines)

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
        return lines + [f"  {name:22}" + "".join(f"{n:>10}" for n in numbers) for name, numbers in rows]

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


def shortened(lines: Sequence[str], most: int = MOST) -> list[str]:
    """The first `most` lines, and how many more there are."""
    more = [f"  … and {len(lines) - most} more"] if len(lines) > most else []
    return [*(f"  {line}" for line in lines[:most]), *more]


def check(
    root: str,
    /,
    dataset: str = "folder",
    splits: tuple[str, ...] = ("train", "val"),
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
        workers: Processes that open videos; one per core if not given.
        manifest: Where to write the manifest; beside the data if not given.
        num_frames: Frames of a clip, to tell which videos are shorter.
        frame_stride: Every which frame of the video a clip takes.
    """
    workers = workers or cores()
    found: defaultdict[str, list[str]] = defaultdict(list)
    samples, missing = read_splits(dataset, root, splits, found)
    base = base_of(root)
    path = Path(manifest) if manifest else default_path(dataset, root)

    jobs = {s.path: Job(s.path, relative(s.path, base), s.fps) for rows in samples.values() for s in rows}
    files, opened = look_at_files(list(jobs.values()), read_facts(path), workers)
    files = add_hashes(files, base, workers)
    number = {path: i for i, path in enumerate(jobs)}

    classes = official_classes(dataset, root) or (class_names(next(iter(samples.values()))) if samples else {})
    classes = {name: tuple(names) for name, names in classes.items()}
    note_files(files, found)
    note_duplicates(files, number, samples, found)
    note_labels(samples, classes, found)
    span = round((num_frames - 1) * frame_stride) + 1
    short = note_parts(samples, files, number, span, found)

    if samples:
        write(
            path,
            dataset=dataset,
            files=files,
            samples=samples,
            classes=classes,
            missing=missing,
            stamps=stamps(root, [facts.path for facts in files]),
            number=number,
        )
    return Report(
        videos={split: len(rows) for split, rows in samples.items()},
        counts={s: {name: Counter(x.labels.get(name, "") for x in r) for name in classes} for s, r in samples.items()},
        classes=classes,
        files=files,
        opened=opened,
        found=dict(found),
        short=short,
        clip=f"the {span} frames of one clip ({num_frames} frames, stride {frame_stride:g})",
        manifest=path if samples else None,
    )


def read_splits(
    dataset: str, root: str, splits: Sequence[str], found: dict[str, list[str]]
) -> tuple[dict[str, SampleTable], dict[str, list[str]]]:
    """The samples and missing rows of each split; what is wrong with annotations is noted, all of it."""
    samples: dict[str, SampleTable] = {}
    missing: dict[str, list[str]] = {}
    for split in splits:
        try:
            rows, missing[split] = read_annotations(dataset, root, split)
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
    return os.path.abspath(path) if inside.startswith("..") else inside


class Job(NamedTuple):
    """A file to look at."""

    path: str
    name: str
    """Its path in the manifest."""
    fps: float | None


def look_at_files(jobs: Sequence[Job], known: Mapping[str, Facts], workers: int) -> tuple[list[Facts], int]:
    """What each file is, and how many had to be opened because size or date are not those in `known`."""
    files = {job: unopened(job, known.get(job.name)) for job in jobs}
    todo = [job for job, facts in files.items() if facts is None]
    for job, facts in in_processes(look, todo, workers=workers, title="reading videos", killed=killed):
        files[job] = facts
    return [facts for facts in files.values() if facts is not None], len(todo)


def unopened(job: Job, before: Facts | None) -> Facts | None:
    """What can be said of a file without opening it: that it is as it was, or is not there."""
    try:
        now = os.stat(job.path)
    except OSError as error:
        return Facts(job.name, problem=error.strerror)
    size = 0 if stat.S_ISDIR(now.st_mode) else now.st_size
    return before if before and (before.bytes, before.mtime_ns) == (size, now.st_mtime_ns) else None


def look(job: Job) -> Facts:
    """Open a video, decode its first and last frame."""
    now = os.stat(job.path)
    facts = Facts(job.name, 0 if stat.S_ISDIR(now.st_mode) else now.st_size, now.st_mtime_ns)
    try:
        with as_video_error(job.path), time_limit(job.path, seconds=TIMEOUT):
            video = open_video(job.path, fps=job.fps)
            video.frames([0, video.num_frames - 1])
    except VideoError as error:
        return facts._replace(problem=f"{error.reason}; expected {error.expected}")
    return facts._replace(
        duration=round(video.duration, 6),
        width=video.width,
        height=video.height,
        fps=round(video.fps, 6),
        num_frames=video.num_frames,
        problem=video.problem,
        packets=video.packet_index().text if isinstance(video, Video) else "",
    )


def killed(job: Job) -> Facts:
    now = os.stat(job.path)
    return Facts(job.name, now.st_size, now.st_mtime_ns, problem="reading it ends the process (a crash in the decoder)")


def add_hashes(files: Sequence[Facts], base: str, workers: int) -> list[Facts]:
    """The same files with the hash of the content of those that share their size with another."""
    sizes = Counter(facts.bytes for facts in files if facts.bytes)
    todo = [
        os.path.join(base, facts.path)
        for facts in files
        if facts.bytes and sizes[facts.bytes] > 1 and facts.sha256 is None
    ]
    hashes = dict(in_processes(sha256, todo, workers=workers, title="comparing equal sizes", killed=lambda path: ""))
    return [facts._replace(sha256=hashes.get(os.path.join(base, facts.path), facts.sha256)) for facts in files]


def sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def note_files(files: Sequence[Facts], found: dict[str, list[str]]) -> None:
    for facts in files:
        if facts.problem:
            kind = "missing" if facts.bytes is None else "damaged" if facts.num_frames else "unreadable"
            found[kind].append(f"{facts.path}: {facts.problem}")


def note_duplicates(
    files: Sequence[Facts], number: Mapping[str, int], samples: Mapping[str, SampleTable], found: dict[str, list[str]]
) -> None:
    """Files with the same bytes."""
    splits: list[set[str]] = [set() for _ in files]
    for split, rows in samples.items():
        for s in rows:
            splits[number[s.path]].add(split)
    same: defaultdict[str, list[int]] = defaultdict(list)
    for i, facts in enumerate(files):
        if facts.sha256:
            same[facts.sha256].append(i)
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


def note_parts(
    samples: Mapping[str, Sequence[Sample]],
    files: Sequence[Facts],
    number: Mapping[str, int],
    span: int,
    found: dict[str, list[str]],
) -> list[str]:
    """Videos or parts of fewer frames than `span`, shortest first; parts outside their video are noted."""
    short: list[tuple[int, str]] = []
    for rows in samples.values():
        for s in rows:
            facts = files[number[s.path]]
            if not facts.num_frames:
                continue
            name, frames = facts.path, facts.num_frames
            if s.start is not None or s.end is not None:
                name += f" from {s.start or 0:g} to {facts.duration if s.end is None else s.end:g} s"
                times = frame_times(s.path, s.fps, PacketIndex(facts.bytes or 0, facts.mtime_ns, facts.packets))
                frames = len(frame_range(times, facts.duration, s.start, s.end))
                if not frames:
                    late = f"shows frames from {times[0]:.2f} s to" if times[0] > 0 else "lasts"
                    found["outside"].append(f"{s.where or name}: {name}, which {late} {facts.duration:.2f} s")
            if frames < span:
                short.append((frames, f"{name}: {frames} frames"))
    return [line for _, line in sorted(short)]


@lru_cache(maxsize=4)
def frame_times(path: str, fps: float | None, index: PacketIndex | None) -> np.ndarray:
    """When each frame of a video appears; the file is read for it only if there is no packet index."""
    return open_video(path, fps=fps, index=index if index and index.text else None).times
