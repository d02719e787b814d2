"""Convert decoded frames to upright RGB images."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Return height and width of the image after rotation."""
    return (frame.width, frame.height) if _turns(frame)[0] else (frame.height, frame.width)


def _turns(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return how to make the image upright: swap rows and columns first, then mirror vertically, horizontally."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5]  # x' = a x + c y,  y' = b x + d y
    return (True, bool(b < 0), bool(c < 0)) if abs(b) > abs(a) else (False, bool(d < 0), bool(a < 0))


def upright_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, height: int, width: int) -> np.ndarray:
    """Convert a frame to (height, width, 3) uint8; a frame of another size is resized to it."""
    sideways, flip_rows, flip_columns = _turns(frame)
    coded_height, coded_width = (width, height) if sideways else (height, width)
    # Bilinear, without extra flags, is what torchcodec gets from FFmpeg: bit-identical for 8-bit video.
    rgb = reformatter.reformat(
        _progressive(frame),
        width=coded_width,
        height=coded_height,
        format="rgb24",
        interpolation=Interpolation.BILINEAR,
        threads=1,
    ).to_ndarray()
    upright = rgb.swapaxes(0, 1) if sideways else rgb
    return upright[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _progressive(frame: av.VideoFrame) -> av.VideoFrame:
    """Return the frame without its interlaced flag, which makes swscale convert the color of each field separately.

    ffmpeg and torchcodec ignore the flag as well.
    """
    if not frame.interlaced_frame:
        return frame
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, copy.planes):
        rows = min(source.buffer_size // source.line_size, target.buffer_size // target.line_size)
        width = min(source.line_size, target.line_size)
        image = np.zeros((target.buffer_size // target.line_size, target.line_size), dtype=np.uint8)
        image[:rows, :width] = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)[:rows, :width]
        target.update(image.tobytes())
    return copy
