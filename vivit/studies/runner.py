"""Train and test the runs of a study; skip complete ones."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config, EvalConfig, replace
from ..data.splits import load_split
from ..data.tools.process_pool import exit_with_parent
from ..engine.device import pick_device
from ..engine.evaluate import PREDICTIONS, evaluate, load_weights
from ..engine.evaluation import load_evaluation
from ..engine.interruption import stop_signals
from ..engine.run import check_same_run
from ..engine.train import train
from ..errors import DataError, Stopped
from ..files import write_json
from ..model.cnn_baselines import CNN_BASELINES
from ..model.vivit import ViViT
from ..text import listing, printable

ERROR, LOG, CURVE_FOLDER = "error.txt", "log.txt", "views"


@dataclass(frozen=True)
class StudyRun:
    """A row of the table trained from one seed. Its folder is `config.run`."""

    title: str
    config: Config
    network: str = ""
    """A key of CNN_BASELINES; "" for a ViViT."""
    views: tuple[int, ...] = ()
    """Further numbers of temporal views to test with."""

    @property
    def folder(self) -> Path:
        return Path(self.config.run)


def train_and_test(run: StudyRun) -> None:
    """Train and test, as far as that is not done yet; then delete the checkpoints and keep weights and predictions.

    Raises whatever training and testing raise.
    """
    (run.folder / ERROR).unlink(missing_ok=True)
    check_same_run(run.config)
    if not (run.folder / "weights" / "config.json").is_file():  # written last
        train(run.config, build=CNN_BASELINES.get(run.network, ViViT))
    for path, protocol in protocols(run):
        if not is_tested(path, protocol):
            write_predictions(run, path, protocol)
    for spent in ("checkpoints", "best"):
        shutil.rmtree(run.folder / spent, ignore_errors=True)


def is_complete(run: StudyRun) -> bool:
    """Tell whether the run is trained and tested. Raises ValueError if the folder holds another run."""
    check_same_run(run.config)
    trained = (run.folder / "weights" / "config.json").is_file()
    return trained and all(is_tested(path, protocol) for path, protocol in protocols(run))


def protocols(run: StudyRun) -> list[tuple[Path, EvalConfig]]:
    """List the files of predictions, each with its protocol."""
    curve = [EvalConfig(temporal_views=t, spatial_views=s) for s in (1, 3) for t in run.views]
    return [
        (run.folder / PREDICTIONS, run.config.eval),
        *((run.folder / CURVE_FOLDER / f"{p.temporal_views}x{p.spatial_views}.npz", p) for p in curve),
    ]


def is_tested(path: Path, protocol: EvalConfig) -> bool:
    """Tell whether the file holds the predictions of this protocol."""
    if not path.is_file():
        return False
    return replace(load_evaluation(path).protocol, batch_views=protocol.batch_views) == protocol


def write_predictions(run: StudyRun, path: Path, protocol: EvalConfig) -> None:
    """Write the predictions for every test video to `path`, and their results.json into the same folder."""
    c, folder = run.config, run.folder
    model = CNN_BASELINES[run.network].load(folder / "weights") if run.network else load_weights(str(folder))
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


def run_all(runs: Sequence[StudyRun], *, num_jobs: int, log_line: Callable[[str], None] = print) -> dict[Path, str]:
    """Train and test all, `num_jobs` at once, each in its own process if more than one. Returns the errors by folder.

    An error of one run does not stop the others. SIGINT and SIGTERM do: active runs save a checkpoint first, then
    Stopped is raised, and the same call resumes.
    """

    def log(line: str) -> None:
        log_line(printable(line))

    return run_in_turn(runs, log) if num_jobs == 1 else run_in_parallel(runs, num_jobs, log)


def run_in_turn(runs: Sequence[StudyRun], log_line: Callable[[str], None]) -> dict[Path, str]:
    """Train and test one after the other, in this process."""
    errors: dict[Path, str] = {}
    for i, run in enumerate(runs):
        log_line(f"[{i + 1}/{len(runs)}] {run.title}: {run.folder}")
        try:
            train_and_test(run)
        except Stopped:
            raise
        except Exception as error:  # a row may fail in any way; the others still run
            errors[run.folder] = save_error(run, error)
            log_line(f"FAILED {run.title}: {errors[run.folder]}")
    return errors


def run_in_parallel(runs: Sequence[StudyRun], num_jobs: int, log_line: Callable[[str], None]) -> dict[Path, str]:
    """Use `num_jobs` processes that share the cores and take turns with the GPUs; output goes to each log.txt."""
    errors: dict[Path, str] = {}
    waiting, workers = list(runs), [Worker(slot, num_jobs) for slot in range(num_jobs)]
    with stop_signals() as received:
        while not received and (waiting or any(worker.run for worker in workers)):
            for worker in workers:
                if waiting and not worker.run:
                    worker.give(waiting.pop(0))
            for worker in workers:
                if worker.run and worker.ready():
                    run, took = worker.run, time.monotonic() - worker.started
                    done = f"[{len(runs) - len(waiting) - sum(w.run is not None for w in workers) + 1}/{len(runs)}]"
                    if problem := worker.result():
                        errors[run.folder] = problem
                        log_line(f"{done} FAILED {run.title}: {problem}; see {run.folder / LOG}")
                    else:
                        log_line(f"{done} {run.title}: {took:.0f} s")
        for worker in workers:
            worker.end(interrupt=bool(received))
    if received:
        raise Stopped(received.number or 0)
    return errors


class Worker:
    """A process that trains and tests one run after the other; replaced when a run crashes it."""

    def __init__(self, slot: int, num_jobs: int):
        self.setting = threads_per_run(num_jobs), gpu_of_slot(slot)
        self.run: StudyRun | None = None
        self.started = 0.0
        self.process: Any = None

    def give(self, run: StudyRun) -> None:
        """Send a run to the process, which is started if there is none."""
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, *self.setting))
            self.process.start()
            theirs.close()
        self.run, self.started = run, time.monotonic()
        self.connection.send(run)

    def ready(self, patience: float = 0.1) -> bool:
        """Wait `patience` seconds at most; tell whether the run has ended or its process has died."""
        return self.connection.poll(patience)

    def result(self) -> str | None:
        """Return the error of the run that has ended, None without one."""
        run, self.run = self.run, None
        assert run is not None
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):  # the process is gone
            self.process.join()
            code = self.process.exitcode or 0
            how = f"{signal.Signals(-code).name} (out of memory?)" if code < 0 else f"code {code}"
            return save_error(run, RuntimeError(f"its process ended by {how}"))

    def end(self, *, interrupt: bool) -> None:
        """Wait for the process to end; with `interrupt`, its run saves a checkpoint and stops."""
        if self.process is None:
            return
        if interrupt and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGTERM)
        self.connection.close()
        self.process.join()


def serve(connection: Any, num_threads: int, device: str | None) -> None:
    """Train and test in a worker's process what arrives; send back None or the error, until the other side closes."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(num_threads)
    exit_with_parent()  # or the same command would train in the same folder
    with suppress(EOFError, ConnectionError):
        while True:
            run = connection.recv()
            connection.send(run_logged(run))


def run_logged(run: StudyRun) -> str | None:
    """Train and test with the output in the run's log.txt; return the error, None without one."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / LOG).open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            train_and_test(run)
        except Stopped as stopped:
            sys.exit(128 + stopped.number)
        except Exception as error:  # as in run_in_turn
            traceback.print_exc()
            return save_error(run, error)
    return None


def save_error(run: StudyRun, error: Exception) -> str:
    """Write an error to error.txt in the run's folder and return its text."""
    run.folder.mkdir(parents=True, exist_ok=True)
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    text = f"{kind}{error}"
    (run.folder / ERROR).write_text(text + "\n")
    return text


def threads_per_run(num_jobs: int) -> int:
    """Return how many threads each of `num_jobs` processes on this machine gets."""
    return max((os.cpu_count() or 1) // num_jobs, 1)


def gpu_of_slot(slot: int) -> str | None:
    """Return the GPU of the process in `slot`, as CUDA_VISIBLE_DEVICES names it; None with fewer than two GPUs."""
    if not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) > 1 else [str(i) for i in range(torch.cuda.device_count())]
    return names[slot % len(names)]
