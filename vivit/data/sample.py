"""Sample: a video, its labels by label set, and where in the video it starts and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .packet_index import PacketIndex

Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One labelled video, or a part of one."""

    path: str
    """A video file, or a folder of images."""
    labels: dict[str, str] = field(default_factory=dict)
    """Class name by label set."""
    start: float | None = None
    """Seconds; None: from the first frame."""
    end: float | None = None
    """Seconds; None: to the last frame."""
    where: str = ""
    """Where this was said, 'labels.csv:12', for messages."""
    fps: float | None = None
    """Images per second of a folder of images; None: 25. A video file knows its own rate."""
    index: PacketIndex | None = field(default=None, compare=False, repr=False)
    """What `vivit data check` found when it read the file through."""
    offset: int | None = field(default=None, compare=False, repr=False)
    """Of a video inside a tar file, "shard.tar#member": where its bytes begin; their number is `index.size`."""
