"""`vivit features`: features of videos as arrays, for retrieval, probes and models of temporal localisation."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from ..errors import DataError, FolderInUse, VivitError
from ..text import printable
from .parse import WithWeights, parse
from .predict import Predict, find_inputs, load_model
from .terminal import print_error

if TYPE_CHECKING:
    from ..data.sample import Sample
    from ..inference.feature_files import FeatureFile, FeatureOptions
    from ..model.token_reduction import TokenReducedViViT
    from ..model.vivit import ViViT

USAGE = "vivit features WEIGHTS VIDEO [VIDEO ...] --out DIR [options]"
USUAL = ("out", "level", "hop", "dtype", "format", "device", "precision")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
POLL = 0.5  # seconds between two looks at what another process computes


@dataclass(frozen=True)
class FeaturesOptions(WithWeights):
    """Write the features of videos as arrays: one file per video or segment, with a JSON file that describes the rows.

    The same command resumes after Ctrl-C or a kill, and several processes may run it at once on one folder: each video
    is computed once. Exits with code 1 if a video could not be read; failures.csv says which and why.
    """

    videos: Positional[tuple[str, ...]] = ()
    """Videos, folders that are searched for them, or tables (.csv, .jsonl) with path and, if wanted, start and end."""
    out: str = ""
    """The folder to write to."""
    level: Literal["clip", "position", "token"] = "clip"
    """clip: what the head gets, position: a row per temporal position (Model 2), token: its s spatial tokens."""
    hop: float | None = None
    """Level clip: seconds from one row to the next, rounded to temporal positions; 0.5 if not given."""
    dtype: Literal["float16", "float32"] = "float32"
    """Of the numbers in the files; float16 takes half the room."""
    format: Literal["npy", "npz", "parquet"] = "npy"
    """npy: the array, npz: feats with seconds, start and end, parquet: path, seconds, feature in the folder parquet."""
    batch: int | None = None
    """Temporal positions that Model 2 encodes together. None: 4 on a CPU, 128 elsewhere."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""

    def __post_init__(self):
        if self.hop is not None and not 0 < self.hop < float("inf"):
            raise ValueError(f"hop is {self.hop}; it takes seconds above 0")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is 1 or more positions")


def run(args: list[str]) -> None:
    """Write the features of the videos that the arguments name; exit with code 1 if one could not be read."""
    asked = parse(FeaturesOptions, args, usage=USAGE, usual=USUAL)
    if not asked.videos:
        raise ValueError(f"no video; usage: {USAGE}")
    if not asked.out:
        raise ValueError(f"no folder to write to: --out DIR; usage: {USAGE}")
    if Path(asked.out).is_file():
        raise NotADirectoryError(f"{asked.out} is a file; --out takes a folder")
    samples = find_samples(asked.videos)
    from ..inference.feature_files import FAILURES, FeatureFile, FeatureOptions, write_table
    from ..inference.features import check_level
    from ..inference.formats.common import import_pyarrow

    if asked.format == "parquet":
        import_pyarrow()  # says what is missing before the work
    model = load_model(Predict(asked.weights, device=asked.device, precision=asked.precision))
    check_level(model, asked.level, asked.hop)
    folder = Path(asked.out)
    files = [FeatureFile(folder, name, sample, asked.format) for name, sample in samples]
    options = FeatureOptions(asked.level, asked.hop, asked.dtype, asked.format, asked.precision, asked.batch)
    problems, computed = write_all(model, files, options)
    write_failures(folder / FAILURES, problems)
    write_table(folder)
    done = len(files) - len(problems)
    print(f"{done} of {len(files)} features in {asked.out}, {computed} of them computed now", file=sys.stderr)
    if problems:
        print(f"{len(problems)} failed, listed in {folder / FAILURES}", file=sys.stderr)
        sys.exit(1)


def write_all(
    model: ViViT | TokenReducedViViT, files: Sequence[FeatureFile], options: FeatureOptions
) -> tuple[list[tuple[FeatureFile, VivitError]], int]:
    """Write all files; return those that failed, each with its error, and how many this process computed.

    What another process computes is left to it and looked at again at the end.
    """
    from rich.console import Console

    from ..engine.progress import progress_bar
    from ..inference.feature_files import write_features
    from ..weights.save import hash_weights

    weights = hash_weights(model)
    problems, computed, done = [], 0, 0
    todo, waits = list(files), False
    with progress_bar("videos", len(files), console=Console(stderr=True)) as update:
        while todo:
            busy = []
            for file in todo:
                try:
                    share = share_of(update, done)
                    about = write_features(model, file, options, weights=weights, progress=share)
                except FolderInUse:
                    busy.append(file)
                    continue
                except VivitError as error:
                    problems.append((file, error))
                    text = str(error)
                    print_error(text if file.sample.path in text else f"{file.sample.path}: {text}")
                else:
                    if about is not None:
                        computed += 1
                        print(describe(about), file=sys.stderr)
                done += 1
                update(done)
            if busy and not waits:
                print(f"waiting for {len(busy)} that other processes compute", file=sys.stderr)
                waits = True
            if busy:
                time.sleep(POLL)
            todo = busy
    return problems, computed


def share_of(update: Callable[[float], None], done: int) -> Callable[[float], None]:
    """Return a function that shows the share of the next video that is done."""
    return lambda share: update(done + share)


def describe(about: dict[str, Any]) -> str:
    """Describe what was written: "a.mp4: 23 x 16 (position), one every 4 frames"."""
    shape, stride = " x ".join(map(str, about["shape"])), f"{about['feat_stride']:g}"
    return f"{printable(about['path'])}: {shape} ({about['level']}), one every {stride} frames"


def write_failures(path: Path, problems: Sequence[tuple[FeatureFile, VivitError]]) -> None:
    """Write the table of what failed: path, start, end, error; without failures there is no file."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    from ..files import atomic_write

    with atomic_write(path, newline="", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(["path", "start", "end", "error"])
        for feature_file, error in problems:
            sample = feature_file.sample
            segment = ["" if time is None else time for time in (sample.start, sample.end)]
            table.writerow([sample.path, *segment, str(error)])


def find_samples(paths: Sequence[str]) -> list[tuple[str, Sample]]:
    """Return the name of the output and the sample of every video and segment that the paths name.

    A name is that of the video below the given folder or the folder of the table; see `name_outputs`. Raises DataError
    for what is not there, ValueError for names that remain equal.
    """
    from ..data.sample import Sample
    from ..inference.feature_files import name_outputs

    found: dict[tuple[str, float | None, float | None], tuple[str, Sample]] = {}
    for path in paths:
        if Path(path).suffix.lower() in TABLES and os.path.isfile(path):
            samples, base = read_list(Path(path)), os.path.dirname(path)
        else:
            samples = [Sample(video) for video in find_inputs([path])]
            base = path if samples[0].path != path else os.path.dirname(path)
        for sample in samples:
            name = Path(os.path.relpath(sample.path, base or ".")).as_posix()
            found.setdefault((os.path.realpath(sample.path), sample.start, sample.end), (name, sample))
    samples = [sample for _, sample in found.values()]
    return list(zip(name_outputs(samples, [name for name, _ in found.values()]), samples))


def read_list(table: Path) -> list[Sample]:
    """Return the videos and segments of a table in the form of a training table; it needs no labels."""
    from ..data.datasets.label_table import read_table, table_samples

    try:
        samples, _ = table_samples(table, read_table(table, need_labels=False))
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror})") from error
    return [replace(sample, path=os.path.normpath(sample.path)) for sample in samples]
