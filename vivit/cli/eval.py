"""`vivit eval`: test weights on videos."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import Config, DataConfig, EvalConfig, from_dict, replace
from ..data.datasets.split_names import usual_split
from .overrides import EvalOverrides, Overrides
from .parse import parse, take_word, wants_help
from .predict import refuse_for_exported

if TYPE_CHECKING:
    from torch import nn

USED = (
    *(f"model.{name}" for name in (*vars(Overrides()), "preprocessing")),
    *(f"data.{name}" for name in ("root", "dataset", "labels", "manifest", "eval_split", "workers")),
    *("eval", "device", "precision", "run", "epic_levels"),
)
USUAL = (
    *("data.root", "data.eval_split", "eval.temporal_views", "eval.spatial_views", "eval.shuffle_frames"),
    *("model.num_frames", "data.workers", "device", "precision", "run"),
)


@dataclass(frozen=True)
class Eval:
    """Test weights on videos: logits averaged over temporal views x spatial crops.

    Prints the accuracy of a single view and of all views.
    """

    model: EvalOverrides = field(default_factory=EvalOverrides)
    """Settings of the model that differ from those of the weights; position embeddings are interpolated."""
    data: DataConfig = field(default_factory=DataConfig)
    """The videos; those of a run by default."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """The test protocol; that of a run by default."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device that computes; auto takes CUDA, then MPS, then the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""
    run: str | None = None
    """Folder for results.json, predictions.npz, predictions.csv and report.html; by default that of the weights."""
    epic_levels: tuple[int, int, int] = (0, 0, 0)
    """Test split of EPIC-Kitchens: supervision of pretraining, training labels and training data, 0 to 5."""


def run(args: list[str]) -> None:
    """Evaluate the weights that the first argument names."""
    usage = "vivit eval WEIGHTS [--data.root ROOT] [options]"
    if args and wants_help(args[:1]):
        parse(Eval, args, usage=usage, usual=USUAL, used=USED)
    weights, rest = take_word(args, usage)
    given = config_of(Path(weights))
    default = Eval(data=given.data, eval=given.eval, device=given.device, precision=given.precision)
    asked = parse(Eval, rest, default=default, usage=usage, usual=USUAL, used=USED)

    from ..engine.evaluate import evaluate_weights
    from ..inference.epic_submission import write_epic_test
    from ..inference.exported import is_exported
    from ..report.evaluation import write_eval_files

    config = replace(given, data=asked.data, eval=asked.eval, device=asked.device, precision=asked.precision)
    changes = asked.model.given()
    exported = open_module(weights, asked, changes) if is_exported(weights) else None
    folder = Path(asked.run or (weights if Path(weights).is_dir() else config.run or "."))
    if config.data.dataset == "epic_kitchens" and usual_split(config.data.eval_split) == "test":
        levels = asked.epic_levels
        write_epic_test(weights, config, levels=levels, changes=changes, folder=folder, exported=exported)
        return
    evaluation = evaluate_weights(weights, config, changes=changes, folder=folder, exported=exported)
    if os.environ.get("RANK", "0") == "0":
        write_eval_files(
            folder, weights=weights, config=config, evaluation=evaluation, changes=changes, exported=exported
        )


def open_module(file: str, asked: Eval, changes: dict[str, Any]) -> nn.Module:
    """Open an exported model. Raises ValueError for settings that it cannot follow."""
    from ..inference.exported import open_exported
    from ..inference.exported_module import ExportedModule

    given = [f"model.{name.replace('_', '-')}" for name, value in changes.items() if value not in (None, {})]
    given += ["device"] * (asked.device not in ("auto", "cpu")) + ["precision"] * (asked.precision == "bfloat16")
    given += ["eval.merge-tokens"] * (asked.eval.merge_tokens > 0)
    given += ["eval.drop-static"] * (asked.eval.drop_static is not None)
    refuse_for_exported(file, given)
    return ExportedModule(open_exported(file))


def config_of(folder: Path) -> Config:
    """Return the config of a run, which knows its data and protocol; for other weights the default one."""
    if not (folder / "environment.json").is_file():
        return Config(run="")
    return from_dict(Config, json.loads((folder / "config.json").read_text(encoding="utf-8")))
