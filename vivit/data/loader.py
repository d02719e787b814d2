"""Load clips in worker processes and collate them to batches.

The order of samples is a pure function of the seed, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..config import AugmentConfig
from ..errors import WorkerDied
from .dataset import EvalDataset, Item, TrainDataset
from .tools.process_pool import cores, exit_with_parent

T = TypeVar("T")
MAX_WORKERS = 12  # unless more are asked for
GRACE = 2.0  # seconds that a worker gets to finish before it is killed


@dataclass(frozen=True)
class Batch:
    """The clips of one process in one step. Unreadable clips and padding are black and have weight 0."""

    video: Tensor
    """(B, T, C, H, W) uint8; the same shape in every step and every process."""
    labels: Tensor
    """(B, L) int64."""
    weights: Tensor
    """(B,) float32, 1 or 0."""
    seeds: Tensor
    """(B,) int64, one per clip, for the randomness inside the model."""
    indices: tuple[int, ...]
    """The numbers of the samples; -1 for padding."""
    problems: dict[int, str]
    """Samples that could not be read, and the reason; they are left out, not replaced."""

    def pin_memory(self) -> Batch:
        tensors = {name: getattr(self, name).pin_memory() for name in ("video", "labels", "weights", "seeds")}
        return replace(self, **tensors)


def train_loader(
    clips: TrainDataset,
    *,
    batch_size: int,
    first_step: int,
    steps: int,
    rank: int = 0,
    ranks: int = 1,
    skipped: Mapping[str, str] | None = None,
) -> DataLoader[Batch]:
    """Load the batches of steps first_step … steps − 1 for one of `ranks` processes, from shuffled epochs without end.

    An epoch shows every sample once; if the batch size does not divide the epoch, a batch reaches into the next one.
    With augment.repeats, a batch of B clips holds B / repeats samples, first one clip of each, then another of each,
    and an epoch shows every sample `repeats` times (as VideoMAE and MViT count it). If clips are mixed, a process
    gets complete pairs of neighbors. Paths in `skipped` are not opened; they count as unreadable for the reason there.
    Raises ValueError for a batch size that does not fit.
    """
    model, augment = clips.model, clips.augment
    check_batch_size(batch_size, augment, ranks)
    group = 2 if augment.mixes else 1
    share = -(-batch_size // (group * ranks)) * group
    keys = _BatchKeys(
        len(clips.samples), clips.seed, batch_size, first_step, steps, rank, ranks, group, augment.repeats
    )
    workers = num_workers(clips.data.workers)
    return DataLoader(
        _TrackedDataset(clips, skipped or {}, workers),
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=partial(collate, size=share, shape=(model.num_frames, 3, *model.image_size)),
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )


def check_batch_size(batch_size: int, augment: AugmentConfig, ranks: int = 1) -> None:
    """Raise ValueError for a batch size that does not fit the augmentation or the number of processes."""
    group, given = (2 if augment.mixes else 1), f"optim.batch_size {batch_size}"
    if batch_size < ranks * group:
        raise ValueError(f"{given} is smaller than the {ranks * group} clips that {ranks} processes need at least")
    if batch_size % augment.repeats:
        raise ValueError(f"{given} is not a multiple of augment.repeats {augment.repeats}")
    if augment.mixes and batch_size == augment.repeats > 1:
        raise ValueError(f"{given} is one video {augment.repeats} times, which would be mixed with itself; take more")


def eval_loader(
    videos: EvalDataset, *, workers: int | None, first: int = 0, skipped: Mapping[str, str] | None = None
) -> DataLoader[Item]:
    """Load the test videos with all their views, one by one in the order of the list, starting with number `first`."""
    workers = num_workers(workers)
    return DataLoader(
        _TrackedDataset(videos, skipped or {}, workers),
        batch_size=None,
        sampler=range(first, len(videos)),
        num_workers=workers,
        worker_init_fn=_start_worker,
    )


def num_workers(asked: int | None) -> int:
    """Return `asked` or, if None, one worker per core of this process's share of the machine, at most MAX_WORKERS."""
    if asked is not None:
        return asked
    return max(min(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), MAX_WORKERS), 1)


@contextmanager
def open_loader(loader: DataLoader[T]) -> Iterator[Iterator[T]]:
    """Iterate over `loader`. Its worker processes have ended when the block ends, whatever was raised in it.

    If a worker was killed, `next` raises WorkerDied, which names the file that it was reading.
    """
    others, iterator = set(multiprocessing.active_children()), None
    dataset: Any = loader.dataset
    _open_datasets.append(dataset)
    try:
        iterator = iter(loader)
        workers = [process for process in multiprocessing.active_children() if process not in others]
        with _no_child_signals() as child_signals:
            yield _until_a_worker_dies(iterator, workers, dataset, child_signals)
    finally:
        _open_datasets.remove(dataset)
        _stop_workers(iterator, [process for process in multiprocessing.active_children() if process not in others])


@contextmanager
def eval_clips(
    videos: EvalDataset, *, workers: int | None, skipped: dict[str, str] | None = None
) -> Iterator[Iterator[Item]]:
    """Iterate over all test videos in the order of the list; the worker processes have ended when the block ends.

    A video whose worker is killed comes without views, like an unreadable one. Its path is added to `skipped`, whose
    videos are not opened.
    """
    with closing(_eval_clips(videos, workers, {} if skipped is None else skipped)) as clips:
        yield clips


def _eval_clips(videos: EvalDataset, workers: int | None, skipped: dict[str, str]) -> Generator[Item, None, None]:
    done = 0
    while done < len(videos):
        try:
            with open_loader(eval_loader(videos, workers=workers, first=done, skipped=skipped)) as clips:
                for clip in clips:
                    yield clip
                    done += 1
        except WorkerDied as error:
            skipped |= error.problems


def sample_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch shows its samples."""
    return np.random.default_rng((seed, epoch)).permutation(num_samples)


@dataclass(frozen=True)
class _BatchKeys:
    """The keys of TrainDataset for each step, as a batch sampler for DataLoader: an iterable of lists with a length.

    Groups of `group` neighbors in the step's batch go to the processes in turn.
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


class _TrackedDataset(Dataset[Item]):
    """The same items, with a record of the sample that each worker is reading. Paths in `skipped` are not opened."""

    def __init__(self, clips: TrainDataset | EvalDataset, skipped: Mapping[str, str], workers: int):
        self.clips, self.skipped = clips, skipped
        # Of each worker: process id, sample, whether it is still reading it.
        self.reading = torch.full((max(workers, 1), 3), -1).share_memory_()

    def __getitem__(self, key: Any) -> Item:
        index = key if isinstance(key, int) else key[1]
        path = self.clips.samples[index].path
        if path in self.skipped:
            return Item(index, None, self.clips.labels[index], f"{path}: {self.skipped[path]}")
        worker = get_worker_info()
        row = self.reading[worker.id if worker else 0]
        row[:] = torch.tensor([os.getpid(), index, 1])
        try:
            return self.clips[key]  # type: ignore[index]
        finally:
            row[2] = 0

    def files_of(self, processes: Sequence[int | None]) -> dict[str, str]:
        """Return the files that these workers were reading, and that the workers died."""
        why = "a worker process died while it read this file (out of memory?)"
        samples = [sample for process, sample, _ in self.reading.tolist() if process in processes and sample >= 0]
        return {self.clips.samples[sample].path: why for sample in samples}

    def being_read(self) -> list[str]:
        """Return the files that are being read now."""
        return [self.clips.samples[sample].path for _, sample, busy in self.reading.tolist() if busy == 1]


_open_datasets: list[_TrackedDataset] = []


def files_being_read() -> list[str]:
    """Return the files that the open loaders of this process are reading now."""
    return [path for dataset in tuple(_open_datasets) for path in dataset.being_read()]


def _until_a_worker_dies(
    iterator: Iterator[T], workers: Sequence[BaseProcess], dataset: Any, child_signals: Any
) -> Iterator[T]:
    while True:
        try:
            with child_signals():  # PyTorch then notices a death at once, not after some seconds
                item = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            problems = dataset.files_of(_crashed_pids(workers, seconds=0 if isinstance(error, RuntimeError) else 1))
            if not problems:
                raise
            raise WorkerDied(problems) from error
        yield item


def _crashed_pids(workers: Sequence[BaseProcess], *, seconds: float) -> list[int | None]:
    """Return the ids of crashed workers, waiting up to `seconds`: a pipe may break before its process has ended."""
    for sentinel in wait([worker.sentinel for worker in workers], timeout=seconds):
        next(worker for worker in workers if worker.sentinel == sentinel).join(1)
    return [worker.pid for worker in workers if worker.exitcode]


@contextmanager
def _no_child_signals() -> Iterator[Any]:
    """Switch off PyTorch's handler of SIGCHLD, which raises at any point of the main thread.

    Yields a context manager in which the handler is on.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield nullcontext
        return

    @contextmanager
    def handled() -> Iterator[None]:
        signal.signal(signal.SIGCHLD, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
    try:
        yield handled
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _stop_workers(iterator: Any, workers: Sequence[BaseProcess]) -> None:
    """End these worker processes; kill those that have not ended by themselves after GRACE seconds.

    They ignore SIGTERM (see `_start_worker`), so PyTorch and Python would wait forever for one that hangs.
    """
    if not workers:
        return
    killer = threading.Timer(GRACE, lambda: [worker.kill() for worker in workers])
    killer.daemon = True
    killer.start()
    try:
        with suppress(RuntimeError):  # of PyTorch's handler of SIGCHLD, about those that are killed
            getattr(iterator, "_shutdown_workers", lambda: None)()
    finally:
        killer.cancel()
        for worker in workers:
            worker.kill()
            worker.join(GRACE)


def _start_worker(worker: int) -> None:
    """Ignore Ctrl-C and a scheduler's SIGTERM, which reach every process: the training loop must finish and save.

    Workers end when the main process tells them to, or when it is gone, also in the middle of a video.
    """
    exit_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def collate(clips: Sequence[Item], *, size: int, shape: tuple[int, ...]) -> Batch:
    """Collate clips of `shape` to a batch of `size`; unreadable clips are listed and, like padding, black of weight 0.

    The batch has the memory layout of its clips (channels first or last), which makes copying cheap.
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
