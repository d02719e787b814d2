"""Stamps survive being packed, and take little room where they are regular but for rounding."""

import json

import numpy as np
import pytest

from vivit.data.packets import Survey, pack, unpack


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
    survey = Survey(48, 64, 1 / 90000, 0.5, 1001 / 30000, False, 0, np.array([5, 8, 11]), [0, 2], problem, None)
    again = Survey.from_text(survey.to_text(), 100)
    assert again is not None
    np.testing.assert_array_equal(again.pts, survey.pts)
    assert {**vars(again), "pts": 0} == {**vars(survey), "pts": 0}
