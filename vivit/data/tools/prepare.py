"""Bring a data set into a form that trains fast: small frames, key frames near one another, an even rate, no sound."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import Interpolation

from ...config import AugmentConfig, DataConfig, ModelConfig
from ...errors import DataError, VideoError, as_video_error
from ...files import atomic_write, exclusive_lock
from ...text import listing, shorten_list
from ..clips import GRACE, frame_range
from ..dataset import TrainDataset, open_sample, segment_frames
from ..datasets.registry import official_classes, read_samples
from ..manifest import base_of
from ..sample import Sample
from ..sample_table import SampleTable, class_names
from ..shards import pack
from .check import MOST, Report, check, frame_times, read_splits, relative
from .process_pool import cores, map_in_processes

MAX_STEM = 255 - len(".mp4.part")  # bytes of a name without its suffixes; file systems allow 255
MIN_FPS = 1e-6  # a frame in 11 days
MAX_FRAMES = 2**22  # that one video is given beyond twice its own: 46 hours at 25 a second
KEY_EVERY = 32  # frames at most between two key frames
CLIPS = 48  # of which the loading speed is measured
SECONDS = 10.0  # that a measurement takes at most


@dataclass(frozen=True)
class EncodingOptions:
    """What the videos become."""

    short_side: int = 320
    """Pixels; smaller videos keep their size."""
    max_fps: float = 30.0
    """A higher rate is divided by a whole number; every other frame of 60 a second is kept."""
    crf: int = 20
    """Quality of H.264: lower is better and larger."""


@dataclass(frozen=True)
class Prepared:
    """What was done."""

    table: Path
    """labels.csv, to be given as data.root."""
    written: int
    kept: int
    """Files that an earlier run had written."""
    bad: list[str]
    before: int
    """Bytes of the videos as they were."""
    after: int
    speed: tuple[float, float]
    """Training clips that one process loads in a second, before and after."""
    shards: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong with the annotations."""
    missing: list[str] = field(default_factory=list)
    """Rows of an official list whose video is not there. No fault: such lists always lack some."""

    def __str__(self) -> str:
        lines = [f"{self.written} videos written, {self.kept} already there, {len(self.bad)} bad"]
        lines.append(f"{self.before / 2**20:.1f} MiB before, {self.after / 2**20:.1f} MiB after")
        slow, fast = self.speed
        if slow and fast:
            lines.append(f"{slow:.1f} clips/s before, {fast:.1f} after ({fast / slow:.1f} x), in one process")
        if self.problems:
            lines += [
                f"{len(self.problems)} problems in the annotations",
                *shorten_list(self.problems, MOST, indent="  "),
            ]
        if self.missing:
            lines += [
                f"{len(self.missing)} videos of the official list are not there",
                *shorten_list(self.missing, MOST, indent="  "),
            ]
        if self.bad:
            lines += [f"bad files, all in {self.table.parent / 'bad.txt'}", *shorten_list(self.bad, MOST, indent="  ")]
        lines.append(f"next: vivit train … --data.root {self.table}")
        if self.shards:
            place = self.table.parent / "shards"
            lines.append(
                f"or:   vivit train … --data.dataset shards --data.root {place}  ({len(self.shards)} tar files)"
            )
        return "\n".join(lines)


class PrepareJob(NamedTuple):
    """One video to write."""

    sample: Sample
    """With start and end where only this part is wanted."""
    dest: str
    encoding: EncodingOptions


def prepare(
    root: str,
    dest: str,
    /,
    dataset: str = "folder",
    splits: tuple[str, ...] = ("train", "val"),
    encoding: EncodingOptions = EncodingOptions(),  # noqa: B008
    segments: bool = False,
    shard_mib: int = 0,
    workers: int | None = None,
) -> Prepared:
    """Write the videos of a data set anew below DEST, with DEST/labels.csv, a manifest, and the order of the classes.

    A run that was interrupted is taken up again: what is there, and newer than its source, stays. Raises FolderInUse
    while another process prepares the same folder, DataError if not one video could be written.

    Args:
        root: The folder of the data set, or a .csv or .jsonl file.
        dest: A folder for the result.
        dataset: The reader of the annotations.
        splits: The splits to prepare.
        encoding: What the videos become.
        segments: Write each labelled part of a long video into a file of its own.
        shard_mib: Also pack the result into tar files of this many MiB, in DEST/shards; 0 for none.
        workers: Processes; one per core if not given.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    samples, _ = read_splits(dataset, root, splits, found)
    samples |= {split: read_samples(dataset, root, split) for split in samples}  # by the manifest, where there is one
    place, workers = Path(dest), workers or cores()
    with exclusive_lock(place, what="vivit data prepare"):
        check_same_settings(place, encoding, segments)
        names = destinations(samples, base_of(root), segments)
        jobs = {
            name: PrepareJob(s if segments else replace(s, start=None, end=None), str(place / name), encoding)
            for split in samples
            for s in samples[split]
            for name in [names[segment_key(s, segments)]]
        }
        todo = [job for job in jobs.values() if not up_to_date(job)]
        outcomes = map_in_processes(write_video, todo, workers=workers, title="writing videos", on_crash=crash_message)
        bad = {job.dest: problem for job, problem in outcomes if problem}
        with atomic_write(place / "bad.txt", errors="surrogateescape") as file:
            file.writelines(f"{line}\n" for line in bad.values())

        classes = official_classes(dataset, root) or class_names(next(iter(samples.values())))
        kept = {
            s: [x for x in rows if jobs[names[segment_key(x, segments)]].dest not in bad] for s, rows in samples.items()
        }
        if not any(kept.values()):
            title = f"{place}: none of the {len(jobs)} videos could be written; the list is in {place / 'bad.txt'}"
            raise DataError(listing(title, list(bad.values()), most=3))
        table = write_table(place, kept, names, segments)
        with atomic_write(place / "classes.json") as file:
            file.write(json.dumps(classes, indent=1) + "\n")
        report = check(str(table), splits=tuple(split for split, rows in kept.items() if rows), workers=workers)
        return Prepared(
            table=table,
            written=len(todo) - len(bad),
            kept=len(jobs) - len(todo),
            bad=sorted(bad.values()),
            before=sum(os.path.getsize(p) for p in {job.sample.path for job in jobs.values()} if os.path.isfile(p)),
            after=sum(info.bytes or 0 for info in report.files),
            speed=measure_speedup(kept, {name: str(place / path) for name, path in names.items()}, segments, table),
            shards=shards(place, table, report, shard_mib) if shard_mib else [],
            problems=[line for kind, lines in found.items() if kind != "missing" for line in lines],
            missing=list(found.get("missing", ())),
        )


def check_same_settings(place: Path, encoding: EncodingOptions, segments: bool) -> None:
    """Raise ValueError if the folder was begun with other settings, else note them there."""
    settings = {
        "short_side": encoding.short_side,
        "max_fps": encoding.max_fps,
        "crf": encoding.crf,
        "segments": segments,
    }
    path = place / "settings.json"
    begun = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else json.dumps(settings)
    if begun != json.dumps(settings):
        raise ValueError(f"{place} was begun with {begun}, now it is {json.dumps(settings)}; give another folder")
    with atomic_write(path) as file:
        file.write(json.dumps(settings) + "\n")


Key = tuple[str, float | None, float | None]


def segment_key(sample: Sample, segments: bool) -> Key:
    """What gets a file of its own."""
    return (sample.path, sample.start, sample.end) if segments else (sample.path, None, None)


def destinations(samples: Mapping[str, Sequence[Sample]], base: str, segments: bool) -> dict[Key, str]:
    """Where each file goes, relative to the new folder: where it was, as .mp4, with letters that tar files like.

    A name that is taken, too long or not UTF-8 is shortened or mended, and ends in a hash of what it stands for.
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
    """The name without bytes that are not UTF-8, and without what exceeds `most` bytes."""
    return name.encode("utf-8", "surrogateescape")[:most].decode("utf-8", "ignore")


def up_to_date(job: PrepareJob) -> bool:
    try:
        return os.path.getmtime(job.dest) >= os.path.getmtime(job.sample.path)
    except OSError:
        return False


def crash_message(job: PrepareJob) -> str:
    return f"{job.sample.path}: reading it ends the process (a crash in the decoder)"


def write_video(job: PrepareJob) -> str | None:
    """Write one video, whole or not at all; returns what is wrong with its source."""
    os.makedirs(os.path.dirname(job.dest), exist_ok=True)
    part = f"{job.dest}.part"
    try:
        with as_video_error(job.sample.path):
            _encode(job, part)
        os.replace(part, job.dest)
    except VideoError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise DataError(f"{part} cannot be written ({error.__cause__.strerror})") from error
        return str(error)
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return None


def _encode(job: PrepareJob, part: str) -> None:
    """Write the job's video, as H.264 in mp4, to the file `part`."""
    video = open_sample(job.sample)
    segment_frames(video, job.sample)  # raises where there are none
    start, end = job.sample.start, job.sample.end
    try:
        rate, shown = schedule(video.times, video.duration, max_fps=job.encoding.max_fps, start=start, end=end)
    except ValueError as error:
        raise VideoError(job.sample.path, str(error), "time stamps of a usual recording") from error
    size = scaled_size(video.height, video.width, job.encoding.short_side)
    try:
        with av.open(f"file:{part}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
            options = {"preset": "fast", "crf": str(job.encoding.crf), "threads": "1"}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = size
            stream.pix_fmt, stream.gop_size = "yuv420p", KEY_EVERY
            for number, image in enumerate(expand_repeats(video, shown)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                    width=size[1], height=size[0], format="yuv420p", interpolation=Interpolation.BICUBIC
                )
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except FFmpegError as error:
        raise VideoError(job.sample.path, f"cannot be written as H.264 ({error.strerror})") from error


def schedule(
    times: np.ndarray, duration: float, *, max_fps: float, start: float | None = None, end: float | None = None
) -> tuple[Fraction, np.ndarray]:
    """The even rate of the new video, and for each of its frames the number of the old one shown at that time.

    `times`: seconds of the old frames. A video of an even rate gives each of its frames in [start, end) once, or every
    k-th. Raises ValueError for time stamps of which no video can be made.
    """
    frames = frame_range(times, duration, start, end)
    if not frames:
        return Fraction(1), np.empty(0, np.int64)
    first, last = frames[0], frames[-1]
    fps = (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 1 / (duration - float(times[0]))
    if not MIN_FPS <= fps < math.inf:
        raise ValueError(f"{len(times)} frames spread over {duration - times[0]:.4g} s, {fps:.4g} a second")
    rate = even_rate(fps, max_fps)
    begin = float(times[first])
    stop = max(duration, float(times[-1]) + 1 / fps) if last + 1 == len(times) else float(times[last + 1])
    if start is not None and begin < start - GRACE:  # a still: no frame appears in the part
        begin, stop = start, min(stop, math.inf if end is None else end)
    count = math.ceil((stop - begin) * float(rate) - 0.01)
    if count > max(MAX_FRAMES, 2 * len(frames)):
        raise ValueError(f"{len(frames)} frames spread over {stop - begin:.4g} s, at {float(rate):.4g} a second")
    ticks = np.arange(max(count, 1)) / float(rate) + begin
    shown = np.searchsorted(times, ticks + 0.5 / fps, side="right") - 1
    return rate, np.clip(shown, first, last)


def even_rate(fps: float, max_fps: float) -> Fraction:
    """`fps`, divided by a whole number if it is above `max_fps`, as a ratio of small numbers."""
    rate = fps / max(math.ceil(fps / max_fps - 0.01), 1)
    return Fraction(rate).limit_denominator(1001) if rate > 1 else 1 / Fraction(1 / rate).limit_denominator(1001)


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Even sizes whose smaller is at most `short_side`, in the old proportion."""
    scale = min(short_side / min(height, width), 1.0)
    return max(round(height * scale / 2) * 2, 2), max(round(width * scale / 2) * 2, 2)


def expand_repeats(video, shown: np.ndarray) -> Iterator[np.ndarray]:
    """The frames with these ascending numbers, repeats and all."""
    numbers, times = np.unique(shown, return_counts=True)
    expected = iter(zip(numbers.tolist(), times.tolist()))
    for number, image in video.images(numbers):
        wanted, repeats = next(expected)
        if number != wanted:
            raise VideoError(video.path, f"frame {wanted} does not decode in its turn", "intact packets")
        yield from (image for _ in range(repeats))


def write_table(place: Path, kept: Mapping[str, Sequence[Sample]], names: Mapping[Key, str], segments: bool) -> Path:
    """Write DEST/labels.csv; its seconds count from the first frame of the new video."""
    label_sets = list(next((rows[0].labels for rows in kept.values() if rows), {}))
    table = place / "labels.csv"
    with atomic_write(table, newline="", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *label_sets, "start", "end", "split"])
        for split, rows in kept.items():
            for s in rows:
                part = (None, None) if segments else part_in_new(s)
                cells = ["" if seconds is None else seconds for seconds in part]
                writer.writerow([names[segment_key(s, segments)], *s.labels.values(), *cells, split])
    return table


def part_in_new(sample: Sample) -> tuple[float | None, float | None]:
    """Start and end of a sample's part in the new video, whose first frame is at 0 s."""
    if sample.start is None and sample.end is None:
        return None, None
    late = float(frame_times(sample.path, sample.fps, sample.index)[0])
    start = sample.start if sample.start is None else max(sample.start - late, 0.0)
    return start, sample.end if sample.end is None else sample.end - late


def shards(place: Path, table: Path, report: Report, shard_mib: int) -> list[str]:
    samples = {split: read_samples("folder", str(table), split) for split in report.videos}
    number = {str(place / info.path): i for i, info in enumerate(report.files)}
    how = {"samples": samples, "number": number, "classes": report.classes, "shard_mib": shard_mib}
    return pack(place / "shards", base=str(place), files=report.files, **how)


def measure_speedup(
    kept: Mapping[str, Sequence[Sample]], new: Mapping[Key, str], segments: bool, table: Path
) -> tuple[float, float]:
    """Training clips a second of the same videos, as they were and as they are now."""
    rows = next((rows for rows in kept.values() if rows), [])
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(CLIPS, len(rows))).astype(int))]
    after = {}
    for split in kept:
        if kept[split]:
            after |= {(s.path, s.start, s.end): s for s in read_samples("folder", str(table), split)}
    wanted = [(new[segment_key(s, segments)], *((None, None) if segments else part_in_new(s))) for s in chosen]
    return clips_per_second(chosen), clips_per_second([after[key] for key in wanted if key in after])


def clips_per_second(samples: Sequence[Sample], *, seconds: float = SECONDS) -> float:
    """How many training clips of 32 frames, 224 x 224, one process makes of these samples in a second; 0 for none."""
    if not samples:
        return 0.0
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    how = {"model": ModelConfig(), "data": DataConfig(root=os.sep), "augment": AugmentConfig(), "seed": 0}
    clips = TrainDataset(SampleTable.of(samples), labels, **how)
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
