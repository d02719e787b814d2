"""Re-encode a dataset so that it loads fast in training; optionally pack it in shards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...config import AugmentConfig, DataConfig, ModelConfig
from ...errors import DataError
from ...files import atomic_write, exclusive_lock, write_json
from ...settings import to_dict
from ...text import listing, shorten_list
from ..dataset import TrainDataset
from ..datasets.find_videos import escapes_root
from ..datasets.registry import official_classes, read_samples
from ..groups import source_groups
from ..manifest import MALFORMED, base_of
from ..sample import Sample, file_state
from ..sample_table import SampleTable, class_names
from ..shards import pack
from .check import check, frame_times, read_splits
from .check_report import MAX_LINES, Report
from .encode import EncodingOptions, PrepareJob, crash_message, write_video
from .probe import relative
from .process_pool import cores, map_in_processes

MAX_STEM = 255 - len(".mp4.part")  # bytes of a name without its suffixes; file systems allow 255
CLIPS = 48  # of which the loading speed is measured
SECONDS = 10.0  # that a measurement takes at most


Key = tuple[str, float | None, float | None]
"""Path, start and end of what gets a file of its own."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    table: Path
    """labels.csv, to be given as data.root."""
    written: int
    kept: int
    """Files that an earlier run had written."""
    bad: list[str]
    before: int
    """Bytes of the original videos."""
    after: int
    speed: tuple[float, float]
    """Training clips that one process loads in a second, before and after."""
    shards: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong with the annotations."""
    missing: list[str] = field(default_factory=list)
    """Rows of an official list whose video is not there. Not a problem: every copy lacks some."""
    removed: int = 0
    """Files of an earlier run whose source is no longer in the dataset."""

    def __str__(self) -> str:
        lines = [f"{self.written} videos written, {self.kept} already there, {len(self.bad)} bad"]
        if self.removed:
            lines.append(f"{self.removed} videos of an earlier run removed: this one has no such videos")
        lines.append(f"{self.before / 2**20:.1f} MiB before, {self.after / 2**20:.1f} MiB after")
        slow, fast = self.speed
        if slow and fast:
            lines.append(f"{slow:.1f} clips/s before, {fast:.1f} after ({fast / slow:.1f} x), in one process")
        for title, items in (
            (f"{len(self.problems)} problems in the annotations", self.problems),
            (f"{len(self.missing)} videos of the official list are not there", self.missing),
            (f"bad files, all in {self.table.parent / 'bad.txt'}", self.bad),
        ):
            if items:
                lines += [title, *shorten_list(items, MAX_LINES, indent="  ")]
        lines.append(f"next: vivit train … --data.root {self.table}")
        if self.shards:
            place = self.table.parent / "shards"
            lines.append(
                f"or:   vivit train … --data.dataset shards --data.root {place}  ({len(self.shards)} tar files)"
            )
        return "\n".join(lines)


def prepare(
    root: str,
    dest: str,
    /,
    dataset: str = "folder",
    splits: tuple[str, ...] = ("train", "val"),
    labels: tuple[str, ...] = (),
    encoding: EncodingOptions = EncodingOptions(),  # noqa: B008
    segments: bool = False,
    shard_mib: int = 0,
    workers: int | None = None,
) -> Prepared:
    """Re-encode the videos of a dataset into DEST, with DEST/labels.csv, a manifest, and the order of the classes.

    The same call resumes after an interruption: files of the same source, size, date, rate and segment stay. Others
    that an earlier call wrote are replaced or removed. Raises ValueError where files of the user would be overwritten,
    FolderInUse while another process prepares the same folder, DataError if not one video could be written.

    Args:
        root: The folder of the dataset, or a .csv or .jsonl file.
        dest: A folder for the result.
        dataset: The reader of the annotations.
        splits: The splits to prepare.
        labels: The label columns of a table, as data.labels; by their names if not given.
        encoding: How the videos are encoded.
        segments: Write each labelled part of a long video into a file of its own.
        shard_mib: Also pack the result into tar files of this many MiB, in DEST/shards; 0 for none.
        workers: Processes; one per core if not given.
    """
    refuse_source_folder(root, dest)
    found: defaultdict[str, list[str]] = defaultdict(list)
    samples, _ = read_splits(dataset, root, splits, found, labels)
    samples |= {split: read_samples(dataset, root, split, labels=labels) for split in samples}  # by a manifest
    samples = with_recordings(samples, base_of(root)) if segments else samples
    place, workers = Path(dest), workers or cores()
    with exclusive_lock(place, what="vivit data prepare"):
        names = destinations(samples, base_of(root), segments)
        jobs = prepare_jobs(samples, names, place, encoding, segments)
        todo, removed = start_over(jobs, place, encoding, segments)
        bad = write_videos(todo, place, workers)
        classes = official_classes(dataset, root) or class_names(next(iter(samples.values())))
        kept = {
            s: [x for x in rows if jobs[names[segment_key(x, segments)]].dest not in bad] for s, rows in samples.items()
        }
        if not any(kept.values()):
            title = f"{place}: none of the {len(jobs)} videos could be written; the list is in {place / 'bad.txt'}"
            raise DataError(listing(title, list(bad.values()), most=3))
        table = write_table(place, kept, names, segments)
        write_json(place / "classes.json", classes)
        written = tuple(split for split, rows in kept.items() if rows)
        report = check(str(table), splits=written, labels=labels, workers=workers)
        return Prepared(
            table=table,
            written=len(todo) - len(bad),
            kept=len(jobs) - len(todo),
            bad=sorted(bad.values()),
            before=sum(os.path.getsize(p) for p in {job.sample.path for job in jobs.values()} if os.path.isfile(p)),
            after=sum(info.bytes or 0 for info in report.files),
            speed=measure_speedup(kept, {name: str(place / path) for name, path in names.items()}, segments, table),
            shards=pack_shards(place, table, report, shard_mib) if shard_mib else [],
            problems=[line for kind, lines in found.items() if kind != "missing" for line in lines],
            missing=list(found.get("missing", ())),
            removed=removed,
        )


def with_recordings(samples: Mapping[str, Sequence[Sample]], base: str) -> dict[str, list[Sample]]:
    """Return samples whose group is their recording, which files of single segments no longer show."""
    rows = [s for table in samples.values() for s in table]
    names: dict[int, str] = {}
    groups = iter(
        [names.setdefault(n, s.group or utf8(relative(s.path, base))) for n, s in zip(source_groups(rows), rows)]
    )
    return {split: [replace(s, group=next(groups)) for s in table] for split, table in samples.items()}


def prepare_jobs(
    samples: Mapping[str, Sequence[Sample]],
    names: Mapping[Key, str],
    place: Path,
    encoding: EncodingOptions,
    segments: bool,
) -> dict[str, PrepareJob]:
    """Return the job of each new file by its path relative to `place`."""
    jobs = {}
    for rows in samples.values():
        for s in rows:
            name = names[segment_key(s, segments)]
            source = s if segments else replace(s, start=None, end=None)
            jobs[name] = PrepareJob(source, str(place / name), encoding)
    return jobs


def write_videos(jobs: Sequence[PrepareJob], place: Path, workers: int) -> dict[str, str]:
    """Write videos in several processes; return the problems by path, which are also listed in bad.txt."""
    outcomes = map_in_processes(write_video, jobs, workers=workers, title="writing videos", on_crash=crash_message)
    bad = {job.dest: problem for job, problem in outcomes if problem}
    with atomic_write(place / "bad.txt", errors="surrogateescape") as file:
        file.writelines(f"{line}\n" for line in bad.values())
    remove_files(place, [os.path.relpath(dest, place) for dest in bad])
    return bad


def refuse_source_folder(root: str, dest: str) -> None:
    """Raise ValueError if the result would be among the originals: it would replace labels or count as more videos."""
    base, new = Path(base_of(root)).resolve(), Path(dest).resolve()
    if new == base or (new.is_relative_to(base) and Path(root).is_dir()):
        where = "is" if new == base else "is inside"
        raise ValueError(f"{dest} {where} the folder of the videos, {base}; give another folder, such as {base}_fast")


def start_over(
    jobs: Mapping[str, PrepareJob], place: Path, encoding: EncodingOptions, segments: bool
) -> tuple[list[PrepareJob], int]:
    """Remove what earlier runs made of other sources; return the jobs to do, and how many files have no job any more.

    settings.json says what each file was made of. It is written before the files, which appear only when complete.
    Raises ValueError if it is damaged or of other settings, and for files that no earlier run wrote.
    """
    path, settings = place / "settings.json", {**to_dict(encoding), "segments": segments}
    before, lists = read_sources(path, settings), () if path.exists() else ("labels.csv", "classes.json", "bad.txt")
    foreign = [name for name in (*lists, *jobs) if name not in before and (place / name).exists()]
    if foreign:
        raise ValueError(listing(f"{place}: no earlier prepare wrote these files; give another folder", foreign, 3))
    sources = {name: source_of(job) for name, job in jobs.items()}
    unnamed = [name for name in before if name not in jobs and (place / name).exists()]
    remove_files(place, [name for name, source in before.items() if source != sources.get(name)])
    write_json(path, {**settings, "sources": sources}, indent=None)
    return [job for name, job in jobs.items() if not (place / name).exists()], len(unnamed)


def source_of(job: PrepareJob) -> list[str | float | None]:
    """Return what the file of a job depends on, apart from the settings of all."""
    s = job.sample
    return [os.path.abspath(s.path), *file_state(s.path), s.fps, s.start, s.end]


def remove_files(place: Path, names: Sequence[str]) -> None:
    """Remove files below `place`, what interrupted runs left of them, and the folders that are empty then."""
    for name in names:
        for path in (place / name, place / f"{name}.part"):
            path.unlink(missing_ok=True)
        for folder in (place / name).parents:
            if folder == place:
                break
            try:
                folder.rmdir()
            except OSError:  # it holds other files
                break


def read_sources(path: Path, settings: Mapping[str, Any]) -> dict[str, list]:
    """Return what each file of an earlier run was made of. Raises ValueError if it had other settings."""
    if not path.exists():
        return {}
    try:
        begun = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        sources = begun.pop("sources")
        if not isinstance(sources, dict) or any(map(escapes_root, sources)):
            raise ValueError("its sources are not a list for each file in its folder")
    except MALFORMED as error:
        raise ValueError(
            f"{path} was not written by this version of prepare, or is damaged ({error!r}); give another folder"
        ) from error
    if begun != settings:
        now = json.dumps(settings)
        raise ValueError(f"{path.parent} was begun with {json.dumps(begun)}, now it is {now}; give another folder")
    return sources


def segment_key(sample: Sample, segments: bool) -> Key:
    """Return the key of the file to write for a sample: one per video, or one per segment."""
    return (sample.path, sample.start, sample.end) if segments else (sample.path, None, None)


def destinations(samples: Mapping[str, Sequence[Sample]], base: str, segments: bool) -> dict[Key, str]:
    """Return the path of each new file, relative to the new folder: the old one as .mp4, with names that tar accepts.

    A name that is taken, too long or not UTF-8 is shortened or repaired, and ends in a hash of the source.
    """
    names: dict[Key, str] = {}
    taken: set[str] = set()
    for rows in samples.values():
        for s in rows:
            key = segment_key(s, segments)
            if key in names:
                continue
            old = relative(s.path, base)
            folder, name = os.path.split(old if not os.path.isabs(old) else f"videos/{os.path.basename(old)}")
            stem = os.path.splitext(name)[0].replace(".", "_").replace("#", "_")
            if key[1:] != (None, None):
                stem += "".join(f"_{round(1000 * (t or 0)):08d}" for t in key[1:])
            plain, new = os.path.join(folder, stem), os.path.join(utf8(folder), utf8(stem, MAX_STEM))
            if new != plain or new in taken:
                digest = hashlib.sha256(repr((old, *key[1:])).encode("utf-8", "surrogateescape")).hexdigest()[:16]
                new = os.path.join(utf8(folder), f"{utf8(stem, MAX_STEM - 17)}_{digest}")
            taken.add(new)
            names[key] = f"{new}.mp4"
    return names


def utf8(name: str, most: int | None = None) -> str:
    """Return the name without bytes that are not UTF-8, cut to `most` bytes."""
    return name.encode("utf-8", "surrogateescape")[:most].decode("utf-8", "ignore")


def write_table(place: Path, kept: Mapping[str, Sequence[Sample]], names: Mapping[Key, str], segments: bool) -> Path:
    """Write DEST/labels.csv; its seconds count from the first frame of the new video."""
    label_sets = list(next((rows[0].labels for rows in kept.values() if rows), {}))
    groups = any(s.group for rows in kept.values() for s in rows) and "group" not in map(str.lower, label_sets)
    table = place / "labels.csv"
    with atomic_write(table, newline="", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *label_sets, "start", "end", "split", *(["group"] if groups else [])])
        for split, rows in kept.items():
            for s in rows:
                part = (None, None) if segments else part_in_new(s)
                cells = ["" if seconds is None else seconds for seconds in part]
                writer.writerow(
                    [names[segment_key(s, segments)], *s.labels.values(), *cells, split, *([s.group] if groups else [])]
                )
    return table


def part_in_new(sample: Sample) -> tuple[float | None, float | None]:
    """Return start and end of a sample's segment in the new video, whose first frame is at 0 s."""
    if sample.start is None and sample.end is None:
        return None, None
    late = float(frame_times(sample.path, sample.fps, sample.index)[0])
    start = sample.start if sample.start is None else max(sample.start - late, 0.0)
    return start, sample.end if sample.end is None else sample.end - late


def pack_shards(place: Path, table: Path, report: Report, shard_mib: int) -> list[str]:
    """Pack the new videos into tar files; return their names."""
    return pack(
        place / "shards",
        base=str(place),
        files=report.files,
        samples={split: read_samples("folder", str(table), split) for split in report.videos},
        number={str(place / info.path): i for i, info in enumerate(report.files)},
        classes=report.classes,
        shard_mib=shard_mib,
    )


def measure_speedup(
    kept: Mapping[str, Sequence[Sample]], new: Mapping[Key, str], segments: bool, table: Path
) -> tuple[float, float]:
    """Measure training clips per second on the same videos, before and after."""
    rows = next((rows for rows in kept.values() if rows), [])
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(CLIPS, len(rows))).astype(int))]
    after = {}
    for split in kept:
        if kept[split]:
            after |= {(s.path, s.start, s.end): s for s in read_samples("folder", str(table), split)}
    wanted = [(new[segment_key(s, segments)], *((None, None) if segments else part_in_new(s))) for s in chosen]
    return clips_per_second(chosen), clips_per_second([after[key] for key in wanted if key in after])


def clips_per_second(samples: Sequence[Sample], *, seconds: float = SECONDS) -> float:
    """Measure how many training clips of 32 frames, 224 x 224, one process loads per second; 0 without samples."""
    if not samples:
        return 0.0
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    clips = TrainDataset(
        SampleTable.of(samples),
        labels,
        model=ModelConfig(),
        data=DataConfig(root=os.sep),
        augment=AugmentConfig(),
        seed=0,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker of the loader
    try:
        clips[0, 0]
        begin, done = time.perf_counter(), 0
        for i in range(len(samples)):
            done += clips[1, i].video is not None
            if time.perf_counter() - begin > seconds:
                break
        return done / (time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
