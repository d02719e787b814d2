"""Clips to batches. The stream of samples is a pure function of the seed, whatever the number of workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

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

    def split(self, size: int | None) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Micro-batches (video, labels, weights, seeds) of at most `size` clips."""
        parts = (x.split(size or len(self.weights)) for x in (self.video, self.labels, self.weights, self.seeds))
        return list(zip(*parts))


def train_loader(
    clips: TrainClips, *, batch_size: int, first_step: int, steps: int, rank: int = 0, ranks: int = 1
) -> DataLoader[Batch]:
    """Batches of steps first_step … steps − 1 of an endless stream of shuffled epochs: the share of one process.

    An epoch shows every sample once; where the batch size does not divide it, a batch reaches into the next epoch.
    Raises ValueError if there are more processes than clips in a batch.
    """
    if batch_size < ranks:
        raise ValueError(f"optim.batch_size {batch_size} is smaller than the {ranks} processes that share it")
    model = clips.model
    return DataLoader(
        clips,
        batch_sampler=_Steps(len(clips.samples), clips.seed, batch_size, first_step, steps, rank, ranks),  # type: ignore[arg-type]
        num_workers=clips.data.workers,
        collate_fn=partial(collate, size=-(-batch_size // ranks), shape=(model.num_frames, 3, *model.image_size)),
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
    """The (epoch, index) keys of each step, as DataLoader wants them: an iterable of lists with a length."""

    num_samples: int
    seed: int
    batch_size: int
    first_step: int
    steps: int
    rank: int
    ranks: int

    def __len__(self) -> int:
        return max(self.steps - self.first_step, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = np.empty(0, int), -1
        for step in range(self.first_step, self.steps):
            keys = []
            for position in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.ranks):
                epoch, place = divmod(position, self.num_samples)
                if epoch != order_epoch:
                    order, order_epoch = sample_order(self.num_samples, seed=self.seed, epoch=epoch), epoch
                keys.append((epoch, int(order[place])))
            yield keys


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; the training loop is the one to finish its step and save.

    Workers end when it tells them to, or when it is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def collate(clips: Sequence[Clip], *, size: int, shape: tuple[int, ...]) -> Batch:
    """Clips of `shape` → batch of `size`; what could not be read is listed and, like padding, black of weight 0."""
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
