"""Clips to batches. The stream of samples is a pure function of the seed, whatever the number of workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .dataset import Clip, EvalVideos, TrainClips


@dataclass(frozen=True)
class Batch:
    """One process's share of a step. Unreadable clips and padding are black and weigh nothing."""

    video: Tensor
    """(B, T, C, H, W) uint8; the same shape in every step and every process."""
    labels: Tensor
    """(B, L) int64."""
    weights: Tensor
    """(B,) float32, 1 or 0."""
    seeds: Tensor
    """(B,) int64, one a clip, for chance inside the model."""
    indices: tuple[int, ...]
    """Which samples they are; -1 for padding."""
    problems: dict[int, str]
    """Samples that could not be read, and why; they are left out, not replaced."""

    def pin_memory(self) -> Batch:
        tensors = {name: getattr(self, name).pin_memory() for name in ("video", "labels", "weights", "seeds")}
        return replace(self, **tensors)


def train_loader(
    clips: TrainClips, *, batch_size: int, first_step: int, steps: int, rank: int = 0, ranks: int = 1
) -> DataLoader[Batch]:
    """Batches of steps first_step … steps − 1 of an endless stream of shuffled epochs: the share of one process.

    An epoch shows every sample once; where the batch size does not divide it, a batch reaches into the next epoch.
    With augment.repeats, a batch of B clips holds B / repeats samples, first one clip of each, then another of each,
    and an epoch shows every sample `repeats` times (as VideoMAE and MViT count it). Where clips are mixed, a process
    gets whole pairs of neighbours. Raises ValueError for a batch size that does not fit.
    """
    model, augment = clips.model, clips.augment
    group, given = (2 if augment.mixes else 1), f"optim.batch_size {batch_size}"
    if batch_size < ranks * group:
        raise ValueError(f"{given} is smaller than the {ranks * group} clips that {ranks} processes need at least")
    if batch_size % augment.repeats:
        raise ValueError(f"{given} is not a multiple of augment.repeats {augment.repeats}")
    if augment.mixes and batch_size == augment.repeats > 1:
        raise ValueError(f"{given} is one video {augment.repeats} times, which would be mixed with itself; take more")
    share = -(-batch_size // (group * ranks)) * group
    keys = _Steps(len(clips.samples), clips.seed, batch_size, first_step, steps, rank, ranks, group, augment.repeats)
    return DataLoader(
        clips,
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=clips.data.workers,
        collate_fn=partial(collate, size=share, shape=(model.num_frames, 3, *model.image_size)),
        worker_init_fn=_leave_signals_to_the_main_process,
        pin_memory=torch.cuda.is_available(),
    )


def eval_loader(videos: EvalVideos, *, workers: int) -> DataLoader[Clip]:
    """One test video with all its views after the other, in the order of the list."""
    return DataLoader(videos, batch_size=None, num_workers=workers, worker_init_fn=_leave_signals_to_the_main_process)


def sample_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch shows its samples."""
    return np.random.default_rng((seed, epoch)).permutation(num_samples)


@dataclass(frozen=True)
class _Steps:
    """The keys of TrainClips for each step, as DataLoader wants them: an iterable of lists with a length.

    Groups of `group` neighbours in the step's batch go to the processes in turn.
    """

    num_samples: int
    seed: int
    batch_size: int
    first_step: int
    steps: int
    rank: int
    ranks: int
    group: int
    repeats: int

    def __len__(self) -> int:
        return max(self.steps - self.first_step, 0)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        order = lru_cache(maxsize=2)(lambda epoch: sample_order(self.num_samples, seed=self.seed, epoch=epoch))
        groups = [range(self.batch_size)[i : i + self.group] for i in range(0, self.batch_size, self.group)]
        positions = [position for group in groups[self.rank :: self.ranks] for position in group]
        samples = self.batch_size // self.repeats
        for step in range(self.first_step, self.steps):
            keys = []
            for position in positions:
                repeat, number = divmod(position, samples)
                epoch, place = divmod(step * samples + number, self.num_samples)
                keys.append((epoch, int(order(epoch)[place]), *([repeat] if repeat else [])))
            yield keys


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; the training loop is the one to finish its step and save.

    Workers end when it tells them to, or when it is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def collate(clips: Sequence[Clip], *, size: int, shape: tuple[int, ...]) -> Batch:
    """Clips of `shape` → batch of `size`; what could not be read is listed and, like padding, black of weight 0.

    The batch lies in memory as its clips do, with the colours of a pixel side by side or apart: copying is then cheap.
    """
    readable = [clip.video for clip in clips if clip.video is not None]
    if readable and readable[0].stride(-3) == 1:
        t, c, h, w = shape
        video = torch.zeros(size, t, h, w, c, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    else:
        video = torch.zeros(size, *shape, dtype=torch.uint8)
    labels = torch.zeros(size, len(clips[0].labels), dtype=torch.int64)
    weights = torch.zeros(size)
    seeds = torch.zeros(size, dtype=torch.int64)
    for i, clip in enumerate(clips):
        labels[i] = clip.labels
        if clip.video is not None:
            video[i], weights[i], seeds[i] = clip.video, 1, clip.seed
    return Batch(
        video=video,
        labels=labels,
        weights=weights,
        seeds=seeds,
        indices=tuple(clip.index for clip in clips) + (-1,) * (size - len(clips)),
        problems={clip.index: clip.problem for clip in clips if clip.problem is not None},
    )
