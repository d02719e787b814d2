"""The folder of a run, its log lines and its metrics."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..config import Config, EvalConfig, ParallelConfig, differences, from_dict, replace, to_dict
from ..files import atomic_write, write_json
from ..install_check import installed_version
from ..text import printable
from .distributed import World
from .progress import TrainingBar
from .runs import read_metrics
from .trackers import open_trackers

# Settings that may differ when a run is resumed: none of them changes what is learned. The videos may be elsewhere: the
# hashes of their lists, which each checkpoint has, must be the same.
FREE_TO_CHANGE = {
    *("device", "log_every", "save_every", "eval_every", "keep_checkpoints", "tracker", "run"),
    "optim.max_nonfinite_steps",
    *("data.root", "data.manifest", "data.workers", "data.frame_cache"),
    *("data.max_unreadable", "data.video_timeout", "data.storage_timeout"),
    *(f"eval.{field.name}" for field in fields(EvalConfig)),
    *(f"parallel.{field.name}" for field in fields(ParallelConfig)),
}


class Run:
    """An open run folder. Metrics go to metrics.jsonl, to the trackers and to the terminal.

    Of several processes only the main one writes and prints; in the others every method does nothing.
    """

    def __init__(self, config: Config, world: World, *, step: int, steps: int, resumed: bool = False):
        self.folder, self.is_main = Path(config.run), world.is_main
        self.metrics = self.folder / "metrics.jsonl"
        self.bar = TrainingBar(step=step, steps=steps, enabled=self.is_main)
        self.trackers = []
        if self.is_main:
            write_json(self.folder / "config.json", to_dict(config))
            note_start(self.folder / "environment.json", step=step, processes=world.size)
            _keep_until(self.metrics, step if resumed else -1)
            self.trackers = open_trackers(config, step)

    def __enter__(self) -> Run:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        for tracker in self.trackers:
            tracker.close()
        self._drop_failed_trackers()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl, with NaN and Inf as null, and send the same numbers to the trackers."""
        if not self.is_main:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            append_line(self.metrics, json.dumps({"step": step, **finite}, allow_nan=False))
        except OSError as error:  # a full disk does not end a run of days; the next checkpoint will tell
            self.log_line(f"metrics of step {step} NOT WRITTEN: {error}")
        for tracker in self.trackers:
            tracker.log(step, values)
        self._drop_failed_trackers()

    def _drop_failed_trackers(self) -> None:
        """Say once which trackers failed, and send them no more metrics."""
        for tracker in [tracker for tracker in self.trackers if tracker.problem]:
            self.trackers.remove(tracker)
            self.log_line(f"{tracker.name} gets no more metrics: {tracker.problem}")

    def show(self, step: int, values: dict[str, float]) -> None:
        """Show the metrics of a step: in the bar of a terminal, else as a line."""
        self.bar.show(values)
        if not self.bar.console.is_terminal:
            line = (
                f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['clips_per_second']:.1f} clips/s  "
                f"{values['tflops']:.3g} TFLOP/s"
                + (f" ({values['utilisation']:.0%})" if "utilisation" in values else "")
                + f"  {values['data_wait']:.0%} waiting for data  {self.bar.time_left()} left"
            )
            self.log_line(f"step {step}/{self.bar.steps}  {line}")

    def log_line(self, message: str) -> None:
        """Print lines for a person; names in them cannot act on the terminal."""
        self.bar.console.print("\n".join(map(printable, message.split("\n"))), markup=False)


def check_same_run(config: Config) -> None:
    """Raise ValueError if the folder holds a run with other or unknown settings: resuming would mix two experiments.

    A run that ended before it wrote metrics, such as one whose settings were wrong, does not count.
    """
    folder = Path(config.run)
    found = [name for name in ("checkpoints", "weights") if (folder / name).exists()]
    if (folder / "config.json").exists():
        if found or (folder / "metrics.jsonl").exists():
            check_same_settings(read_config(folder), config)
    elif found:
        raise ValueError(
            f"{folder} has {' and '.join(found)} but no config.json, which holds the settings of a run; bring it back, "
            "or give another folder with --run"
        )


def check_same_settings(before: Config, config: Config) -> None:
    """Raise ValueError if a run was started with other settings than `config` has."""
    if same_weights(before.init, config.init):
        before = replace(before, init=config.init)
    lines = differences(before, config)
    lines = [line for line in lines if line.split(":")[0] not in FREE_TO_CHANGE]
    if lines:
        raise ValueError(
            f"{config.run} holds a run with other settings (there -> asked for):\n  "
            + "\n  ".join(lines)
            + "\nGive another folder with --run, or the same settings to continue it"
        )


def same_weights(a: str | None, b: str | None) -> bool:
    """Return whether two settings of `init` name the same weights: `x/` is `x`, and a run is its weights."""
    if a is None or b is None:
        return a == b
    x, y = ((path / "weights" if (path / "weights").is_dir() else path).resolve() for path in (Path(a), Path(b)))
    return x == y


def read_config(folder: Path) -> Config:
    """Read the resolved config of a run. Raises ValueError for a file that is damaged."""
    path = folder / "config.json"
    try:
        return from_dict(Config, json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); bring it back, or give another folder with --run") from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, all of it or, where the disk is full, nothing."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        data = line.encode() + b"\n"
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def note_start(path: Path, *, step: int, processes: int) -> None:
    """Write environment.json at the first start of a run, and add each later start to its list "continued"."""
    start = {"step": step, "processes": processes, **environment()}
    first = json.loads(path.read_text()) if path.exists() else start
    later = [*first.get("continued", []), start] if path.exists() else []
    write_json(path, first | {"continued": later})


def environment() -> dict[str, Any]:
    """Return versions, machine, command and commit, with which a run can be repeated."""
    packages = ("vivit", "torch", "torchvision", "numpy", "av")
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in packages},
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str | None:
    """Return the commit of this source tree; None where the package is installed elsewhere or git is not."""
    tree = Path(__file__).parents[2]
    if not (tree / ".git").exists() or shutil.which("git") is None:
        return None
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def _keep_until(metrics: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run is going to write again, and lines that a kill has damaged."""
    if metrics.exists():
        kept = [line for line in read_metrics(metrics) if line["step"] <= step]
        with atomic_write(metrics) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
