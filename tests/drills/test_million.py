"""A long list costs its workers no memory of their own."""

import pytest

from .million import million


@pytest.mark.drill
def test_a_worker_has_no_memory_of_its_own_for_a_longer_list(capsys):
    million(rows=(1_000, 100_000), videos=2, clips=16)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    numbers = {what.strip(): [float(cell.replace(",", "")) for cell in cells] for what, *cells in rows}
    short, long = numbers["memory of a worker that it does not share, MiB"]
    assert long < short + 20
    assert min(numbers["clips of 32 frames of a core, clips/s"]) > 0
    assert numbers["index.jsonl, MiB"][1] > 90 * numbers["index.jsonl, MiB"][0]
