"""The training loop, for one process and for many (`torchrun -m -- vivit train …`)."""

from __future__ import annotations

import gc
import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, ModelConfig
from ..data.dataset import TrainDataset
from ..data.frame_cache import FOLDER, remove_frames
from ..data.loader import Batch, check_batch_size, open_loader, train_loader
from ..errors import DataError, WorkerDied
from ..model.vivit import ViViT
from ..text import listing
from .device import autocast, format_size
from .distributed import World, clip_gradients, gradient_sync, init_distributed
from .interruption import StopRequest, attribute_worker_crash, locked, skipped_files, stop_signals
from .losses import cross_entropy
from .mix import micro_batches
from .optim import learning_rate
from .run import check_same_run
from .setup import Training, read_videos, setup
from .stages import choose_start, read_stages
from .validation import compare_with_baseline, copy_weights, save_weights, validate_and_keep_best

STOPPING = "stopping after this step; press again to quit without saving"


def train(config: Config, *, build: Callable[[ModelConfig], Any] = ViViT) -> Path:
    """Train as `config` says and return the run folder; the same config again resumes the run.

    All labels are checked before the first step. SIGINT and SIGTERM finish the step, save a checkpoint and raise
    Stopped; a second signal ends the process without saving. Raises ValueError or DataError for settings, data or a
    run folder that do not fit.

    `build` returns another model with the interface of ViViT and random weights, such as those of
    vivit.model.cnn_baselines.
    """
    with init_distributed(config.device, config.parallel.timeout) as world:
        check_timeouts(config, world.size)
        while True:
            try:
                return train_in(world, config, build=build)
            except WorkerDied:  # its files are skipped from now on: a single process resumes from its checkpoint
                if world.size > 1:  # the others are blocked waiting for this one; torchrun restarts them all
                    raise
            gc.collect()


def check_timeouts(config: Config, processes: int) -> None:
    """Raise ValueError if one process that waits for its storage would end the others."""
    wait, storage = config.parallel.timeout, config.data.storage_timeout
    if processes > 1 and wait <= storage:
        raise ValueError(
            f"parallel.timeout {wait:g} is not more than data.storage_timeout {storage:g}: while one process waits for "
            "its storage, the others would take it for lost; raise --parallel.timeout or lower --data.storage-timeout"
        )


def train_in(world: World, config: Config, *, build: Callable[[ModelConfig], Any] = ViViT) -> Path:
    """Train as one of the processes of `world`."""
    config, data = read_videos(config)
    staged = read_stages(config, data) if config.budget else None
    check_same_run(staged.config if staged else config)
    check_batch_size(config.optim.batch_size, config.augment, world.size)
    with locked(Path(config.run), world):
        if data.frame_cache:
            size = format_size(data.frame_cache.max_video_bytes)
            world.print(f"frames: videos that take at most {size} are decoded once, to {data.frame_cache.folder}")
        if config.budget and not staged:
            staged = choose_start(world, config, data, world.print)
        config = staged.config if staged else config
        training = setup(world, config, data, build, staged=staged)
        run, progress = training.run, training.progress
        clips = TrainDataset(
            data.train,
            data.labels,
            model=config.model,
            data=config.data,
            augment=config.augment,
            seed=config.seed,
            frame_cache=data.frame_cache,
        )
        loader = train_loader(
            clips,
            batch_size=config.optim.batch_size,
            first_step=progress.step,
            steps=training.steps,
            rank=world.rank,
            ranks=world.size,
            skipped=skipped_files(run.folder),
        )
        with run, attribute_worker_crash(run), stop_signals(STOPPING if world.is_main else "", world.size) as stop:
            with open_loader(loader) as batches:
                train_steps(training, training.meter.timed(batches), stop)
            finish(training)
            world.on_main(lambda: remove_frames(run.folder / FOLDER))
    return run.folder


def train_steps(t: Training, batches: Iterator[Batch], stop: StopRequest) -> None:
    """Take the remaining steps, and log, validate and save when due."""
    world, config, run, progress = t.world, t.config, t.run, t.progress
    t.model.train()
    if progress.validation_due:  # after a linear probe, or because an interruption prevented it
        validate_and_keep_best(t, stop)
        if progress.step:  # the checkpoint just resumed still says that a validation is due
            t.save(must_succeed=progress.step == t.steps)
    while progress.step < t.steps:
        batch = next_batch(batches, stop)
        # Readable clips have weight 1, others 0. All processes sum their counts, so that all stop at the same step.
        counts = [batch.weights.sum().item(), len(batch.problems), 0] if batch else [0, 0, 1]
        readable, problems, stopping = world.sum(counts)
        if batch is None or stopping:
            t.stop(stop.number)
        if problems:
            skip_unreadable(t, batch)
        lr = learning_rate(
            progress.step,
            base=config.optim.lr,
            warmup_steps=round(config.optim.warmup_epochs * t.epoch_steps),
            total_steps=t.steps,
        )
        loss, grad_norm = train_step(t, batch, lr, readable)
        progress.step += 1
        t.meter.add(loss=loss, clips=readable, grad_norm=grad_norm)
        run.bar.advance()

        last = progress.step == t.steps
        if progress.step % config.log_every == 0 or last:
            values = {"epoch": progress.step / t.epoch_steps, "lr": lr, **t.meter.read()}
            run.log(progress.step, values | {"unreadable": len(progress.unreadable), "skipped": progress.skipped})
            run.show(progress.step, values)
        progress.validation_due = progress.step % t.steps_in(config.eval_every) == 0 or last
        if world.sum([bool(stop)])[0]:
            t.stop(stop.number)
        if progress.validation_due:
            validate_and_keep_best(t, stop)
        if progress.step % t.steps_in(config.save_every) == 0 or last:
            t.save(must_succeed=last)


def next_batch(batches: Iterator[Batch], stop: StopRequest) -> Batch | None:
    """Return the next batch, or None if a signal asked training to stop; the signal also ends the wait for a batch."""
    try:
        with stop.interrupts():
            return None if stop else next(batches)
    except KeyboardInterrupt:
        if stop.repeated:
            raise
        return None


def train_step(t: Training, batch: Batch, lr: float, readable: float) -> tuple[Tensor, float]:
    """Take one optimizer step, unless the gradients are not finite or no clip is readable.

    Returns the sum of this process's losses, and the global gradient norm before clipping. `readable` is the number of
    readable clips in this step, over all processes.
    """
    config, world = t.config, t.world
    sizes = config.model.class_counts
    for group in t.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    t.optimizer.zero_grad(set_to_none=True)
    losses = []
    for micro_batch in micro_batches(
        batch, config.parallel.micro_batch, config.augment, seed=config.seed, step=t.progress.step, world=world
    ):
        with gradient_sync(t.model, last=micro_batch.last):
            with autocast(world.device, config.precision):
                logits = t.model(micro_batch.video, micro_batch.seeds)
            loss = cross_entropy(
                logits,
                micro_batch.labels,
                sizes,
                label_smoothing=config.optim.label_smoothing,
                partner_labels=micro_batch.partner_labels,
                lam=micro_batch.lam,
            )
            # DDP and FSDP average gradients over processes; times world.size, that is the mean over all readable clips.
            ((loss * micro_batch.weights).sum() * (world.size / max(readable, 1))).backward()
            losses.append((loss.detach() * micro_batch.weights).sum())
    grad_norm = clip_gradients(t.vivit, config.optim.grad_clip)
    if not math.isfinite(grad_norm):
        t.progress.skipped += 1
        report_nonfinite_step(t, batch)
    elif readable:
        t.optimizer.step()
        if t.average:
            t.average.update()
    return torch.stack(losses).sum(), grad_norm


def finish(t: Training) -> None:
    """Write the final weights of the run, and report where they are."""
    config, world, run, progress = t.config, t.world, t.run, t.progress
    best, weights = run.folder / "best", run.folder / "weights"
    has_best = world.gather(progress.best >= 0 and (best / "model.safetensors").is_file())[0]
    if config.final_weights == "best" and has_best:
        copy_weights(best, weights, world)
    else:
        if config.final_weights == "best":
            run.log_line(f"{best} has no weights; {weights} gets those of the last step")
        with t.averaged():
            save_weights(t.vivit, world, weights, t.build)
    if progress.baseline is not None and progress.best >= 0:  # below 0: no best weights could be saved
        run.log_line(compare_with_baseline(config, progress.baseline, progress.best, progress.best_step, t.steps))
    run.log_line(f"{run.folder}: training finished ({t.steps} steps); weights in {weights}")
    folder = shlex.quote(str(run.folder))
    run.log_line(f"next: vivit eval {folder}\n      vivit predict {folder} VIDEO")


def skip_unreadable(t: Training, batch: Batch) -> None:
    """Report each unreadable video once. Raises DataError if there are too many, or no readable one."""
    unreadable = t.progress.unreadable
    for problems in t.world.gather(batch.problems):
        for index, problem in problems.items():
            if index not in unreadable:
                unreadable[index] = problem
                t.run.log_line(f"skipped, unreadable: {problem}")
    if len(unreadable) == len(t.data.train):
        raise DataError(listing("none of the training videos can be read", list(unreadable.values())))
    if len(unreadable) > t.config.data.max_unreadable:
        raise DataError(listing("more unreadable videos than data.max_unreadable allows", list(unreadable.values())))


def report_nonfinite_step(t: Training, batch: Batch) -> None:
    """Report a skipped step and its files. Raises FloatingPointError if too many steps were skipped."""
    indices = [index for group in t.world.gather(batch.indices) for index in group if index >= 0]
    title = f"step {t.progress.step + 1}: gradients are not finite, the step is skipped; its files are"
    message = listing(title, [t.data.train[index].path for index in indices])
    t.run.log_line(message)
    if t.progress.skipped > t.config.optim.max_nonfinite_steps:
        raise FloatingPointError(
            f"{message}\n{t.progress.skipped} steps without finite gradients, "
            f"optim.max_nonfinite_steps allows {t.config.optim.max_nonfinite_steps}; "
            "lower optim.lr, or look at these files"
        )
