"""The training loop, from top to bottom. The same for one process and for many (`torchrun -m -- vivit train …`)."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..config import Config, ModelConfig, from_dict, replace, to_dict
from ..data.dataset import TrainDataset
from ..data.loader import Batch, open_loader, train_loader
from ..data.sample import Sample
from ..data.sample_table import list_hash
from ..data.splits import load_split
from ..errors import DataError, Stopped, WorkerDied
from ..model.vivit import ViViT
from ..text import listing
from ..weights.load import create, from_pretrained, save_pretrained
from .checkpoint import Checkpoints, progress_of
from .device import autocast, choose_attention, deterministic, uses_bfloat16
from .distributed import World, clip_gradients, parallelise, start, synchronised
from .evaluate import SINGLE_VIEW, evaluate
from .evaluation import Evaluation
from .losses import cross_entropy
from .memory import check_memory
from .mix import parts
from .optim import EMA, build_optimizer, freeze, learning_rate
from .probe import fit_head
from .run import (
    Meter,
    Run,
    StopRequest,
    attribute_worker_crash,
    check_same_run,
    locked,
    note_skipped_files,
    skipped_files,
    stop_signals,
)

STOPPING = "stopping after this step; press again to quit without saving"


def train(config: Config, *, build: Callable[[ModelConfig], Any] = ViViT) -> Path:
    """Train as `config` says and return the run folder; starting again with the same config continues the run.

    Every label is checked before the first step. SIGINT and SIGTERM finish the step, save a checkpoint and raise
    Stopped; a second one ends the process without saving. Raises ValueError or DataError for settings, data or a run
    folder that do not fit.

    `build` makes another model under the contract of ViViT, such as those of vivit.model.cnn_baselines, at random.
    """
    with start(config.device) as world:
        while True:
            try:
                return train_in(world, config, build=build)
            except WorkerDied:
                if world.size > 1:  # the others wait in vain; torchrun starts all of them again
                    raise
            gc.collect()


def train_in(world: World, config: Config, *, build: Callable[[ModelConfig], Any] = ViViT) -> Path:
    """`train`, as one of the processes of `world`."""
    config, data = read_videos(config)
    check_same_run(config)
    with locked(Path(config.run), world):
        training = set_up(world, config, data, build)
        run, progress = training.run, training.progress
        clips = TrainDataset(
            data.train, data.labels, model=config.model, data=config.data, augment=config.augment, seed=config.seed
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
    return run.folder


@dataclass(frozen=True)
class Data:
    """The videos of a run."""

    train: Sequence[Sample]
    labels: Tensor
    """(N, L) of the training videos."""
    val: Sequence[Sample]
    unreadable: dict[str, str]
    """Training videos that a check of the data found unreadable, and why by path; they are in no list."""


@dataclass
class Progress:
    """What a checkpoint keeps besides tensors and the meter's sums."""

    step: int = 0
    best: float = -1.0
    """Highest validation top-1 whose weights are in best/; below 0: none yet."""
    best_step: int = 0
    baseline: float | None = None
    skipped: int = 0
    """Steps without finite gradients."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Training videos that could not be read, by their place in the list."""
    validation_due: bool = False
    """Whether the weights of this step are still to be validated."""

    @staticmethod
    def of(saved: dict[str, Any]) -> Progress:
        """From the progress of a checkpoint, also of an earlier version."""
        progress = Progress(**{name: saved[name] for name in asdict(Progress()) if name in saved})
        progress.unreadable = {int(index): problem for index, problem in progress.unreadable.items()}
        if math.isnan(progress.best):
            progress.best, progress.best_step = -1.0, 0
        if progress.baseline is not None and math.isnan(progress.baseline):
            progress.baseline = None
        return progress


@dataclass(frozen=True)
class Training:
    """Everything that the steps of a run work with."""

    world: World
    config: Config
    data: Data
    build: Callable[[ModelConfig], Any]
    vivit: Any
    model: nn.Module
    """`vivit`, wrapped to run in several processes."""
    optimizer: torch.optim.Optimizer
    average: EMA | None
    checkpoints: Checkpoints
    run: Run
    meter: Meter
    progress: Progress
    steps: int
    epoch_steps: float

    def every(self, epochs: float) -> int:
        """Steps in so many epochs, at least 1."""
        return max(round(epochs * self.epoch_steps), 1)

    def averaged(self) -> Any:
        """A context in which the model has the averaged weights, where there are any."""
        return self.average.applied() if self.average else nullcontext()

    def save(self, *, must_succeed: bool) -> None:
        """Save a checkpoint. If that fails, training continues with the checkpoint before, unless it must succeed."""
        progress = asdict(self.progress) | {"model": to_dict(self.vivit.config), "meter": self.meter.sums()}
        try:
            self.checkpoints.save(self.vivit, self.optimizer, self.average, progress | hashes(self.data))
        except OSError as error:
            self.run.say(f"NOT SAVED at step {self.progress.step}: {error}")
            if must_succeed:
                raise

    def stop(self, number: int | None) -> None:
        """Save and raise Stopped."""
        self.save(must_succeed=True)
        step, steps = self.progress.step, self.steps
        self.run.say(f"stopped after step {step} of {steps} and saved; the same command continues from here")
        raise Stopped(number or signal.SIGTERM)


class StopValidation(Exception):
    """Training was asked to stop during a validation."""


def set_up(world: World, config: Config, data: Data, build: Callable[[ModelConfig], Any]) -> Training:
    """Build the model and its optimiser, from the newest checkpoint if there is one, and open the run folder."""
    checkpoints = Checkpoints(Path(config.run) / "checkpoints", world, keep=config.keep_checkpoints)
    resumed, broken = checkpoints.latest()
    saved = progress_of(resumed) if resumed else {}
    if resumed:
        check_same_lists(resumed, saved, data, config)
    if build is ViViT:
        check_memory(config, world)
    torch.manual_seed(config.seed)
    deterministic(config.deterministic)
    attention = choose_attention(world.device, config.precision)
    vivit = start_model(config, resumed, build).to(world.device)
    probed = config.linear_probe and config.init is not None
    if probed and not resumed:
        skipped = skipped_files(Path(config.run))
        fit_head(
            vivit,
            data.train,
            data.labels,
            world=world,
            workers=config.data.workers,
            precision=config.precision,
            say=print if world.is_main else lambda line: None,
            skipped=skipped,
        )
        note_skipped_files(Path(config.run), skipped, world)
    freeze(vivit, config.optim.freeze)
    model = parallelise(vivit, config.parallel, world, bfloat16=uses_bfloat16(world.device, config.precision))
    optimizer = build_optimizer(vivit, config.optim)
    average = EMA(vivit, config.optim.ema) if config.optim.ema else None
    meter = Meter(world, config.model, build)
    progress = Progress(validation_due=probed)
    if resumed:
        progress = Progress.of(checkpoints.restore(vivit, optimizer, average, resumed))
        meter.go_on(saved["meter"])
    epoch_steps = len(data.train) * config.augment.repeats / config.optim.batch_size
    steps = max(round(config.optim.epochs * epoch_steps), 1)
    run = Run(config, world, step=progress.step, steps=steps)
    for line in broken:
        run.say(f"broken checkpoint skipped: {line}")
    run.say(headline(config, vivit, data, world, resumed, progress.step, steps))
    if world.device.type == "cuda":
        run.say(f"attention: {attention}")
    if data.unreadable:
        lines = [f"{path}: {problem}" for path, problem in data.unreadable.items()]
        run.say(listing("left out, unreadable when vivit data check looked at them", lines))
    if config.linear_probe and not probed:
        run.say("--linear-probe is ignored: it needs --init")
    return Training(
        world=world,
        config=config,
        data=data,
        build=build,
        vivit=vivit,
        model=model,
        optimizer=optimizer,
        average=average,
        checkpoints=checkpoints,
        run=run,
        meter=meter,
        progress=progress,
        steps=steps,
        epoch_steps=epoch_steps,
    )


def train_steps(t: Training, batches: Iterator[Batch], stop: StopRequest) -> None:
    """Take the steps that are left, with readings, validations and checkpoints at their times."""
    world, config, run, progress = t.world, t.config, t.run, t.progress
    t.model.train()
    if progress.validation_due:  # of the start, or left over from an interruption
        validate_and_keep_best(t, stop)
        if progress.step:
            t.save(must_succeed=progress.step == t.steps)
    while progress.step < t.steps:
        batch = next_batch(batches, stop)
        counts = [batch.weights.sum().item(), len(batch.problems), 0] if batch else [0, 0, 1]
        readable, problems, stopping = world.sum(counts)
        if batch is None or stopping:
            return t.stop(stop.number)
        if problems:
            most = config.data.max_unreadable
            note_unreadable(run, world, batch, progress.unreadable, of=len(t.data.train), most=most)
        lr = learning_rate(
            progress.step,
            base=config.optim.lr,
            warmup_steps=round(config.optim.warmup_epochs * t.epoch_steps),
            total_steps=t.steps,
        )
        loss, grad_norm = train_step(t, batch, lr, readable)
        progress.step += 1
        t.meter.add(loss=loss, clips=readable, grad_norm=grad_norm)

        last = progress.step == t.steps
        if progress.step % config.log_every == 0 or last:
            values = {"epoch": progress.step / t.epoch_steps, "lr": lr, **t.meter.read()}
            run.log(progress.step, values | {"unreadable": len(progress.unreadable), "skipped": progress.skipped})
            run.progress(progress.step, values)
        progress.validation_due = progress.step % t.every(config.eval_every) == 0 or last
        if world.sum([bool(stop)])[0]:
            return t.stop(stop.number)
        if progress.validation_due:
            validate_and_keep_best(t, stop)
        if progress.step % t.every(config.save_every) == 0 or last:
            t.save(must_succeed=last)
    return None


def next_batch(batches: Iterator[Batch], stop: StopRequest) -> Batch | None:
    """The next batch; None if training is asked to stop, which also ends the wait for a batch."""
    try:
        with stop.interrupts():
            return None if stop else next(batches)
    except KeyboardInterrupt:
        if stop.repeated:
            raise
        return None


def train_step(t: Training, batch: Batch, lr: float, readable: float) -> tuple[Tensor, float]:
    """One update of the weights. Returns the sum of this process's losses and the norm of all gradients.

    `readable` is the number of clips of the step, in all processes, that could be read.
    """
    config, world = t.config, t.world
    sizes = [len(names) for names in config.model.classes.values()]
    for group in t.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    t.optimizer.zero_grad(set_to_none=True)
    losses = []
    for part in parts(
        batch, config.parallel.micro_batch, config.augment, seed=config.seed, step=t.progress.step, world=world
    ):
        with synchronised(t.model, last=part.last):
            with autocast(world.device, config.precision):
                logits = t.model(part.video, part.seeds)
            loss = cross_entropy(
                logits,
                part.labels,
                sizes,
                label_smoothing=config.optim.label_smoothing,
                partners=part.partners,
                share=part.share,
            )
            # Gradients are averaged over processes: the sum over the step's clips, by their number in all.
            ((loss * part.weights).sum() * (world.size / max(readable, 1))).backward()
            losses.append((loss.detach() * part.weights).sum())
    grad_norm = clip_gradients(t.vivit, config.optim.grad_clip)
    if not math.isfinite(grad_norm):
        t.progress.skipped += 1
        skipped, most = t.progress.skipped, config.optim.max_nonfinite_steps
        note_not_finite(t.run, world, batch, t.data.train, t.progress.step, skipped, most)
    elif readable:
        t.optimizer.step()
        if t.average:
            t.average.update()
    return torch.stack(losses).sum(), grad_norm


def validate_and_keep_best(t: Training, stop: StopRequest) -> None:
    """Validate the weights of this step, and write them to best/ if no valid result before was as good.

    Saves a checkpoint before it raises: Stopped, or DataError where no video could be read.
    """
    progress = t.progress
    progress.validation_due = True
    try:
        with t.meter.paused(), t.averaged():
            result = validate(t, stop)
            if progress.step == 0:
                progress.baseline = result
            if result > progress.best:
                keep_best(t, result)
    except StopValidation:
        t.stop(stop.number)
    except DataError:
        t.save(must_succeed=False)
        raise
    progress.validation_due = False


def keep_best(t: Training, result: float) -> None:
    """Write the weights to best/; where that fails the ones before stay there, and so does their result."""
    try:
        save_weights(t.vivit, t.world, t.run.folder / "best", t.build)
    except OSError as error:
        t.run.say(f"best weights NOT SAVED at step {t.progress.step}: {error}")
    else:
        t.progress.best, t.progress.best_step = result, t.progress.step


def validate(t: Training, stop: StopRequest) -> float:
    """Single-view accuracy on the validation videos, to the terminal and the metrics; returns the joint top-1.

    Raises DataError if no video could be read, StopValidation if any process is asked to stop.
    """
    step, epoch = t.progress.step, t.progress.step / t.epoch_steps
    skipped = skipped_files(t.run.folder)

    def check_stop(done: int) -> None:
        if t.world.sum([bool(stop)])[0]:
            raise StopValidation

    result: Evaluation = evaluate(
        t.vivit,
        t.data.val,
        protocol=replace(SINGLE_VIEW, batch_views=t.config.eval.batch_views),
        workers=t.config.data.workers,
        precision=t.config.precision,
        world=t.world,
        progress=check_stop,
        skipped=skipped,
    )
    note_skipped_files(t.run.folder, skipped, t.world)
    if not result.samples:
        title = f"validation at step {step}: none of the videos of split {t.config.data.eval_split!r} can be read"
        raise DataError(listing(title, list(result.missing.values())))
    accuracy = result.single_view_accuracy
    values = {f"val/{name}/{k}": value for name, ks in accuracy.items() for k, value in ks.items()}
    t.run.log(step, {"epoch": epoch, **values, "val/videos": len(result.samples), "val/missing": len(result.missing)})
    shown = "  ".join(f"{name} {ks['top1']:.1%}" for name, ks in accuracy.items())
    missing = f", {len(result.missing)} missing" if result.missing else ""
    t.run.say(f"epoch {epoch:.4g}  validation top-1, single view: {shown}  ({len(result.samples)} videos{missing})")
    return list(accuracy.values())[-1]["top1"]


def finish(t: Training) -> None:
    """Write the weights that the run ends with, and say where they are."""
    config, world, run, progress = t.config, t.world, t.run, t.progress
    best, weights = run.folder / "best", run.folder / "weights"
    has_best = world.gather(progress.best >= 0 and (best / "model.safetensors").is_file())[0]
    if config.final_weights == "best" and has_best:
        copy_weights(best, weights, world)
    else:
        if config.final_weights == "best":
            run.say(f"{best} has no weights, so {weights} gets those of the last step")
        with t.averaged():
            save_weights(t.vivit, world, weights, t.build)
    if progress.baseline is not None:
        run.say(compared(config, progress.baseline, progress.best, progress.best_step, t.steps))
    run.say(f"{run.folder}: training finished ({t.steps} steps); weights in {weights}")
    run.say(f"next: vivit eval {run.folder}\n      vivit predict {run.folder} VIDEO")


def read_videos(config: Config) -> tuple[Config, Data]:
    """The config with the classes of the data, and the videos to train on and to validate on.

    Files that a check of the data found unreadable are not among the training videos. Raises DataError for labels that
    do not fit, and where a list has no readable video.
    """
    train = load_split(config.data, config.data.train_split, classes=config.model.classes or None, training=True)
    val = load_split(config.data, config.data.eval_split, classes=train.classes)
    if not len(val.samples.readable()[0]):
        lines = [f"{path}: {problem}" for path, problem in val.unreadable.items()]
        raise DataError(listing(f"none of the validation videos (split {config.data.eval_split!r}) can be read", lines))
    config = replace(config, model=replace(config.model, classes=train.classes))
    return config, Data(train.samples, train.labels, val.samples, train.unreadable)


def hashes(data: Data) -> dict[str, str]:
    """What a checkpoint remembers of the lists of videos, wherever the files are."""
    return {"train_list": list_hash(data.train, ordered=True), "val_list": list_hash(data.val)}


def check_same_lists(resumed: Path, saved: dict[str, Any], data: Data, config: Config) -> None:
    """Raise ValueError if the videos are not those of the checkpoint; one of an earlier version has no val_list."""
    names = {"train_list": "another list of videos", "val_list": "another list of validation videos"}
    for key, now in hashes(data).items():
        if saved.get(key, now) != now:
            raise ValueError(
                f"{resumed} was trained with {names[key]} (there {saved[key]}, now {now} in {config.data.root}); "
                "restore the list as it was to resume, or give another --run and --init"
            )


def start_model(config: Config, resumed: Path | None, build: Callable[[ModelConfig], Any]) -> Any:
    """The model of a run's first step, or one whose weights the checkpoint `resumed` is going to replace."""
    if resumed:  # what came with init's weights, activation and pixel normalisation, comes from the checkpoint
        return build(from_dict(ModelConfig, progress_of(resumed)["model"]))
    if build is ViViT and config.init:
        return create(config.model, init=config.init, kernel_init=config.kernel_init)
    return build(config.model)


def save_weights(model: ViViT, world: World, folder: Path, build: Callable[[ModelConfig], Any] = ViViT) -> None:
    """Write the weights of a model that may be divided among processes. A failure is an OSError in all of them."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def save() -> None:
        with torch.device("meta"):
            full = build(model.config)
        full.load_state_dict(state, assign=True)
        full.save_pretrained(folder)

    world.on_main(save)


def copy_weights(source: Path, folder: Path, world: World) -> None:
    """Write the weights in `source` to `folder` as well."""
    world.on_main(lambda: save_pretrained(from_pretrained(source), folder))


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
            f"{message}\n{skipped} steps without finite gradients, optim.max_nonfinite_steps allows {most}; "
            "lower optim.lr, or look at these files"
        )


def headline(
    config: Config,
    model: ViViT,
    data: Data,
    world: World,
    resumed: Path | None,
    step: int,
    steps: int,
) -> str:
    """What is about to be trained, on what, where, from where."""
    parameters = sum(p.numel() for p in model.parameters())
    classes = ", ".join(f"{len(names)} {name}" for name, names in config.model.classes.items())
    share = -(-config.optim.batch_size // world.size)
    micro = min(config.parallel.micro_batch or share, share)
    if resumed:
        doing = f"resuming after step {step} of {steps} ({resumed.name})"
        doing += f"; init={config.init} was its start and is not read again" if config.init else ""
    else:
        doing = f"{steps} steps of {config.optim.batch_size} clips from {config.init or 'a random start'}"
    return (
        f"{config.model.encoder}, {parameters / 1e6:.1f} M parameters, {world.size} x {world.device.type}, "
        f"{share} clips each in micro-batches of {micro}; "
        f"{len(data.train)} training and {len(data.val)} validation videos; classes: {classes}\n"
        f"{config.run}: {doing}"
    )
