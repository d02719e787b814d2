"""Means over seeds, and differences between tests whose videos are named in different ways."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from vivit.studies.statistics import align, answers, compare, over_seeds, student_quantile

from ..engine.test_compare import evaluation


def respelled(test, root: str):
    """The same test, with other paths of its videos."""
    return replace(test, samples=[replace(s, path=f"{root}/{s.path}") for s in test.samples])


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 10, 11, 19, 200])
def test_the_quantiles_of_student_are_right(degrees):
    assert student_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=1e-3)


def test_the_mean_of_seeds_has_students_interval():
    values = [0.5, 0.55, 0.61, 0.48]
    found = over_seeds(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((np.mean(values), low, high), abs=1e-4)
    assert over_seeds([0.5]) == {"mean": 0.5, "low": None, "high": None}


def test_another_spelling_of_the_data_folder_changes_no_difference():
    a, b = ({seed: evaluation(seed=10 * seed + side) for seed in range(3)} for side in (1, 2))
    moved = {seed: respelled(test, "/moved/x") if seed == 2 else test for seed, test in b.items()}
    moved_a = a | {2: respelled(a[2], "/moved/x")}
    for label_set in ("verb", "action"):
        assert compare(a, moved, label_set) == compare(moved_a, moved, label_set) == compare(a, b, label_set)


def test_what_cannot_be_compared_is_an_error_that_says_why():
    a = evaluation(seed=1)
    with pytest.raises(ValueError, match="no seed in both: 0, 1 and 2"):
        compare({0: a, 1: a}, {2: a}, "verb")
    other = replace(a, samples=[replace(s, path=f"y{i}.mp4") for i, s in enumerate(a.samples)])
    with pytest.raises(ValueError, match=r"no video was measured in all .the first ones: data/close/0.mp4, y0.mp4"):
        compare({0: a}, {0: other}, "verb")
    noisy = replace(a, samples=[replace(s, labels=s.labels | {"noun": "pan"}) for s in a.samples])
    assert compare({0: a}, {0: noisy}, "verb")["mean"] == 0
    with pytest.raises(ValueError, match="data/close/0.mp4 is labelled cup in one, pan in another"):
        compare({0: a}, {0: noisy}, "noun")


def test_aligned_answers_are_those_of_each_video():
    a, b = evaluation(seed=1), respelled(evaluation(seed=2), "/moved/x")
    order = np.random.default_rng(0).permutation(60)[:50].tolist()
    mixed = replace(b, samples=[b.samples[i] for i in order], labels=b.labels[order], multi=b.multi[order])
    videos, right = align([answers(a, "noun"), answers(mixed, "noun")])
    kept = sorted(order)
    assert [path for path, _, _ in videos] == [a.samples[i].path for i in kept]
    expected = [(test.multi[:, 2:].argmax(1) == test.labels[:, 1])[kept].tolist() for test in (a, b)]
    assert right.tolist() == expected
