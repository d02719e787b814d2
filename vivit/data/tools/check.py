"""Check all labels and videos of a dataset before training; write the manifest."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from ...config import DataConfig, ModelConfig
from ...errors import DataError
from ...text import shorten_list
from ..clips import frame_range
from ..datasets.find_videos import find_videos
from ..datasets.folder import unused_videos
from ..datasets.label_table import read_table
from ..datasets.registry import known_classes, read_annotations
from ..datasets.split_names import usual_split
from ..manifest import FileInfo, base_of, default_path, read_file_info, take_fingerprints, write_manifest
from ..packet_index import PacketIndex
from ..sample import Classes, Sample
from ..sample_table import SampleTable, class_names
from ..splits import lacks_validation, read_split
from ..video.frame_folder import open_video
from .check_report import Report
from .probe import CheckJob, add_hashes, check_jobs, probe_files
from .process_pool import cores


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
        root: The folder of the dataset, or a .csv or .jsonl file.
        dataset: The reader of the annotations.
        splits: The splits to look at.
        labels: The label columns of a table, as data.labels; by their names if not given.
        thorough: Decode every frame, not only the first and the last: finds damage in the middle.
        workers: Processes that open videos; one per core if not given.
        manifest: Where to write the manifest; in the folder of the data if not given.
        num_frames: Frames of a clip, to tell which videos are shorter.
        frame_stride: Distance of a clip's frames in the video.
    """
    workers = workers or cores()
    found: defaultdict[str, list[str]] = defaultdict(list)
    path = Path(manifest) if manifest else default_path(dataset, root)
    samples, missing = read_splits(dataset, root, splits, found, labels)
    refused = why_not_writable(path)  # known before hours of reading
    if refused and manifest:
        raise DataError(f"{refused}; give another place with --manifest")

    base = base_of(root)
    jobs = check_jobs(samples, base, thorough)
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
    short = note_segments(samples, files, number, span, found)

    if refused:
        found["not kept"].append(f"{refused}; use --manifest PATH, then train with --data.manifest PATH")
    else:
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
    """Say why no file can be written at this place; "" if one can."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            return ""
    except OSError as error:
        return f"{path} cannot be written ({error.strerror})"


def read_splits(
    dataset: str, root: str, splits: Sequence[str], found: dict[str, list[str]], labels: Sequence[str] = ()
) -> tuple[dict[str, SampleTable], dict[str, list[str]]]:
    """Read the samples and missing rows of each split; all problems of the annotations go to `found`."""
    if not splits:
        raise DataError("no split is given; --splits takes one or more names, such as train val")
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
            if samples and _is_held_out(DataConfig(root=root, dataset=dataset, labels=tuple(labels), eval_split=split)):
                continue
            found["annotations"] += [line for line in str(error).split("\n") if line not in found["annotations"]]
    if not samples:
        raise DataError("\n".join(found["annotations"]))
    return samples, missing


def _is_held_out(data: DataConfig) -> bool:
    """Return whether training videos are held out because there is no split to validate on; a warning says how many."""
    try:
        return lacks_validation(data) and bool(read_split(data, data.eval_split))
    except DataError:
        return False


def note_files(files: Sequence[FileInfo], found: dict[str, list[str]]) -> None:
    """Note unreadable and damaged files."""
    for info in files:
        if info.problem:
            found["damaged" if info.num_frames else "unreadable"].append(f"{info.path}: {info.problem}")


def note_duplicates(
    files: Sequence[FileInfo],
    number: Mapping[str, int],
    samples: Mapping[str, SampleTable],
    found: dict[str, list[str]],
) -> None:
    """Note files with the same bytes."""
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
    """Note labels that are not among the classes."""
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
    """Note classes with too few videos for training or test; the first split is that of training."""

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
    """Note files below the dataset that are not videos, by suffix; for class folders also videos in no class."""
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
    unused = unused_videos(Path(root), videos)
    folders = {path.split("/")[0] for path in set(videos).difference(unused)}
    for top, n in Counter(path.split("/")[0] if "/" in path else "" for path in unused).items():
        if top in folders:
            found["passed over"].append(f"{n} videos directly in the folder {top}, in no class")
        else:
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


def note_segments(
    samples: Mapping[str, Sequence[Sample]],
    files: Sequence[FileInfo],
    number: Mapping[str, int],
    span: int,
    found: dict[str, list[str]],
) -> list[str]:
    """List videos or segments of fewer frames than `span`, shortest first; note segments outside their video."""
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
    """Return when each frame of a video appears; the file is only read if there is no packet index."""
    return open_video(path, fps=fps, index=index if index and index.text else None).times
