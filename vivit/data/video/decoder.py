"""Decode the frames of a video file that are asked for, and little else.

A `Video` holds an index (which frames there are, when each is shown, where decoding may start) and no open file, so it
can be pickled, kept, and used in forked or spawned workers. Frames are named by their presentation time stamps, which
handles B-frames, edit lists and variable frame rates; if time stamps cannot be trusted (see `vivit.data.video.scan`),
frames are named by their position in the file. Seconds count from the container's start, the earliest time stamp of all
its streams, as in a player and in `ffmpeg -i FILE -ss SECONDS`: if the video begins after the sound, the first frame
appears after 0. Pixels count as square. Interlaced frames are converted as progressive ones, both fields in one image,
as ffmpeg and torchcodec do by default; 8-bit video comes out bit-identical to theirs.

The index takes one pass over the file, which is slow for an hour of video. `Video.packet_index` returns it in a small
form, which `vivit data check` keeps in its manifest; a Video that gets it reads nothing until frames are asked for. If
the size or date of the file has changed, the index is ignored and built again.

Damaged files:

* no readable container, no video stream, or not one frame that decodes: VideoError from the constructor;
* a file that ends early, or whose first frames lack what they refer to: the index holds the frames that decode,
  `problem` says what is missing, and logging.getLogger("vivit") warns once;
* a file whose packets are damaged or that ends early is read from its start for every frame, so that every access
  gives the same pixels;
* a frame further in that does not decode: VideoError when it is asked for, never another frame in its place;
* a frame that FFmpeg patches over damaged bytes: what FFmpeg makes of it when it reads the file from the start.
"""

from __future__ import annotations

import logging
import operator
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, SupportsIndex

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from ...errors import VideoError
from ..packet_index import FrameIndex, PacketIndex
from .build_index import build_index
from .container import decode_frames, open_video_stream
from .frames import Frames
from .picture import upright_rgb
from .scan import REORDER

if TYPE_CHECKING:
    import torch

SEEK_COST = 8  # a seek costs about as much as decoding this many frames
RECENT_VIDEOS, RECENT_FRAMES = 4096, 3000  # of how many videos, of how many frames, a process keeps the index

_recent: dict[tuple[str, int, int], FrameIndex] = {}  # by path, size and date: built by this process


class Video(Frames):
    """The index of one video file.

    Attributes:
        path (str): The file.
        num_frames (int): How many frames can be asked for.
        times (ndarray): (num_frames,) float64, seconds from the start of the container to each frame, ascending.
        duration (float): The second at which the last frame ends.
        fps (float): Frames per second, averaged over `times`.
        height (int): Pixels, after the rotation or mirroring the file asks for.
        width (int): The same.
        problem (str | None): What is wrong with a file that still has frames, or None.
        note (str | None): That there are several video tracks, and which one is used, or None.
        frames_decoded (int): Frames that this object has decoded so far, returned or not.

    `len(video)`, `video[0]` (C, H, W) and `video[0:10]` (T, C, H, W) work as for torchcodec's decoder.

    Raises VideoError for a file without frames.
    """

    def __init__(self, path: str | os.PathLike, *, data: bytes | None = None, index: PacketIndex | None = None):
        """Open `path`, or read `data` as the bytes of a file called `path`; `index` saves reading all packets."""
        self.path = _regular_file(path) if data is None else os.fsdecode(path)
        self.frames_decoded = 0
        self._data = data
        self._size, self._mtime_ns = _size_and_mtime(self.path) if data is None else (len(data), 0)

        known = None
        if index is not None and (index.size, index.mtime_ns) == (self._size, self._mtime_ns):
            known = FrameIndex.from_text(index.text, self._size)
        if known is None and data is None:
            known = _recent.get((self.path, self._size, self._mtime_ns))
        if known is None:
            self._index, self.frames_decoded = build_index(self.path, data, self._size)
            if data is None and len(self._index.pts) <= RECENT_FRAMES:
                _recent[self.path, self._size, self._mtime_ns] = self._index
                if len(_recent) > RECENT_VIDEOS:
                    _recent.pop(next(iter(_recent)))
        else:
            self._index = known
        found = self._index
        self.height, self.width, self.problem, self.note = found.height, found.width, found.problem, found.note
        self.num_frames = len(found.pts)
        self.times = (found.pts - found.pts[0]) * found.time_base + found.start
        self.duration = float(self.times[-1]) + found.last_duration
        shown = float(self.times[-1] - self.times[0])
        self.fps = (self.num_frames - 1) / shown if self.num_frames > 1 else 1 / found.last_duration
        if self.problem and known is None:
            logging.getLogger("vivit").warning("%s: %s", self.path, self.problem)

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: SupportsIndex | slice) -> torch.Tensor:
        """Return one frame (C, H, W) or a slice (T, C, H, W), uint8 RGB; negative numbers count from the end."""
        if isinstance(index, slice):
            return self.frames(range(self.num_frames)[index])
        number = operator.index(index)
        if not -self.num_frames <= number < self.num_frames:
            raise IndexError(
                f"got frame {number} of {self.path}; allowed are {-self.num_frames} to {self.num_frames - 1}"
            )
        return self.frames([number % self.num_frames])[0]

    def __repr__(self) -> str:
        return (
            f"Video({self.path!r}: {self.num_frames} frames of {self.height}x{self.width} pixels (H x W), "
            f"{self.duration:.2f} s, {self.fps:.2f} frames/s)"
        )

    def packet_index(self) -> PacketIndex:
        """Return the index of the file, to be kept and passed to the next `Video` of it."""
        return PacketIndex(self._size, self._mtime_ns, self._index.to_text())

    def images(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8) of one frame after the other, for ascending numbers; one is held at a time.

        Raises VideoError if one does not decode.
        """
        wanted = np.unique(np.asarray(indices, dtype=np.int64)).tolist()
        reformatter = VideoReformatter()
        given = 0
        for index, frame in self._decode(wanted):
            if index != wanted[given]:
                break
            yield index, upright_rgb(frame, reformatter, self.height, self.width)
            given += 1
        if given < len(wanted):
            raise VideoError(self.path, f"frame {wanted[given]} of {self.num_frames} does not decode", "intact packets")

    def frames_at(self, seconds: Sequence[float]) -> torch.Tensor:
        """Decode the frames shown at these times, clamped to the first and last frame: (T, C, H, W) uint8 RGB.

        A frame counts as shown from a microsecond before its time stamp, so i / fps finds frame i despite rounding.
        """
        return self.frames(frame_ids_at(seconds, self.times, self.path))

    def damage(self) -> str | None:
        """Decode every frame; return what is damaged ("frames 60 to 139 of 200 do not decode", …) or None.

        Holds one frame at a time. Frames that FFmpeg patches over damaged bytes are "corrupt".
        """
        missing = np.ones(self.num_frames, dtype=bool)
        corrupt = np.zeros(self.num_frames, dtype=bool)
        for index, frame in self._decode(range(self.num_frames)):
            missing[index], corrupt[index] = False, frame.is_corrupt
        faults = [
            f"{_ranges(numbers)} of {self.num_frames} {what}"
            for numbers, what in ((missing.nonzero()[0], "do not decode"), (corrupt.nonzero()[0], "are corrupt"))
            if len(numbers)
        ]
        return "; ".join(faults) or None

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) for the frames of `wanted` (ascending) that decode, ascending.

        Each run of nearby frames is read from its key frame; frames that this does not give (gradual refresh, damage,
        a seek that fails or arrives late) are read from the start of the file.
        """
        with self._open() as (container, stream):
            for run in _split_runs(wanted, self._index.keys):
                key = self._index.keys[bisect_right(self._index.keys, run[0]) - 1]
                if key == 0:
                    yield from self._from_start(container, stream, run)
                    continue
                found = -1
                for found, frame in self._from_key(container, stream, run, key):
                    yield found, frame
                if found != run[-1]:
                    with self._open() as (fresh, fresh_stream):
                        yield from self._from_start(fresh, fresh_stream, run[bisect_right(run, found) :])

    def _from_key(
        self, container: InputContainer, stream: av.VideoStream, wanted: Sequence[int], key: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) for `wanted` after a seek to key frame `key`, until one is missing or damaged.

        Only from the start of the file does the decoder patch damage in the same way each time.
        """
        position, key_decoded = 0, False
        for index, frame in self._numbered(container, stream, int(self._index.pts[key]) - self._index.seek_early):
            key_decoded |= index == key
            if index > wanted[position] or (index >= key and (frame.is_corrupt or not key_decoded)):
                return
            if index == wanted[position]:
                yield index, frame
                position += 1
                if position == len(wanted):
                    return

    def _from_start(
        self, container: InputContainer, stream: av.VideoStream, wanted: Sequence[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) for the `wanted` frames, ascending, from a container that was just opened."""
        members, position = set(wanted), 0
        waiting: list[tuple[int, int, av.VideoFrame]] = []  # a heap of the frames that came before an earlier one
        for count, (index, frame) in enumerate(self._numbered(container, stream)):
            if index in members and index >= wanted[position]:
                heappush(waiting, (index, count, frame))
            while waiting and (waiting[0][0] <= wanted[position] or index > wanted[position] + REORDER):
                first, _, ready = heappop(waiting)
                if first >= wanted[position]:
                    yield first, ready
                    position = bisect_right(wanted, first)
                    if position == len(wanted):
                        return
            if index > wanted[-1] + REORDER:
                return
        yield from ((index, frame) for index, _, frame in sorted(waiting))

    def _numbered(
        self, container: InputContainer, stream: av.VideoStream, seek: int | None = None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) in the decoder's order; -1 for a frame that is not in the index."""
        for position, frame in enumerate(decode_frames(container, stream, seek)):
            self.frames_decoded += 1
            yield self._index.number_of(position, frame.pts), frame

    def _open(self) -> AbstractContextManager[tuple[InputContainer, av.VideoStream]]:
        return open_video_stream(self.path, self._data, self._index.track)


def _regular_file(path: str | os.PathLike) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise VideoError(repr(path), f"is a {type(path).__name__}", "the path of a video file") from None
    if not os.path.isfile(name):  # also keeps pipes and devices from blocking
        what = "is a directory" if os.path.isdir(name) else "is not a regular file"
        raise VideoError(name, what if os.path.exists(name) else "no such file", "the path of a video file")
    return name


def _size_and_mtime(path: str) -> tuple[int, int]:
    """Return size in bytes and date of the last change in nanoseconds, of a file that is not empty."""
    try:
        facts = os.stat(path)
    except OSError as error:
        raise VideoError(path, f"cannot be opened ({error.strerror})") from error
    if facts.st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")
    return facts.st_size, facts.st_mtime_ns


def _split_runs(wanted: Sequence[int], keys: Sequence[int]) -> list[list[int]]:
    """Split ascending frame numbers into runs, where a seek to the next key frame beats decoding on; keys[0] is 0."""
    runs = [[*wanted[:1]]] if wanted else []
    for before, index in pairwise(wanted):
        if keys[bisect_right(keys, index) - 1] > before + SEEK_COST:
            runs.append([])
        runs[-1].append(index)
    return runs


def _ranges(numbers: np.ndarray, most: int = 5) -> str:
    """Format ascending frame numbers as "frames 3, 60 to 139"; after `most` ranges only say how many frames follow."""
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    names = [f"{group[0]} to {group[-1]}" if len(group) > 1 else f"{group[0]}" for group in groups[:most]]
    rest = sum(len(group) for group in groups[most:])
    return f"frames {', '.join(names)}" + (f" and {rest} more" if rest else "")


def frame_ids_at(seconds: Sequence[float], times: np.ndarray, path: str) -> list[int]:
    """Return the numbers of the frames shown at these seconds, given when each appears; see `Video.frames_at`."""
    moments = np.array([float(second) for second in seconds], dtype=np.float64)
    if np.isnan(moments).any():
        raise ValueError(f"got times {moments.tolist()} for {path}; allowed are seconds, without NaN")
    return np.clip(np.searchsorted(times, moments + 1e-6, side="right") - 1, 0, None).tolist()
