"""Build the frame index of a video file by reading its packets.

The index says which frames there are, when each one appears, and where decoding may start. In an intact file the first
frame is decoded, for its size. Where the time stamps do not name the frames, the file is decoded from start to end and
a frame is named by its position.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer

from ...errors import VideoError
from ..packet_index import FrameIndex, Ints, find_pts
from .container import choose_track, decode_frames, open_video_stream
from .picture import upright_size
from .scan import LONGEST_GAP, Scan, rising_stamps, scan_packets


class _Frames(NamedTuple):
    """The frames of a file, as far as they are decoded."""

    pts: Ints
    keys: list[int]
    first_pts: int
    """Time stamp of the first frame, in ticks of the scan."""
    parts: int
    """`pts` counts in parts of a tick; how many make up one."""
    height: int
    width: int
    problem: str | None


def build_index(path: str, data: bytes | None, size: int) -> tuple[FrameIndex, int]:
    """Return the index of a file of `size` bytes, or of `data`, and how many frames were decoded for it.

    Raises VideoError if no frame decodes.
    """
    with open_video_stream(path, data) as (container, _):
        track = choose_track(container)
    with (
        open(path, "rb") if data is None else io.BytesIO(data) as file,
        open_video_stream(path, data, track) as (container, stream),
    ):
        scan = scan_packets(container, stream, size, file)
        if container.format.name == "gif" and len(scan.stamps) == 1:
            raise VideoError(path, "is a still image")
    found, decoded = None, 0
    if not scan.trusted:
        with open_video_stream(path, data, track) as (container, stream):
            found, decoded = _frames_by_position(path, container, stream, scan)
    pts_unordered = found is not None
    if found is None:
        with open_video_stream(path, data, track) as (container, stream):
            found, more = _frames_by_pts(path, container, stream, scan)
            decoded += more
    lead = found.first_pts * scan.time_base - scan.start
    index = FrameIndex(
        track=track,
        height=found.height,
        width=found.width,
        time_base=scan.time_base / found.parts,
        start=lead if 1e-5 < lead < LONGEST_GAP else 0.0,  # the container's start is rounded to microseconds
        last_duration=scan.last_duration * scan.time_base or 1 / scan.rate,
        pts_unordered=pts_unordered,
        seek_early=scan.seek_early,
        pts=found.pts,
        keys=found.keys,
        problem=found.problem,
        note=scan.note,
    )
    return index, decoded


def _frames_by_position(
    path: str, container: InputContainer, stream: av.VideoStream, scan: Scan
) -> tuple[_Frames | None, int]:
    """Decode the file and name the frames by their position; also return how many frames decoded.

    The frames are None where the time stamps turn out to name them after all.
    """
    stamps: list[int | None] = []
    corrupt: list[bool] = []
    height = width = 0
    for frame in decode_frames(container, stream):
        if not stamps:
            height, width = upright_size(frame)
        stamps.append(frame.pts)
        corrupt.append(frame.is_corrupt)
    decoded = len(stamps)
    if scan.rising and not (scan.damaged or scan.corrupt or scan.cut or scan.joined) and stamps == scan.stamps:
        return None, decoded
    while (scan.cut or scan.damaged) and corrupt and corrupt[-1]:  # what FFmpeg patches over a missing end
        stamps.pop()
        corrupt.pop()
    if not stamps:
        raise VideoError(path, "not one of its video packets decodes cleanly")
    lost = len(scan.stamps) - len(stamps)
    damaged = scan.damaged or scan.cut or scan.joined or (scan.corrupt and (any(corrupt) or lost != 0))
    damaged |= scan.presentation and lost > len(scan.stamps) / 20
    if not scan.presentation:
        stamps = [*scan.stamps, *[None] * len(stamps)][: len(stamps)]
    pts, parts = rising_stamps(stamps, time_base=scan.time_base, rate=scan.rate, longest_gap=scan.longest_gap)
    problem = _problem(scan, len(stamps), 0) if damaged else None
    return _Frames(pts, [0], stamps[0] or 0, parts, height, width, problem), decoded


def _frames_by_pts(path: str, container: InputContainer, stream: av.VideoStream, scan: Scan) -> tuple[_Frames, int]:
    """Name the frames by their time stamps, from the first one that decodes; also return how many frames decoded."""
    pts = np.unique(np.array(scan.stamps, dtype=np.int64))
    for decoded, frame in enumerate(decode_frames(container, stream), start=1):
        first = find_pts(pts, frame.pts)
        if first >= 0:
            height, width = upright_size(frame)
            pts = pts[first:]
            keys, problem = _key_frames(pts, scan.key_stamps), _problem(scan, len(pts), first)
            return _Frames(pts, keys, int(pts[0]), 1, height, width, problem), decoded
    raise VideoError(path, "not one of its video packets decodes")


def _key_frames(pts: Ints, key_stamps: Sequence[int]) -> list[int]:
    """Return the numbers of the frames at which decoding may start: the first one, and those at `key_stamps`."""
    keys = np.searchsorted(pts, key_stamps)
    return sorted({0, *keys[keys < len(pts)].tolist()})


def _problem(scan: Scan, found: int, dropped: int) -> str | None:
    if scan.cut and scan.declared_frames > found:
        return f"truncated: {found} of {scan.declared_frames} frames"
    if scan.joined:
        return f"several files in one, of which FFmpeg reads only the first: {found} frames are left"
    if scan.cut or not scan.trusted:
        return f"damaged packets: {found} frames are left"
    return f"starts late: the first {dropped} frames do not decode" if dropped else None
