"""Make small video files whose frames say which frame they are, and read them the plain way to compare with."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

BITS = 8  # counter_frames numbers up to 256 frames

# What makes each encoder quick and quiet; none of it changes what a decoder has to do.
ENCODER_OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}


def counter_frames(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(T, H, W, 3) uint8: the upper half shows the frame's number as 8 dark or bright bars, the lower one moves."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    bar = np.minimum(np.arange(width) * BITS // width, BITS - 1)
    rows, columns = np.mgrid[height // 2 : height, :width]
    for t, frame in enumerate(frames):
        frame[: height // 2] = np.where((t >> bar) & 1, 220, 30)[None, :, None]
        frame[height // 2 :] = np.stack([columns * 3 + 5 * t, rows * 4 - 3 * t, columns + rows + 7 * t], -1) % 200 + 20
    return frames


def read_counter(image: np.ndarray) -> int:
    """The number that a (H, W, 3) frame of counter_frames shows, also after lossy coding."""
    height, width, _ = image.shape
    bar = np.minimum(np.arange(width) * BITS // width, BITS - 1)
    columns = image[: height // 2].mean(axis=(0, 2))
    return sum(1 << bit for bit in range(BITS) if columns[bar == bit].mean() > 125)


def as_hwc(images: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) as (N, H, W, 3)."""
    return images.permute(0, 2, 3, 1).numpy()


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    fps: int = 25,
    pix_fmt: str = "yuv420p",
    keyint: int = 12,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    audio: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
) -> Path:
    """Write (T, H, W, 3) uint8 frames to `path`, whose suffix says the container; returns the path.

    pts: when to show each frame, in units of 1 / fps, instead of 0, 1, 2 ...
    rotation: degrees counter-clockwise that a player should turn the picture by
    audio: add a tone of the same length
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=ENCODER_OPTIONS.get(codec, {}) | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = pix_fmt, keyint
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range)
            frame.pts = pts[number] if pts is not None else number
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        if sound is not None:
            _write_tone(container, sound, seconds=len(frames) / fps)
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, *, seconds: float = 1.0) -> Path:
    """A file with a tone and no picture."""
    with av.open(str(path), "w") as container:
        _write_tone(container, container.add_stream("aac", rate=16000, layout="mono"), seconds=seconds)
    return path


def read_all(path: Path) -> np.ndarray:
    """(T, H, W, 3) uint8: all frames in the order in which plain PyAV decodes them: no seeking, index or rotation."""
    with av.open(str(path), metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_type = "NONE"  # threads change how damage is patched over
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _write_tone(container, stream, *, seconds: float) -> None:
    for start in range(0, int(seconds * 16000), 1024):
        tone = np.sin(np.arange(start, start + 1024) * 0.2).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
