"""Work in several processes: in order, whatever dies, and with no process left."""

import multiprocessing
import os
import signal
import time

import pytest

from vivit.data.tools import process_pool
from vivit.data.tools.process_pool import map_in_processes, map_unordered

from ...processes import hang, outlive


def work(job):
    """A job says what happens to its process."""
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "exit":
        os._exit(0)
    if job == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    if job == "fail":
        raise OSError("no such thing")
    if job == "odd":
        raise Odd("a", "b")
    return f"{job} done"


class Odd(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def results(jobs, workers=2, **how):
    return [
        r for _, r in map_in_processes(work, jobs, workers=workers, title="", on_crash=lambda j: f"{j} killed", **how)
    ]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order(workers):
    assert results([str(i) for i in range(20)], workers) == [f"{i} done" for i in range(20)]
    assert results([]) == []


def test_a_job_that_ends_its_process_is_named_and_the_others_are_done():
    jobs = ["a", "die", "b", "exit", "die", "c"]
    assert results(jobs) == ["a done", "die killed", "b done", "exit killed", "die killed", "c done"]


def test_a_job_that_hangs_is_killed_even_if_it_ignores_sigterm():
    assert results(["a", "hang", "b"], timeout=0.3) == ["a done", "hang killed", "b done"]


@pytest.mark.parametrize(("job", "message"), [("fail", "no such thing"), ("odd", "Odd: a b")])
def test_an_exception_ends_all(job, message):
    with pytest.raises((OSError, RuntimeError), match=message):
        results(["hang", job])


def test_whoever_stops_listening_leaves_no_process_behind():
    jobs = map_in_processes(work, ["a", "hang", "hang"], workers=3, title="", on_crash=lambda job: "killed")
    assert next(jobs) == ("a", "a done")
    jobs.close()


def crash_once(job):
    """End the process if a file does not exist yet."""
    path, name = job
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return name


@pytest.mark.parametrize("start_method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_job_is_tried_again_and_the_reason_is_the_signal(tmp_path, start_method):
    jobs = [(str(tmp_path / name), name) for name in "abc"]
    results = map_unordered(
        crash_once, jobs, workers=2, on_crash=lambda job, why: why, attempts=2, start_method=start_method
    )
    assert sorted(results) == [(0, "a"), (1, "b"), (2, "c")]
    reasons = map_unordered(work, ["die", "exit", "hang"], workers=3, on_crash=lambda job, why: why, timeout=0.5)
    assert dict(reasons) == {
        0: "its process was killed by SIGKILL",
        1: "its process ended with exit code 0",
        2: "not done after 0.5 s",
    }


def test_running_jobs_are_shown_while_waiting():
    seen = []
    assert list(map_unordered(nap, [1.2], workers=1, on_crash=lambda job, why: why, while_waiting=seen.append)) == [
        (0, 1)
    ]
    assert seen[0][0][0] == 1.2
    assert 0.9 < seen[0][0][1] < 1.2


def nap(seconds):
    time.sleep(seconds)
    return 1


def test_a_worker_whose_parent_goes_with_an_answer_unread_says_nothing(capfd):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=process_pool._work, args=(work, theirs))
    process.start()
    theirs.close()
    ours.send("a")
    assert ours.poll(120)
    ours.close()
    process.join(60)
    assert (process.exitcode, capfd.readouterr().err) == (0, "")


def work_for_ever(folder):
    list(map_in_processes(hang, [folder, folder], workers=2, title="", on_crash=lambda job: None))


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_in_the_middle_of_a_job_end_when_their_parent_is_killed(tmp_path, start_method):
    assert outlive(work_for_ever, start_method, tmp_path, children=2) == []
