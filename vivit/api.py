"""Evaluate weights and open run folders from Python, by name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import Config, DataConfig, EvalConfig
from .data.sample import Sample
from .data.splits import load_split
from .engine import evaluate as engine
from .engine.device import choose_attention, pick_device
from .engine.evaluation import Evaluation
from .engine.run import read_config
from .engine.runs import read_metrics
from .model.vivit import ViViT
from .weights.formats import find_run_weights
from .weights.load import from_pretrained

Source = str | os.PathLike[str]


def evaluate(
    weights: ViViT | Source,
    data: Config | DataConfig | Source | Sequence[Sample] | None = None,
    *,
    protocol: EvalConfig | None = None,
    precision: str = "auto",
) -> Evaluation:
    """Classify labelled videos with several views each; return logits, accuracies and what could not be read.

    `weights` is a model, which stays on its device, or the name of weights: a run, a folder, a file or a hub id. `data`
    is a folder or table of videos, a DataConfig (its `eval_split`), a Config, or samples; without it, the videos that
    the run `weights` was trained to classify. `protocol` is the number of views; by default that of the Config or run,
    else 4 temporal x 3 spatial. Nothing is written and the model is not changed.

    Raises DataError for labels outside the model's classes and WeightsError for weights that do not load. Videos that
    cannot be read are in `.missing`.
    """
    config = _config(weights) if data is None else data
    model = weights if isinstance(weights, ViViT) else from_pretrained(weights).to(pick_device())
    choose_attention(model.head.weight.device)
    settings = config if isinstance(config, Config) else Config()
    if isinstance(config, Config):
        config = config.data
    if isinstance(config, str | os.PathLike):
        config = DataConfig(root=os.fspath(config))
    if isinstance(config, DataConfig):
        samples = load_split(config, config.eval_split, classes=model.config.classes).samples
        workers = config.workers
    else:
        samples, workers = config, 0
    return engine.evaluate(model, samples, protocol=protocol or settings.eval, workers=workers, precision=precision)


def _config(weights: ViViT | Source) -> Config:
    if isinstance(weights, ViViT) or not (Path(weights) / "environment.json").is_file():
        raise ValueError("evaluate needs `data`: only a run folder knows its videos")
    return read_config(Path(weights))


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, read by `load_run`."""

    folder: Path
    config: Config
    """The settings of the run, with the class names."""
    metrics: list[dict[str, Any]] = field(repr=False)
    """One dict a line of metrics.jsonl, with its `step`: pandas.DataFrame(run.metrics) is a table."""
    results: dict[str, Any] = field(repr=False)
    """results.json, which `vivit eval` writes; {} before."""

    @property
    def weights(self) -> Path:
        """The folder of the final weights or, during training, of those best in validation.

        Raises FileNotFoundError if there are none so far.
        """
        return find_run_weights(self.folder)


def load_run(folder: Source) -> RunFolder:
    """Read the settings, metrics and results of a run folder, also while it trains.

    Raises FileNotFoundError for a folder without config.json and metrics.jsonl.
    """
    path = Path(folder)
    if missing := [name for name in ("config.json", "metrics.jsonl") if not (path / name).is_file()]:
        raise FileNotFoundError(f"{path} is not the folder of a run: it has no {' and no '.join(missing)}")
    results = path / "results.json"
    return RunFolder(
        folder=path,
        config=read_config(path),
        metrics=list(read_metrics(path / "metrics.jsonl")),
        results=json.loads(results.read_text()) if results.is_file() else {},
    )
