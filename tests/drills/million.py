"""Measure a list of a million videos in shards: load, shuffle, resume, memory of a worker, frames a second of a core.

`python -m tests.drills.million` writes a real index of a million rows; its tar files are links to one that holds a few
videos of ten seconds, so every row can be read. Prints the table of docs/guides/scale.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from benchmarks.pipeline import CLIP, kinetics_like
from vivit.config import AugmentConfig, DataConfig
from vivit.data.dataset import TrainDataset
from vivit.data.loader import open_loader, train_loader
from vivit.data.shards import INDEX, pack
from vivit.data.splits import Split, load_split
from vivit.data.tools.probe import check_jobs, probe_video
from vivit.engine.setup import Data, hashes
from vivit.text import format_markdown

CLASSES = tuple(f"class {i:03}" for i in range(400))
BATCH = 8
Rows = Iterator[tuple[str, float, str]]
"""What was measured, the number, its unit."""


def million(
    rows: tuple[int, ...] = (1_000, 1_000_000), videos: int = 8, per_shard: int = 1000, clips: int = 64
) -> None:
    """Measure lists of `rows` videos and print the table. Seconds are those of the processor.

    Args:
        rows: Rows of each list.
        videos: Different videos behind them.
        per_shard: Rows of a tar file.
        clips: Clips to read, for the memory and the speed of a worker.
    """
    columns = []
    for number in rows:
        with TemporaryDirectory() as folder:
            write_index(Path(folder), number, videos, per_shard)
            columns.append([*measure(folder, number, clips)])
    table = [
        (f"{what}, {unit}", *(f"{column[i][1]:,.{0 if column[i][1] >= 100 else 2}f}" for column in columns))
        for i, (what, _, unit) in enumerate(columns[0])
    ]
    print(format_markdown([("rows of the list", *(f"{number:,}" for number in rows)), *table]))


def write_index(folder: Path, rows: int, videos: int, per_shard: int) -> None:
    """Pack a few videos, and write an index of `rows` rows of them in links to that tar file."""
    (folder / "plain").mkdir()
    samples = kinetics_like(folder / "plain", videos)
    jobs = check_jobs({"train": samples}, str(folder / "plain"), thorough=False)
    files = [probe_video(job) for job in jobs.values()]
    number = {path: i for i, path in enumerate(jobs)}
    classes = {"label": CLASSES}
    pack(folder, base=str(folder / "plain"), files=files, samples={"train": samples}, number=number, classes=classes,
         shard_mib=2**20)  # fmt: skip
    head, *lines = (folder / INDEX).read_text().splitlines()
    header, packed = json.loads(head), [json.loads(line) for line in lines[:videos]]
    for shard in range(-(-rows // per_shard)):
        (folder / f"many-{shard:06}.tar").symlink_to(folder / "train-000000.tar")
    path = header["file_columns"].index("path")
    with (folder / INDEX).open("w") as file:
        file.write(json.dumps(header | {"files": rows, "samples": rows}) + "\n")
        for i in range(rows):
            packed[i % videos][path] = f"many-{i // per_shard:06}.tar#videos/{i:07}.mp4"
            file.write(json.dumps(packed[i % videos], separators=(",", ":")) + "\n")
        for i in range(rows):
            file.write(json.dumps([i, "train", None, None, None, CLASSES[i % len(CLASSES)]]) + "\n")


def measure(root: str, rows: int, clips: int) -> Rows:
    """Load the list as a run does, then read clips of it, at the start and far into the run."""
    yield "index.jsonl", (Path(root) / INDEX).stat().st_size / 2**20, "MiB"
    before, began = memory("self", "Rss"), time.process_time()
    split = load_split(DataConfig(root=root, dataset="shards"), "train", training=True)
    yield "load the list and encode the labels", time.process_time() - began, "s"
    yield "memory that the list takes in the main process", memory("self", "Rss") - before, "MiB"
    assert len(split.samples) == rows
    began = time.process_time()
    hashes(Data(split.samples, split.labels, split.samples[:1], split.labels[:1], {}))
    yield "hash the list, for a checkpoint", time.process_time() - began, "s"
    steps = rows // BATCH
    for name, first in (("shuffle: the first step", 0), ("resume: a step of epoch 8", 7 * steps + steps // 2)):
        began = time.process_time()
        loader = train_loader(clips_of(root, split, workers=0), batch_size=BATCH, first_step=first, steps=first + 1)
        [keys] = loader.batch_sampler or ()
        assert len({key[1] for key in keys}) == BATCH
        yield name, 1e3 * (time.process_time() - began), "ms"
    yield from read(root, split, clips)


def read(root: str, split: Split, clips: int) -> Rows:
    """Read clips in one worker process."""
    loader = train_loader(clips_of(root, split, workers=1), batch_size=BATCH, first_step=0, steps=clips // BATCH + 9)
    with open_loader(loader) as batches:
        assert next(batches).weights.all()
        [worker] = multiprocessing.active_children()
        began = seconds_when_idle(worker.pid)
        count = sum(int(next(batches).weights.sum()) for _ in range(clips // BATCH))
        speed = count / (seconds_when_idle(worker.pid) - began)
        yield "memory of a worker that it does not share", memory(str(worker.pid), "Private_Dirty"), "MiB"
    yield "clips of 32 frames of a core", speed, "clips/s"
    yield "the same in frames", speed * CLIP.num_frames, "frames/s"


def clips_of(root: str, split: Split, *, workers: int) -> TrainDataset:
    """Return the training clips of the split at the size of the base model."""
    data = DataConfig(root=root, dataset="shards", workers=workers)
    return TrainDataset(split.samples, split.labels, model=CLIP, data=data, augment=AugmentConfig(), seed=0)


def seconds_when_idle(process: int | None) -> float:
    """Return the processor time of a worker when its queue is full, so that it has read all that will be taken."""
    before = processor_seconds(process)
    while (time.sleep(2), now := processor_seconds(process))[1] > before:
        before = now
    return before


def processor_seconds(process: int | None) -> float:
    """Return the processor time of a process; see proc_pid_stat(5)."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def memory(process: str, kind: str) -> float:
    """Return the MiB of a kind that the kernel counts for a process; see proc_pid_smaps(5)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


if __name__ == "__main__":
    tyro.cli(million, prog="python -m tests.drills.million")
