"""Open the videos of a dataset that have changed; hash those of equal size."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...errors import DecodeTimeout, VideoError
from ...files import hash_file
from ...text import shorten_list
from ..dataset import time_limit
from ..datasets.find_videos import escapes_root
from ..manifest import FileInfo
from ..sample import Sample
from ..video.decoder import Video
from ..video.frame_folder import FPS, FrameFolder, open_video
from .process_pool import map_in_processes

TIMEOUT = 600  # seconds for one file
HANG_TIMEOUT = 3 * TIMEOUT  # seconds after which a process that does not react to TIMEOUT is killed


def relative(path: str, base: str) -> str:
    """Return `path` as in the manifest: relative to the dataset if it is inside, else absolute."""
    inside = os.path.relpath(path, base or ".")
    return os.path.abspath(path) if escapes_root(inside) else inside


class CheckJob(NamedTuple):
    """A file to probe."""

    path: str
    name: str
    """Its path in the manifest."""
    fps: float | None
    thorough: bool = False
    """Whether to decode every frame."""


def check_jobs(samples: Mapping[str, Sequence[Sample]], base: str, thorough: bool) -> dict[str, CheckJob]:
    """Return the files of all splits to probe, by path; names in the manifest are relative to `base`."""
    rows = (s for table in samples.values() for s in table)
    return {s.path: CheckJob(s.path, relative(s.path, base), s.fps, thorough) for s in rows}


def probe_files(jobs: Sequence[CheckJob], known: Mapping[str, FileInfo], workers: int) -> tuple[list[FileInfo], int]:
    """Return what each file is, and how many had to be opened because `known` does not tell (`unchanged_info`)."""
    files = {job: unchanged_info(job, known.get(job.name)) for job in jobs}
    todo = [job for job, info in files.items() if info is None]
    for job, info in map_in_processes(
        probe_video, todo, workers=workers, title="reading videos", on_crash=crash_info, timeout=HANG_TIMEOUT
    ):
        files[job] = info
    return [info for info in files.values() if info is not None], len(todo)


def unchanged_info(job: CheckJob, before: FileInfo | None) -> FileInfo | None:
    """Return what is known about a file without opening it, if it is unchanged or missing; else None.

    A file that could not be read is opened again: permissions and storage change without its date.
    """
    try:
        now = os.stat(job.path)
    except OSError as error:
        return FileInfo(job.name, problem=error.strerror)
    is_folder = stat.S_ISDIR(now.st_mode)
    if before is None or not before.num_frames or before.thorough < job.thorough:
        return None
    if is_folder and before.fps != round(job.fps or FPS, 6):
        return None
    size = 0 if is_folder else now.st_size
    return before if (before.bytes, before.mtime_ns) == (size, now.st_mtime_ns) else None


def probe_video(job: CheckJob) -> FileInfo:
    """Open a video and decode its first and last frame, or every frame; any error becomes its `problem`."""
    info = FileInfo(job.name, thorough=job.thorough)
    try:
        now = os.stat(job.path)
        info = info._replace(bytes=0 if stat.S_ISDIR(now.st_mode) else now.st_size, mtime_ns=now.st_mtime_ns)
        with time_limit(job.path, seconds=TIMEOUT):
            video = open_video(job.path, fps=job.fps)
            video.frames([0])
            damage = None if job.thorough else damaged_frames(video, [video.num_frames - 1])
        if job.thorough:
            with time_limit(job.path, seconds=TIMEOUT + 10 * video.duration):
                damage = video.damage() if isinstance(video, Video) else damaged_frames(video, range(video.num_frames))
    except VideoError as error:
        return info._replace(problem=f"{_reason(error, job.path)}; expected {error.expected}")
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


def damaged_frames(video: Video | FrameFolder, indices: Sequence[int]) -> str | None:
    """Say which of these frames cannot be read; None if all can. Raises DecodeTimeout."""
    problems = []
    for index in indices:
        try:
            video.frames([index])
        except DecodeTimeout:
            raise
        except VideoError as error:
            problems.append(_reason(error, video.path))
    return ", ".join(shorten_list(problems, most=3)) or None


def _reason(error: VideoError, path: str) -> str:
    """Return the reason of an error, after the name of the image if it is that of one in the folder `path`."""
    return error.reason if error.path == path else f"{os.path.basename(error.path)} {error.reason}"


def crash_info(job: CheckJob) -> FileInfo:
    """Return what to say about a file that crashed the worker."""
    reason = "reading it ends the process (a crash in the decoder)"
    try:
        now = os.stat(job.path)
    except OSError as error:
        return FileInfo(job.name, problem=error.strerror)
    return FileInfo(job.name, now.st_size, now.st_mtime_ns, problem=reason, thorough=job.thorough)


def add_hashes(files: Sequence[FileInfo], base: str, workers: int) -> list[FileInfo]:
    """Add the hash of the content to files that share their size with another."""
    sizes = Counter(info.bytes for info in files if info.bytes)
    todo = [os.path.join(base, info.path) for info in files if info.bytes and sizes[info.bytes] > 1 and not info.sha256]
    hashes = dict(
        map_in_processes(sha256, todo, workers=workers, title="comparing equal sizes", on_crash=lambda path: None)
    )
    return [info._replace(sha256=hashes.get(os.path.join(base, info.path), info.sha256)) for info in files]


def sha256(path: str) -> str | None:
    """Hash the content of a file; None if it cannot be read."""
    try:
        return hash_file(path)
    except OSError:
        return None
