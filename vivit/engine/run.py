"""A run is a folder: config.json, environment.json, metrics.jsonl, TensorBoard events, checkpoints/, weights/."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from importlib import import_module, metadata
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor, nn

from ..config import (
    Config,
    EvalConfig,
    ModelConfig,
    ParallelConfig,
    differences,
    from_dict,
    replace,
    to_dict,
)
from ..errors import FolderInUse, WorkerDied
from ..files import atomic_write, exclusive_lock
from ..model.cost import count
from ..model.vivit import ViViT
from ..text import printable
from .device import memory, peak_tflops
from .distributed import World

T = TypeVar("T")
GIVEN_UP = "given_up.json"
# What may differ when a run is continued: nothing that changes what is learned. The videos may be elsewhere: the
# hashes of their lists, which each checkpoint has, must be the same.
FREE_TO_CHANGE = {
    "device",
    "log_every",
    "save_every",
    "eval_every",
    "keep",
    "tracker",
    "run",
    "optim.max_nonfinite_steps",
}
FREE_TO_CHANGE |= {
    f"data.{name}" for name in ("root", "manifest", "workers", "max_unreadable", "video_timeout", "storage_timeout")
}
FREE_TO_CHANGE |= {f"eval.{field.name}" for field in fields(EvalConfig)}
FREE_TO_CHANGE |= {f"parallel.{field.name}" for field in fields(ParallelConfig)}


class Run:
    """An open run folder. Metrics go to metrics.jsonl, TensorBoard (where installed), a tracker and the terminal.

    Only the first of several processes writes and speaks; in the others every method does nothing.
    """

    def __init__(self, config: Config, world: World, *, step: int, steps: int):
        self.folder, self.step, self.steps, self.speaks = Path(config.run), step, steps, world.is_main
        self.started = time.monotonic()
        self.metrics = self.folder / "metrics.jsonl"
        self.writers: list[Any] = []
        self.console = Console(highlight=False, soft_wrap=True, quiet=not self.speaks)
        if self.speaks:
            write_json(self.folder / "config.json", to_dict(config))
            note_start(self.folder / "environment.json", step=step, processes=world.size)
            _keep_until(self.metrics, step or -1)
            self.writers = [w for w in (_tensorboard(self.folder, step), _tracker(config)) if w]
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total}  {task.description}"))
        silent = not (self.speaks and self.console.is_terminal)
        self.bar = Progress(*columns, console=self.console, transient=True, disable=silent)
        self.task = self.bar.add_task("", total=steps, completed=step)

    def __enter__(self) -> Run:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        for writer in self.writers:
            writer.close()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and send the same numbers to the other writers; NaN and Inf become null."""
        if not self.speaks:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            append_line(self.metrics, json.dumps({"step": step, **finite}, allow_nan=False))
        except OSError as error:  # a full disk does not end a run of days; the next checkpoint will tell
            self.say(f"metrics of step {step} NOT WRITTEN: {error}")
        for writer in [*self.writers]:
            try:
                writer.write(step, values)
            except OSError as error:
                self.writers.remove(writer)
                self.say(f"{type(writer).__name__.strip('_')} gets no more metrics: {error}")

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Show where training stands: a bar on a terminal, else a plain line."""
        seconds = (time.monotonic() - self.started) / max(step - self.step, 1) * (self.steps - step)
        line = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['clips_per_second']:.1f} clips/s  "
            f"{values['tflops']:.3g} TFLOP/s"
            + (f" ({values['utilisation']:.0%})" if "utilisation" in values else "")
            + f"  {values['data_wait']:.0%} waiting for data  {timedelta(seconds=round(seconds))} left"
        )
        self.bar.update(self.task, completed=step, description=line)
        if not self.console.is_terminal:
            self.say(f"step {step}/{self.steps}  {line}")

    def say(self, message: str) -> None:
        """Print lines for a person; names in them cannot act on the terminal."""
        self.console.print("\n".join(map(printable, message.split("\n"))), markup=False)


class Meter:
    """Means over the steps since the last reading, over all processes. Losses stay on the device until then."""

    def __init__(self, world: World, config: ModelConfig, build: Callable[[ModelConfig], nn.Module] = ViViT):
        self.world = world
        # A backward pass does twice the work of a forward pass; a multiply-add is two operations.
        self.flops_per_clip = 6 * count(config, build, as_computed=True)[-1].multiply_adds
        self.all_clips, self.first_memory = 0.0, (0.0, 0.0)
        self.restart()

    def restart(self) -> None:
        self.losses: list[Tensor] = []
        self.steps, self.clips, self.grad_norm, self.waited, self.since = 0, 0.0, 0.0, 0.0, time.monotonic()
        self.loss_before = 0.0

    def sums(self) -> dict[str, float]:
        """What has gathered since the last reading, for a checkpoint, so that the next reading does not notice it."""
        return {"loss": self._loss(), "steps": self.steps, "clips": self.clips, "grad_norm": self.grad_norm}

    def go_on(self, sums: dict[str, float]) -> None:
        """Take up what `sums` gave."""
        self.loss_before = sums["loss"] if self.world.is_main else 0.0
        self.steps, self.clips, self.grad_norm = int(sums["steps"]), sums["clips"], sums["grad_norm"]

    def _loss(self) -> float:
        """The sum of all clips' losses, over all processes."""
        total = self.loss_before
        for loss in self.losses:  # one by one, so that an interruption does not change the order of the sum
            total += loss.item()
        return self.world.sum([total])[0]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside, such as a validation, out of the times."""
        started = time.monotonic()
        yield
        self.since += time.monotonic() - started

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each arrives counts as waiting for data."""
        iterator, end = iter(batches), object()
        while True:
            asked = time.monotonic()
            batch = next(iterator, end)
            self.waited += time.monotonic() - asked
            if batch is end:
                return
            yield batch  # type: ignore[misc]

    def add(self, *, loss: Tensor, clips: float, grad_norm: float) -> None:
        """One step: this process's sum of losses; the clips and the gradient's norm of all processes."""
        self.losses.append(loss)
        self.steps += 1
        self.clips += clips
        self.all_clips += clips
        self.grad_norm += grad_norm

    def read(self) -> dict[str, float]:
        """Mean loss of a clip, gradient norm, speed, share of the time waiting for data, memory; NaN without clips."""
        loss = self._loss()
        seconds = time.monotonic() - self.since
        tflops = self.flops_per_clip * self.clips / seconds / 1e12
        values = {
            "loss": loss / self.clips if self.clips else math.nan,
            "grad_norm": self.grad_norm / self.steps,
            "clips_per_second": self.clips / seconds,
            "tflops": tflops,
            "data_wait": self.waited / seconds,
            **memory(self.world.device),
        }
        if resident := values.get("memory_mib"):
            self.first_memory = self.first_memory if self.first_memory[1] else (self.all_clips, resident)
            clips, first = self.first_memory
            values["memory_mib_per_1000_clips"] = 1000 * (resident - first) / max(self.all_clips - clips, 1)
        if peak := peak_tflops(self.world.device):
            values["utilisation"] = tflops / peak / self.world.size
        self.restart()
        return values


def check_same_run(config: Config) -> None:
    """Raise ValueError if the folder holds a run with other settings: going on would mix two experiments."""
    path = Path(config.run) / "config.json"
    if not path.exists():
        return
    before = read_config(path.parent)
    if same_weights(before.init, config.init):
        before = replace(before, init=config.init)
    lines = differences(before, config)
    lines = [line for line in lines if line.split(":")[0] not in FREE_TO_CHANGE]
    if lines:
        raise ValueError(
            f"{path.parent} holds a run with other settings (there -> asked for):\n  "
            + "\n  ".join(lines)
            + "\nGive another folder with --run, or the same settings to continue it"
        )


def same_weights(a: str | None, b: str | None) -> bool:
    """Whether two settings of `init` are one path: `x/` is `x`, and a run is its weights."""
    if a is None or b is None:
        return a == b
    x, y = ((path / "weights" if (path / "weights").is_dir() else path).resolve() for path in (Path(a), Path(b)))
    return x == y


def read_config(folder: Path) -> Config:
    """The resolved config of a run."""
    return from_dict(Config, json.loads((folder / "config.json").read_text()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that a reader sees in full or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1) + "\n")


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
    """Versions, machine, command and commit, for whoever wants to repeat a run."""
    packages = ("vivit", "torch", "torchvision", "numpy", "av")
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str | None:
    """The commit of this source tree; None where the package is installed elsewhere or git is not."""
    tree = Path(__file__).parents[2]
    if not (tree / ".git").exists() or shutil.which("git") is None:
        return None
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


@dataclass
class StopRequest:
    """Whether the process was asked to stop, by which signal, and whether it was asked again."""

    number: int | None = None
    repeated: bool = False
    waiting: bool = False

    def __bool__(self) -> bool:
        return self.number is not None

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Inside, the first signal raises KeyboardInterrupt: there is nothing to finish, only something to wait for."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False


@contextmanager
def stop_signals(answer: str = "", processes: int = 1) -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM, with `answer` on stderr; the next one raises KeyboardInterrupt.

    A parent process may pass on a signal that the whole process group has got: within a fraction of a second, under
    torchrun two seconds, it is the same signal. Outside the main thread signals cannot be noted.
    """
    request, first, same = StopRequest(), 0.0, 0.3 if processes == 1 else 2.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request:
            if time.monotonic() - first > same:
                request.repeated = True
                raise KeyboardInterrupt
            return
        request.number, first = number, time.monotonic()
        if answer:
            os.write(2, f"{answer}\n".encode())  # print may be in use by what the signal has interrupted
        if request.waiting:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Keep other trainings out of a run folder, and remove the temporary files that a killed one has left in it.

    Raises FolderInUse, in all processes, if another training works there.
    """
    with ExitStack() as stack:
        problem: Exception | None = None
        if world.is_main:
            try:
                stack.enter_context(exclusive_lock(folder, what="vivit train"))
                remove_stale_files(folder)
            except (FolderInUse, OSError) as error:
                problem = error
        if problem := world.gather(problem)[0]:
            raise problem
        yield


def remove_stale_files(folder: Path) -> None:
    """Remove temporary files of what training writes (see vivit.files); those of other commands may be in use."""
    names = ("config.json", "environment.json", "metrics.jsonl", GIVEN_UP, "model.safetensors")
    for path in [*folder.glob("*"), *folder.glob("best/*"), *folder.glob("weights/*")]:
        old = path.name in (*(f"{name}.tmp" for name in names), "metrics.tmp")
        if path.is_file() and (old or path.name.startswith(tuple(f".{name}." for name in names))):
            path.unlink()


@contextmanager
def attribute_worker_crash(run: Run) -> Iterator[None]:
    """Note the files that killed worker processes were reading, so that the next start leaves them out."""
    try:
        yield
    except WorkerDied as error:
        write_json(run.folder / GIVEN_UP, skipped_files(run.folder) | error.problems)
        for path, why in error.problems.items():
            run.say(f"{path}: {why}; it is left out, and training continues from the last checkpoint")
        raise


def note_skipped_files(folder: Path, skipped: dict[str, str], world: World) -> None:
    """Write the files that any process has given up to the run folder, if there are new ones."""
    known = skipped_files(folder)
    found = known | {path: why for share in world.gather(skipped) for path, why in share.items()}
    if found != known and world.is_main:
        write_json(folder / GIVEN_UP, found)
    world.barrier()


def skipped_files(folder: Path) -> dict[str, str]:
    """Files that a run does not open again, and why."""
    path = folder / GIVEN_UP
    return json.loads(path.read_text()) if path.exists() else {}


def _keep_until(metrics: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run is going to write again, and a line cut short by a kill."""
    if metrics.exists():
        lines = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
        with atomic_write(metrics) as file:
            file.write("".join(line for line in lines if json.loads(line)["step"] <= step))


class _TensorBoard:
    def __init__(self, writer: Any):
        self.writer = writer

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Tracker:
    """wandb and the packages that are shaped like it: init(project, name, config), log(values, step), finish()."""

    def __init__(self, module: Any, config: Config):
        self.module = module
        module.init(project="vivit", name=config.run, config=to_dict(config))

    def write(self, step: int, values: dict[str, float]) -> None:
        self.module.log(values, step=step)

    def close(self) -> None:
        self.module.finish()


def _tensorboard(folder: Path, step: int) -> _TensorBoard | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra vivit[tensorboard]; metrics.jsonl has the same numbers
        return None
    # Events from purge_step on are hidden: those that a resumed run writes again.
    return _TensorBoard(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None))


def _tracker(config: Config) -> _Tracker | None:
    if config.tracker is None:
        return None
    try:
        return _Tracker(import_module(config.tracker), config)
    except ImportError as error:
        raise ImportError(f"tracker={config.tracker!r} is not installed: pip install {config.tracker}") from error
