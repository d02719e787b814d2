"""Run a job on a list of videos: resume it, write its table and its manifest."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..data.remote import local_folder
from ..data.sample_table import SampleTable, StringColumn
from ..engine.device import pick_device
from ..engine.evaluate import load_weights
from ..engine.progress import progress_bar
from ..files import exclusive_lock, hash_file, write_json
from ..install_check import installed_version
from ..text import printable
from ..weights.save import hash_weights
from .jobs import JOBS
from .journal import Journal
from .lists import hash_list, path_below, read_list, root_of
from .local import Task, Unit, Units, compute_units
from .ray import compute_on_ray
from .tables import choose_format, write_table

JOURNAL, MANIFEST = "journal.jsonl", "manifest.json"
SLOW = 10.0  # seconds after which the progress names a file
FIRST, EVERY = 4.0, 30.0  # seconds until the first line of progress, and between two, where there is no terminal
VERSION = 1  # of the computation; higher when the same weights and videos give other bits


@dataclass(frozen=True)
class Corpus:
    """A job on a list of videos."""

    job: str
    """A name of `vivit.corpus.jobs.JOBS`."""
    weights: str
    source: str
    """The list; see `vivit.corpus.lists.read_list`."""
    out: Path
    """The folder for the results, and for the journal that `run_corpus` resumes from."""
    settings: dict[str, Any]
    """Of the job."""
    dataset: str = ""
    split: str = "val"
    device: str = "auto"
    workers: int | None = None
    """Processes; None: one per core on a CPU, 4 per GPU."""
    timeout: float = float("inf")
    """Seconds after which a video counts as failed."""
    retry: bool = False
    """Also do again what failed in an earlier run."""
    upload: str = ""
    """A URL to which the table, the manifest and the files of the videos go; the latter are then not kept in `out`."""
    engine: str = "local"
    """local: processes of this machine; ray: actors of Ray Data."""
    address: str = ""
    """Of a Ray cluster; empty: one is started on this machine."""
    format: str = ""
    """parquet or csv; empty: parquet where pyarrow is installed."""


@dataclass(frozen=True)
class Done:
    """What a job on a corpus left."""

    table: Path
    videos: int
    failed: int
    computed: int
    """Videos and segments of this run; the others were there."""


def run_corpus(corpus: Corpus) -> Done:
    """Compute what is missing in the folder `corpus.out`, then write the table and the manifest.

    The table has the rows of the list in its order, whatever the number of processes and however often the job was
    killed and started again. Raises DataError, WeightsError, FolderInUse, and OSError for a disk that is full.
    """
    suffix = choose_format(corpus.format)
    device = pick_device(corpus.device)
    model = load_weights(corpus.weights)
    weights = hash_weights(model)
    job = JOBS[corpus.job]
    columns = {"row": int, "path": str, **job.columns(model, corpus.settings), "error": str}
    del model
    samples, places = read_list(corpus.source, dataset=corpus.dataset, split=corpus.split)
    made_from = {
        "job": corpus.job,
        "version": VERSION,
        "weights": weights,
        "list": hash_list(samples, places),
        "settings": corpus.settings | hash_files(corpus.settings),
        "device": device.type,
    } | ({"upload": corpus.upload} if corpus.upload else {})
    table = corpus.out / f"{corpus.job}.{suffix}"
    names, root = None, root_of(corpus.source)
    if job.names:
        names = StringColumn.of(job.names(samples, [path_below(sample, root) for sample in samples]))
    with (
        exclusive_lock(corpus.out, what="vivit corpus"),
        Journal(corpus.out / JOURNAL, made_from, len(samples)) as journal,
    ):
        units = Units(samples, journal.todo(failed_too=corpus.retry).tolist(), names, places.tolist())
        computed = compute(corpus, units, journal, device, weights)
        if job.finish:
            with local_folder(os.path.join(corpus.upload or corpus.out, job.folder), fetch="*.json") as folder:
                job.finish(folder)
        rows = write_table(table, columns, table_rows(samples, places, journal, len(columns)))
        failed = journal.num_failed
        manifest = {
            "made_from": made_from,
            "sources": {"weights": corpus.weights, "list": corpus.source},
            "versions": {"vivit": installed_version("vivit"), "torch": torch.__version__},
            "videos": len(samples),
            "failed": failed,
            "table": {"file": table.name, "rows": rows, "columns": [*columns], "sha256": hash_file(table)},
        }
        write_json(corpus.out / MANIFEST, manifest)
        if corpus.upload:
            with local_folder(corpus.upload) as folder:
                for file in (table, corpus.out / MANIFEST):
                    shutil.copyfile(file, folder / file.name)
    return Done(table, len(samples), failed, computed)


def compute(corpus: Corpus, units: Units, journal: Journal, device: torch.device, weights: str) -> int:
    """Compute what is to be done, and return how many."""
    if corpus.job == "timeline":
        for left in (corpus.out / JOBS[corpus.job].folder).glob("*/.*.tmp"):  # of processes that were killed
            left.unlink(missing_ok=True)
    if not units:
        return 0
    devices = (str(device),)
    if device.type == "cuda" and device.index is None and corpus.engine == "local":
        devices = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    root = root_of(corpus.source)
    files = corpus.upload or str(corpus.out)
    task = Task(corpus.job, corpus.weights, weights, devices, corpus.settings, files, root)
    with show_progress(corpus.job, journal, len(units)) as (after_result, while_waiting):
        engine = partial(compute_on_ray, address=corpus.address) if corpus.engine == "ray" else compute_units
        results = engine(task, units, workers=corpus.workers, timeout=corpus.timeout, while_waiting=while_waiting)
        with closing(results):
            for _, (row, cells, error) in results:
                journal.append(row, cells, error)
                after_result()
    return len(units)


@contextmanager
def show_progress(
    job: str, journal: Journal, count: int
) -> Iterator[tuple[Callable[[], None], Callable[[list[tuple[Unit, float]]], None]]]:
    """Show on stderr what is done, the time left, failures and slow files; without a terminal a line now and then.

    Yields a function to call after each of the `count` results, and one that takes the running units with their
    seconds.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    total = len(journal.place)
    if count < total:
        console.print(f"resuming after {total - count} of {total}")
    due, has_started = [time.monotonic() + FIRST], [False]
    with progress_bar(job, total, console=console) as move:

        def show(note: str) -> None:
            note = f"{journal.num_failed} failed{note}"
            move(journal.num_done, f"{job}: {note}")
            if not console.is_terminal and time.monotonic() >= due[0]:
                due[0] = time.monotonic() + EVERY
                console.print(f"{job}: {journal.num_done} of {total} done, {note}")

        def after_result() -> None:
            has_started[0] = True
            show("")

        def while_waiting(running: list[tuple[Unit, float]]) -> None:
            unit, seconds = max(running, key=lambda one: one[1], default=(None, 0.0))
            slow = (
                f", {seconds:.0f} s at {printable(os.path.basename(unit.sample.path))}"
                if unit and seconds > SLOW
                else ""
            )
            show(slow if has_started[0] else ", starting")

        yield after_result, while_waiting


def table_rows(samples: SampleTable, places: np.ndarray, journal: Journal, width: int) -> Iterator[list[Any]]:
    """Yield the rows of the table, in the order of the list."""
    for row, cells, error in journal.results():
        sample, place = samples[row], int(places[row])
        if error:
            yield [place, sample.path, sample.start, sample.end, *[None] * (width - 5), error]
        else:
            yield from ([place, sample.path, *one, None] for one in cells)


def hash_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of the file of thresholds that settings name, for results do not depend on its name."""
    return {"thresholds": hash_file(Path(settings["thresholds"]))} if settings.get("thresholds") else {}
