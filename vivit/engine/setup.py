"""Set up a training run: videos, model, optimizer, checkpoint."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..config import Config, ModelConfig, from_dict, replace, to_dict
from ..data.frame_cache import FOLDER, FrameCache
from ..data.sample import Sample
from ..data.sample_table import list_hash
from ..data.splits import load_split
from ..errors import DataError, Stopped
from ..model.vivit import ViViT
from ..text import listing
from ..weights.load import create, from_pretrained
from .checkpoint import Checkpoints, progress_of
from .device import choose_attention, deterministic, uses_bfloat16
from .distributed import World, parallelize, uses_compiler
from .interruption import note_skipped_files, skipped_files
from .memory import check_memory, divide_batch
from .meter import Meter
from .optim import EMA, build_optimizer, freeze
from .probe import fit_linear_probe
from .run import Run

START = "start"  # folder in the run folder: the weights that the stages of a budget found


@dataclass(frozen=True)
class Data:
    """The videos of a run."""

    train: Sequence[Sample]
    labels: Tensor
    """(N, L) of the training videos."""
    val: Sequence[Sample]
    val_labels: Tensor
    unreadable: dict[str, str]
    """Path → problem of the training videos that `vivit data check` found unreadable; `train` leaves them out."""
    frame_cache: FrameCache | None = None
    """The decoded frames of short videos, in the run folder until training ends."""


@dataclass(frozen=True)
class Staged:
    """What the stages of a budget found. Training begins at the weights in the folder START of the run."""

    config: Config
    """Of the training that follows."""
    baseline: float
    """Validation top-1 of the frozen baseline."""
    best: float
    """Validation top-1 of the weights that the stages wrote to best/; negative if they wrote none."""


@dataclass
class Progress:
    """How far training has come: what a checkpoint stores besides tensors and the sums of the meter."""

    step: int = 0
    best: float = -1.0
    """Validation top-1 of the weights in best/, the highest so far; negative if there are none yet."""
    best_step: int = 0
    baseline: float | None = None
    """Validation top-1 at step 0, after the linear probe; None without one."""
    skipped: int = 0
    """Steps without finite gradients."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Training videos that could not be read, and why, by index."""
    validation_due: bool = False
    """Whether the weights of this step still need a validation."""

    @staticmethod
    def of(saved: dict[str, Any]) -> Progress:
        """Read the progress that a checkpoint stores; checkpoints of earlier versions may lack fields or hold NaN."""
        progress = Progress(**{name: saved[name] for name in asdict(Progress()) if name in saved})
        progress.unreadable = {int(index): problem for index, problem in progress.unreadable.items()}
        if math.isnan(progress.best):
            progress.best, progress.best_step = -1.0, 0
        if progress.baseline is not None and math.isnan(progress.baseline):
            progress.baseline = None
        return progress


@dataclass(frozen=True)
class Training:
    """The state of a run: everything that its steps use."""

    world: World
    config: Config
    data: Data
    build: Callable[[ModelConfig], Any]
    vivit: Any
    model: nn.Module
    """`vivit`, wrapped if it runs in several processes: for the forward pass; use `vivit` for everything else."""
    compiled: bool
    """Whether the blocks of the model are compiled."""
    optimizer: torch.optim.Optimizer
    average: EMA | None
    """Moving average of the weights; None if optim.ema is off."""
    checkpoints: Checkpoints
    run: Run
    meter: Meter
    progress: Progress
    steps: int
    """Steps of the run, from its start to its end."""
    epoch_steps: float
    """Steps of one epoch, not rounded."""

    def steps_in(self, epochs: float) -> int:
        """Return the number of steps in `epochs`, at least 1."""
        return max(round(epochs * self.epoch_steps), 1)

    def averaged(self) -> Any:
        """Return a context in which the model has the averaged weights, if the run has any."""
        return self.average.applied() if self.average else nullcontext()

    def save(self, *, must_succeed: bool) -> None:
        """Save a checkpoint. A failure raises OSError only if it `must_succeed`."""
        progress = asdict(self.progress) | {"model": to_dict(self.vivit.config), "meter": self.meter.state_dict()}
        try:
            self.checkpoints.save(self.vivit, self.optimizer, self.average, progress | hashes(self.data))
        except OSError as error:
            self.run.log_line(f"NOT SAVED at step {self.progress.step}: {error}")
            if must_succeed:
                raise

    def stop(self, number: int | None) -> NoReturn:
        """Save a checkpoint and raise Stopped."""
        self.save(must_succeed=True)
        step, steps = self.progress.step, self.steps
        self.run.log_line(f"stopped after step {step} of {steps} and saved; the same command resumes here")
        raise Stopped(number or signal.SIGTERM)


def setup(
    world: World,
    config: Config,
    data: Data,
    build: Callable[[ModelConfig], Any],
    *,
    staged: Staged | None = None,
) -> Training:
    """Build the model and the optimizer, restore the latest checkpoint if there is one, and open the run folder."""
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
    probed = config.linear_probe and config.init is not None and not config.budget
    if probed and not resumed:
        skipped = skipped_files(Path(config.run))
        fit_linear_probe(
            vivit,
            data.train,
            data.labels,
            world=world,
            workers=config.data.workers,
            precision=config.precision,
            log=world.print,
            skipped=skipped,
            frame_cache=data.frame_cache,
        )
        note_skipped_files(Path(config.run), skipped, world)
    freeze(vivit, config.optim.freeze)
    epoch_steps = len(data.train) * config.augment.repeats / config.optim.batch_size
    steps = max(round(config.optim.epochs * epoch_steps), 1 if config.optim.epochs else 0)
    compiled = uses_compiler(config.parallel, world.device, steps)
    bfloat16 = uses_bfloat16(world.device, config.precision)
    model = parallelize(vivit, config.parallel, world, compiled=compiled, bfloat16=bfloat16)
    optimizer = build_optimizer(vivit, config.optim)
    average = EMA(vivit, config.optim.ema) if config.optim.ema else None
    meter = Meter(world, config.model, build)
    progress = Progress(validation_due=probed or not steps)
    if staged:
        progress = Progress(validation_due=staged.best < 0, baseline=staged.baseline, best=staged.best)
    if resumed:
        progress = Progress.of(checkpoints.restore(vivit, optimizer, average, resumed))
        meter.load_state_dict(saved["meter"])
    run = Run(config, world, step=progress.step, steps=steps, resumed=resumed is not None)
    for line in broken:
        run.log_line(f"broken checkpoint skipped: {line}")
    run.log_line(describe_start(config, vivit, data, world, resumed, progress.step, steps))
    if world.device.type == "cuda":
        compilation = "; blocks are compiled in the first step, for up to a minute" if compiled else ""
        run.log_line(f"attention: {attention}{compilation}")
    if data.unreadable:
        lines = [f"{path}: {problem}" for path, problem in data.unreadable.items()]
        run.log_line(listing("skipped, unreadable according to vivit data check", lines))
    if config.linear_probe and not (probed or staged):
        run.log_line("--linear-probe is ignored: it needs --init")
    return Training(
        world=world,
        config=config,
        data=data,
        build=build,
        vivit=vivit,
        model=model,
        compiled=compiled,
        optimizer=optimizer,
        average=average,
        checkpoints=checkpoints,
        run=run,
        meter=meter,
        progress=progress,
        steps=steps,
        epoch_steps=epoch_steps,
    )


def read_videos(config: Config) -> tuple[Config, Data]:
    """Return the config with the classes of the data, and the videos to train and to validate on.

    The training videos do not include files that a check of the data found unreadable. Raises DataError for labels
    that do not fit, and if a split has no readable video.
    """
    train = load_split(config.data, config.data.train_split, classes=config.model.classes or None, training=True)
    val = load_split(config.data, config.data.eval_split, classes=train.classes)
    if not len(val.samples.readable()[0]):
        lines = [f"{path}: {problem}" for path, problem in val.unreadable.items()]
        raise DataError(listing(f"none of the validation videos (split {config.data.eval_split!r}) can be read", lines))
    config = replace(config, model=replace(config.model, classes=train.classes))
    frames = FrameCache.within(
        Path(config.run) / FOLDER,
        config.data.frame_cache * 2**30,
        videos=len(train.samples) + len(val.samples),
        max_seconds=config.data.video_timeout / 4,
    )
    return config, Data(train.samples, train.labels, val.samples, val.labels, train.unreadable, frames)


def hashes(data: Data) -> dict[str, str]:
    """Hash the lists of videos, for a checkpoint; moving the data folder does not change the hashes."""
    return {"train_list": list_hash(data.train, ordered=True), "val_list": list_hash(data.val)}


def check_same_lists(resumed: Path, saved: dict[str, Any], data: Data, config: Config) -> None:
    """Raise ValueError if the videos differ from those of the checkpoint; earlier versions wrote no val_list."""
    names = {"train_list": "another list of videos", "val_list": "another list of validation videos"}
    for key, now in hashes(data).items():
        if saved.get(key, now) != now:
            raise ValueError(
                f"{resumed} was trained with {names[key]} (there {saved[key]}, now {now} in {config.data.root}); "
                "restore the list to resume, or give another --run and --init"
            )


def start_model(config: Config, resumed: Path | None, build: Callable[[ModelConfig], Any]) -> Any:
    """Build the model with its initial weights; a resumed run replaces them by those of its checkpoint later."""
    if resumed:  # not config.model: init may have changed the activation and pixel normalization
        return build(from_dict(ModelConfig, progress_of(resumed)["model"]))
    if config.budget:
        return from_pretrained(Path(config.run) / START).train()
    if config.init and build is not ViViT:
        raise ValueError(f"init={config.init} starts a ViViT; this run trains another model: leave init out")
    if config.init:
        return create(config.model, init=config.init, kernel_init=config.kernel_init)
    return build(config.model)


def describe_start(
    config: Config, model: ViViT, data: Data, world: World, resumed: Path | None, step: int, steps: int
) -> str:
    """Describe the run before its first step: model, devices, videos, start."""
    parameters = sum(p.numel() for p in model.parameters())
    classes = ", ".join(f"{len(names)} {name}" for name, names in config.model.classes.items())
    share, micro = divide_batch(config, world.size)
    if resumed:
        doing = f"resuming after step {step} of {steps} ({resumed.name})"
        doing += f"; the weights of init={config.init} are not read again" if config.init else ""
    else:
        doing = f"{steps} steps of {config.optim.batch_size} clips from {config.init or 'a random start'}"
    return (
        f"{config.model.encoder}, {parameters / 1e6:.1f} M parameters, {world.size} x {world.device.type}, "
        f"{share} clips each in micro-batches of {micro}; "
        f"{len(data.train)} training and {len(data.val)} validation videos; classes: {classes}\n"
        f"{config.run}: {doing}"
    )
