"""`vivit corpus --engine ray` on nodes of this machine: faults, a pool that grows, and SIGKILL of actors and driver."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from vivit.corpus.driver import Corpus, run_corpus

from ..data.videos import counter_frames, write_video
from ..model import tiny
from .test_corpus import results

SETTINGS = {"temporal_views": 1, "spatial_views": 1, "top_k": 1, "precision": "auto"}
ROOT = Path(__file__).parents[2]
PATIENCE = 900  # seconds until something must have happened


class Nodes:
    """The process that holds the nodes of Ray, and the jobs on them."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.drills.ray_cluster"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a signal to the tests must not end it before it has ended its nodes
        )
        self.drivers: list[subprocess.Popen] = []
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            self.close()
            pytest.fail("no node of Ray has started")

    def add(self) -> None:
        self.ask("add")

    def kill_latest(self) -> None:
        self.ask("kill")

    def ask(self, action: str) -> None:
        self.process.stdin.write(f"{action}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def processes(self) -> dict[int, bytes]:
        """Return the command lines of all processes of the nodes by their ids."""
        parents, titles = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                titles[int(folder.name)] = (folder / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if state != "Z":
                parents[int(folder.name)] = int(parent)
        ours = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return {pid: titles[pid] for pid in ours}

    def actors(self) -> list[int]:
        """Return the ids of the processes that compute videos."""
        return [pid for pid, title in self.processes().items() if title.startswith(b"ray::MapWorker")]

    def close(self) -> None:
        """End the jobs, the nodes, and whatever of them is left."""
        for driver in self.drivers:
            with driver:
                driver.kill()
        started = self.processes()
        self.process.stdin.close()
        self.process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        for pid in started:
            with suppress(OSError):  # it has ended
                if b"ray" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def nodes():
    found = Nodes()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def corpus(tmp_path):
    """The arguments of a job on a list of segments of three videos, and of more files."""
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", counter_frames(40))

    def make(rows, *more):
        lines = [f"{'abc'[i % 3]}.mp4,{i / rows},{i / rows + 0.4}" for i in range(rows)]
        (tmp_path / "list.csv").write_text("\n".join(["path,start,end", *lines, *more]))
        source = str(tmp_path / "list.csv")
        how = {"job": "predict", "weights": str(weights), "source": source, "settings": SETTINGS}
        return how | {"device": "cpu", "format": "csv", "out": str(tmp_path / "ray")}

    return make


def start(how: dict, nodes: Nodes, *, faults: bool = True) -> subprocess.Popen:
    asked = json.dumps(how | {"address": nodes.address, "faults": faults})
    command = [sys.executable, "-m", "tests.drills.ray_job", asked]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    nodes.drivers.append(driver)
    return driver


def finish(driver: subprocess.Popen) -> dict:
    out, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0
    [answer] = [line for line in out.splitlines() if line.startswith("{")]  # Ray prints warnings of dead actors
    return json.loads(answer)


def straight(how: dict) -> Path:
    """Run the same job with one local process; returns its folder."""
    out = Path(how["out"]).with_name("straight")
    run_corpus(Corpus(**how | {"out": out, "workers": 1}))
    return out


def journal(how: dict) -> list[int]:
    """Return the rows whose results are there, in the order in which they came."""
    path = Path(how["out"]) / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)[1:] if path.exists() else []
    return [json.loads(line[9:])[0] for line in lines if line.endswith(b"\n")]


def wait_for(read: Callable[[], list[int]], count: int) -> list[int]:
    """Wait until `read` gives at least `count` items, and return them."""
    end = time.monotonic() + PATIENCE
    while len(found := read()) < count:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.drill
def test_results_are_those_of_one_process_and_faults_have_a_row_with_the_reason(corpus, nodes, tmp_path):
    for name in ("slow", "poison", "hang"):
        write_video(tmp_path / f"{name}.mp4", counter_frames(40))
    how = corpus(6, "gone.mp4", "poison.mp4", "hang.mp4", *(f"slow.mp4,{i / 100}" for i in range(40)))
    driver = start(how | {"timeout": 20.0}, nodes)
    wait_for(nodes.actors, 1)
    nodes.add()
    wait_for(nodes.actors, 2)
    done = finish(driver)
    assert (done["computed"], done["failed"]) == (49, 3)
    mine, truth = (
        list(csv.DictReader((out / "predict.csv").read_text().splitlines()))
        for out in (Path(how["out"]), straight(how))
    )
    assert mine[:7] + mine[9:] == truth[:7] + truth[9:]
    assert mine[7]["error"] == f"{tmp_path}/poison.mp4: its process was killed, 3 times"
    assert f"{tmp_path}/hang.mp4: still being decoded after 20 s" in mine[8]["error"]
    assert sorted(journal(how)) == list(range(49))


@pytest.mark.drill
def test_a_node_that_vanishes_costs_no_video(corpus, nodes, tmp_path):
    write_video(tmp_path / "fragile.mp4", counter_frames(40))
    how = corpus(0, *(f"fragile.mp4,{i / 100}" for i in range(8)))
    nodes.add()
    driver = start(how, nodes)
    wait_for(partial(journal, how), 1)  # all have killed an actor before
    nodes.kill_latest()
    assert finish(driver)["failed"] == 0
    assert results(Path(how["out"])) == results(straight(how))
    assert sorted(journal(how)) == list(range(8))


def check(corpus, nodes, rows: int, kills: int) -> Counter:
    """Kill an actor or the driver `kills` times, each after some results, and compare with one local process."""
    how, rng, counts = corpus(rows, "gone.mp4"), random.Random(kills), Counter()
    nodes.add()
    driver = start(how, nodes)
    while sum(counts.values()) < kills:
        wait_for(partial(journal, how), len(journal(how)) + rng.randint(1, 3))
        actors = wait_for(nodes.actors, 1)
        assert driver.poll() is None, "the job ended before the kills did"
        victim = rng.choice([driver.pid, *actors])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        counts["driver" if victim == driver.pid else "actor"] += 1
        if victim == driver.pid:
            driver.communicate()
            driver = start(how, nodes)
    finish(driver)
    assert results(Path(how["out"])) == results(straight(how))
    assert sorted(journal(how)) == list(range(rows + 1))
    return counts


@pytest.mark.drill
def test_a_job_whose_actors_and_driver_are_killed_twenty_times_does_every_video_once(corpus, nodes):
    counts = check(corpus, nodes, 120, 20)
    print(f"20 kills: {counts['driver']} of the driver, {counts['actor']} of actors")
    assert min(counts["driver"], counts["actor"]) >= 3


@pytest.mark.drill
def test_the_object_stores_take_at_most_a_kilobyte_a_video(corpus, nodes, tmp_path):
    sizes = {}
    for rows in (20, 120):
        how = corpus(rows) | {"out": str(tmp_path / f"of {rows}")}
        sizes[rows] = finish(start(how, nodes))["bytes"]
    each = (sizes[120] - sizes[20]) / 100
    print(f"{each:.0f} bytes a video in the object stores")
    assert 0 < each <= 1024


@pytest.mark.drill
def test_two_nodes_are_as_fast_as_two_local_processes(corpus, nodes, tmp_path):
    nodes.add()
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    for rows in (20, 80):
        how = corpus(rows) | {"workers": 2}
        big = {"image_size": (128, 128), "num_frames": 16, "embed_dim": 384, "num_heads": 6, "depth": 10}
        tiny.model("spatiotemporal", **big).save_pretrained(tmp_path / "weights")
        began = time.monotonic()
        run_corpus(Corpus(**how | {"out": tmp_path / f"local {rows}"}))
        seconds["local"].append(time.monotonic() - began)
        out = str(tmp_path / f"ray {rows}")
        seconds["ray"].append(finish(start(how | {"out": out}, nodes, faults=False))["s"])
    local, ray = ((few - many) / -60 for few, many in seconds.values())  # without the start of the processes
    print(f"{2 * local:.2f} s a video and process; Ray takes {ray / local:.3f} times the time of local processes")
    assert 2 * local >= 1
    assert ray / local <= 1.05
