"""The engine on Ray, as far as no cluster is needed; tests/drills/test_corpus_ray.py has the rest."""

import socket

import pytest
import ray
from ray._common.usage.usage_lib import usage_stats_enabled

from vivit.corpus import ray as engine
from vivit.corpus.local import Task, Unit, Units
from vivit.corpus.ray import Starts, compute_on_ray
from vivit.data.sample import Sample
from vivit.data.sample_table import SampleTable
from vivit.errors import DataError

TASK = Task("predict", "weights", "sha256", ("cpu",), {}, "out", "root")


@pytest.mark.parametrize(("asked", "is_on"), [(None, False), ("1", True)])
def test_no_usage_is_reported_from_a_cluster_either_unless_it_is_asked_for(monkeypatch, asked, is_on):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", asked or "")
    if not asked:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    tried = []

    def init(address):
        tried.append((address, usage_stats_enabled()))
        raise ConnectionError("Could not find any running Ray instance\nmore")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(DataError, match=r"--address auto: no Ray cluster there \(Could not .* instance\); start one"):
        list(compute_on_ray(TASK, Units(SampleTable.of([]), []), address="auto"))
    assert tried == [("auto", is_on)]


def test_an_address_at_which_nothing_answers_is_named_at_once(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for wrong in (address, "127.0.0.1:99999"):
        with pytest.raises(DataError, match=f"--address {wrong}: no Ray cluster there"):
            list(compute_on_ray(TASK, Units(SampleTable.of([]), []), address=wrong))


class Queue(list):
    """A queue without Ray, of what actors have started."""

    def qsize(self):
        return len(self)

    def get_nowait_batch(self, count):
        taken, self[:] = self[:count], self[count:]
        return taken


@pytest.fixture
def passes(monkeypatch):
    """Replace Ray: `passes` takes what each pass over the units starts and answers; see `compute`."""
    planned: list[tuple[list[int], list[int]]] = []
    seen: list[tuple[list[int], int]] = []

    def compute_pass(task, units, workers, timeout, while_waiting, starts, in_flight):
        started, answered = planned.pop(0) if planned else ([], [])
        seen.append(([*units], in_flight))
        starts.counts.update(started)
        yield from ((row, [[row]], "") for row in answered)

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(engine, "_open_queue", Queue)
    monkeypatch.setattr(engine, "_compute_pass", compute_pass)
    monkeypatch.setattr(engine, "PAUSE", 0.0)

    def compute(plan, rows):
        planned[:], seen[:] = plan, []
        samples = SampleTable.of([Sample(f"{row}.mp4") for row in range(max(rows) + 1)])
        return list(compute_on_ray(TASK, Units(samples, rows))), seen

    return compute


def test_a_unit_fails_after_three_starts_of_its_own_and_others_are_done_once(passes):
    plan = [
        ([4, 5, 7], [7, 7]),  # 4 kills its actor, 5 shares another one that dies, 6 waited at one of them
        ([4, 5], []),  # a machine vanishes
        ([4, 5, 6], [6, 7, 5]),  # 7 comes again
    ]
    done, seen = passes(plan, [4, 5, 6, 7])
    failure = (4, [], "4.mp4: its process was killed, 3 times")
    assert done == [(3, (7, [[7]], "")), (2, (6, [[6]], "")), (1, (5, [[5]], "")), (0, failure)]
    assert seen == [([4, 5, 6, 7], 2), ([4, 5, 6], 1), ([4, 5, 6], 1)]
    vanished = [([], []), ([], []), ([1], []), ([], []), ([0, 1], [0, 1])]
    assert [i for i, _ in passes(vanished, [0, 1])[0]] == [0, 1]


def test_waves_begin_with_two_units_at_each_actor(passes, monkeypatch):
    monkeypatch.setattr(engine, "WAVE", 2)
    done, seen = passes([([0, 1], [1]), ([0], [0]), ([2], [2])], [0, 1, 2])
    assert [i for i, _ in done] == [1, 0, 2]
    assert seen == [([0, 1], 2), ([0], 1), ([2], 2)]


def test_a_cluster_that_starts_nothing_ends_the_job(passes):
    with pytest.raises(DataError, match="no video was started in 3 attempts.*the same command resumes"):
        passes([([0], [0])], [0, 1])


def test_units_are_running_until_they_are_done_or_their_actor_starts_another():
    units = {row: Unit(row, Sample(f"{row}.mp4"), "") for row in range(4)}
    starts = Starts(Queue([("a", 0), ("b", 1), ("a", 2)]))
    starts.read()
    assert starts.counts == {0: 1, 1: 1, 2: 1}
    assert [unit.row for unit, _ in starts.running(units)] == [2, 1]
    starts.queue += [("b", 1)]
    starts.read()
    assert starts.counts[1] == 2
    del units[2]
    [(unit, seconds)] = starts.running(units)
    assert (unit.row, 0 <= seconds < 60) == (1, True)
