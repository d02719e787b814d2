"""The training loop, from top to bottom. The same for one process and for many (`torchrun -m -- vivit train …`)."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..config import Config, ModelConfig, from_dict, replace, to_dict
from ..data.dataset import TrainClips
from ..data.loader import Batch, open_loader, train_loader
from ..data.sample import DataError, Sample, class_names, encode_labels, list_hash, listing, official_classes, read
from ..errors import Stopped, WorkerDied
from ..model.vivit import ViViT
from ..weights.load import create, from_pretrained, save_pretrained
from .checkpoint import Checkpoints, progress_of
from .device import autocast, choose_attention, deterministic, uses_bfloat16
from .distributed import World, clip_gradients, parallelise, start, synchronised
from .evaluate import SINGLE_VIEW, Evaluation, evaluate
from .losses import cross_entropy
from .mix import parts
from .optim import Average, build_optimizer, freeze, learning_rate
from .probe import fit_head
from .run import Meter, Run, check_same_run, given_up, stop_signals, worker_deaths


def train(config: Config, *, build: Callable[[ModelConfig], Any] = ViViT) -> Path:
    """Train as `config` says and return the run folder; starting again with the same config continues the run.

    Every label is checked before the first step. SIGINT and SIGTERM finish the step, save a checkpoint and raise
    Stopped. Raises ValueError or DataError for settings, data or a run folder that do not fit.

    `build` makes another model under the contract of ViViT, such as those of vivit.model.prior_art, at random.
    """
    with start(config.device) as world:
        while True:
            try:
                return train_in(world, config, build=build)
            except WorkerDied:
                if world.size > 1:  # the others wait in vain; torchrun starts all of them again
                    raise
            gc.collect()  # the loader whose worker died: as long as it is there, PyTorch reports that death again


def train_in(world: World, config: Config, *, build: Callable[[ModelConfig], Any] = ViViT) -> Path:
    """`train`, as one of the processes of `world`."""
    config, train_samples, labels, val_samples, known_unreadable = read_videos(config)
    check_same_run(config)

    checkpoints = Checkpoints(Path(config.run) / "checkpoints", world, keep=config.keep)
    resumed, broken = checkpoints.newest()
    torch.manual_seed(config.seed)
    deterministic(config.deterministic)
    attention = choose_attention(world.device, config.precision)
    vivit = start_model(config, resumed, build).to(world.device)
    probed = config.probe and config.init is not None
    if probed and not resumed:
        how = {"workers": config.data.workers, "precision": config.precision}
        say = print if world.is_first else lambda line: None
        fit_head(vivit, train_samples, labels, world=world, say=say, **how)
    freeze(vivit, config.optim.freeze)
    model = parallelise(vivit, config.scale, world, bfloat16=uses_bfloat16(world.device, config.precision))
    optimizer = build_optimizer(vivit, config.optim)
    average = Average(vivit, config.optim.ema) if config.optim.ema else None
    meter = Meter(world, config.model, build)
    train_list = list_hash(train_samples, ordered=True)
    step, skipped, unreadable = 0, 0, dict[int, str]()
    best, best_step, baseline = -1.0, 0, None
    if resumed:
        progress = checkpoints.restore(vivit, optimizer, average, resumed)
        if progress["train_list"] != train_list:
            raise ValueError(
                f"{resumed} was trained on another list of videos (there {progress['train_list']}, now {train_list} in "
                f"{config.data.root}); go on with the list as it was, or give another --run and --init"
            )
        step, best, skipped = progress["step"], progress["best"], progress["skipped"]
        best_step, baseline = progress["best_step"], progress["baseline"]
        unreadable = {int(index): problem for index, problem in progress["unreadable"].items()}
        meter.go_on(progress["meter"])

    batch_size = config.optim.batch_size
    epoch_steps = len(train_samples) * config.augment.repeats / batch_size
    steps = max(round(config.optim.epochs * epoch_steps), 1)
    warmup_steps = round(config.optim.warmup_epochs * epoch_steps)
    eval_steps = max(round(config.eval_every * epoch_steps), 1)
    save_steps = max(round(config.save_every * epoch_steps), 1)
    sizes = [len(names) for names in config.model.classes.values()]

    run = Run(config, world, step=step, steps=steps)
    for line in broken:
        run.say(f"broken checkpoint skipped: {line}")
    run.say(headline(config, vivit, train_samples, val_samples, world, resumed, step, steps))
    if world.device.type == "cuda":
        run.say(f"attention: {attention}")
    if known_unreadable:
        lines = [f"{path}: {problem}" for path, problem in known_unreadable.items()]
        run.say(listing("left out, unreadable when vivit data check looked at them", lines))
    clips = TrainClips(
        train_samples,
        labels,
        model=config.model,
        data=config.data,
        augment=config.augment,
        seed=config.seed,
    )
    loader = train_loader(
        clips,
        batch_size=batch_size,
        first_step=step,
        steps=steps,
        rank=world.rank,
        ranks=world.size,
        skipped=given_up(run.folder),
    )
    model.train()

    with run, worker_deaths(run), stop_signals() as received, open_loader(loader) as batches:
        if config.probe and not probed:
            run.say("no frozen baseline: a random start has no features to fit a head to; init gives it some")
        if probed and not resumed:
            best = baseline = validate(run, world, vivit, val_samples, config, step=0, epoch=0)
            save_weights(vivit, world, run.folder / "best", build)
        for batch in meter.timed(batches):
            readable, problems, stop = world.sum([batch.weights.sum().item(), len(batch.problems), len(received)])
            if problems:
                note_unreadable(run, world, batch, unreadable, of=len(clips.samples), most=config.data.max_unreadable)
            lr = learning_rate(step, base=config.optim.lr, warmup_steps=warmup_steps, total_steps=steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            optimizer.zero_grad(set_to_none=True)
            losses = []
            for part in parts(
                batch, config.scale.micro_batch, config.augment, seed=config.seed, step=step, world=world
            ):
                with synchronised(model, last=part.last):
                    with autocast(world.device, config.precision):
                        logits = model(part.video, part.seeds)
                    mixed = {"partners": part.partners, "share": part.share}
                    loss = cross_entropy(
                        logits, part.labels, sizes, label_smoothing=config.optim.label_smoothing, **mixed
                    )
                    # Gradients are averaged over processes: the sum over the step's clips, by their number in all.
                    ((loss * part.weights).sum() * (world.size / max(readable, 1))).backward()
                    losses.append((loss.detach() * part.weights).sum())
            grad_norm = clip_gradients(vivit, config.optim.grad_clip)
            if not math.isfinite(grad_norm):
                skipped += 1
                note_not_finite(run, world, batch, train_samples, step, skipped, config.optim.max_skipped)
            elif readable:
                optimizer.step()
                if average:
                    average.update()
            step += 1
            meter.add(loss=torch.stack(losses).sum(), clips=readable, grad_norm=grad_norm)

            if step % config.log_every == 0 or step == steps:
                values = {"epoch": step / epoch_steps, "lr": lr, **meter.read()}
                run.log(step, values | {"unreadable": len(unreadable), "skipped": skipped})
                run.progress(step, values)
            if step % eval_steps == 0 or step == steps:
                with meter.paused(), average.applied() if average else nullcontext():
                    result = validate(run, world, vivit, val_samples, config, step, step / epoch_steps)
                    if result > best:
                        best, best_step = result, step
                        save_weights(vivit, world, run.folder / "best", build)
            if step % save_steps == 0 or step == steps or stop:
                progress = {"step": step, "best": best, "skipped": skipped, "unreadable": unreadable}
                progress |= {"best_step": best_step, "baseline": baseline, "model": to_dict(vivit.config)}
                progress |= {"train_list": train_list, "meter": meter.sums()}
                try:
                    checkpoints.save(vivit, optimizer, average, progress)
                except OSError as error:  # training goes on with the checkpoint before; the last one must succeed
                    run.say(f"NOT SAVED at step {step}: {error}")
                    if step == steps or stop:
                        raise
            if stop:
                run.say(f"stopped after step {step} of {steps} and saved; the same command goes on from here")
                raise Stopped(received[0] if received else signal.SIGTERM)

        if config.result == "best":
            copy_weights(run.folder / "best", run.folder / "weights", world)
        else:
            with average.applied() if average else nullcontext():
                save_weights(vivit, world, run.folder / "weights", build)
        if baseline is not None:
            run.say(compared(config, baseline, best, best_step, steps))
        run.say(f"{run.folder}: {step} of {steps} steps done, 0 steps left; weights in {run.folder / 'weights'}")
    return run.folder


def read_videos(
    config: Config,
) -> tuple[Config, Sequence[Sample], Tensor, Sequence[Sample], dict[str, str]]:
    """The config with the classes of the data; training samples and their labels; validation samples; unreadable files.

    Files that a check of the data found unreadable are in no list. Raises DataError for labels that do not fit.
    """
    train_samples, val_samples = (
        read(config.data.dataset, config.data.root, split, manifest=config.data.manifest)
        for split in (config.data.train_split, config.data.eval_split)
    )
    classes = config.model.classes or official_classes(config.data.dataset, config.data.root)
    classes = classes or class_names(train_samples)
    train_samples, unreadable = train_samples.readable()
    if not len(train_samples):
        lines = [f"{path}: {problem}" for path, problem in unreadable.items()]
        raise DataError(listing("none of the training videos can be read", lines))
    labels = encode_labels(train_samples, classes)
    encode_labels(val_samples, classes)
    return replace(config, model=replace(config.model, classes=classes)), train_samples, labels, val_samples, unreadable


def start_model(config: Config, resumed: Path | None, build: Callable[[ModelConfig], Any]) -> Any:
    """The model of a run's first step, or one whose weights the checkpoint `resumed` is going to replace."""
    if resumed:  # what came with init's weights, activation and pixel normalisation, comes from the checkpoint
        return build(from_dict(ModelConfig, progress_of(resumed)["model"]))
    if build is ViViT and config.init:
        return create(config.model, init=config.init, kernel_init=config.kernel_init)
    return build(config.model)


def validate(
    run: Run, world: World, model: ViViT, samples: Sequence[Sample], config: Config, step: int, epoch: float
) -> float:
    """Single-view accuracy on the validation videos, to the terminal and the metrics; returns the joint top-1."""
    result: Evaluation = evaluate(
        model,
        samples,
        protocol=replace(SINGLE_VIEW, batch_views=config.eval.batch_views),
        workers=config.data.workers,
        precision=config.precision,
        world=world,
    )
    accuracy = result.single_view_accuracy
    values = {f"val/{name}/{k}": value for name, ks in accuracy.items() for k, value in ks.items()}
    run.log(step, {"epoch": epoch, **values, "val/videos": len(result.samples), "val/missing": len(result.missing)})
    shown = "  ".join(f"{name} {ks['top1']:.1%}" for name, ks in accuracy.items())
    missing = f", {len(result.missing)} missing" if result.missing else ""
    run.say(f"epoch {epoch:.4g}  validation top-1, single view: {shown}  ({len(result.samples)} videos{missing})")
    return list(accuracy.values())[-1]["top1"]


def save_weights(model: ViViT, world: World, folder: Path, build: Callable[[ModelConfig], Any] = ViViT) -> None:
    """Write the weights of a model that may be divided among processes."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if world.is_first:
        with torch.device("meta"):
            whole = build(model.config)
        whole.load_state_dict(state, assign=True)
        whole.save_pretrained(folder)
    world.barrier()


def copy_weights(source: Path, folder: Path, world: World) -> None:
    """Write the weights in `source` to `folder` as well."""
    if world.is_first:
        save_pretrained(from_pretrained(source), folder)
    world.barrier()


def compared(config: Config, baseline: float, best: float, best_step: int, steps: int) -> str:
    """The frozen baseline and the run's best validation, and how far that number can be trusted."""
    where = "the start" if best_step == 0 else f"step {best_step} of {steps}"
    return (
        f"frozen baseline {baseline:.1%}, fine-tuned {best:.1%} (top-1, single view, split {config.data.eval_split!r}; "
        f"the best of all evaluations, {where}). It was chosen on these videos, so it flatters the run a little: "
        "vivit eval with --data.eval-split on videos kept aside tells how much"
    )


def note_unreadable(run: Run, world: World, batch: Batch, unreadable: dict[int, str], *, of: int, most: int) -> None:
    """Name the videos that could not be read, once; raise DataError when there are more than `most`, or all of them."""
    for problems in world.gather(batch.problems):
        for index, problem in problems.items():
            if index not in unreadable:
                unreadable[index] = problem
                run.say(f"left out, unreadable: {problem}")
    if len(unreadable) == of:
        raise DataError(listing("none of the training videos can be read", list(unreadable.values())))
    if len(unreadable) > most:
        raise DataError(listing("more unreadable videos than data.max_unreadable allows", list(unreadable.values())))


def note_not_finite(
    run: Run, world: World, batch: Batch, samples: Sequence[Sample], step: int, skipped: int, most: int
) -> None:
    """Name the step and its files; raise FloatingPointError when more than `most` steps were skipped."""
    indices = [index for group in world.gather(batch.indices) for index in group if index >= 0]
    title = f"step {step}: gradients are not finite, the step is skipped; it saw"
    message = listing(title, [samples[index].path for index in indices])
    run.say(message)
    if skipped > most:
        raise FloatingPointError(
            f"{message}\n{skipped} steps without finite gradients, optim.max_skipped allows {most}; "
            "lower optim.lr, or look at these files"
        )


def headline(
    config: Config,
    model: ViViT,
    train_samples: Sequence[Sample],
    val_samples: Sequence[Sample],
    world: World,
    resumed: Path | None,
    step: int,
    steps: int,
) -> str:
    """What is about to be trained, on what, where, from where."""
    parameters = sum(p.numel() for p in model.parameters())
    classes = ", ".join(f"{len(names)} {name}" for name, names in config.model.classes.items())
    share = -(-config.optim.batch_size // world.size)
    micro = min(config.scale.micro_batch or share, share)
    if resumed:
        doing = f"going on after step {step} of {steps} ({resumed.name})"
        doing += f"; init={config.init} was its start and is not read again" if config.init else ""
    else:
        doing = f"{steps} steps of {config.optim.batch_size} clips from {config.init or 'a random start'}"
    return (
        f"{config.model.encoder}, {parameters / 1e6:.1f} M parameters, {world.size} x {world.device.type}, "
        f"{share} clips each in micro-batches of {micro}; "
        f"{len(train_samples)} training and {len(val_samples)} validation videos; classes: {classes}\n"
        f"{config.run}: {doing}"
    )
