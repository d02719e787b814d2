"""Work in several processes: in order, whatever dies, and with no process left."""

import multiprocessing
import os
import signal
import time

import pytest

from vivit.data.tools.process_pool import map_in_processes


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
