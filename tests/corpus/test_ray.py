"""The engine on Ray, as far as no cluster is needed; tests/drills/test_corpus_ray.py has the rest."""

import socket

import pytest
import ray
from ray._common.usage.usage_lib import usage_stats_enabled

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
    """Stands in for Ray's queue of what actors started."""

    def qsize(self):
        return len(self)

    def get_nowait_batch(self, count):
        taken, self[:] = self[:count], self[count:]
        return taken


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
