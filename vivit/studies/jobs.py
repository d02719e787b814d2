"""The runs of a study: each trains and tests in a folder of its own, and is not done again once it is whole."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config, EvalConfig, ModelConfig
from ..data.sample import DataError, listing, read
from ..engine.device import autocast, pick_device
from ..engine.evaluate import PREDICTIONS, evaluate, load_evaluation, load_weights
from ..engine.losses import cross_entropy
from ..engine.run import Stopped, check_same_run, stop_signals, write_json
from ..engine.train import train
from ..model.prior_art import PRIOR_ART
from ..model.vivit import ViViT

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
    done = load_evaluation(path).protocol
    names = ("temporal_views", "spatial_views", "shuffle_frames")
    return all(getattr(done, name) == getattr(protocol, name) for name in names)


def test(job: Job, path: Path, protocol: EvalConfig) -> None:
    """Predictions of every test video; results.json beside them."""
    c, folder = job.config, job.folder
    model = PRIOR_ART[job.network].load(folder / "weights") if job.network else load_weights(str(folder))
    samples = read(c.data.dataset, c.data.root, c.data.eval_split, manifest=c.data.manifest)
    result = evaluate(
        model.to(pick_device(c.device)).eval(),  # type: ignore[arg-type]
        samples,
        protocol=protocol,
        workers=c.data.workers,
        precision=c.precision,
    )
    if not result.samples:
        raise DataError(listing("none of the videos can be read", list(result.missing.values())))
    write_json(path.with_name("results.json") if path.parent == folder else path.with_suffix(".json"), result.results())
    result.save(path)


def do_all(jobs: Sequence[Job], *, at_once: int, say: Callable[[str], None] = print) -> dict[Path, str]:
    """Every job, some of them at once, each of these in a process of its own. Returns what went wrong, by folder.

    An error of one does not stop the others. SIGINT and SIGTERM do: those that run save first, then Stopped is raised,
    and the same call goes on.
    """
    done = work_alone if at_once == 1 else work_together
    return done(jobs, at_once, say)


def work_alone(jobs: Sequence[Job], at_once: int, say: Callable[[str], None]) -> dict[Path, str]:
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


def work_together(jobs: Sequence[Job], at_once: int, say: Callable[[str], None]) -> dict[Path, str]:
    """`at_once` processes, which share the cores, and the GPUs in turn; what they print goes to log.txt."""
    context = multiprocessing.get_context("spawn")
    errors: dict[Path, str] = {}
    waiting, running = list(enumerate(jobs)), {}
    with stop_signals() as received:
        while waiting or running:
            while waiting and len(running) < at_once and not received:
                slot = next(i for i in range(at_once) if i not in running)
                i, job = waiting.pop(0)
                process = context.Process(target=child, args=(job, threads(at_once), gpu(slot)))
                process.start()
                running[slot] = (i, job, process, time.monotonic())
            for slot, (i, job, process, since) in list(running.items()):
                process.join(0.1)
                if process.is_alive():
                    continue
                del running[slot]
                took = f"{time.monotonic() - since:.0f} s"
                if process.exitcode == 0:
                    say(f"[{i + 1}/{len(jobs)}] {job.title}: {took}")
                elif not received:
                    errors[job.folder] = why(job, process.exitcode)
                    say(f"[{i + 1}/{len(jobs)}] FAILED {job.title}: {errors[job.folder]}; see {job.folder / LOG}")
            if received:
                for _, _, process, _ in running.values():
                    os.kill(process.pid, signal.SIGTERM)
                for _, _, process, _ in running.values():
                    process.join()
                raise Stopped(received[0])
    return errors


def child(job: Job, num_threads: int, device: str | None) -> None:
    """A process's share of `work_together`; exits with 1 after an error, with 3 when it was asked to stop."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / LOG).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
        torch.set_num_threads(num_threads)
        try:
            do(job)
        except Stopped:
            sys.exit(3)
        except Exception as error:  # as in work_alone
            note(job, error)
            sys.exit(1)


def note(job: Job, error: Exception) -> str:
    """Keep an error in the run's folder; returns its first lines."""
    job.folder.mkdir(parents=True, exist_ok=True)
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    text = f"{kind}{error}"
    (job.folder / ERROR).write_text(text + "\n")
    return text


def why(job: Job, exitcode: int | None) -> str:
    """What a process that has failed left behind."""
    path = job.folder / ERROR
    if path.is_file():
        return path.read_text().strip()
    if exitcode is not None and exitcode < 0:
        return f"its process was ended by {signal.Signals(-exitcode).name} (out of memory?)"
    return f"its process ended with code {exitcode}"


def threads(at_once: int) -> int:
    """Threads of PyTorch for each of several processes on this machine."""
    return max((os.cpu_count() or 1) // at_once, 1)


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
