"""What all formats share: options, paths of videos, rounding, JSON"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ..segments import Segment
from ..timeline import Timeline

Videos = Sequence[tuple[Timeline, Sequence[Segment]]]


@dataclass(frozen=True)
class FormatOptions:
    """What a format needs to know besides the segments."""

    folder: str | None = None
    """Folder of the file that is written; paths of videos in it become relative to it. None keeps paths as they are."""
    fps: float = 25.0
    """Label Studio: frames per second in which it counts, `frameRate` of its Video tag."""
    url_prefix: str = "/data/local-files/?d="
    """Label Studio: what comes before the path of a video."""
    epic_levels: tuple[int, int, int] = (0, 0, 0)
    """EPIC-Kitchens: the supervision levels of pretraining, training labels and training data, 0 to 5."""

    def __post_init__(self):
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps is {self.fps}; it must be above 0")
        if not all(0 <= level <= 5 for level in self.epic_levels):
            raise ValueError(f"epic_levels are {self.epic_levels}; each is 0 to 5")


def path_of(timeline: Timeline, options: FormatOptions) -> str:
    """Return the path of the video, relative to the folder of the file if it is in it."""
    if options.folder is None:
        return timeline.path
    for resolve in (os.path.abspath, os.path.realpath):
        folder, path = resolve(options.folder), resolve(timeline.path)
        if path.startswith(folder.rstrip(os.sep) + os.sep):
            return os.path.relpath(path, folder)
    return os.path.abspath(timeline.path)


def seconds(time: float) -> float:
    """Round to microseconds, as exact as the frames of a segment are chosen."""
    return round(max(time, 0.0), 6)


def to_json(value: Any, **arguments: Any) -> str:
    """Format as JSON; bytes of paths that are not UTF-8 become escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, **arguments)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, **arguments)
    return text


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet. Raises DataError where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("Parquet needs pyarrow: pip install 'vivit[parquet]', or use npz") from error
    return pyarrow, parquet


def one_label_set(videos: Videos, name: str) -> str:
    """Return the only label set of the segments, or "" without segments; raise DataError if there are several."""
    found = sorted({one.label_set for _, several in videos for one in several})
    if len(found) > 1:
        raise DataError(f"the format {name} holds one label set, got {', '.join(found)}; choose one, or use jsonl")
    return found[0] if found else ""
