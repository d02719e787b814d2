"""Processes that are late, stopped, killed or wrong are named by the others; slow ones are waited for."""

import multiprocessing
import os
import re
import signal
import socket
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch.distributed as dist

from vivit.config import replace
from vivit.data.dataset import TrainDataset
from vivit.data.loader import files_being_read, open_loader, train_loader
from vivit.engine.distributed import init_distributed
from vivit.engine.heartbeat import who_is_late
from vivit.engine.setup import read_videos
from vivit.engine.train import train
from vivit.errors import DataError, ProcessLost

from ..processes import forkserver
from .tiny import BAD, clip_that, quick, tiny_config, with_data
from .worker import write_log

BEAT = 0.5  # seconds between two records


def run(processes, act, *arguments, folder, agent=True, seconds=300):
    """Let that many processes of one world do `act(*arguments)`; returns what each one printed and raised.

    Their store is here, as in an agent of torchrun, or else in the first of them. One that is stopped is killed when
    the others have ended. One that does not end writes where it is, and the error shows that.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    port = store.port if agent else free_port()
    settings = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    settings |= {"TORCHELASTIC_USE_AGENT_STORE": str(agent), "TORCHELASTIC_RESTART_COUNT": "0"}
    logs, children = [folder / f"{rank}.log" for rank in range(processes)], []
    for rank, log in enumerate(logs):
        process = forkserver().Process(
            target=write_log,
            args=(log, settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, act, *arguments),
            kwargs={"seconds": 0.8 * seconds},
        )
        process.start()
        children.append(process)
    deadline, left = time.monotonic() + seconds, children
    while left and time.monotonic() < deadline:
        left = [process for process in left if process.is_alive()]
        if len(left) == 1 and _is_stopped(left[0].pid):
            break
        time.sleep(0.02)
    for process in left:
        process.kill()
    for process in children:
        process.join()
    texts = [log.read_text() for log in logs]
    assert time.monotonic() < deadline, "\n".join(texts)
    return texts


def in_world(act, *arguments):
    """Do `act(world, *arguments)` in a world that waits for a minute, so that a slow start is none too slow."""
    with mock.patch("vivit.engine.heartbeat.BEAT", BEAT), init_distributed("cpu", 60) as world:
        world.sum([1.0])  # all have started
        act(world, *arguments)


def wait_only(world, seconds):
    """Let this process wait for the others no longer than this from now on."""
    world.heart.timeout = world.heart._patience = seconds
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # newer than 2.11
    set_timeout(timedelta(seconds=seconds))


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _is_stopped(pid):
    with suppress(FileNotFoundError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "T"
    return False


def last(log):
    """The message of the error that ended a process."""
    return log.rsplit("vivit.errors.ProcessLost: ", 1)[1]


def record(**changes):
    return {
        "host": "a",
        "pid": 7,
        "beat": 3,
        "ended": "",
        "where": "f (x.py:1)",
        "files": [],
        "waiting": True,
    } | changes


def test_a_process_without_a_beat_is_named_before_those_that_only_do_not_wait():
    before = [record(), record(), record(waiting=False)]
    silent = [record(beat=6), record(host="b", files=["x.mp4"]), record(beat=6, waiting=False)]
    assert who_is_late(before, silent, 0) == [
        "process 1 of 3 (host b, pid 7) does not answer; it was at f (x.py:1), reading x.mp4"
    ]
    late = [record(beat=6), record(beat=6), record(beat=6, waiting=False, files=list("abcde"))]
    assert who_is_late(before, late, 0) == [
        "process 2 of 3 (host a, pid 7) is late: at f (x.py:1), reading a, b, c, … and 2 more"
    ]
    assert who_is_late(before, [record(beat=6), record(ended="ValueError: no"), record(beat=6)], 0) == [
        "process 1 of 3 (host a, pid 7) ended: ValueError: no"
    ]
    assert who_is_late(before, [record(beat=6)] * 3, 0) == []
    assert who_is_late(before, [record(beat=6, waiting=False)] * 3, 0) == []  # they compute, all of them


@pytest.mark.parametrize("workers", [0, 1])
def test_the_file_that_is_being_read_is_known(config, monkeypatch, workers):
    seen = []
    monkeypatch.setattr(TrainDataset, "clip", clip_that(lambda: time.sleep(1) if workers else seen.append(now())))

    def now():
        return [Path(path).name for path in files_being_read()]

    config, data = read_videos(with_data(config, workers=workers))
    clips = TrainDataset(
        data.train, data.labels, model=config.model, data=config.data, augment=config.augment, seed=config.seed
    )
    with open_loader(train_loader(clips, batch_size=8, first_step=0, steps=4)) as batches:
        deadline = time.monotonic() + 60
        while workers and [BAD] not in seen and time.monotonic() < deadline:
            seen.append(now())
            time.sleep(0.05)
        for _ in batches:
            pass
        assert now() == []
    assert [BAD] in seen


def train_with_a_slow_file(config):
    multiprocessing.set_start_method("fork", force=True)  # so that the loader's workers have the patch
    with mock.patch.object(TrainDataset, "clip", clip_that(lambda: time.sleep(2.5 * config.parallel.timeout))):
        train(config)


@pytest.mark.drill
def test_the_file_that_a_late_process_reads_is_in_the_error_of_the_other(data_root, tmp_path):
    config = with_data(
        quick(tiny_config(data_root, tmp_path / "run")), workers=1, video_timeout=10_000, storage_timeout=5
    )
    config = replace(config, parallel=replace(config.parallel, timeout=12))
    logs = run(2, train_with_a_slow_file, config, folder=tmp_path)
    late = r"process ([01]) of 2 \(host \S+, pid \d+\) is late: at .*, reading \S*train3.mp4\n"
    [found] = [match for log in logs if (match := re.match(late, last(log)))]
    waiting, slow = logs[1 - int(found[1])], logs[int(found[1])]
    assert "the same command resumes from the last checkpoint" in last(waiting)
    assert f"ended: ProcessLost: {found[0].strip()}" in last(slow)


def stop_this():
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_the_second(world):
    wait_only(world, 3.0)
    if world.rank == 1:
        stop_this()
    world.sum([1.0])


def test_a_stopped_process_does_not_answer(tmp_path):
    log, _ = run(2, in_world, stop_the_second, folder=tmp_path)
    assert re.match(r"process 1 of 2 .* does not answer; it was at (init_distributed|a place outside)", last(log))
    assert "Timed out waiting" in last(log)


def kill_the_second(world):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.gather(1)


def test_a_killed_process_does_not_answer_and_the_others_learn_it_at_once(tmp_path):
    log, _ = run(2, in_world, kill_the_second, folder=tmp_path)
    assert re.match(r"process 1 of 2 .* does not answer", last(log))


def be_wrong(world):
    if world.is_main:
        raise DataError("x.csv has no column label")
    world.barrier()


@pytest.mark.parametrize("agent", [True, False])
def test_the_others_say_with_which_error_a_process_ended(tmp_path, agent):
    logs = run(3, in_world, be_wrong, folder=tmp_path, agent=agent)
    assert "vivit.errors.DataError: x.csv" in logs[0]
    for log in logs[1:]:
        assert re.match(r"process 0 of 3 .* ended: DataError: x.csv has no column label\n", last(log))


def compute_alone(world):
    world.heart.timeout = 3.0

    def compute():
        until = time.monotonic() + 2.5 * world.heart.timeout
        while time.monotonic() < until:
            sum(range(1000))

    world.on_main(compute)
    assert world.gather(world.rank) == [0, 1]
    print("met")


def test_the_first_process_may_compute_alone_for_longer_than_the_others_wait(tmp_path):
    assert [log.strip() for log in run(2, in_world, compute_alone, folder=tmp_path)] == ["met", "met"]


def stop_the_first(world, seconds):
    wait_only(world, seconds)
    world.on_main(stop_this)


def test_the_first_process_that_hangs_alone_is_named(tmp_path):
    _, log = run(2, in_world, stop_the_first, 3.0, folder=tmp_path)
    assert re.match(r"process 0 of 2 .* does not answer; it was at \w+ \(engine/distributed.py:\d+\)", last(log))


def test_a_first_process_that_takes_the_store_with_it_is_named_by_its_address(tmp_path):
    _, log = run(2, in_world, stop_the_first, 2.0, folder=tmp_path, agent=False)
    assert re.match(r"the store of process 0 at localhost:\d+ cannot be reached \(.*\): that machine or", last(log))


def come_when_missed(world, log):
    """The second process comes late: when the first has said for whom it waits."""
    deadline = time.monotonic() + 50
    while world.rank == 1 and not log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    world.sum([1.0])


def say_early(log):
    with mock.patch("vivit.engine.heartbeat.WARN", 0.5):
        in_world(come_when_missed, log)


def test_while_it_waits_the_first_process_says_for_whom(tmp_path):
    log, other = run(2, say_early, tmp_path / "0.log", folder=tmp_path)
    assert re.match(r"vivit: waiting for \d+ s, at most 60 s: process 1 of 2 .* is late: at a place outside", log)
    assert other == ""


def test_processes_that_do_not_find_each_other_say_where_they_looked(monkeypatch):
    port = free_port()
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(ProcessLost, match=f"have not found each other at localhost:{port}: .*1/2"),
        init_distributed("cpu", 1.0),
    ):
        pass
    assert not dist.is_initialized()
