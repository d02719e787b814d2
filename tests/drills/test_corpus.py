"""SIGKILL of workers and of the driver at random moments: every video once, and the bits of one process."""

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vivit.corpus import local
from vivit.corpus.driver import Corpus, run_corpus
from vivit.corpus.jobs import JOBS

from ..data.videos import counter_frames, write_video
from ..model import tiny

SETTINGS = {
    "predict": {"temporal_views": 1, "spatial_views": 1, "top_k": 1},
    "features": {"level": "clip", "hop": 0.2, "dtype": "float32", "file_format": "npy", "batch": None},
}
WORKERS = 3


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A job on `rows` segments of three videos, each of which takes some 30 ms; its processes are forked."""
    monkeypatch.setattr(local, "START_METHOD", "fork")
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", counter_frames(40))

    def make(rows, name="predict"):
        job = JOBS[name]

        def slowly(*args):
            time.sleep(0.03)
            return job.compute(*args)

        monkeypatch.setitem(JOBS, name, replace(job, compute=slowly))
        lines = [f"{'abc'[i % 3]}.mp4,{i / rows},{i / rows + 0.4}" for i in range(rows)]
        (tmp_path / "list.csv").write_text("\n".join(["path,start,end", *lines, "gone.mp4,,"]))
        return Corpus(
            name, str(weights), str(tmp_path / "list.csv"), tmp_path / "killed", SETTINGS[name] | {"precision": "auto"},
            device="cpu", format="csv", workers=WORKERS,
        )  # fmt: skip

    return make


def start(corpus: Corpus) -> int:
    """Run the job in a child process; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            run_corpus(corpus)
            code = 0
        finally:
            os._exit(code)
    return child


def children(pid: int) -> list[int]:
    """Return the ids of the processes that `pid` started and that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def kill_at_random(corpus: Corpus, kills: int, rng: random.Random) -> Counter:
    """Kill the driver or one of its workers `kills` times, then let the job finish; returns how many of each."""
    counts, driver = Counter(), start(corpus)
    while sum(counts.values()) < kills:
        while not (workers := children(driver)):
            assert os.waitpid(driver, os.WNOHANG) == (0, 0), "the job ended before the kills did"
            time.sleep(0.01)
        time.sleep(rng.uniform(0.02, 0.3))
        victim = rng.choice([driver, *workers])
        if victim == driver:
            os.kill(driver, signal.SIGKILL)
            os.waitpid(driver, 0)
            driver = start(corpus)
        else:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        counts["driver" if victim not in workers else "worker"] += 1
    assert os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1]) == 0
    return counts


def results(out: Path) -> dict[str, bytes]:
    """Return the content of the table and of the files of the videos by name."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix == ".csv" or p.parent != out}


def check(corpus: Corpus, kills: int) -> Counter:
    straight = run_corpus(replace(corpus, out=corpus.out.with_name("straight"), workers=1))
    counts = kill_at_random(corpus, kills, random.Random(kills))
    assert results(corpus.out) == results(straight.table.parent)
    lines = (corpus.out / "journal.jsonl").read_text().splitlines()[1:]
    assert sorted(json.loads(line[9:])[0] for line in lines) == list(range(straight.videos))
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("job", SETTINGS)
def test_a_job_killed_four_times_does_every_video_once(corpus, job):
    check(corpus(60, job), 4)


@pytest.mark.drill
@pytest.mark.parametrize("job", SETTINGS)
def test_a_job_whose_workers_and_driver_are_killed_twenty_times_does_every_video_once(corpus, job):
    counts = check(corpus(400, job), 20)
    print(f"20 kills: {counts['driver']} of the driver, {counts['worker']} of workers")
    assert min(counts["driver"], counts["worker"]) >= 3
