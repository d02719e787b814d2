"""Scores of segments against implementations of their published definitions, written differently."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pytest

from vivit.engine.temporal_metrics import (
    ACTIVITYNET_IOUS,
    average_precisions,
    correct_seconds,
    edit_score,
    f1_scores,
    mean_edit_score,
    temporal_iou,
)


@dataclass(frozen=True)
class Event:
    start: float
    end: float
    label: str = "a"
    score: float = 1.0


def iou(a, b):
    shared = max(0.0, min(a.end, b.end) - max(a.start, b.start))
    return shared / (a.end - a.start + b.end - b.start - shared)


def naive_average_precision(predicted, truth, label, threshold):
    """ActivityNet's definition, one threshold and one prediction at a time; the area as a sum over recall levels."""
    total = sum(one.label == label for rows in truth.values() for one in rows)
    free = {video: [one for one in rows if one.label == label] for video, rows in truth.items()}
    everything = [(one.score, video, one) for video, rows in predicted.items() for one in rows if one.label == label]
    outcomes = []
    for _, video, one in sorted(everything, key=lambda row: row[0], reverse=True):
        reached = [other for other in free.get(video, []) if iou(one, other) >= threshold]
        if reached:
            free[video].remove(max(reached, key=lambda other: iou(one, other)))
        outcomes.append(bool(reached))
    points = [(sum(outcomes[: n + 1]), n + 1) for n in range(len(outcomes))]  # (right, predictions so far)
    area = 0.0
    for level in range(1, total + 1):  # each right answer adds 1 / total at the best precision from there on
        area += max((right / n for right, n in points if right >= level), default=0.0) / total
    return area


def random_events(rng, videos, most, labels="abcd", length=30.0):
    found = {}
    for video in videos:
        rows = []
        for _ in range(rng.integers(0, most)):
            start = rng.uniform(0, length)
            label = str(rng.choice(list(labels)))
            rows.append(Event(start, start + rng.exponential(5) + 0.1, label, rng.uniform()))
        found[video] = rows
    return found


def shaken(rng, truth):
    """Predictions near the truth, some with another label, some twice, and others from nowhere."""
    found = random_events(rng, [*truth, "no truth"], 6, "abcde")
    for video, rows in truth.items():
        for one in rows:
            for _ in range(rng.integers(0, 3)):
                start, end = one.start + rng.normal() * 0.7, one.end + rng.normal() * 0.7
                label = one.label if rng.uniform() < 0.8 else "b"
                found[video].append(Event(start, max(end, start + 0.05), label, rng.uniform()))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_activitynet(seed):
    rng = np.random.default_rng(seed)
    truth = random_events(rng, "vwxyz", 9)
    predicted = shaken(rng, truth)
    found = average_precisions(predicted, truth)
    assert set(found) == {one.label for rows in truth.values() for one in rows}
    for label, values in found.items():
        expected = [naive_average_precision(predicted, truth, label, t) for t in np.linspace(0.5, 0.95, 10)]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
    assert any(0.05 < values[0] < 0.95 for values in found.values())


def test_perfect_predictions_have_precision_one_and_none_have_zero():
    truth = random_events(np.random.default_rng(0), "xyz", 9)
    for values in average_precisions(truth, truth).values():
        np.testing.assert_array_equal(values, np.ones(len(ACTIVITYNET_IOUS)))
    for values in average_precisions({}, truth).values():
        np.testing.assert_array_equal(values, np.zeros(len(ACTIVITYNET_IOUS)))


def test_a_second_prediction_of_the_same_segment_is_wrong():
    truth = {"v": [Event(0, 10), Event(20, 30)]}
    twice = {"v": [Event(0, 10, score=0.9), Event(0, 10, score=0.8), Event(20, 30, score=0.7)]}
    assert average_precisions(twice, truth)["a"][0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert f1_scores(twice, truth, [0.5])[0.5] == pytest.approx(2 * 2 / (3 + 2))


@pytest.mark.parametrize("seed", range(5))
def test_iou_is_the_measure_of_sets(seed):
    rng = np.random.default_rng(seed)
    a, *others = [Event(s, s + n) for s, n in zip(rng.integers(0, 20, 8).tolist(), rng.integers(1, 15, 8).tolist())]
    seconds = [set(range(one.start, one.end)) for one in (a, *others)]
    expected = [len(seconds[0] & other) / len(seconds[0] | other) for other in seconds[1:]]
    np.testing.assert_allclose(temporal_iou(a, others), expected, rtol=1e-12)


# Frame by frame, as Lea et al. and the code of later work count


def frames_of(rng, length=80):
    """Labels of frames in runs; "-" is background."""
    text = ""
    while len(text) < length:
        text += str(rng.choice(list("abc-"))) * int(rng.integers(1, 12))
    return text[:length]


def noisy(rng, frames):
    return "".join(str(rng.choice(list("abc-"))) if rng.uniform() < 0.15 else frame for frame in frames)


def events_of(frames):
    found, at = [], 0
    for label, run in groupby(frames):
        n = len(list(run))
        found += [Event(at, at + n, label)] if label != "-" else []
        at += n
    return found


def frame_f1(pairs, threshold):
    right = wrong = missed = 0
    for answer, truth in pairs:
        ranges = [(e.label, set(range(e.start, e.end))) for e in events_of(answer)]
        targets = [(e.label, set(range(e.start, e.end))) for e in events_of(truth)]
        used = set()
        for label, mine in ranges:
            overlaps = [len(mine & other) / len(mine | other) if label == name else 0 for name, other in targets]
            best = max(range(len(targets)), key=lambda i: (overlaps[i], -i)) if targets else None
            if best is not None and overlaps[best] >= threshold and best not in used:
                used.add(best)
                right += 1
            else:
                wrong += 1
        missed += len(targets) - len(used)
    precision, recall = right / max(right + wrong, 1), right / max(right + missed, 1)
    return 2 * precision * recall / (precision + recall) if right else 0.0


@pytest.mark.parametrize("seed", range(10))
def test_f1_and_accuracy_are_those_of_frames(seed):
    rng = np.random.default_rng(seed)
    truth = {f"v{i}": frames_of(rng) for i in range(4)}
    answers = {video: noisy(rng, frames) for video, frames in truth.items()}
    predicted = {video: events_of(frames) for video, frames in answers.items()}
    true = {video: events_of(frames) for video, frames in truth.items()}
    for threshold, value in f1_scores(predicted, true, (0.1, 0.25, 0.5)).items():
        assert value == pytest.approx(frame_f1([(answers[v], truth[v]) for v in truth], threshold), abs=1e-12)
    for video in truth:
        equal = sum(a == b for a, b in zip(answers[video], truth[video]))
        assert correct_seconds(predicted[video], true[video], 0, 80) == pytest.approx(equal, abs=1e-9)


def distance(a, b):
    """Levenshtein distance by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


@pytest.mark.parametrize("seed", range(20))
def test_edit_score_is_one_minus_the_normalized_levenshtein_distance(seed):
    rng = np.random.default_rng(seed)
    a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2))
    assert edit_score(a, b) == pytest.approx(1 - distance(a, b) / max(len(a), len(b), 1))
    assert edit_score(a, a) == 1.0


def test_the_edit_score_of_videos_is_their_mean_and_takes_segments_in_order():
    truth = {"v": [Event(5, 6, "b"), Event(0, 1, "a")], "w": [Event(0, 1, "a")], "x": []}
    predicted = {"v": [Event(0, 2, "a"), Event(3, 9, "b")], "w": [], "x": []}
    assert mean_edit_score(predicted, truth) == pytest.approx((1 + 0 + 1) / 3)


def test_where_predictions_overlap_the_highest_score_counts_and_any_label_of_the_truth_is_right():
    truth = [Event(0, 10, "a"), Event(5, 10, "b")]
    predicted = [Event(0, 10, "a", 0.5), Event(5, 8, "b", 0.9), Event(8, 12, "c", 0.4)]
    assert correct_seconds(predicted, truth, 0, 20) == pytest.approx(5 + 3 + 2 + 8)
    assert correct_seconds(predicted, truth, 9, 11) == pytest.approx(1)


def test_nothing_against_nothing_has_no_f1_and_full_agreement_over_time():
    assert np.isnan(f1_scores({"v": []}, {"v": []}, [0.5])[0.5])
    assert correct_seconds([], [], 0.0, 3.0) == 3.0
    assert average_precisions({"v": [Event(0, 1)]}, {"v": []}) == {}
