"""Read all packets of a video: frames, time stamps and key frames.

Most containers store the time stamp at which each frame is shown, which names the frame: a seek then leads near any
frame. If time stamps cannot be trusted (concatenated files, damaged files, AVI and ASF with B-frames), a frame is named
by its position in the decoder's output from the start of the file, and every read starts there.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import av
import numpy as np
from av.codec.codec import Properties
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags

from .container import read_packets, video_streams

PRESENTATION_STAMPS = ("mov", "matroska", "mpegts", "mpeg", "flv", "ogg", "gif")  # the first word of FFmpeg's names
REORDER = 32  # a decoder may give frames this much out of order; H.264 and H.265 allow 16
SEEK_MARGIN = 8  # frames; in a container without an index, a seek finds roughly a packet decoded at a time
OVERLAP = 0.1  # seconds by which time stamps may run backwards before they count as a restart, as in ffmpeg
LONGEST_GAP = 30 * 3600.0  # seconds between two frames, as in ffmpeg (-dts_error_threshold)
EBML_MAGIC = b"\x1a\x45\xdf\xa3"  # the first bytes of a Matroska file
MAX_TAIL = 2**24  # bytes after the last packet in which another Matroska file is looked for: an index comes before it
LONGEST_GAP_BROADCAST = 10.0  # in MPEG-TS, -PS and Ogg, whose stamps may jump anywhere (-dts_delta_threshold)


@dataclass(frozen=True)
class Scan:
    """What the packets of a video say without decoding; all time stamps in ticks of `time_base` seconds."""

    stamps: list[int | None]
    """When each packet's frame is shown, in the order of the file; in AVI and ASF, when it is decoded."""
    key_stamps: list[int]
    last_duration: int
    """Of the frame shown last, in ticks; 0 if unknown."""
    time_base: float
    rate: float
    """Frames per second according to the header."""
    start: float
    """Seconds: the container's earliest stamp."""
    seek_early: int
    """How far before a key frame's stamp a seek must aim, in ticks."""
    longest_gap: float
    """Seconds without a new frame above which stamps count as having jumped."""
    rising: bool
    """No time stamp is missing, restarts, repeats, jumps or is far from its place in the file."""
    presentation: bool
    """The container stores when frames are shown, not when they are decoded."""
    damaged: bool
    """FFmpeg cannot read further, or the file claims impossible things."""
    corrupt: bool
    """FFmpeg marks packets within the file as corrupt; it also does so in concatenated intact files."""
    joined: bool
    """Another file follows, which FFmpeg does not read: it opens one of concatenated FLV or MP4, two of Matroska."""
    cut: bool
    """The file ends before the end that the header gives for the video."""
    declared_frames: int
    note: str | None

    @property
    def trusted(self) -> bool:
        """Whether the time stamps name the frames."""
        return self.presentation and self.rising and not (self.damaged or self.corrupt or self.cut or self.joined)


@dataclass
class _StreamPackets:
    """What the packets of the video stream say, one after the other; see `Scan`."""

    presentation: bool
    dts_guessed: bool
    """The container does not store when a packet is decoded."""
    stamps: list[int | None] = field(default_factory=list)
    key_stamps: list[int] = field(default_factory=list)
    rising: bool = True
    corrupt_at: int = -1
    """The number of the last corrupt packet."""
    early: int = 0
    """How far decoding runs ahead of showing at most, in ticks."""
    last_dts: int | None = None
    last_shown: float = -math.inf
    last_duration: int = 0

    def add(self, packet: av.Packet) -> None:
        """Take in the next packet of the stream."""
        if packet.is_corrupt:
            self.corrupt_at = len(self.stamps)
        if packet.is_discard:
            return
        dts, pts = packet.dts, packet.pts
        if dts is not None and not self.dts_guessed:
            self.rising &= self.last_dts is None or dts >= self.last_dts
            self.last_dts = dts
            self.early = max(self.early, pts - dts) if pts is not None else self.early
        self.stamps.append(pts if pts is not None and (self.presentation or dts is None) else dts)
        if pts is None:
            self.rising = False
            return
        if packet.is_keyframe:
            self.key_stamps.append(pts)
            self.rising &= not self.dts_guessed or pts > self.last_shown  # a key frame comes after all before it
        if pts > self.last_shown:
            self.last_shown, self.last_duration = pts, packet.duration or 0


def scan_packets(container: InputContainer, stream: av.VideoStream, size: int, file: BinaryIO) -> Scan:
    """Read all packets of a file of `size` bytes, also those of sound, which tell how far the file reaches.

    `file` is the same file, for what FFmpeg does not show.
    """
    rate = _frame_rate(stream)
    time_base = float(stream.time_base or 1 / rate)
    broadcast = bool(container.format.flags & Flags.ts_discont.value)
    longest_gap = LONGEST_GAP_BROADCAST if broadcast else LONGEST_GAP
    found = _StreamPackets(_stores_presentation(container, stream), dts_guessed=_kind(container) == "matroska")
    damaged, end, read_until = False, 0.0, 0
    try:
        for number, packet in enumerate(read_packets(container)):
            if number > size:  # more packets than bytes
                damaged = True
                break
            read_until = max(read_until, (packet.pos or 0) + packet.size)
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                found.add(packet)
    except FFmpegError:
        damaged = True

    count, corrupt_at = len(found.stamps), found.corrupt_at
    known = np.unique(np.array([s for s in found.stamps if s is not None], dtype=np.int64))
    jumps = len(known) > 1 and not bool((np.diff(known) * time_base).max() < longest_gap)
    declared = _declared_seconds(container, stream)
    return Scan(
        stamps=found.stamps,
        key_stamps=found.key_stamps,
        last_duration=found.last_duration if 0 < found.last_duration * time_base < longest_gap else 0,
        time_base=time_base,
        rate=rate,
        start=container.start_time / av.time_base if container.start_time is not None else math.inf,
        seek_early=found.early + round(SEEK_MARGIN / rate / time_base) if broadcast else 0,
        longest_gap=longest_gap,
        rising=found.rising and len(known) == count and not jumps and _nearly_ascending(found.stamps, known),
        presentation=found.presentation,
        damaged=damaged,
        corrupt=0 <= corrupt_at < count - 1,  # the last packet is only cut off
        joined=_another_file_follows(_kind(container), size, read_until, file),
        cut=0 <= corrupt_at == count - 1 or (declared is not None and end < declared - 1.5 / rate),
        declared_frames=stream.frames or round((declared or 0.0) * rate),
        note=_note(container, stream),
    )


def _nearly_ascending(stamps: Sequence[int | None], known: np.ndarray) -> bool:
    """Return whether each of the stamps, sorted in `known`, comes at most REORDER places after a later one."""
    places = np.searchsorted(known, np.array(stamps, dtype=np.int64))
    return bool((np.maximum.accumulate(places) - places <= REORDER).all())


def _another_file_follows(kind: str, size: int, read_until: int, file: BinaryIO) -> bool:
    """Return whether another file begins after the last packet that FFmpeg has read, at `read_until`."""
    if kind == "flv":
        return size - read_until > size / 20 + 1000
    if kind == "mov":
        return any(name == b"ftyp" and position >= read_until > 0 for position, name in _mp4_boxes(file))
    if kind == "matroska" and read_until > 0:
        file.seek(read_until)
        return EBML_MAGIC in file.read(MAX_TAIL)
    return False


def _mp4_boxes(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the position and name of each top-level box of an MP4 or QuickTime file, up to the first absurd one."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\1" else head[:4], "big")
        if len(head) < 8:
            return
        yield position, head[4:8]
        if size < 8:  # 0: up to the end of the file
            return
        position += size


def _kind(container: InputContainer) -> str:
    """Return FFmpeg's first name of the container: "mov", "matroska", "avi" …"""
    return container.format.name.split(",")[0]


def _frame_rate(stream: av.VideoStream) -> float:
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return rate if 1 / LONGEST_GAP <= rate <= 1e6 else 25.0


def _stores_presentation(container: InputContainer, stream: av.VideoStream) -> bool:
    """Return whether time stamps say when a frame is shown; true too for codecs that keep the order of frames."""
    codec = stream.codec_context
    may_reorder = bool(codec.codec.properties & Properties.REORDER.value)
    # H.264 and H.265 may reorder later frames without a sign in the first ones; other codecs declare it.
    reorders = may_reorder and (codec.has_b_frames or codec.name in ("h264", "hevc"))
    return _kind(container) in PRESENTATION_STAMPS or not reorders


def _declared_seconds(container: InputContainer, stream: av.VideoStream) -> float | None:
    """Return when the video ends according to the header; None for containers whose header does not say."""
    kind = _kind(container)
    if kind == "avi":
        return stream.frames / float(stream.average_rate or 25)
    if kind == "mov" and stream.duration:
        return float(stream.duration * (stream.time_base or 0))
    if kind == "matroska" and (length := _clock(stream.metadata)) is not None:
        return length
    return (container.duration or 0) / av.time_base if kind in ("mov", "matroska") else None


def _clock(metadata: dict[str, str]) -> float | None:
    """Parse the tag DURATION ("00:01:02.5"), which FFmpeg and mkvmerge write for each track of Matroska, to seconds."""
    text = next((value for name, value in metadata.items() if re.fullmatch(r"DURATION(-\w+)?", name)), "")
    match = re.fullmatch(r"(\d{1,6}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


def _note(container: InputContainer, stream: av.VideoStream) -> str | None:
    """Describe a file with several video tracks; None for other files."""
    streams = video_streams(container)
    if len(streams) < 2:
        return None
    sizes = ", ".join(f"{s.codec_context.width}x{s.codec_context.height}" for s in streams)
    chosen = streams.index(stream) + 1
    return f"{len(streams)} video tracks ({sizes}): number {chosen} is used"


def rising_stamps(
    stamps: Sequence[int | None], *, time_base: float, rate: float, longest_gap: float
) -> tuple[np.ndarray, int]:
    """Repair time stamps that restart, repeat, jump or are missing: (n,) int64 in parts of a tick, and parts per tick.

    If they restart, or jump by more than `longest_gap` seconds, they continue one frame (1 / `rate`) after the frame
    before; a single stamp that does so, before the others go on, counts as missing. Frames with equal time stamps share
    the time until the next one evenly; hence the parts.
    """
    step, gap, back = max(round(1 / rate / time_base), 1), longest_gap / time_base, OVERLAP / time_base
    values: list[int] = []
    offset, last = 0, next((stamp for stamp in stamps if stamp is not None), 0) - step
    for stamp, following in zip(stamps, [*stamps[1:], None]):
        value = last + step if stamp is None else stamp + offset
        after = value if following is None else following + offset
        if 0 <= after - last <= gap and min(value - last, after - value) < -back:
            value = min(last + step, after)
        if not -back <= value - last <= gap:
            offset, value = offset + last + step - value, last + step
        last = max(value, last)
        values.append(last)
    _, first, sizes = np.unique(np.array(values), return_index=True, return_counts=True)
    parts = int(sizes.max())
    if (values[-1] - values[0] + step * parts) * parts >= 2**62:
        return np.arange(len(values)) * step, 1
    begins = np.array(values)[first] - values[0]
    room = np.diff(begins, append=begins[-1] + step * sizes[-1])
    place = np.arange(len(values)) - np.repeat(first, sizes)
    shares = place * np.repeat(room, sizes) * parts // np.repeat(sizes, sizes)
    return np.repeat(begins, sizes) * parts + shares, parts
