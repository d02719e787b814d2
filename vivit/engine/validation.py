"""Validation during training: measure the weights of a step, and keep the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..config import Config, ModelConfig, replace
from ..errors import DataError
from ..model.vivit import ViViT
from ..text import listing
from ..weights.load import from_pretrained, save_pretrained
from .distributed import World, eager_blocks
from .evaluate import SINGLE_VIEW, evaluate
from .evaluation import Evaluation
from .interruption import StopRequest, note_skipped_files, skipped_files
from .setup import Training


class StopValidation(Exception):
    """A signal asked training to stop during a validation."""


def validate_and_keep_best(t: Training, stop: StopRequest) -> None:
    """Validate the weights of this step, and write them to best/ if no earlier result is higher.

    Raises Stopped after saving a checkpoint, and DataError if no video could be read, after trying to save one.
    """
    progress = t.progress
    progress.validation_due = True
    try:
        with t.meter.paused(), t.averaged(), eager_blocks(t.compiled):
            result = validate(t, stop)
            if progress.step == 0 and progress.baseline is None:
                progress.baseline = result
            if result >= progress.best:  # of equal ones, the later weights have learned more
                keep_best(t, result)
    except StopValidation:
        t.stop(stop.number)
    except DataError:
        t.save(must_succeed=False)
        raise
    progress.validation_due = False


def keep_best(t: Training, result: float) -> None:
    """Write the weights to best/; if that fails, the previous weights and their result stay."""
    try:
        save_weights(t.vivit, t.world, t.run.folder / "best", t.build)
    except OSError as error:
        t.run.log_line(f"best weights NOT SAVED at step {t.progress.step}: {error}")
    else:
        t.progress.best, t.progress.best_step = result, t.progress.step


def validate(t: Training, stop: StopRequest) -> float:
    """Measure and log the single-view accuracy on the validation videos. Returns the joint top-1.

    Raises DataError if no video could be read, StopValidation if a signal asked any process to stop.
    """
    step, epoch = t.progress.step, t.progress.step / t.epoch_steps
    skipped = skipped_files(t.run.folder)

    with t.run.bar.paused("validation", math.ceil(len(t.data.val) / t.world.size)) as update:

        def show_progress(done: int) -> None:
            update(done)
            if t.world.sum([bool(stop)])[0]:
                raise StopValidation

        result: Evaluation = evaluate(
            t.vivit,
            t.data.val,
            protocol=replace(SINGLE_VIEW, batch_views=t.config.eval.batch_views),
            workers=t.config.data.workers,
            precision=t.config.precision,
            world=t.world,
            progress=show_progress,
            skipped=skipped,
            frame_cache=t.data.frame_cache,
        )
    note_skipped_files(t.run.folder, skipped, t.world)
    if not result.samples:
        title = f"validation at step {step}: none of the videos of split {t.config.data.eval_split!r} can be read"
        raise DataError(listing(title, list(result.missing.values())))
    accuracy = result.single_view_accuracy
    values = {f"val/{name}/{metric}": x for name, scores in accuracy.items() for metric, x in scores.items()}
    t.run.log(step, {"epoch": epoch, **values, "val/videos": len(result.samples), "val/missing": len(result.missing)})
    shown = "  ".join(f"{name} {scores['top1']:.1%}" for name, scores in accuracy.items())
    missing = f", {len(result.missing)} missing" if result.missing else ""
    t.run.log_line(
        f"epoch {epoch:.4g}  validation top-1, single view: {shown}  ({len(result.samples)} videos{missing})"
    )
    return list(accuracy.values())[-1]["top1"]  # the last entry is the joint one, if there are several label sets


def save_weights(model: ViViT, world: World, folder: Path, build: Callable[[ModelConfig], Any] = ViViT) -> None:
    """Write the weights of a model that may be sharded. A failure is an OSError in every process."""
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def save() -> None:
        with torch.device("meta"):
            full = build(model.config)
        full.load_state_dict(state, assign=True)
        full.save_pretrained(folder)

    world.on_main(save)


def copy_weights(source: Path, folder: Path, world: World) -> None:
    """Write the weights of the folder `source` to `folder` as well."""
    world.on_main(lambda: save_pretrained(from_pretrained(source), folder))


def compare_with_baseline(config: Config, baseline: float, best: float, best_step: int, steps: int) -> str:
    """Describe the frozen baseline and the best validation of the run, and how far to trust the latter."""
    where = "the start" if best_step == 0 else f"step {best_step} of {steps}"
    return (
        f"frozen baseline {baseline:.1%}, fine-tuned {best:.1%} (top-1, single view, split {config.data.eval_split!r}; "
        f"the best of all evaluations, {where}). It was chosen on these videos, so it is slightly too high: "
        "vivit eval with --data.eval-split on held-out videos measures by how much"
    )
