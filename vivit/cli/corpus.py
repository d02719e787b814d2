"""`vivit corpus`: classify long lists of videos in several processes, and resume."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..text import printable
from .parse import WithWeights, parse, pick_verb

USAGES = {
    "predict": "vivit corpus predict WEIGHTS LIST --out DIR [options]",
    "timeline": "vivit corpus timeline WEIGHTS LIST --out DIR [options]",
    "features": "vivit corpus features WEIGHTS LIST --out DIR [options]",
}


@dataclass(frozen=True)
class Options(WithWeights):
    """What the jobs have in common."""

    list: Positional[str]
    """A folder, a table with a column path (.csv, .jsonl, .parquet), a folder of shards or a video; or its URL."""
    out: str
    """Folder for the table, manifest.json and the journal, from which the same command resumes."""
    upload: str = ""
    """A URL such as s3://bucket/run that also gets the table and the manifest, and alone the files of the videos."""
    dataset: str = ""
    """The dataset of which LIST is the folder: kinetics400, ssv2, epic_kitchens, ..."""
    split: str = "val"
    """Its split, or that of the shards."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: actors on a cluster of Ray, which needs the extra ray."""
    address: str = ""
    """Of a Ray cluster, such as 10.0.0.1:6379, or auto; empty: one is started on this machine for the job."""
    workers: int | None = None
    """Processes, each of which decodes and computes. None: one per core on a CPU, 4 per GPU."""
    timeout: float = 0.0
    """Seconds after which a video counts as failed; 0 for none."""
    retry: bool = False
    """Also do again the videos that failed."""
    format: Literal["", "parquet", "csv"] = ""
    """Of the table; empty: parquet where pyarrow is installed, else csv."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it is 1 or more processes")
        if "://" in self.out:
            raise ValueError(f"out is {self.out!r}; it takes a folder, for the journal; --upload takes the URL")
        if self.upload and "://" not in self.upload:
            raise ValueError(f"upload is {self.upload!r}; it takes a URL such as s3://bucket/run")
        if self.address and self.engine != "ray":
            raise ValueError(f"address is {self.address!r}, which only --engine ray takes")
        if not self.timeout >= 0:
            raise ValueError(f"timeout is {self.timeout}; it takes seconds above 0, or 0 for none")


@dataclass(frozen=True)
class Predict(Options):
    """Classify every video or segment of a list; one row each, also for those that cannot be read.

    The same command resumes after an interruption. Exits with code 1 if a video failed.
    """

    temporal_views: int = 4
    """Evenly spaced clips of a video."""
    spatial_views: int = 3
    """1 center crop, or 3 crops along the longer side."""
    top_k: int = 1
    """Classes of each label set in the table."""

    def __post_init__(self):
        super().__post_init__()
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it is 1 or more classes")


@dataclass(frozen=True)
class Timeline(Options):
    """Find segments in every video of a list; one row each, also for videos without any or that cannot be read.

    The same command resumes after an interruption. Exits with code 1 if a video failed.
    """

    hop: float = 0.5
    """Seconds between two rows of scores, rounded to temporal positions of the model."""
    crops: Literal[1, 3] = 1
    """1 center crop, or the mean over 3 crops along the longer side."""
    batch: int | None = None
    """Temporal positions that Model 2 encodes together. None: 4 on a CPU, 128 elsewhere."""
    thresholds: str = ""
    """A file of thresholds from `vivit timeline --fit`."""
    scores: bool = False
    """Also keep the scores over time, an .npz file per video in DIR/timelines."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.hop < float("inf"):
            raise ValueError(f"hop is {self.hop}; it takes seconds above 0")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is 1 or more positions")


@dataclass(frozen=True)
class Features(Options):
    """Write the features of every video of a list into DIR/features, as `vivit features` does; one row each.

    The same command resumes after an interruption. Exits with code 1 if a video failed.
    """

    level: Literal["clip", "position", "token"] = "clip"
    """clip: what the head gets, position: a row per temporal position (Model 2), token: its s spatial tokens."""
    hop: float | None = None
    """Level clip: seconds from one row to the next, rounded to temporal positions; 0.5 if not given."""
    dtype: Literal["float16", "float32"] = "float32"
    """Of the numbers in the files; float16 takes half the room."""
    file_format: Literal["npy", "npz", "parquet"] = "npy"
    """Of the features: npy: the array, npz: feats with seconds, start and end, parquet: path, seconds, feature."""
    batch: int | None = None
    """Temporal positions that Model 2 encodes together. None: 4 on a CPU, 128 elsewhere."""

    def __post_init__(self):
        super().__post_init__()
        if self.hop is not None and not 0 < self.hop < float("inf"):
            raise ValueError(f"hop is {self.hop}; it takes seconds above 0")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is 1 or more positions")


JOBS = {"predict": Predict, "timeline": Timeline, "features": Features}


def run(args: list[str]) -> None:
    """Run the job that the first argument names; exit with code 1 if a video failed."""
    job, rest = pick_verb("corpus", args, {name: name for name in JOBS}, [*USAGES.values()])
    own = [name for name in JOBS[job].__dataclass_fields__ if name not in Options.__dataclass_fields__]
    asked = parse(JOBS[job], rest, usage=USAGES[job], usual=("out", *own, "workers", "retry", "device", "precision"))

    from ..corpus.driver import Corpus, run_corpus

    done = run_corpus(
        Corpus(
            job=job,
            weights=asked.weights,
            source=asked.list,
            out=Path(asked.out),
            upload=asked.upload.rstrip("/"),
            settings={name: getattr(asked, name) for name in (*own, "precision")},
            dataset=asked.dataset,
            split=asked.split,
            device=asked.device,
            engine=asked.engine,
            address=asked.address,
            workers=asked.workers,
            timeout=asked.timeout or float("inf"),
            retry=asked.retry,
            format=asked.format,
        )
    )
    there = "" if done.computed == done.videos else f", {done.computed} in this run"
    failed = f"; {done.failed} failed, see the column error" if done.failed else ""
    print(
        f"{done.videos - done.failed} of {done.videos} in {printable(str(done.table))}{there}{failed}", file=sys.stderr
    )
    if done.failed:
        sys.exit(1)
