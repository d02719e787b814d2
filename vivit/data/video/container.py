"""Open a video file with PyAV and read its packets and frames in file order.

This is the boundary to FFmpeg: whatever PyAV raises here becomes a VideoError with the path.
"""

import errno
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ...errors import VideoError

# FFmpeg itself would also open playlists, subtitles and still images.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,mxf,flv,asf,ogg,gif"
EXPECTED = "a video of one of the containers mp4, mov, mkv, webm, avi, ts, mpg, mxf, flv, asf, ogg and gif"
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 2**26  # of one frame: 8192 x 8192
LONG_PROBE = {"probesize": str(2**28), "analyzeduration": str(3600 * av.time_base)}


@contextmanager
def open_video_stream(
    path: str, data: bytes | None = None, track: int | None = None
) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a container and its stream number `track` (None: FFmpeg's best video stream), decoded in one thread.

    What PyAV raises becomes a VideoError.
    """
    try:
        with _open_container(path, data) as container:
            stream = _video_stream(container, track)
            if stream is not None and stream.codec_context.width:
                yield container, _checked(path, stream)
                return
        # FFmpeg looks for streams in the first seconds of the file; the video may begin later.
        with _open_container(path, data, LONG_PROBE) as container:
            stream = _video_stream(container, track)
            if stream is None:
                raise VideoError(path, "holds no video stream with a known codec")
            yield container, _checked(path, stream)
    except VideoError:
        raise
    except FFmpegError as error:
        reason = f"cannot be read as a video (FFmpeg: {error.strerror})"
        if error.errno == errno.EINVAL:  # what FFmpeg says of a container that is not among CONTAINERS
            raise VideoError(path, reason, EXPECTED) from error
        raise VideoError(path, reason) from error
    except Exception as error:  # PyAV lets IndexError, ValueError, OverflowError and others through
        raise VideoError(path, f"cannot be read as a video ({type(error).__name__}: {error})") from error


def _open_container(path: str, data: bytes | None, options: dict[str, str] | None = None) -> InputContainer:
    protocol = "file" if data is None else "none"  # video bytes must not open other files
    limits = {"format_whitelist": CONTAINERS, "protocol_whitelist": protocol, "max_pixels": str(MAX_PIXELS)}
    # "file:" keeps a colon in a name from being read as a protocol. PyAV keeps FFmpeg quiet unless told otherwise.
    source = f"file:{path}" if data is None else io.BytesIO(data)
    return av.open(source, "r", options=limits | (options or {}), metadata_errors="replace")


def video_streams(container: InputContainer) -> list[av.VideoStream]:
    """Return the video streams with a known codec that are no attached pictures (cover art, thumbnails)."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return [stream for stream in streams if stream.codec_context is not None]


def choose_track(container: InputContainer) -> int:
    """Return the stream number that av_find_best_stream chooses, unless it is a still image next to a longer one.

    A container with several video streams is read through.
    """
    streams = video_streams(container)
    best = _video_stream(container, None)
    if best is None or len(streams) < 2:
        return streams[0].index
    counts: Counter[int] = Counter()
    with suppress(FFmpegError):
        counts.update(packet.stream_index for packet in read_packets(container))
    moving = [stream for stream in streams if counts[stream.index] > 1]
    if best in moving or not moving:
        return best.index
    return max(moving, key=lambda stream: stream.codec_context.width * stream.codec_context.height).index


def _video_stream(container: InputContainer, track: int | None) -> av.VideoStream | None:
    streams = video_streams(container)
    if track is None:
        best = container.streams.best("video")
        track = best.index if best is not None else -1
    return next((stream for stream in streams if stream.index == track), streams[0] if streams else None)


def _checked(path: str, stream: av.VideoStream) -> av.VideoStream:
    """Refuse absurd sizes and set the decoder up."""
    codec = stream.codec_context
    if max(codec.width, codec.height) > MAX_SIDE or codec.width * codec.height > MAX_PIXELS:
        limit = f"at most {MAX_SIDE} pixels a side and {MAX_PIXELS} in all"
        raise VideoError(path, f"claims frames of {codec.width}x{codec.height} pixels", limit)
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    codec.thread_count, codec.thread_type = 1, "NONE"  # loaders use processes
    return stream


def read_packets(container: InputContainer, stream: av.VideoStream | None = None) -> Iterator[av.Packet]:
    """Yield the packets of one stream or of all, without PyAV's empty ones at the end.

    Raises FFmpegError at damage.
    """
    # A stream that FFmpeg first meets while reading is unknown to PyAV, which raises IndexError at the end of the file.
    with suppress(IndexError):
        for packet in container.demux(stream) if stream is not None else container.demux():
            if packet.size:
                yield packet


def decode_frames(
    container: InputContainer, stream: av.VideoStream, seek: int | None = None
) -> Iterator[av.VideoFrame]:
    """Yield the frames that decode, in the decoder's order, after a seek to the time stamp `seek` if it is given.

    A packet that is cut off by the end of the file is left out.
    """
    if seek is not None:
        try:
            container.seek(seek, stream=stream)
        except FFmpegError:  # no index in the file
            return
    for packet in chain(_whole_packets(container, stream), [None]):  # None drains the decoder
        try:
            frames = stream.decode(packet)
        except FFmpegError:  # the frame of a broken packet is missing, which the caller notices
            continue
        yield from frames


def _whole_packets(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Yield packets up to the first damage of the container, without the last one if it is cut off."""
    held: av.Packet | None = None
    with suppress(FFmpegError):
        for packet in read_packets(container, stream):
            if held is not None:
                yield held
            held = packet
    if held is not None and not held.is_corrupt:
        yield held
