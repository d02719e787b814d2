"""The runs of a study: each trains and tests in a folder of its own, and is not done again once it is whole."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config, EvalConfig, ModelConfig, replace
from ..data.splits import load_split
from ..engine.device import autocast, pick_device
from ..engine.evaluate import PREDICTIONS, evaluate, load_weights
from ..engine.evaluation import load_evaluation
from ..engine.interruption import stop_signals
from ..engine.losses import cross_entropy
from ..engine.run import check_same_run, write_json
from ..engine.train import train
from ..errors import DataError, Stopped
from ..model.cnn_baselines import PRIOR_ART
from ..model.vivit import ViViT
from ..text import listing, printable

ERROR, LOG, CURVE = "error.txt", "log.txt", "views"


@dataclass(frozen=True)
class Job:
    """One run: a row of the table from one seed. Its folder is `config.run`."""

    title: str
    config: Config
    network: str = ""
    """Of PRIOR_ART, instead of a ViViT."""
    views: tuple[int, ...] = ()
    """Numbers of temporal views to test it with as well."""

    @property
    def folder(self) -> Path:
        return Path(self.config.run)


def do(job: Job) -> None:
    """Train and test, or what is left of it. Its checkpoints go when it is whole, its weights and predictions stay.

    Raises whatever training and testing raise.
    """
    (job.folder / ERROR).unlink(missing_ok=True)
    check_same_run(job.config)
    if not (job.folder / "weights" / "config.json").is_file():  # written last
        train(job.config, build=PRIOR_ART.get(job.network, ViViT))
    for path, protocol in tests(job):
        if not tested(path, protocol):
            test(job, path, protocol)
    for spent in ("checkpoints", "best"):
        shutil.rmtree(job.folder / spent, ignore_errors=True)


def whole(job: Job) -> bool:
    """Whether nothing is left to do. Raises ValueError if the folder holds another run."""
    check_same_run(job.config)
    trained = (job.folder / "weights" / "config.json").is_file()
    return trained and all(tested(path, protocol) for path, protocol in tests(job))


def tests(job: Job) -> list[tuple[Path, EvalConfig]]:
    """Where predictions go, and by which protocol they are made."""
    curve = [EvalConfig(temporal_views=t, spatial_views=s) for s in (1, 3) for t in job.views]
    return [
        (job.folder / PREDICTIONS, job.config.eval),
        *((job.folder / CURVE / f"{p.temporal_views}x{p.spatial_views}.npz", p) for p in curve),
    ]


def tested(path: Path, protocol: EvalConfig) -> bool:
    """Whether the file holds the predictions of this protocol."""
    if not path.is_file():
        return False
    return replace(load_evaluation(path).protocol, batch_views=protocol.batch_views) == protocol


def test(job: Job, path: Path, protocol: EvalConfig) -> None:
    """Predictions of every test video; results.json beside them."""
    c, folder = job.config, job.folder
    model = PRIOR_ART[job.network].load(folder / "weights") if job.network else load_weights(str(folder))
    result = evaluate(
        model.to(pick_device(c.device)).eval(),  # type: ignore[arg-type]
        load_split(c.data, c.data.eval_split, classes=model.config.classes).samples,
        protocol=protocol,
        workers=c.data.workers,
        precision=c.precision,
    )
    if not result.samples:
        raise DataError(listing("none of the videos can be read", list(result.missing.values())))
    write_json(path.with_name("results.json") if path.parent == folder else path.with_suffix(".json"), result.results())
    result.save(path)


def run_all(jobs: Sequence[Job], *, num_jobs: int, say: Callable[[str], None] = print) -> dict[Path, str]:
    """Every job, some of them at once, each of these in a process of its own. Returns what went wrong, by folder.

    An error of one does not stop the others. SIGINT and SIGTERM do: those that run save first, then Stopped is raised,
    and the same call goes on.
    """
    done = work_alone if num_jobs == 1 else work_together
    return done(jobs, num_jobs, lambda line: say(printable(line)))


def work_alone(jobs: Sequence[Job], num_jobs: int, say: Callable[[str], None]) -> dict[Path, str]:
    """One after the other, in this process."""
    errors: dict[Path, str] = {}
    for i, job in enumerate(jobs):
        say(f"[{i + 1}/{len(jobs)}] {job.title}: {job.folder}")
        try:
            do(job)
        except Stopped:
            raise
        except Exception as error:  # a row may fail in any way; the others go on
            errors[job.folder] = note(job, error)
            say(f"FAILED {job.title}: {errors[job.folder]}")
    return errors


def work_together(jobs: Sequence[Job], num_jobs: int, say: Callable[[str], None]) -> dict[Path, str]:
    """Run `num_jobs` processes that share the cores, and the GPUs in turn; each run's output goes to its log.txt."""
    errors: dict[Path, str] = {}
    waiting, workers = list(jobs), [Worker(slot, num_jobs) for slot in range(num_jobs)]
    with stop_signals() as received:
        while not received and (waiting or any(worker.job for worker in workers)):
            for worker in workers:
                if waiting and not worker.job:
                    worker.give(waiting.pop(0))
            for worker in workers:
                if worker.job and worker.ready():
                    job, took = worker.job, time.monotonic() - worker.since
                    done = f"[{len(jobs) - len(waiting) - sum(w.job is not None for w in workers) + 1}/{len(jobs)}]"
                    if problem := worker.result():
                        errors[job.folder] = problem
                        say(f"{done} FAILED {job.title}: {problem}; see {job.folder / LOG}")
                    else:
                        say(f"{done} {job.title}: {took:.0f} s")
        for worker in workers:
            worker.end(num_jobs=bool(received))
    if received:
        raise Stopped(received.number or 0)
    return errors


class Worker:
    """A process that does one job after the other, replaced when one of them kills it."""

    def __init__(self, slot: int, num_jobs: int):
        self.setting = threads(num_jobs), gpu(slot)
        self.job: Job | None = None
        self.since = 0.0
        self.process: Any = None

    def give(self, job: Job) -> None:
        """Start a job, and the process if there is none."""
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, *self.setting))
            self.process.start()
            theirs.close()
        self.job, self.since = job, time.monotonic()
        self.connection.send(job)

    def ready(self, patience: float = 0.1) -> bool:
        """Whether the job has ended, one way or another."""
        return self.connection.poll(patience)

    def result(self) -> str | None:
        """What went wrong with the job that has ended, or None."""
        job, self.job = self.job, None
        assert job is not None
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):  # the process is gone
            self.process.join()
            code = self.process.exitcode or 0
            how = f"{signal.Signals(-code).name} (out of memory?)" if code < 0 else f"code {code}"
            return note(job, RuntimeError(f"its process ended by {how}"))

    def end(self, *, num_jobs: bool) -> None:
        """Wait for the process to end; `num_jobs`, its job is told to save and stop."""
        if self.process is None:
            return
        if num_jobs and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGTERM)
        self.connection.close()
        self.process.join()


def serve(connection: Any, num_threads: int, device: str | None) -> None:
    """A worker's process: take jobs, send None or what went wrong, until the other side closes."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(num_threads)
    with suppress(EOFError, BrokenPipeError):
        while True:
            job = connection.recv()
            connection.send(run_logged(job))


def run_logged(job: Job) -> str | None:
    """`do`, with all that it prints in the run's log.txt; returns what went wrong."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / LOG).open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            do(job)
        except Stopped as stopped:
            sys.exit(128 + stopped.number)
        except Exception as error:  # as in work_alone
            traceback.print_exc()
            return note(job, error)
    return None


def note(job: Job, error: Exception) -> str:
    """Keep an error in the run's folder; returns its first lines."""
    job.folder.mkdir(parents=True, exist_ok=True)
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    text = f"{kind}{error}"
    (job.folder / ERROR).write_text(text + "\n")
    return text


def threads(num_jobs: int) -> int:
    """Threads of PyTorch for each of several processes on this machine."""
    return max((os.cpu_count() or 1) // num_jobs, 1)


def gpu(slot: int) -> str | None:
    """The GPU that a process is given by its slot, where there are several."""
    if not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) > 1 else [str(i) for i in range(torch.cuda.device_count())]
    return names[slot % len(names)]


def speed(config: Config, network: str = "", *, clips: int = 4, seconds: float = 1.5) -> dict[str, Any]:
    """Seconds of one clip in training (forward and backward pass) and in a test, without reading videos.

    Medians over `seconds` each, at least two, after one to warm up. `config.model` knows its classes.
    """
    device = pick_device(config.device)
    build: Callable[[ModelConfig], Any] = PRIOR_ART.get(network, ViViT)
    model = build(config.model).to(device)
    video = torch.randint(256, (clips, config.model.num_frames, 3, *config.model.image_size), dtype=torch.uint8)
    video, sizes = video.to(device), [len(names) for names in config.model.classes.values()]
    labels = torch.zeros(clips, len(sizes), dtype=torch.int64, device=device)

    def train_step() -> None:
        model.train()
        model.zero_grad()
        with autocast(device, config.precision):
            logits = model(video)
        cross_entropy(logits, labels, sizes).sum().backward()

    @torch.no_grad()
    def test_step() -> None:
        model.eval()
        with autocast(device, config.precision):
            model(video)

    found = {"train": median_time(train_step, device, seconds), "test": median_time(test_step, device, seconds)}
    return {
        **{f"{name}_seconds": took / clips for name, took in found.items()},
        "clips": clips,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def median_time(step: Callable[[], None], device: torch.device, seconds: float) -> float:
    step()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 50):
        since = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - since)
    return statistics.median(times)
