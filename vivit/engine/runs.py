"""List the runs below a folder, with results and settings that differ."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from ..config import Config, differences, from_dict
from ..text import format_table


@dataclass(frozen=True)
class RunSummary:
    """What the files of one run say; a file that is missing or half-written leaves its fields empty."""

    folder: Path
    config: Config | None
    """None if config.json cannot be read by this version."""
    step: int = 0
    steps: int | None = None
    """Of the whole run; None before the first line of metrics."""
    finished: bool = False
    loss: float | None = None
    """Mean over the clips of the last logged steps."""
    best: dict[str, float] = field(default_factory=dict)
    """Highest single-view top-1 in validation, per label set."""
    started: str = ""
    """The last start, in local time."""


def find_runs(folder: Path) -> Iterator[Path]:
    """Folders at or below `folder` that hold config.json and metrics.jsonl, by name; not those inside a run."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if {"config.json", "metrics.jsonl"} <= {*files}:
            folders.clear()
            yield Path(path)


def summarise(folder: Path) -> RunSummary:
    """Read the files of a run that may be in the middle of writing them."""
    try:
        config = from_dict(Config, json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        config = None
    lines = list(read_metrics(folder / "metrics.jsonl"))
    trained = [line for line in lines if line.get("loss") is not None]
    steps = None
    if config and lines and lines[-1].get("epoch"):
        # The log has steps and epochs; the number of videos, which would give the same, is not in the run.
        steps = max(round(config.optim.epochs * lines[-1]["step"] / lines[-1]["epoch"]), 1)
    best: dict[str, float] = {}
    for line in lines:
        for name, value in line.items():
            if name.startswith("val/") and name.endswith("/top1") and value is not None and math.isfinite(value):
                label_set = name.removeprefix("val/").removesuffix("/top1")
                best[label_set] = max(value, best.get(label_set, 0))
    return RunSummary(
        folder=folder,
        config=config,
        step=lines[-1]["step"] if lines else 0,
        steps=steps,
        finished=(folder / "weights" / "model.safetensors").exists(),
        loss=trained[-1]["loss"] if trained else None,
        best=best,
        started=started(folder / "environment.json"),
    )


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Read the complete lines of metrics.jsonl; lines that a kill has damaged are skipped."""
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            yield line


def started(path: Path) -> str:
    """When the process that wrote environment.json started, to the minute; '' if the file does not say."""
    try:
        return str(json.loads(path.read_text())["started"])[:16].replace("T", " ")
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def format_runs(folder: str | Path = "runs", /) -> str:
    """Format one line per run below `folder`. Raises ValueError if there are none.

    Args:
        folder: Where to look; a run is a folder with config.json and metrics.jsonl.
    """
    runs = [summarise(path) for path in find_runs(Path(folder))]
    if not runs:
        raise ValueError(
            f"{folder}: no run (config.json, metrics.jsonl) here or below; name the folder that holds your runs"
        )
    label_sets = list(dict.fromkeys(name for run in runs for name in run.best))
    settings = differing([run.config for run in runs if run.config])
    rows = [["run", "step", *(f"{name} top-1" for name in label_sets), "loss", "last start", *settings]]
    for run in runs:
        steps = "?" if run.steps is None else str(run.steps)
        rows.append(
            [
                str(run.folder),
                f"{run.step}/{steps}" + (" finished" if run.finished else ""),
                *(f"{run.best[name]:.1%}" if name in run.best else "-" for name in label_sets),
                "-" if run.loss is None else f"{run.loss:.4f}",
                run.started or "-",
                *(shown(run.config, name) for name in settings),
            ]
        )
    return format_table(rows, align="<")


def differing(configs: Sequence[Config]) -> list[str]:
    """Names of the fields, other than the folder, in which the configs are not all equal to the first."""
    lines = [line for config in configs[1:] for line in differences(configs[0], config)]
    return [name for name in dict.fromkeys(line.split(":")[0] for line in lines) if name != "run"]


def shown(config: Config | None, name: str, longest: int = 24) -> str:
    """Return the value of the field 'optim.lr', cut to a length."""
    if config is None:
        return "unreadable"
    text = str(reduce(getattr, name.split("."), config))
    return text if len(text) <= longest else text[: longest - 1] + "…"
