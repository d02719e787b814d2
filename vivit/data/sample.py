"""A sample: a video or a segment of it, with its labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .packet_index import PacketIndex

Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One labelled video, or a segment of one."""

    path: str
    """A video file, or a folder of images."""
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
