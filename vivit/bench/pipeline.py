"""Input and evaluation: what the loader delivers of what raw decoding gives, and what a test video costs.

The videos are made: 256 x 340 at 30 frames/s, ten seconds in H.264, as Kinetics comes out of the usual preparation.
Everything runs on one thread, as a loader's worker does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch

from ..config import AugmentConfig, DataConfig, EvalConfig, ModelConfig
from ..data.clips import clip_frames, random_start, view_starts
from ..data.dataset import TrainClips, eval_views
from ..data.decode import Video
from ..data.loader import train_loader
from ..data.sample import Sample
from ..data.synthetic import render, write_video
from ..presets import preset
from .measure import Clock, Times, interleave

CLIP = preset("ViViT-B/16x2 FE")  # 32 frames of 224 x 224
SECONDS, RATE, SIZE = 10, 30, (256, 340)
AUGMENTED = {"colour_jitter": 1.0, "rand_augment_layers": 2, "rand_augment_magnitude": 15.0}


def input_speed(*, videos: int, workers: int, clock: Clock) -> list[dict[str, Any]]:
    """Clips of 32 x 224 x 224 a second: raw decoding, with transforms, with augmentation, through a loader."""
    with TemporaryDirectory() as folder, one_thread():
        samples = kinetics_like(Path(folder), videos)
        plain = clips_of(samples, AugmentConfig(), workers=0)
        augmented = clips_of(samples, AugmentConfig(**AUGMENTED), workers=0)
        turns = iter(range(10**9))  # every call sees another epoch, so that nothing is read twice the same

        def decode() -> None:
            epoch = next(turns)
            for i, sample in enumerate(samples):
                raw_clip(sample, np.random.default_rng((0, epoch, i)))

        def take(clips: TrainClips) -> Callable[[], None]:
            def run() -> None:
                epoch = next(turns)
                for i in range(len(samples)):
                    clip = clips[epoch, i]
                    assert clip.video is not None, clip.problem

            return run

        contenders: dict[str, Callable[[], Any]] = {
            "raw decode": decode,
            "decode, scale jitter, crop, flip": take(plain),
            "the same, colour jitter, RandAugment": take(augmented),
        }
        times = interleave(contenders, clock)
        rows = [row("input", name, t, times["raw decode"], len(samples), cores=1) for name, t in times.items()]
        loaders = {"loader": AugmentConfig(), "loader, augmented": AugmentConfig(**AUGMENTED)} if workers else {}
        for name, augment in loaders.items():
            per_clip = loader_seconds(clips_of(samples, augment, workers=workers), epochs=2 + clock.rounds)
            t = Times(tuple(s * len(samples) for s in per_clip))
            rows.append(row("input", f"{name}, {workers} workers", t, times["raw decode"], len(samples), cores=workers))
    return rows


def row(case: str, name: str, t: Times, raw: Times, clips: int, *, cores: int) -> dict[str, Any]:
    return {
        "case": case,
        "name": name,
        "ms/clip": round(1e3 * t.median / clips, 1),
        "spread": round(t.spread, 3),
        "clips/s per core": round(clips / t.median / cores, 2),
        "frames/s per core": round(clips * CLIP.num_frames / t.median / cores, 1),
        "of raw decode, per core": round(t.over(raw) / cores, 3),
    }


def kinetics_like(folder: Path, videos: int) -> list[Sample]:
    """Write the videos."""
    samples = []
    for i in range(videos):
        frames, _ = render(0, "train", i, num_frames=SECONDS * RATE, size=SIZE)
        write_video(folder / f"{i}.mp4", frames, fps=RATE, crf=23)
        samples.append(Sample(str(folder / f"{i}.mp4"), {"label": "a"}))
    return samples


def raw_clip(sample: Sample, rng: np.random.Generator) -> list[np.ndarray]:
    """The frames of a random clip at their own size, by PyAV alone: open, seek, decode, convert to RGB."""
    how = {"num_frames": CLIP.num_frames, "frame_stride": CLIP.preprocessing.frame_stride}
    start = random_start(SECONDS * RATE, **how, u=rng.uniform())
    wanted = set(clip_frames(start, SECONDS * RATE, **how))
    images = []
    with av.open(sample.path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        assert stream.time_base is not None
        container.seek(round(start / RATE / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round(frame.time * RATE)
            if number in wanted:
                images.append(frame.to_ndarray(format="rgb24"))
            if number >= max(wanted):
                break
    return images


def clips_of(samples: list[Sample], augment: AugmentConfig, *, workers: int) -> TrainClips:
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    data = DataConfig(root=str(Path(samples[0].path).parent), workers=workers)
    return TrainClips(samples, labels, model=CLIP, data=data, augment=augment, seed=0)


def loader_seconds(clips: TrainClips, *, epochs: int) -> list[float]:
    """Seconds a clip, epoch by epoch, of a loader whose batches are dropped as they come; the first two warm it up."""
    batches = iter(train_loader(clips, batch_size=len(clips.samples), first_step=0, steps=epochs))
    seconds = [Clock(1).time(lambda: next(batches)) for _ in range(epochs)]
    return [s / len(clips.samples) for s in seconds[2:]]


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def evaluation(clock: Clock) -> list[dict[str, Any]]:
    """The views of one test video, 4 x 3: milliseconds, and frames decoded over frames needed, which is counted."""
    with TemporaryDirectory() as folder, one_thread():
        [sample] = kinetics_like(Path(folder), 1)
        protocol = EvalConfig()
        times = interleave({"views": lambda: eval_views(sample, CLIP, protocol)}, clock)["views"]
        decoded, needed, shown = frames_counted(sample, CLIP, protocol)
    return [
        {
            "case": "evaluation",
            "name": f"{protocol.temporal_views} x {protocol.spatial_views} views of a {SECONDS} s video",
            "ms/video": round(1e3 * times.median, 1),
            "spread": round(times.spread, 3),
            "frames shown to the model": shown,
            "frames needed": needed,
            "frames decoded": decoded,
            "frames of the file": SECONDS * RATE,
        }
    ]


def frames_counted(sample: Sample, model: ModelConfig, protocol: EvalConfig) -> tuple[int, int, int]:
    """(decoded, needed, shown): how many frames FFmpeg decoded, how many differ, how many the views hold together."""
    opened: list[Video] = []
    init = Video.__init__

    def note(self: Video, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        opened.append(self)

    Video.__init__ = note
    try:
        views = eval_views(sample, model, protocol)
    finally:
        Video.__init__ = init
    [video] = opened
    how = {"num_frames": model.num_frames, "frame_stride": model.preprocessing.frame_stride}
    groups = [view_starts(video.num_frames, **how, views=n) for n in (1, protocol.temporal_views)]
    clips = [clip_frames(s, video.num_frames, **how) for group in groups for s in group]
    return video.frames_decoded, len(np.unique(np.concatenate(clips))), len(views) * model.num_frames
