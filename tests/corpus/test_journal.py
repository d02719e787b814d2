"""The journal: what a kill or a bad disk leaves of it."""

import random

import pytest

from vivit.corpus.journal import Journal
from vivit.errors import DataError

RESULTS = [(2, [["a", 0.1 + 0.2]], ""), (0, [], "x.mp4: broken \udcff"), (3, [["b", 1e-30], [None, 2.0]], "")]


def write(path):
    with Journal(path, {"job": "test"}, 5) as journal:
        for result in RESULTS:
            journal.append(*result)


def test_results_come_back_in_the_order_of_the_list_to_the_bit(tmp_path):
    write(tmp_path / "journal")
    with Journal(tmp_path / "journal", {"job": "test"}, 5) as journal:
        assert list(journal.results()) == sorted(RESULTS)
        assert journal.todo().tolist() == [1, 4]
        assert journal.todo(failed_too=True).tolist() == [0, 1, 4]
        assert (journal.num_done, journal.num_failed) == (3, 1)
        journal.append(0, [["c", 0.5]])
        assert (journal.num_done, journal.num_failed) == (3, 0)
    with Journal(tmp_path / "journal", {"job": "test"}, 5) as journal:
        assert next(journal.results()) == (0, [["c", 0.5]], "")


def test_every_cut_and_every_damaged_byte_loses_only_what_comes_after(tmp_path):
    path = tmp_path / "journal"
    write(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")][1:]
    rng = random.Random(0)
    for place in range(len(whole)):
        for damaged in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :],
        ):
            path.write_bytes(damaged)
            with Journal(path, {"job": "test"}, 5) as journal:
                assert journal.num_done == sum(end <= place for end in ends)
                journal.append(4, [["new", 1.0]])
            with Journal(path, {"job": "test"}, 5) as journal:
                assert (4, [["new", 1.0]], "") in list(journal.results())


def test_results_of_another_job_are_refused(tmp_path):
    write(tmp_path / "journal")
    with pytest.raises(DataError, match="another job .job was test, is other.; give another --out"):
        Journal(tmp_path / "journal", {"job": "other"}, 5).__enter__()


def test_a_header_without_results_is_replaced_but_not_one_before_a_damaged_result(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, {"job": "mistyped"}, 5):
        pass
    write(path)
    with Journal(path, {"job": "test"}, 5) as journal:
        assert list(journal.results()) == sorted(RESULTS)
    header = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(header + b"damaged")
    with pytest.raises(DataError, match="another job"):
        Journal(path, {"job": "other"}, 5).__enter__()
    assert path.read_bytes() == header + b"damaged"
