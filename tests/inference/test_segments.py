"""Segments from scores: against a naive reading of the definition, and row by row against all at once."""

from itertools import product

import numpy as np
import pytest

from vivit.inference.segments import (
    Segment,
    SegmentParams,
    SegmentStream,
    Thresholds,
    class_probabilities,
    in_order,
    label_sets,
    segments,
)
from vivit.inference.timeline import Timeline


def timeline_of(probabilities, *, hop=0.5, window=2.0, classes=None, path="a.mp4"):
    """A timeline whose softmax gives the rows of `probabilities` (n, k) of one label set, or a list of several."""
    parts = probabilities if isinstance(probabilities, list) else [probabilities]
    parts = [np.asarray(part, dtype=np.float64) for part in parts]
    classes = classes or {"label": [f"c{j}" for j in range(parts[0].shape[1])]}
    center = (np.arange(len(parts[0])) + 0.5) * hop
    length = len(center) * hop
    return Timeline(
        path=path,
        classes=classes,
        start=np.clip(center - window / 2, 0, length),
        end=np.clip(center + window / 2, 0, length),
        center=center,
        padded=(center < window / 2) | (center > length - window / 2),
        logits=np.concatenate([np.log(np.maximum(part, 1e-30)) for part in parts], axis=1).astype(np.float32),
        hop=hop,
    )


def two_classes(first):
    """(n,) → (n, 2): probabilities of class c0 and of the rest."""
    return np.stack([first, 1 - np.asarray(first)], axis=1)


def spans(found, label="c0"):
    return [(s.start, s.end) for s in found if s.label == label]


def naive_segments(column, starts, ends, t):
    """Grow from each row that reaches `on`, join by time, drop the short: by loops over rows."""
    marked = set()
    for i in range(len(column)):
        if column[i] >= t.on:
            for step in (-1, 1):
                j = i
                while 0 <= j < len(column) and column[j] >= t.off:
                    marked.add(j)
                    j += step
    groups = []
    for row in sorted(marked):
        if groups and (groups[-1][-1] == row - 1 or starts[row] - ends[groups[-1][-1]] <= t.merge_gap + 1e-6):
            groups[-1].append(row)
        else:
            groups.append([row])
    found = []
    for group in groups:
        first, last = group[0], group[-1]
        if ends[last] - starts[first] >= t.min_length - 1e-6:
            total = 0.0
            for row in range(first, last + 1):
                total += column[row]
            found.append((starts[first], ends[last], total / (last - first + 1)))
    return found


def random_timeline(seed, n=120, k=5):
    """Scores that wander, so that runs of all lengths and gaps occur."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(n, k)), axis=0) + rng.normal(size=(n, k))
    powers = np.exp(1.5 * walk)
    return timeline_of(powers / powers.sum(axis=1, keepdims=True), hop=rng.choice([0.1, 1 / 3, 0.64, 2.0]))


PARAMS = [
    SegmentParams(Thresholds(on, off, length, gap))
    for (on, off), length, gap in product([(0.5, 0.3), (0.9, 0.1), (0.2, 0.2)], [0.0, 1.5], [0.0, 0.4, 3.0])
]


@pytest.mark.parametrize("seed", range(6))
def test_segments_are_those_of_the_definition(seed):
    timeline = random_timeline(seed)
    starts = np.maximum(timeline.center - timeline.hop / 2, 0)
    ends = timeline.center + timeline.hop / 2
    ends[-1] = timeline.end[-1]
    number = 0
    for params in PARAMS:
        expected = [
            Segment(float(row[0]), float(row[1]), name, float(row[2]), "label")
            for name, column in zip(timeline.classes["label"], timeline.probabilities("label").T)
            for row in naive_segments(column, starts, ends, params.default)
        ]
        assert segments(timeline, "label", params) == in_order(expected)
        number += len(expected)
    assert number > 50


def stream_of(timeline, params):
    stream = SegmentStream(timeline.classes["label"], "label", hop=timeline.hop, params=params)
    found = []
    rows = zip(timeline.center, timeline.start, timeline.end, timeline.probabilities("label"))
    for center, start, end, probabilities in rows:
        found.append(stream.push(float(center), float(start), float(end), probabilities))
    return found, stream


@pytest.mark.parametrize("seed", range(30))
def test_a_stream_gives_the_same_segments_to_the_bit(seed):
    timeline = random_timeline(seed)
    own = SegmentParams(Thresholds(0.4, 0.2, 0.5, 1.0), {"c1": Thresholds(0.7, 0.7, 0.0, 0.0)}, background=("c2",))
    number = 0
    for params in (*PARAMS, own):
        found, stream = stream_of(timeline, params)
        assert in_order([*sum(found, []), *stream.finish()]) == segments(timeline, "label", params)
        assert stream.current() == []
        number += len(sum(found, []))
    assert number >= 20  # most are complete before the end


def test_a_stream_completes_a_segment_as_soon_as_no_later_row_can_join_it():
    params = SegmentParams(Thresholds(0.8, 0.4, 0.0, 1.0))
    scores = [0.1, 0.5, 0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]  # on from 0.5 s to 2 s; a gap of 1 s may still be joined
    found, _ = stream_of(timeline_of(two_classes(scores)), SegmentParams(params.default, background=("c1",)))
    assert [len(rows) for rows in found] == [0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert spans(found[7]) == [(0.5, 2.0)]


def test_the_current_segments_of_a_stream_grow():
    stream = SegmentStream(["a", "b"], "label", hop=1.0, params=SegmentParams(Thresholds(0.8, 0.4, 2.0, 0.0)))
    seen = []
    for i, p in enumerate([0.5, 0.9, 0.6, 0.1]):
        stream.push(i + 0.5, i - 1.0, i + 2.0, np.array([p, 0.0]))
        seen.append(spans(stream.current(), "a"))
    assert seen == [[], [(0.0, 2.0)], [(0.0, 3.0)], [(0.0, 3.0)]]


def test_a_run_starts_where_it_reaches_off_and_counts_only_if_it_reaches_on():
    timeline = timeline_of(two_classes([0.1, 0.4, 0.9, 0.4, 0.1, 0.4, 0.4, 0.1]))
    params = SegmentParams(Thresholds(0.8, 0.35, 0.0, 0.0), background=("c1",))
    assert spans(segments(timeline, "label", params)) == [(0.5, 2.0)]


def test_gaps_are_joined_before_short_segments_are_dropped():
    timeline = timeline_of(two_classes([0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1]))
    found = {
        (gap, length): spans(segments(timeline, "label", SegmentParams(Thresholds(0.8, 0.8, length, gap))))
        for gap in (0.0, 0.5)
        for length in (0.5, 1.5)
    }
    assert found[0.0, 0.5] == [(0.0, 0.5), (1.0, 1.5), (3.0, 3.5)]
    assert found[0.0, 1.5] == []
    assert found[0.5, 0.5] == [(0.0, 1.5), (3.0, 3.5)]
    assert found[0.5, 1.5] == [(0.0, 1.5)]


def test_classes_may_have_thresholds_of_their_own_and_background_has_no_segments():
    timeline = timeline_of(np.tile([0.5, 0.3, 0.2], (4, 1)))
    params = SegmentParams(Thresholds(0.4, 0.4), {"c1": Thresholds(0.25, 0.25)}, background=("c0",))
    assert [s.label for s in segments(timeline, "label", params)] == ["c1"]
    assert [s.label for s in segments(timeline, "label", SegmentParams(Thresholds(0.19, 0.19)))] == ["c0", "c1", "c2"]


def test_several_label_sets_have_segments_of_their_combinations():
    verb, noun = np.random.default_rng(0).dirichlet([0.3] * 4, 200), np.random.default_rng(1).dirichlet([0.3] * 3, 200)
    classes = {"verb": ["take", "put", "cut", "wash"], "noun": ["cup", "knife", "sink"]}
    timeline = timeline_of([verb, noun], classes=classes)
    assert label_sets(timeline) == ["verb", "noun", "action"]
    params = SegmentParams(Thresholds(0.4, 0.3, 0.0, 0.0), background=("wash",))
    joint = np.einsum("ni,nj->nij", timeline.probabilities("verb"), timeline.probabilities("noun")).reshape(200, 12)
    names = [f"{v} + {n}" for v in classes["verb"] for n in classes["noun"]]
    flat = timeline_of(joint, classes={"action": names})
    expected = [s for s in segments(flat, "action", SegmentParams(params.default)) if not s.label.startswith("wash")]
    found = segments(timeline, "action", params)
    assert [(s.start, s.end, s.label) for s in found] == [(s.start, s.end, s.label) for s in expected]
    np.testing.assert_allclose([s.score for s in found], [s.score for s in expected], rtol=1e-5)
    assert len(found) > 20
    kept, _ = class_probabilities(timeline, "action", 0.4)
    assert set(kept) == {name for name, column in zip(names, joint.T) if column.max() >= 0.4}


def test_rows_without_a_finite_score_are_off():
    timeline = timeline_of(two_classes([0.9, 0.9, 0.9, 0.9]))
    timeline.logits[1] = np.nan
    assert spans(segments(timeline, "label", SegmentParams(Thresholds(0.8, 0.8, 0.0, 0.0)))) == [(0.0, 0.5), (1.0, 2.0)]


def test_a_timeline_without_rows_has_no_segments():
    assert segments(timeline_of(np.zeros((0, 3))), "label") == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"on": 0.0}, "on is 0.0"),
        ({"on": 0.4, "off": 0.5}, "off is 0.5; it must be above 0 and at most on=0.4"),
        ({"min_length": -1.0}, "min_length is -1.0"),
        ({"merge_gap": float("nan")}, "merge_gap is nan"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(**values)


def test_unknown_names_are_refused_with_what_there_is():
    timeline = timeline_of(two_classes([0.9]))
    with pytest.raises(ValueError, match="unknown label set 'verb'; allowed: label"):
        segments(timeline, "verb")
    with pytest.raises(ValueError, match="segments: unknown class 'c9'; allowed: c0, c1"):
        segments(timeline, "label", SegmentParams(background=("c9",)))
