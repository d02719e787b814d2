"""Stamps survive being packed, and take little room where they are regular but for rounding."""

import json

import numpy as np
import pytest

from vivit.data.packet_index import FrameIndex, pack, unpack


@pytest.mark.parametrize("seed", range(20))
def test_any_ascending_stamps_come_back_as_they_were(seed):
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, [2, 3, 50, 100_000][seed % 4], size=rng.integers(0, 200))
    stamps = int(rng.integers(-(2**40), 2**40)) + np.concatenate([[0], np.cumsum(steps)])
    np.testing.assert_array_equal(unpack(json.loads(json.dumps(pack(stamps)))), stamps)


@pytest.mark.parametrize("rate", [(12, 1), (15, 1), (24000, 1001), (2997, 100), (30000, 1001), (60000, 1001), (60, 1)])
@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("delay", [0, 1, 2])
def test_an_even_rate_in_milliseconds_takes_one_line_however_long_the_video(rate, nearest, delay):
    frames, seconds = rate
    stamps = np.arange(delay, 100_000 + delay) * 1000 * seconds  # in ms / frames
    stamps = (2 * stamps + frames * nearest) // (2 * frames)
    packed = pack(stamps)
    assert len(packed) <= 5
    np.testing.assert_array_equal(unpack(packed), stamps)


@pytest.mark.parametrize("problem", [None, "truncated: 3 of 9 frames"])
def test_a_survey_survives_being_written_down(problem):
    survey = FrameIndex(1, 48, 64, 1 / 90000, 0.5, 1001 / 30000, False, 0, np.array([5, 8, 11]), [0, 2], problem, None)
    again = FrameIndex.from_text(survey.to_text(), 100)
    assert again is not None
    np.testing.assert_array_equal(again.pts, survey.pts)
    assert {**vars(again), "pts": 0} == {**vars(survey), "pts": 0}


def test_an_index_of_an_older_version_or_that_cannot_be_true_is_unknown():
    survey = FrameIndex(0, 48, 64, 1 / 90000, 0.0, 1 / 30, False, 0, np.arange(20) * 3000, [0, 10], None, None)
    values = json.loads(survey.to_text())
    assert FrameIndex.from_text(json.dumps(values), size=20) is not None
    assert FrameIndex.from_text(json.dumps(values), size=19) is None  # a frame has at least one byte
    old = [48, 64, 1 / 90000, 1 / 30, 0, [0, 3000, 19], [0, 10, 1], None]
    endless = [[0, 1, 10**15], ["line", 0, 1.0, 0.5, 10**15], [0, 0, 3], [], None, "x"]
    for text in ("", "[]", "{}", "no", json.dumps(old), *(json.dumps([*values[:9], e, *values[10:]]) for e in endless)):
        assert FrameIndex.from_text(text, size=1000) is None, text
    for place, value in ((4, 0), (4, -1.0), (4, float("inf")), (6, 0), (10, [0, 30, 1]), (10, [5])):
        changed = [*values[:place], value, *values[place + 1 :]]
        assert FrameIndex.from_text(json.dumps(changed), size=1000) is None, (place, value)
