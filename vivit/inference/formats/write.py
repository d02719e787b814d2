"""The table of formats, and the files that they are written to"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from ...config import suggestion
from ...errors import DataError
from ...files import atomic_write
from ...text import listing
from .common import FormatOptions, Videos
from .detections import write_activitynet, write_epic
from .label_studio import write_label_studio
from .subtitles import write_audacity, write_srt, write_vtt
from .tables import write_csv, write_jsonl, write_npz, write_parquet


@dataclass(frozen=True)
class Format:
    """A format of files."""

    suffix: str
    write: Callable[[Any, Videos, FormatOptions], None]
    """(file, videos, options) → None"""
    per_video: bool = False
    """Whether a file holds one video only."""
    binary: bool = False


FORMATS: dict[str, Format] = {
    "csv": Format(".csv", write_csv),
    "jsonl": Format(".jsonl", write_jsonl),
    "srt": Format(".srt", write_srt, per_video=True),
    "vtt": Format(".vtt", write_vtt, per_video=True),
    "audacity": Format(".txt", write_audacity, per_video=True),
    "activitynet": Format(".json", write_activitynet),
    "epic": Format(".json", write_epic),
    "labelstudio": Format(".json", write_label_studio),
    "npz": Format(".npz", write_npz, per_video=True, binary=True),
    "parquet": Format(".parquet", write_parquet, binary=True),
}


def format_of(path: str | os.PathLike, name: str = "") -> str:
    """Return the name of a format: `name`, or what the suffix of the path says. Raises DataError if neither does."""
    if name and name not in FORMATS:
        raise DataError(f"unknown format {name!r}{suggestion(name, FORMATS)}")
    fitting = [key for key, one in FORMATS.items() if Path(path).suffix.lower() == one.suffix]
    if not name and len(fitting) != 1:
        raise DataError(f"{path}: name the format of the file: {', '.join(fitting or FORMATS)}")
    return name or fitting[0]


def write_timelines(
    path: str | os.PathLike, videos: Videos, name: str = "", options: FormatOptions | None = None
) -> list[Path]:
    """Write segments or scores of videos, (timeline, segments) each, in the format `name` and return the files.

    Without a name the suffix of the path says the format. Of several videos, formats that hold one are written as
    `path/<video>.<suffix>`. Files are complete or not there. Raises DataError if the format cannot hold the videos, and
    OSError.
    """
    form = FORMATS[format_of(path, name)]
    jobs = _jobs(Path(path), videos, form)
    for target, part in jobs:
        own = _with_folder(options, target)
        if form.binary:
            with atomic_write(target, "wb") as file:
                form.write(file, part, own)
        else:
            with atomic_write(target, newline="", errors="surrogateescape") as file:
                form.write(file, part, own)
    return [target for target, _ in jobs]


def check_timelines(
    path: str | os.PathLike, videos: Videos, name: str = "", options: FormatOptions | None = None
) -> None:
    """Raise the errors of `write_timelines` without writing a file."""
    form = FORMATS[format_of(path, name)]
    for target, part in _jobs(Path(path), videos, form):
        refuse_unwritable(target)
        form.write(BytesIO() if form.binary else StringIO(), part, _with_folder(options, target))


def refuse_unwritable(path: Path) -> None:
    """Raise OSError for a file that `atomic_write` could not write."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    folder = next(one for one in path.absolute().parents if one.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written: no permission to write in {folder}")


def _jobs(path: Path, videos: Videos, form: Format) -> list[tuple[Path, Videos]]:
    """Return the files and the videos of each."""
    if form.per_video and (len(videos) > 1 or path.is_dir()):
        names = [Path(timeline.path).stem for timeline, _ in videos]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(listing(f"{path}: videos with the same name, which would be one file", twice))
        return [(path / f"{stem}{form.suffix}", [video]) for stem, video in zip(names, videos)]
    return [(path, videos)]


def _with_folder(options: FormatOptions | None, target: Path) -> FormatOptions:
    options = options or FormatOptions()
    return options if options.folder is not None else replace(options, folder=str(target.parent))
