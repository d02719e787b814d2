"""Read frames from what has no end or cannot seek: a pipe, a camera, a network address.

Frames come in the order of time, each with its number and its seconds since the first one. A clock that jumps or runs
backwards continues one frame later. When a camera or address ends or fails, it is opened again; a pipe ends.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from ...errors import VideoError, as_video_error
from .container import CONTAINERS, MAX_PIXELS, _checked, read_packets, video_streams
from .frame_folder import open_video
from .picture import upright_rgb, upright_size

# What FFmpeg may open for each protocol that the user names; nothing else, whatever the server answers.
PROTOCOLS = {
    "tcp": "tcp",
    "udp": "udp",
    "http": "http,tcp",
    "https": "https,tls,tcp,http",
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtmp": "rtmp,tcp",
}
LIVE_FORMATS = f"{CONTAINERS},rtsp,sdp,rtp,mpjpeg,mjpeg,h264,hevc"
ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between attempts to open a source again; the last one repeats
LONGEST_JUMP = 10.0  # seconds without a new frame above which the clock counts as having jumped
PROBE = {"probesize": str(2**20), "analyzeduration": str(av.time_base)}  # a second of stream: answers come soon
PIPE = "-"
FPS, MOST_FPS = 25.0, 240.0  # of a stream that tells no rate, or one above the most


@dataclass(frozen=True)
class Frame:
    """One frame of a stream."""

    number: int
    """Since the source was opened, from 0."""
    time: float
    """Seconds since the first frame of the stream at which it appears."""
    end: float
    """Seconds at which it ends."""
    connection: int
    """How often the source was opened before."""
    captured: float
    """time.monotonic() when it was read."""
    image: Callable[[], np.ndarray]
    """Returns the frame as (H, W, 3) uint8; all frames of a connection have the size of its first."""
    fps: float = FPS
    """Frames per second that the source says it has; of a file, the mean."""


class Pieces(Protocol):
    """What is read from its start to its end, without seeking."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, as soon as there are some; none at the end."""
        ...


@dataclass(frozen=True)
class Source:
    """Where frames come from, and how long to wait for them."""

    name: str
    """A file, "-" for standard input, a device such as /dev/video0, or an address."""
    protocol: str | None = None
    """The protocol that an address may use; without it addresses are refused."""
    open_timeout: float = 5.0
    """Seconds to wait for an answer when opening."""
    read_timeout: float = 3.0
    """Seconds without data after which the source counts as dead."""
    give_up: float = 300.0
    """Seconds of failed attempts after which an error ends the stream."""

    @property
    def is_live(self) -> bool:
        """Whether frames come when they come, and are lost if nobody reads them."""
        return self.kind in ("address", "device")

    @property
    def kind(self) -> str:
        """What the name stands for: pipe, address, device or file. Raises ValueError for an address not allowed."""
        if self.name == PIPE:
            return "pipe"
        if match := ADDRESS.match(self.name):
            check_protocol(self.name, match[1].lower(), self.protocol)
            return "address"
        try:
            mode = os.stat(self.name).st_mode
        except OSError:
            return "file"  # whose absence `Video` reports
        if stat.S_ISFIFO(mode):
            return "pipe"
        return "device" if stat.S_ISCHR(mode) else "file"


def check_protocol(name: str, protocol: str, allowed: str | None) -> None:
    """Raise ValueError for an address whose protocol was not named, or is unknown."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"{name}: protocol {protocol!r} is not supported; allowed: {', '.join(PROTOCOLS)}")
    if protocol != allowed:
        got = f", not {allowed}" if allowed else ""
        raise ValueError(
            f"{name} is an address; to read from the network, name its protocol: --protocol {protocol}{got}"
        )


def read_frames(source: Source, stop: threading.Event, log: Callable[[str], None]) -> Iterator[Frame]:
    """Yield the frames of a source until it ends or `stop` is set; `log` takes what happens to it in words.

    Raises VideoError for a source that cannot be opened, and for a live one that stays away longer than `give_up`.
    """
    if source.kind == "file":
        yield from _file_frames(source.name, stop)
        return
    connection, offset, attempt = 0, 0.0, 0
    failed_since = before = time.monotonic()
    while not stop.is_set():
        ended, last = "ended", None
        try:
            for frame in _connection_frames(source, connection, offset, stop):
                if attempt:
                    log(f"{source.name}: answers again")
                last, attempt = frame, 0
                yield frame
        except VideoError as error:
            ended = error.reason
        if not source.is_live:
            if last is None and ended != "ended":
                raise VideoError(source.name, ended, "a stream that FFmpeg can decode without seeking, such as mpegts")
            return
        if last is not None:
            connection, failed_since, before = connection + 1, time.monotonic(), last.captured
            offset = last.end
        if time.monotonic() - failed_since > source.give_up or (connection == 0 and attempt >= len(BACKOFF)):
            raise VideoError(source.name, f"{ended}, and no frame for {time.monotonic() - failed_since:.0f} s")
        if attempt == 0:
            log(f"{source.name}: {ended}; opening it again")
        stop.wait(BACKOFF[min(attempt, len(BACKOFF) - 1)])
        attempt += 1
        if connection:  # the outage takes time in the stream as well
            offset, before = offset + time.monotonic() - before, time.monotonic()


def _file_frames(path: str, stop: threading.Event) -> Iterator[Frame]:
    video = open_video(path)
    ends = np.append(video.times[1:], video.duration)
    for number, image in video.images(range(video.num_frames)):
        if stop.is_set():
            return
        begin, end = float(video.times[number]), float(ends[number])
        yield Frame(number, begin, end, 0, time.monotonic(), lambda image=image: image, video.fps)


def read_pieces(file: Pieces, name: str, *, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """Yield the frames of a container whose bytes come from `file.read`, in order and to its end.

    `name` is for messages. Raises VideoError, also for a frame of more than `max_pixels`.
    """
    options = PROBE | {"max_pixels": str(MAX_PIXELS), "format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    with as_video_error(name), av.open(file, "r", options=options, metadata_errors="replace") as container:
        yield from _container_frames(container, name, max_pixels=max_pixels)


def _connection_frames(source: Source, connection: int, offset: float, stop: threading.Event) -> Iterator[Frame]:
    """Yield the frames of one connection; its first frame appears at `offset` seconds."""
    with as_video_error(source.name), open_live(source) as container:
        for frame in _container_frames(container, source.name, connection=connection, offset=offset):
            if stop.is_set():
                return
            yield frame


def _container_frames(
    container: InputContainer, name: str, *, connection: int = 0, offset: float = 0.0, max_pixels: int = MAX_PIXELS
) -> Iterator[Frame]:
    streams = video_streams(container)
    if not streams:
        raise VideoError(name, "holds no video stream with a known codec")
    stream = _checked(name, streams[0])
    rate = float(stream.average_rate or stream.guessed_rate or FPS)
    tick = float(stream.time_base or 1 / rate)
    clock, reformatter, size, number = StreamClock(offset, rate), VideoReformatter(), None, 0
    for packet in chain(read_packets(container, stream), [None]):  # None drains the decoder
        try:
            decoded = stream.decode(packet)
        except FFmpegError:  # a damaged packet: its frame is missing
            decoded = []
        for frame in decoded:
            if frame.width * frame.height > max_pixels:
                most = f"at most {max_pixels / 1e6:g} million pixels a frame"
                raise VideoError(name, f"has frames of {frame.width}x{frame.height} pixels", most)
            size = size or upright_size(frame)
            stamp = None if frame.pts is None else frame.pts * tick
            lasts = (frame.duration or 0) * tick or 1 / rate
            shown = clock.time_of(stamp)
            convert = partial(upright_rgb, frame, reformatter, *size)
            fps = rate if rate <= MOST_FPS else FPS  # containers of browsers tell the tick of their clock
            yield Frame(number, shown, shown + lasts, connection, time.monotonic(), convert, fps)
            number += 1


class StreamClock:
    """Turn time stamps in seconds, which may be missing, jump or run backwards, into rising seconds from `offset`."""

    def __init__(self, offset: float, rate: float):
        self.step = 1 / rate
        self.last, self.shift = offset - self.step, None
        self.jumps = 0

    def time_of(self, stamp: float | None) -> float:
        """Return the seconds of the next frame, given its time stamp."""
        if stamp is None:
            stamp = self.last + self.step - (self.shift or 0.0)
        if self.shift is None:
            self.shift = self.last + self.step - stamp
        if not 0 < stamp + self.shift - self.last < LONGEST_JUMP:
            self.jumps += 1
            self.shift = self.last + self.step - stamp
        self.last = stamp + self.shift
        return self.last


def open_live(source: Source) -> InputContainer:
    """Open a pipe, a device or an address. Raises FFmpegError."""
    options: dict[str, str] = {"max_pixels": str(MAX_PIXELS), "format_whitelist": LIVE_FORMATS}
    extra: dict[str, Any] = {"timeout": (source.open_timeout, source.read_timeout)}
    name = source.name
    if source.kind == "pipe":
        options |= {"protocol_whitelist": "pipe" if name == PIPE else "file"}
        name, extra = ("pipe:0", {}) if name == PIPE else (f"file:{name}", {})
    elif source.kind == "device":
        options |= {"format_whitelist": "v4l2,video4linux2", "protocol_whitelist": "file"}
        extra |= {"format": "v4l2"}
    else:
        options |= PROBE | {"protocol_whitelist": PROTOCOLS[source.protocol or ""]}
        if source.protocol == "rtsp":
            options |= {"rtsp_transport": "tcp"}
    return av.open(name, "r", options=options, metadata_errors="replace", **extra)
