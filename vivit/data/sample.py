"""A sample: a video or a segment of it, with its labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from numbers import Real

from ..settings import check
from .packet_index import PacketIndex

Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One labelled video, or a segment of one. Raises ValueError for fields of another kind."""

    path: str
    """A video file, or a folder of images. A `pathlib.Path` becomes text."""
    labels: dict[str, str] = field(default_factory=dict)
    """Class name by label set."""
    start: float | None = None
    """Seconds; None: from the first frame."""
    end: float | None = None
    """Seconds; None: to the last frame."""
    where: str = ""
    """The place in the annotations, such as 'labels.csv:12', for messages."""
    fps: float | None = None
    """Images per second of a folder of images; None: 25. A video file knows its own rate."""
    index: PacketIndex | None = field(default=None, compare=False, repr=False)
    """What `vivit data check` found when it read all packets of the file."""
    offset: int | None = field(default=None, compare=False, repr=False)
    """For a video inside a tar file, "shard.tar#member": where its `index.size` bytes begin."""
    group: str = field(default="", compare=False)
    """The recording that it was cut from, to keep its clips on one side of a split; "" if not known."""

    def __post_init__(self) -> None:
        if type(self.path) is not str:  # first the type: there are hundreds of thousands of samples
            check(isinstance(self.path, str | bytes | os.PathLike), f"path is {self.path!r}; it takes a file or folder")
            object.__setattr__(self, "path", os.fsdecode(self.path))
        if type(self.labels) is not dict or {*map(type, self.labels), *map(type, self.labels.values())} - {str}:
            is_text = isinstance(self.labels, Mapping) and all(isinstance(x, str) for x in chain(*self.labels.items()))
            check(is_text, f'labels is {self.labels!r}; it takes class names by label set, such as {{"label": "run"}}')
        for name, seconds in (("start", self.start), ("end", self.end), ("fps", self.fps)):
            if seconds is not None and type(seconds) is not float:
                check(isinstance(seconds, Real), f"{name} is {seconds!r}; it takes a number or None")


def as_sample(
    video: str | os.PathLike[str] | Sample, *, start: float | None = None, end: float | None = None
) -> Sample:
    """Make a sample of a path and its seconds; a Sample has its own. Raises ValueError where both are given."""
    if not isinstance(video, Sample):
        return Sample(os.fspath(video), start=start, end=end)
    alone = start is None and end is None
    check(alone, f"start {start} and end {end} are given with a Sample, which has its own; set them there")
    return video


def container_file(path: str) -> str:
    """Return the file that holds the video at `path`: of "shard.tar#member" the shard, else the path itself."""
    shard, found, _ = path.rpartition(".tar#")
    return f"{shard}.tar" if found else path


def file_state(path: str) -> tuple[int, ...]:
    """Return size and modification time in nanoseconds of a file, of the shard that it is in, or of a folder."""
    try:
        found = os.stat(path if os.path.exists(path) else container_file(path))
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns
