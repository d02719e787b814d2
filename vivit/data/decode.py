"""Video files in, uint8 RGB frames out: exactly the frames asked for, decoding little else.

A `Video` is an index (which frames there are, when each is shown, where decoding may start) and no open file, so it can
be pickled, kept, and used in forked or spawned workers. Frames are named by their presentation time stamps, which makes
B-frames, edit lists and variable frame rates come out right. Pixels count as square and frames as progressive.

Making the index means reading all of the file once, which for an hour of video takes long. `Video.packet_index` gives
it in a small form, which `vivit data check` keeps in its manifest; a Video that is given one reads nothing until frames
are asked for. Where the file's size or date is no longer what it was, the index is put aside and the file read again.

What a damaged file does:

* no readable container, no picture, or not one frame that decodes: VideoError from the constructor;
* a file that ends early, or whose first frames lack what they refer to: the index holds the frames that decode,
  `problem` says what is missing, and logging.getLogger("vivit") warns once;
* a frame further in that does not decode: VideoError when it is asked for, never another frame in its place;
* a frame that FFmpeg patches over damaged bytes: what FFmpeg makes of it when it reads the file from the start.
"""

import importlib
import io
import logging
import operator
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, get_args

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from ..errors import VideoError
from .packets import PacketIndex, Survey

Backend = Literal["pyav", "torchcodec"]

# FFmpeg itself would also take play lists, subtitles and still images for videos.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 2**26  # of one frame: 8192 x 8192
REORDER = 32  # a decoder may give frames this much out of order; H.264 and H.265 allow 16
CHUNK = 8  # frames that are kept at full size while they are made smaller
SEEK_COST = 8  # a seek costs about as much as decoding this many frames in vain


class Video:
    """The index of one video file.

    path: str              the file
    num_frames: int        how many frames can be asked for
    times: (num_frames,)   float64 seconds at which each frame appears, ascending from 0
    duration: float        seconds until the last frame ends
    fps: float             frames per second, averaged over `times`
    height, width: int     pixels, after the rotation or mirroring the file asks for
    problem: str | None    what is wrong with a file that has frames nevertheless
    frames_decoded: int    frames that this object has decoded so far, wanted or not (backend "pyav")

    Raises VideoError for a file without frames, ImportError for a backend that cannot be imported.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        data: bytes | None = None,
        index: PacketIndex | None = None,
        backend: Backend = "pyav",
    ):
        """`data`: the bytes of the file, where `path` is only a name. `index`: what an earlier Video found."""
        if backend not in get_args(Backend):
            raise ValueError(f"unknown backend {backend!r}; allowed: {', '.join(get_args(Backend))}")
        if backend == "torchcodec":
            _torchcodec_decoder()  # a missing package is said here, not in the first worker
        self.path = _regular_file(path) if data is None else os.fsdecode(path)
        self.backend = backend
        self.frames_decoded = 0
        self._data = data
        self._size, self._mtime_ns = _stamp(self.path) if data is None else (len(data), 0)

        known = index is not None and (index.size, index.mtime_ns) == (self._size, self._mtime_ns)
        survey = Survey.from_text(index.text) if index and known else self._survey()
        self._pts, self._keys, self._counted = survey.pts, survey.keys, survey.counted
        self._tick, self._last = survey.tick, survey.last
        self.height, self.width, self.problem = survey.height, survey.width, survey.problem
        self.num_frames = len(self._pts)
        self.times = (self._pts - self._pts[0]) * self._tick
        self.duration = float(self.times[-1]) + self._last
        self.fps = (self.num_frames - 1) / float(self.times[-1]) if self.num_frames > 1 else 1 / self._last
        if self.problem and not known:
            logging.getLogger("vivit").warning("%s: %s", self.path, self.problem)

    def packet_index(self) -> PacketIndex:
        """What this object knows of the file, to be kept and given to the next `Video` of it."""
        survey = Survey(
            self.height, self.width, self._tick, self._last, self._counted, self._pts, self._keys, self.problem
        )
        return PacketIndex(self._size, self._mtime_ns, survey.to_text())

    def frames(
        self,
        indices: Sequence[int],
        *,
        box: tuple[int, int, int, int] | None = None,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The frames with these numbers, in this order, repeats allowed: (T, C, H, W) uint8 RGB.

        `box` (top, left, height, width) is the part of each frame that is kept. `transform` maps a few frames
        (n, C, H, W) to what is kept of them, (n, …); then no more than CHUNK frames are held before it. Raises
        ValueError for a number outside 0 ... num_frames - 1, VideoError for a frame that does not decode.
        """
        wanted = np.array([operator.index(index) for index in indices], dtype=np.int64)
        if ((wanted < 0) | (wanted >= self.num_frames)).any():
            raise ValueError(f"got frames {wanted.tolist()} of {self.path}; allowed are 0 to {self.num_frames - 1}")
        rows, columns = _slices(box or (0, 0, self.height, self.width))
        if transform is not None:
            return self._transformed(wanted, rows, columns, transform)
        if self.backend == "torchcodec" and len(wanted):
            return next(self._torchcodec_frames([wanted.tolist()]))[..., rows, columns]
        images = np.empty((len(wanted), rows.stop - rows.start, columns.stop - columns.start, 3), dtype=np.uint8)
        for index, image in self.images(np.unique(wanted)):
            images[wanted == index] = image[rows, columns]
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def images(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(number, (H, W, 3) uint8) of one frame after the other, for ascending numbers; little is held in memory.

        A frame that had to be looked for again comes late. Raises VideoError if one does not decode.
        """
        missing = {int(index) for index in indices}
        reformatter = VideoReformatter()
        for index, frame in self._decode(sorted(missing)):
            missing.discard(index)
            yield index, _upright_rgb(frame, reformatter, self.height, self.width)
        if missing:
            raise VideoError(self.path, f"frame {min(missing)} of {self.num_frames} does not decode", "intact packets")

    def _transformed(
        self, wanted: np.ndarray, rows: slice, columns: slice, transform: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        order: list[int] = []
        parts: list[torch.Tensor] = []
        for numbers, chunk in self._chunks(np.unique(wanted).tolist(), rows, columns):
            order += numbers
            parts.append(transform(chunk))
        if not parts:
            return transform(torch.empty((0, 3, self.height, self.width), dtype=torch.uint8)[..., rows, columns])
        place = {index: i for i, index in enumerate(order)}
        found = [place[index] for index in wanted.tolist()]
        frames = torch.cat(parts)
        return frames if found == list(range(len(frames))) else frames[found]

    def _chunks(self, wanted: list[int], rows: slice, columns: slice) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Numbers and parts of frames (n, C, H, W), at most CHUNK at a time."""
        chunks = [wanted[first : first + CHUNK] for first in range(0, len(wanted), CHUNK)]
        if self.backend == "torchcodec":
            yield from zip(chunks, (frames[..., rows, columns] for frames in self._torchcodec_frames(chunks)))
            return
        stream = self.images(wanted)
        for chunk in chunks:
            found = list(islice(stream, len(chunk)))
            parts = np.stack([image[rows, columns] for _, image in found])
            yield [index for index, _ in found], torch.from_numpy(parts).permute(0, 3, 1, 2)

    def frames_at(self, seconds: Sequence[float]) -> torch.Tensor:
        """The frames shown at these times, (T, C, H, W) uint8 RGB: the last that appeared by then, clamped to the ends.

        A frame counts as shown from a microsecond before its stamp, so that i / fps finds frame i despite rounding.
        """
        return self.frames(shown_at(seconds, self.times, self.path))

    def damage(self) -> str | None:
        """Decode every frame; return what is damaged ("frames 60 to 139 of 200 do not decode", …) or None.

        Holds one frame at a time. Frames that FFmpeg patches over damaged bytes are "corrupt". `problem` is not repeated.
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
        """(index, frame) for the frames of `wanted` (ascending) that decode.

        Each run of near frames is read from its key frame; what that does not give (gradual refresh, damage, a seek
        that fails or lands late) is looked for from the start of the file.
        """
        with self._open() as (container, stream):
            for run in _runs(wanted, self._keys):
                missing = set(run)
                if not self._counted:
                    key = self._keys[bisect_right(self._keys, run[0]) - 1]
                    yield from self._forward(container, stream, missing, key)
                if missing:
                    with self._open() as (fresh, fresh_stream):
                        yield from self._forward(fresh, fresh_stream, missing)

    def _forward(
        self, container: InputContainer, stream: av.VideoStream, missing: set[int], key: int | None = None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, frame) for `missing` frames found from key frame `key` on, or from the start of a fresh file.

        They leave the set, and reading stops when it is empty. A read that began with a seek also stops at damage: only
        the start of the file gives the decoder all that it may patch it with.
        """
        last = max(missing, default=-1)
        for count, frame in enumerate(_decoded_frames(container, stream, None if key is None else int(self._pts[key]))):
            self.frames_decoded += 1
            index = count if self._counted else self._index_of(frame.pts)
            if key is not None and index >= key and frame.is_corrupt:
                return
            if index in missing:
                missing.discard(index)
                yield index, frame
            if not missing or index > last + REORDER:
                return

    def _survey(self) -> Survey:
        """Read all packets and decode the first frame, and the last ones of a file that ends early."""
        with self._open() as (container, stream):
            scan = _scan(container, stream, self._size)
        self._counted = scan.pts is None
        self._key_stamps = scan.key_stamps
        # Without trustworthy stamps, a frame's name is its place in what the decoder gives from the start of the file.
        self._pts = np.arange(self._count_frames()) if scan.pts is None else scan.pts
        first, self.height, self.width = self._first_frame()
        self._keep(self._pts[first:])
        if scan.ended_early and not self._counted:
            self._drop_broken_tail()
        last = scan.durations.get(int(self._pts[-1]), 0) * scan.tick or 1 / scan.rate
        problem = _problem(scan, len(self._pts), first)
        return Survey(self.height, self.width, scan.tick, last, self._counted, self._pts, self._keys, problem)

    def _open(self) -> AbstractContextManager[tuple[InputContainer, av.VideoStream]]:
        return _open(self.path, self._data)

    def _index_of(self, pts: int | None) -> int:
        """The number of the frame with this stamp, -1 if the index has no such frame."""
        index = int(np.searchsorted(self._pts, pts)) if pts is not None else len(self._pts)
        return index if index < len(self._pts) and self._pts[index] == pts else -1

    def _count_frames(self) -> int:
        with self._open() as (container, stream):
            count = sum(1 for _ in _decoded_frames(container, stream))
        self.frames_decoded += count
        return count

    def _first_frame(self) -> tuple[int, int, int]:
        """Number, height and width of the first frame that decodes."""
        with self._open() as (container, stream):
            for index, frame in self._forward(container, stream, set(range(len(self._pts)))):
                sideways = _turns(frame)[0]
                return (index, frame.width, frame.height) if sideways else (index, frame.height, frame.width)
        raise VideoError(self.path, "not one of its video packets decodes")

    def _keep(self, pts: np.ndarray) -> None:
        """Make the frames with these stamps (ascending) the index, and note the ones where decoding can begin."""
        self._pts = pts
        keys = np.searchsorted(pts, self._key_stamps)
        self._keys = sorted({0, *keys[keys < len(pts)].tolist()})

    def _drop_broken_tail(self) -> None:
        """Take the frames out of the index that do not decode cleanly in the last group of pictures, or at all."""
        for first in (self._keys[-1], 0):
            tail = range(first, len(self._pts))
            clean = {index for index, frame in self._decode(tail) if not frame.is_corrupt}
            if clean:
                self._keep(self._pts[[*range(first), *sorted(clean)]])
                return
        raise VideoError(self.path, "not one of its video packets decodes cleanly")

    def _torchcodec_frames(self, chunks: Sequence[list[int]]) -> Iterator[torch.Tensor]:
        """The frames of each chunk, from one decoder."""
        try:
            decoder = _torchcodec_decoder()(self._data or self.path, num_ffmpeg_threads=1, device="cpu")
            found = len(decoder)
            if found == self.num_frames:
                for indices in chunks:
                    yield decoder.get_frames_at(indices).data
                return
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideoError(self.path, f"torchcodec: {error}") from error
        raise VideoError(self.path, f"torchcodec finds {found} frames", f'{self.num_frames}, as backend="pyav" finds')


@dataclass(frozen=True)
class _Scan:
    """What the packets of a video say without being decoded; all stamps in ticks of `tick` seconds."""

    pts: np.ndarray | None  # (n,) ascending; None where the stamps do not order the frames
    key_stamps: list[int]
    durations: dict[int, int]  # by stamp
    tick: float
    rate: float  # frames per second according to the header
    declared_frames: int
    ended_early: bool


def _scan(container: InputContainer, stream: av.VideoStream, size: int) -> _Scan:
    """Read all packets. Sound is read as well: it tells how far a file reaches whose video stops earlier."""
    avi = container.format.name == "avi"
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    tick = float(stream.time_base or 1 / rate)
    # AVI numbers packets in the order of decoding; with B-frames this is not the order of showing.
    ordered = not (avi and stream.codec_context.has_b_frames)
    damaged, end = False, 0.0
    pts: list[int] = []
    keys: list[int] = []
    durations: dict[int, int] = {}
    try:
        for number, packet in enumerate(container.demux()):
            if number > size:  # a packet has at least one byte: the file lies
                damaged = True
                break
            if packet.size == 0 or packet.stream.type not in ("video", "audio"):
                continue
            damaged |= packet.is_corrupt
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index or packet.is_discard:
                continue
            ordered &= packet.pts is not None
            stamp = packet.pts or 0
            pts.append(stamp)
            durations[stamp] = packet.duration or 0
            if packet.is_keyframe:
                keys.append(stamp)
    except FFmpegError:
        damaged = True

    declared = stream.frames / rate if avi else (container.duration or 0) / av.time_base
    if avi or container.format.name.startswith(("mov", "matroska")):  # the others have no length in the header
        slack = 0.2 if len(container.streams) > 1 else 0.0  # sound may start a little before 0
        damaged |= end < declared - 1.5 / rate - slack
    declared_frames = stream.frames or round(declared * rate)
    if not ordered:
        return _Scan(None, [], {}, 1 / rate, rate, declared_frames, damaged)
    return _Scan(np.unique(np.array(pts, dtype=np.int64)), keys, durations, tick, rate, declared_frames, damaged)


def _problem(scan: _Scan, found: int, dropped: int) -> str | None:
    if scan.ended_early and scan.declared_frames > found:
        return f"truncated: {found} of {scan.declared_frames} frames"
    if scan.ended_early:
        return f"damaged packets: {found} frames are left"
    return f"starts late: the first {dropped} frames do not decode" if dropped else None


@contextmanager
def _open(path: str, data: bytes | None = None) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The container and its first video stream, decoded in one thread; errors of FFmpeg become VideoError."""
    protocol = "file" if data is None else "none"  # bytes have no reason to open anything
    limits = {"format_whitelist": CONTAINERS, "protocol_whitelist": protocol, "max_pixels": str(MAX_PIXELS)}
    # "file:" keeps a colon in a name from being read as a protocol. PyAV keeps FFmpeg quiet unless told otherwise.
    source = f"file:{path}" if data is None else io.BytesIO(data)
    try:
        with av.open(source, "r", options=limits, metadata_errors="replace") as container:
            pictures = [
                stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
            ]
            codec = pictures[0].codec_context if pictures else None
            if codec is None:
                raise VideoError(path, "holds no video stream with a known codec")
            if max(codec.width, codec.height) > MAX_SIDE or codec.width * codec.height > MAX_PIXELS:
                limit = f"at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all"
                raise VideoError(path, f"claims frames of {codec.width}x{codec.height} pixels", limit)
            codec.options = {"max_pixels": str(MAX_PIXELS)}
            codec.thread_count, codec.thread_type = 1, "NONE"  # loaders use processes
            yield container, pictures[0]
    except FFmpegError as error:
        raise VideoError(path, f"cannot be read as a video (FFmpeg: {error.strerror})") from error


def _regular_file(path: str | os.PathLike) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise VideoError(repr(path), f"is a {type(path).__name__}", "the path of a video file") from None
    if not os.path.isfile(name):  # also keeps pipes and devices from blocking
        what = "is a directory" if os.path.isdir(name) else "is not a regular file"
        raise VideoError(name, what if os.path.exists(name) else "no such file", "the path of a video file")
    return name


def _stamp(path: str) -> tuple[int, int]:
    """Size in bytes and date of the last change in nanoseconds, of a file that is not empty."""
    try:
        facts = os.stat(path)
    except OSError as error:
        raise VideoError(path, f"cannot be looked at ({error.strerror})") from error
    if facts.st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")
    return facts.st_size, facts.st_mtime_ns


def _runs(wanted: Sequence[int], keys: Sequence[int]) -> list[list[int]]:
    """Split ascending frame numbers where going to the next one's key frame beats decoding on; keys[0] is 0."""
    runs = [[*wanted[:1]]] if wanted else []
    for before, index in pairwise(wanted):
        if keys[bisect_right(keys, index) - 1] > before + SEEK_COST:
            runs.append([])
        runs[-1].append(index)
    return runs


def _decoded_frames(
    container: InputContainer, stream: av.VideoStream, start: int | None = None
) -> Iterator[av.VideoFrame]:
    """The frames that decode, in the decoder's order, from the key frame at or before stamp `start` or from here."""
    packets = container.demux(stream)
    if start is not None:
        try:
            container.seek(start, stream=stream)
        except FFmpegError:  # no index in the file
            return
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:  # damaged or cut off here: what the decoder still holds is all there is
            packet = None
        if packet is not None and (packet.size == 0 or packet.is_corrupt):
            continue
        with suppress(FFmpegError):  # the frame of a broken packet stays missing, which the caller notices
            yield from stream.decode(packet)  # None drains the decoder
        if packet is None:
            return


def _ranges(numbers: np.ndarray, most: int = 5) -> str:
    """Ascending frame numbers as "frames 3, 60 to 139"; after `most` ranges only how many frames follow."""
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    names = [f"{group[0]} to {group[-1]}" if len(group) > 1 else f"{group[0]}" for group in groups[:most]]
    rest = sum(len(group) for group in groups[most:])
    return f"frames {', '.join(names)}" + (f" and {rest} more" if rest else "")


def _turns(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How the file wants the picture turned: swap rows and columns first, then mirror vertically, horizontally."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5]  # x' = a x + c y,  y' = b x + d y
    return (True, bool(b < 0), bool(c < 0)) if abs(b) > abs(a) else (False, bool(d < 0), bool(a < 0))


def shown_at(seconds: Sequence[float], times: np.ndarray, path: str) -> list[int]:
    """The numbers of the frames, which appear at `times`, that are shown at these seconds; see `Video.frames_at`."""
    moments = np.array([float(second) for second in seconds], dtype=np.float64)
    if np.isnan(moments).any():
        raise ValueError(f"got times {moments.tolist()} for {path}; allowed are seconds, without NaN")
    return np.clip(np.searchsorted(times, moments + 1e-6, side="right") - 1, 0, None).tolist()


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    """The rows and columns of (top, left, height, width)."""
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)


def _upright_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8; a frame whose size differs from the first one's is resized to it."""
    sideways, flip_rows, flip_columns = _turns(frame)
    coded_height, coded_width = (width, height) if sideways else (height, width)
    # Bilinear, without extra flags, is what torchcodec gets from FFmpeg: bit-identical for 8-bit video.
    rgb = reformatter.reformat(
        frame, width=coded_width, height=coded_height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
    ).to_ndarray()
    upright = rgb.swapaxes(0, 1) if sideways else rgb
    return upright[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _torchcodec_decoder():
    try:
        return importlib.import_module("torchcodec.decoders").VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: no FFmpeg libraries that it can load
        raise ImportError(
            f"backend='torchcodec' needs torchcodec and a system FFmpeg: pip install 'vivit[torchcodec]'; or use "
            f"backend='pyav', which brings its own ({error})"
        ) from error
