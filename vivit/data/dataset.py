"""Turn a sample into the clip or views that the model gets.

A training clip is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, replace
from ..errors import DecodeTimeout, VideoError, as_video_error
from .augment import augment_clip
from .clips import clip_frames, random_start
from .frame_cache import FrameCache
from .remote import is_url
from .sample import Sample, container_file
from .transforms import center_box, draw_train_crop, has_direction, resize_for_eval, shuffle_frames
from .video.frames import OpenVideo
from .views import candidate_frames, open_sample, plan_views

EVAL_TIMEOUT = 600  # seconds for all views of one test video

_gone_since: dict[str, float] = {}  # when this process first found each data.root gone that is still gone


@dataclass(frozen=True)
class Item:
    """The model input for one sample, or the reason why there is none."""

    index: int
    """The number of the sample in the list."""
    video: Tensor | None
    """uint8; training: (T, C, H, W), test: (views, T, C, H, W)."""
    labels: Tensor
    """(L,) int64, one per label set."""
    problem: str | None = None
    """Why `video` is None: the file and what is wrong with it."""
    seed: int = 0
    """Training: seeds the randomness inside the model; a pure function of (seed, epoch, index)."""


class TrainDataset(Dataset[Item]):
    """One random clip of a sample per epoch, indexed by (epoch, index) or, for repeats, (epoch, index, repeat)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Tensor,
        *,
        model: ModelConfig,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
        frame_cache: FrameCache | None = None,
    ):
        self.samples, self.labels = samples, labels
        self.open = frame_cache.open if frame_cache else open_sample
        self.model, self.data, self.augment, self.seed = model, data, augment, seed
        mirrors = augment.flip_directed or not model.classes
        self.unflipped = torch.zeros(len(labels), dtype=torch.bool) if mirrors else has_direction(labels, model.classes)

    def __getitem__(self, key: tuple[int, ...]) -> Item:
        epoch, index, repeat = key if len(key) == 3 else (*key, 0)
        sample = self.samples[index]
        try:
            with as_video_error(sample.path):
                wait_for_storage(sample.path, self.data.root, seconds=self.data.storage_timeout)
                with time_limit(sample.path, seconds=self.data.video_timeout):
                    video = self.clip(index, np.random.default_rng((self.seed, epoch, index, 2 * repeat)))
        except VideoError as error:
            return Item(index, None, self.labels[index], str(error))
        seed = np.random.default_rng((self.seed, epoch, index, 2 * repeat + 1)).integers(2**32)
        return Item(index, video, self.labels[index], seed=int(seed))

    def clip(self, index: int, rng: np.random.Generator) -> Tensor:
        """Return a random clip of a video, (T, C, H, W) uint8. Raises VideoError."""
        sample = self.samples[index]
        video = self.open(sample)
        frame_ids, frame_stride = candidate_frames(video, sample, self.model)
        num_frames = self.model.num_frames
        start = random_start(len(frame_ids), num_frames=num_frames, frame_stride=frame_stride, u=rng.uniform())
        clip = clip_frames(start, len(frame_ids), num_frames=num_frames, frame_stride=frame_stride)
        box, fit = draw_train_crop(
            video.height,
            video.width,
            image_size=self.model.image_size,
            crop_fraction=self.model.preprocessing.crop_fraction,
            scale_jitter=self.augment.scale_jitter,
            flip=0.0 if self.unflipped[index] else self.augment.flip,
            rng=rng,
        )
        frames = video.frames(frame_ids[clip].tolist(), box=box, transform=fit)
        return augment_clip(frames, self.augment, rng)


@contextmanager
def time_limit(path: str, *, seconds: float, setting: str = "data.video_timeout") -> Iterator[None]:
    """Raise DecodeTimeout, which names the `setting`, if the block takes longer than `seconds`.

    Only in the main thread, as in loader workers.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise DecodeTimeout(path, f"still being decoded after {seconds:g} s", f"a video that decodes within {setting}")

    old = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def wait_for_storage(path: str, root: str, *, seconds: float) -> None:
    """Return at once unless data.root itself is gone, as when shared storage drops out; then wait until it is back.

    Without a root, the folder of the file stands for it. The file of a video in a shard is the shard. All videos that a
    process reads while the storage is gone wait together, not one after the other. Raises VideoError after `seconds`.
    """
    file = path if os.path.exists(path) else container_file(path)
    if is_url(root) or is_url(file):  # fsspec tries again by itself
        return
    root = root or os.path.dirname(file) or os.curdir
    while not os.path.exists(file) and not os.path.exists(root):
        if time.monotonic() - _gone_since.setdefault(root, time.monotonic()) > seconds:
            raise VideoError(path, f"{root} has been gone for {seconds:g} s", "storage that stays")
        logging.getLogger("vivit").warning("%s: %s is gone, waiting for it to come back", path, root)
        time.sleep(min(5.0, seconds / 10))
    _gone_since.pop(root, None)


class EvalDataset(Dataset[Item]):
    """All views of a test video; see `eval_views`."""

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Tensor,
        *,
        model: ModelConfig,
        protocol: EvalConfig,
        frame_cache: FrameCache | None = None,
    ):
        self.samples, self.labels = samples, labels
        self.model, self.protocol = model, protocol
        self.open = frame_cache.open if frame_cache else open_sample

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        try:
            with as_video_error(sample.path), time_limit(sample.path, seconds=EVAL_TIMEOUT):
                views = self.views(index)
        except VideoError as error:
            return Item(index, None, self.labels[index], str(error))
        return Item(index, views, self.labels[index])

    def views(self, index: int) -> Tensor:
        """Return the views of one video, (V, T, C, H, W) uint8. Raises VideoError."""
        return eval_views(self.samples[index], self.model, self.protocol, seed=index, open_video=self.open)


class TrainViews(EvalDataset):
    """The single test view of each training video, then `count` - 1 random clips of it, every second one mirrored.

    `flip=0` in `augment` mirrors none. A clip is a pure function of (seed, view, number), where `numbers` are those of
    the samples in their complete list.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Tensor,
        *,
        model: ModelConfig,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
        count: int,
        numbers: Sequence[int],
        frame_cache: FrameCache | None = None,
    ):
        single = EvalConfig(temporal_views=1, spatial_views=1)
        super().__init__(samples, labels, model=model, protocol=single, frame_cache=frame_cache)
        self.seed, self.count, self.numbers = seed, count, numbers
        self.clips = [
            TrainDataset(
                samples,
                labels,
                model=model,
                data=data,
                augment=replace(augment, flip=flip),
                seed=seed,
                frame_cache=frame_cache,
            )
            for flip in (0.0, 1.0 if augment.flip else 0.0)
        ]

    def views(self, index: int) -> Tensor:
        """Return the views of one video, (count, T, C, H, W) uint8. Raises VideoError."""
        views = [super().views(index)[0]]
        for view in range(1, self.count):
            rng = np.random.default_rng((self.seed, view, self.numbers[index]))
            views.append(self.clips[(view + 1) % 2].clip(index, rng))
        return torch.stack(views)


def eval_views(
    sample: Sample,
    model: ModelConfig,
    protocol: EvalConfig,
    seed: int = 0,
    *,
    open_video: Callable[[Sample], OpenVideo] = open_sample,
) -> Tensor:
    """Return the views of a test video, (V, T, C, H, W) uint8.

    The single view (middle clip, center crop) comes first, then the temporal x spatial views, unless the protocol is
    the single view. Every frame is decoded and resized once. `seed` matters only if the protocol shuffles the frames
    of each clip. Raises VideoError, whatever goes wrong.
    """
    with as_video_error(sample.path):
        return _eval_views(open_video(sample), sample, model, protocol, seed)


def _eval_views(video: OpenVideo, sample: Sample, model: ModelConfig, protocol: EvalConfig, seed: int) -> Tensor:
    plan = plan_views(video, sample, model, protocol)
    box = center_box(video.height, video.width, image_size=model.image_size)
    resize = partial(resize_for_eval, image_size=model.image_size, crop_fraction=model.preprocessing.crop_fraction)
    views = plan.cut(video.frames(plan.frame_ids, box=box, transform=resize))
    rng = np.random.default_rng(seed)
    return torch.stack([shuffle_frames(view, rng) for view in views] if protocol.shuffle_frames else views)
