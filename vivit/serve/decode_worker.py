"""The process that decodes videos for the server: `python -m vivit.serve.decode_worker`, with limits on memory.

It reads one JSON line per job from its standard input and answers on its standard output: a JSON line with the shape
of an array, then its bytes. The parent never unpickles anything, so that a decoder that was taken over by a video
can lie about pixels and do no more. FFmpeg opens the file named and nothing else: see `data/video/container.py`.
A stream is a job whose bytes come in several files, one line each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ..config import EvalConfig, ModelConfig, from_dict
from ..data.dataset import eval_views, open_sample
from ..data.sample import Sample
from ..data.tools.process_pool import exit_with_parent
from ..data.video.decoder import Video
from ..data.video.live import Frame, read_pieces
from ..errors import VideoError, as_video_error
from ..inference.explain import read_clip
from ..inference.sliding import Windows, batch_end, restart
from ..inference.stream import stream_positions
from ..inference.timeline import Plan, plan_timeline, read_positions
from ..model.vivit import ViViT

DTYPES = ("uint8", "float64")
Send = Callable[..., None]


def main() -> None:
    """Answer jobs until standard input ends or the server is gone. The first line has the model's config and limits."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing else is written between the answers
    torch.set_num_threads(1)
    exit_with_parent()
    setup = json.loads(sys.stdin.buffer.readline())
    config = from_dict(ModelConfig, setup["model"])
    limit_resources(setup["memory_mb"] * 2**20)
    send = sender(answers)
    send({"ready": True})
    for line in sys.stdin.buffer:
        job = json.loads(line)
        try:
            with as_video_error(job["path"]):
                if job["kind"] == "stream":
                    send_stream(job, setup, config, send)
                else:
                    JOBS[job["kind"]](job, checked_sample(job, setup), config, send)
        except VideoError as error:
            send({"reason": error.reason.replace(job["path"], "the video"), "expected": error.expected})


def limit_resources(memory: int) -> None:
    """Let this process take `memory` bytes more than now, write no file and open few. Does nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    limits = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64}
    if sys.platform == "linux":
        limits["RLIMIT_AS"] = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


def sender(file: IO[bytes]) -> Send:
    """Return a function that writes an answer: a header, and an array if there is one."""

    def send(header: dict[str, Any], array: np.ndarray | None = None) -> None:
        if array is not None:
            array = np.ascontiguousarray(array)
            header = header | {"shape": array.shape, "dtype": str(array.dtype)}
        file.write(json.dumps(header).encode() + b"\n")
        if array is not None:
            file.write(array.data.cast("B") if array.size else b"")
        file.flush()

    return send


def checked_sample(job: dict[str, Any], limits: dict[str, Any]) -> Sample:
    """Read the frame index of the video once, and refuse one that is too large. Raises VideoError."""
    path = job["path"]
    video = open_sample(Sample(path))
    if not isinstance(video, Video):
        raise VideoError(path, "is a folder")
    if video.height * video.width > limits["pixels"]:
        most = f"at most {limits['pixels'] / 1e6:g} million pixels a frame"
        raise VideoError(path, f"has frames of {video.width}x{video.height} pixels", most)
    if video.num_frames > limits["frames"]:
        raise VideoError(path, f"has {video.num_frames} frames", f"at most {limits['frames']}")
    return Sample(path, start=job.get("start"), end=job.get("end"), index=video.packet_index())


def facts(sample: Sample) -> dict[str, Any]:
    """Return what the answer says about the video."""
    video = open_sample(sample)
    return {
        "seconds": round(video.duration, 6),
        "frames": video.num_frames,
        "fps": round(video.fps, 6),
        "width": video.width,
        "height": video.height,
        "problem": video.problem,
    }


def send_views(job: dict[str, Any], sample: Sample, config: ModelConfig, send: Send) -> None:
    """Send the views that `vivit.predict` makes of the video: (V, T, C, H, W) uint8."""
    protocol = EvalConfig(temporal_views=job["temporal_views"], spatial_views=job["spatial_views"])
    views = eval_views(sample, config, protocol)
    send({"video": facts(sample)}, (views[1:] if len(views) > 1 else views).numpy())


def send_clip(job: dict[str, Any], sample: Sample, config: ModelConfig, send: Send) -> None:
    """Send the clip that `vivit.explain` explains, (T, C, H, W) uint8, then the seconds of its frames (T,)."""
    clip = read_clip(sample.path, config, start=sample.start, end=sample.end)
    send({"video": facts(sample)}, clip.video.numpy())
    send({}, clip.seconds.astype(np.float64))


def send_timeline(job: dict[str, Any], sample: Sample, config: ModelConfig, send: Send) -> None:
    """Send the times of the rows, (4, n) float64, then the positions of `vivit.timeline`, one after the other."""
    with torch.device("meta"):
        model = ViViT(config)
    plan = plan_timeline(model, sample.path, hop=job["hop"], start=sample.start, end=sample.end, crops=job["crops"])
    first, stop = position_range(plan, job["batch"])
    empty = plan.timeline(np.zeros((len(plan.rows), config.num_classes)))
    times = np.stack([empty.start, empty.end, empty.center, empty.padded.astype(np.float64)])
    about = {"first": first, "stop": stop, "first_window": plan.rows.start, "hop": plan.hop}
    about["reaches_end"] = empty.reaches_end
    send({**about, "positions": plan.windows.hop, "video": facts(sample)}, times)
    key, before = 0, None
    for ids, frames in read_positions(plan, range(first, stop)):
        key += ids != before
        before = ids
        send({"key": key}, np.empty(0, np.uint8) if frames is None else frames)  # None: no window reads it


def position_range(plan: Plan, batch: int) -> tuple[int, int]:
    """Return the first position that `compute_rows` reads for all rows of a plan, and the one after the last."""
    windows, rows = plan.windows, plan.rows
    first = restart(windows, rows.start, batch=batch, key=plan.frame_ids)
    stop = (rows.stop - 1) * windows.hop + windows.span
    total = windows.total(-(-len(plan.sampled) // windows.depth))
    return first, batch_end(windows, stop, batch=batch, total=total)


def send_stream(job: dict[str, Any], limits: dict[str, Any], config: ModelConfig, send: Send) -> None:
    """Send the positions of `vivit.stream` as soon as the chunks that come have their last frame, and first the hop."""
    with torch.device("meta"):
        model = ViViT(config)
    frames = at_most(limits["frames"], read_pieces(Chunks(send), job["path"], max_pixels=limits["pixels"]))

    def begin(windows: Windows, hop: float) -> None:
        send({"hop": hop, "positions": windows.hop})

    positions = stream_positions(frames, job["path"], model=model, hop=job["hop"], crops=job["crops"], begin=begin)
    for position in positions:
        about = {"key": position.key, "shown": position.shown, "end": position.end, "padded": position.padded}
        send(about, position.frames)
    send({"over": True})


def at_most(number: int, frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield frames, but raise VideoError for one too many."""
    for frame in frames:
        if frame.number >= number:
            raise VideoError("the video", f"has more than {number} frames", "an end of the stream before that")
        yield frame


class Chunks:
    """The bytes of a stream, from files that the server names one after the other; its last one is none."""

    def __init__(self, send: Send):
        self.send, self.file, self.is_over = send, None, False

    def read(self, size: int, /) -> bytes:
        """Return bytes of the chunk; after its last ones, say so and wait for the next chunk."""
        while not self.is_over:
            if self.file is not None:
                if data := self.file.read(size):
                    return data
                self.file.close()
            self.send({"wants": True})
            line = sys.stdin.buffer.readline()
            path = json.loads(line)["chunk"] if line else None
            self.file = Path(path).open("rb") if path else None  # noqa: SIM115
            self.is_over = path is None
        return b""


JOBS = {"views": send_views, "clip": send_clip, "timeline": send_timeline}

if __name__ == "__main__":
    main()
