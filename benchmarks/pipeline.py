"""Time input and evaluation: from files to clips and test views.

The videos are synthetic: 256 x 340 at 30 frames/s, ten seconds in H.264, like prepared Kinetics.
Everything runs on one thread, as a loader's worker does.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch

from vivit.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig
from vivit.data.clips import clip_frames, random_start, view_starts
from vivit.data.dataset import TrainDataset, eval_views
from vivit.data.frame_cache import FrameCache
from vivit.data.loader import train_loader
from vivit.data.sample import Sample
from vivit.data.tools.process_pool import cores, map_in_processes
from vivit.data.tools.synthetic import render, write_video
from vivit.data.video.decoder import Video
from vivit.presets import preset

from .measure import Clock, Times, interleave

CLIP = preset("ViViT-B/16x2 FE")  # 32 frames of 224 x 224
SECONDS, RATE, SIZE = 10, 30, (256, 340)
AUGMENTED = {"color_jitter": 1.0, "rand_augment_layers": 2, "rand_augment_magnitude": 15.0}


def input_speed(*, videos: int, workers: int, clock: Clock) -> list[dict[str, Any]]:
    """Clips of 32 x 224 x 224 a second: raw decoding, with transforms, with augmentation, through a loader."""
    with TemporaryDirectory() as folder, one_thread():
        bare = kinetics_like(Path(folder), videos)
        samples = [replace(sample, index=Video(sample.path).packet_index()) for sample in bare]  # as a manifest has it

        def each(read: Callable[[int, int], Any]) -> Callable[[], None]:
            """Read every video; the n-th call of every contender reads the clips of epoch n."""
            epochs = count()

            def run() -> None:
                epoch = next(epochs)
                for i in range(videos):
                    read(epoch, i)

            return run

        def take(clips: TrainDataset) -> Callable[[], None]:
            return each(lambda epoch, i: clips[epoch, i])

        def raw(epoch: int, i: int) -> None:
            raw_clip(samples[i], np.random.default_rng((0, epoch, i, 0)))  # begins where the clip of TrainDataset does

        cache = FrameCache(Path(folder) / "frames", 2**28)
        contenders: dict[str, Callable[[], Any]] = {
            "raw decode": each(raw),
            "decode, scale jitter, crop, flip": take(clips_of(samples, AugmentConfig())),
            "and colour jitter, RandAugment(2, 15)": take(clips_of(samples, AugmentConfig(**AUGMENTED))),
            "scale jitter, crop, flip, without a manifest": take(clips_of(bare, AugmentConfig())),
            "scale jitter, crop, flip, from a tar file": take(clips_of(packed(samples), AugmentConfig())),
            "scale jitter, crop, flip, cached frames": take(clips_of(samples, AugmentConfig(), frame_cache=cache)),
        }
        times = interleave(contenders, clock)
        rows = [row("input", name, t, times["raw decode"], len(samples), cores=1) for name, t in times.items()]
        if workers and not clock.cpu_time:  # a loader's time passes in other processes
            for name, augment in {"loader": AugmentConfig(), "loader, augmented": AugmentConfig(**AUGMENTED)}.items():
                clips = clips_of(samples, augment, workers=workers)
                t = Times(tuple(loader_seconds(clips) for _ in range(clock.rounds)))
                rows.append(row("input", f"{name}, {workers} workers", t, times["raw decode"], videos, cores=workers))
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


def kinetics_like(
    folder: Path, videos: int, num_frames: int | None = None, size: tuple[int, int] | None = None
) -> list[Sample]:
    """Write the videos, several at a time."""
    write = partial(write_kinetics_like, folder, num_frames=num_frames or SECONDS * RATE, size=size or SIZE)
    if videos == 1:
        return [write(0)]
    made = map_in_processes(write, list(range(videos)), workers=cores(), title="writing videos", on_crash=killed)
    return [sample for _, sample in made]


def write_kinetics_like(folder: Path, i: int, *, num_frames: int, size: tuple[int, int]) -> Sample:
    frames, _ = render(0, "train", i, num_frames=num_frames, size=size)
    write_video(folder / f"{i}.mp4", frames, fps=RATE, crf=23)
    return Sample(str(folder / f"{i}.mp4"), {"label": "a"})


def killed(i: int) -> Sample:
    raise RuntimeError(f"the process that wrote video {i} was killed; is there too little memory?")


def packed(samples: list[Sample]) -> list[Sample]:
    """Pack the videos into one tar file in their folder, as `vivit data prepare` does."""
    path = Path(samples[0].path).with_name("videos.tar")
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            tar.add(sample.path, arcname=Path(sample.path).name)
    with tarfile.open(path) as tar:
        places = {member.name: member.offset_data for member in tar}
    names = [Path(sample.path).name for sample in samples]
    return [replace(s, path=f"{path}#{name}", offset=places[name]) for s, name in zip(samples, names)]


def raw_clip(sample: Sample, rng: np.random.Generator) -> list[np.ndarray]:
    """Read the frames of a random clip at their own size with PyAV alone: open, seek, decode, convert to RGB."""
    frames, stride = CLIP.num_frames, CLIP.preprocessing.frame_stride
    start = random_start(SECONDS * RATE, num_frames=frames, frame_stride=stride, u=rng.uniform())
    wanted = set(clip_frames(start, SECONDS * RATE, num_frames=frames, frame_stride=stride))
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


def loader_speed(
    *, videos: int, workers: int, clock: Clock, model: ModelConfig = CLIP, size: tuple[int, int] | None = None
) -> Iterator[dict[str, Any]]:
    """Clips a second of the loader, from files and from a tar file: what it can feed a device with."""
    with TemporaryDirectory() as folder:
        bare = kinetics_like(Path(folder), videos, 4 * model.num_frames if size else None, size)
        samples = [replace(sample, index=Video(sample.path).packet_index()) for sample in bare]
        contenders = {
            "files": (samples, AugmentConfig()),
            "files, augmented": (samples, AugmentConfig(**AUGMENTED)),
            "a tar file": (packed(samples), AugmentConfig()),
        }
        for name, (chosen, augment) in contenders.items():
            clips = clips_of(chosen, augment, workers=workers, model=model)
            t = Times(
                tuple(loader_seconds(clips, batch_size=4, batches=4 * max(workers, 1)) for _ in range(clock.rounds))
            )
            label = f"loader, {workers} workers, from {name}"
            yield {"case": "loader", "name": label, "clips/s": round(4 / t.median, 2), "spread": round(t.spread, 3)}


def clips_of(
    samples: list[Sample],
    augment: AugmentConfig,
    *,
    workers: int = 0,
    model: ModelConfig = CLIP,
    frame_cache: FrameCache | None = None,
) -> TrainDataset:
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    data = DataConfig(root=str(Path(samples[0].path).parent), workers=workers)
    return TrainDataset(samples, labels, model=model, data=data, augment=augment, seed=0, frame_cache=frame_cache)


def loader_seconds(clips: TrainDataset, *, batch_size: int | None = None, batches: int = 8) -> float:
    """Seconds a batch, of all videos by default: from the arrival of the first to that of the last, dropped at once."""
    stream = iter(train_loader(clips, batch_size=batch_size or len(clips.samples), first_step=0, steps=batches + 1))
    next(stream)
    began = time.perf_counter()
    for _ in stream:
        pass
    return (time.perf_counter() - began) / batches


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def evaluation(clock: Clock) -> list[dict[str, Any]]:
    """Time the 4 x 3 views of a test video of ten seconds and of one that is shorter than a clip.

    Milliseconds; and counted, not timed: frames decoded over frames needed, and of the temporal positions of all views
    those that differ, which are what the factorised encoder encodes of a batch that holds all of them.
    """
    rows, protocol = [], EvalConfig()
    for num_frames in (SECONDS * RATE, 48):
        with TemporaryDirectory() as folder, one_thread():
            [sample] = kinetics_like(Path(folder), 1, num_frames)
            times = interleave({"views": lambda sample=sample: eval_views(sample, CLIP, protocol)}, clock)["views"]
            decoded, needed, views = frames_counted(sample, CLIP, protocol)
        positions = views.unflatten(1, (CLIP.grid[0], CLIP.tubelet_size[0])).flatten(0, 1)
        rows.append(
            {
                "case": "evaluation",
                "name": f"{protocol.temporal_views} x {protocol.spatial_views} views of {num_frames} frames",
                "ms/video": round(1e3 * times.median, 1),
                "spread": round(times.spread, 3),
                "frames shown to the model": len(views) * CLIP.num_frames,
                "frames needed": needed,
                "frames decoded": decoded,
                "temporal positions": len(positions),
                "that differ": len({position.numpy().tobytes() for position in positions}),
            }
        )
    return rows


def frames_counted(sample: Sample, model: ModelConfig, protocol: EvalConfig) -> tuple[int, int, torch.Tensor]:
    """Return (frames that FFmpeg decoded for the views, distinct frames in the views, the views)."""
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
    frames, stride = model.num_frames, model.preprocessing.frame_stride
    groups = [
        view_starts(video.num_frames, num_frames=frames, frame_stride=stride, views=n)
        for n in (1, protocol.temporal_views)
    ]
    clips = [
        clip_frames(start, video.num_frames, num_frames=frames, frame_stride=stride)
        for group in groups
        for start in group
    ]
    return video.frames_decoded, len(np.unique(np.concatenate(clips))), views
