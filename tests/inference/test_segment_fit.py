"""Thresholds fitted on labelled videos, and the numbers of `vivit timeline --truth`."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from vivit.data.sample import Sample
from vivit.engine.temporal_metrics import f1_scores
from vivit.errors import DataError
from vivit.inference.segment_fit import fit, load_params
from vivit.inference.segments import SegmentParams, Thresholds, segments
from vivit.inference.timeline_scores import (
    SCORES,
    format_scores,
    match_truth,
    read_truth,
    score_segments,
    score_timelines,
)

from .test_segments import timeline_of

LABELS = ["rest", "jump", "run"]


def labelled(seed, path, low=0.3, n=120):
    """A timeline of hop 0.5 s and its truth: weak, flickering scores inside the true segments, spikes outside."""
    rng = np.random.default_rng(seed)
    scores = np.tile([0.9, 0.05, 0.05], (n, 1)) + rng.uniform(0, 0.02, (n, 3))
    truth, row = [], int(rng.integers(3, 8))
    while row + 14 < n:
        length, label = int(rng.integers(6, 14)), int(rng.integers(1, 3))
        inside = np.where(rng.uniform(size=length) < 0.3, low * 0.7, low * 1.3)
        scores[row : row + length, label] = inside
        scores[row : row + length, 0] = 1 - inside
        truth.append(Sample(str(path), {"label": LABELS[label]}, row * 0.5, (row + length) * 0.5))
        row += length + int(rng.integers(6, 16))
        if row < n:
            scores[row - 3, :2] = 0.1, 0.9
    return timeline_of(scores / scores.sum(axis=1, keepdims=True), classes={"label": LABELS}, path=str(path)), truth


@pytest.fixture(scope="module")
def data():
    pairs = [labelled(seed, f"/videos/{seed}.mp4") for seed in range(4)]
    return [timeline for timeline, _ in pairs], [sample for _, rows in pairs for sample in rows]


def test_the_fit_finds_what_the_defaults_miss_and_says_how_good_it_is(data):
    timelines, truth = data
    found = fit(timelines, truth, background=["rest"], progress=False)
    assert found.score == "f1@50"
    assert found.value > 0.95
    assert found.default_value < 0.5
    again = score_timelines(timelines, truth, params=found.params)
    assert again["f1@50"] == found.value  # what the command reads from the file gives the number that it printed
    default = score_timelines(timelines, truth, params=SegmentParams(background=("rest",)))
    assert default["f1@50"] == found.default_value
    assert fit(timelines, truth, background=["rest"], progress=False) == found


@pytest.mark.parametrize("score", [name for name in SCORES if name != "f1@50"])
def test_the_fit_is_the_best_of_its_grid_for_each_score(data, score):
    timelines, truth = data[0][:1], data[1]
    found = fit(timelines, truth, background=["rest"], score=score, progress=False)
    median = np.median([s.end - s.start for s in truth if s.path == timelines[0].path])
    best = -1.0
    for on in (0.2, 0.4, 0.5, 0.8):
        for share in (0, 0.25, 0.5):
            length = round(share * median, 3)
            params = SegmentParams(Thresholds(on, on * 0.5, length, length), background=("rest",))
            best = max(best, score_timelines(timelines, truth, params=params)[score])
    assert found.value >= best
    assert found.value == score_timelines(timelines, truth, params=found.params)[score]


def test_classes_with_enough_segments_get_thresholds_of_their_own(data):
    timelines, truth = data
    together = fit(timelines, truth, background=["rest"], progress=False)
    alone = fit(timelines, truth, background=["rest"], per_class=True, progress=False)
    assert set(alone.params.classes) == {"jump", "run"}
    assert alone.value >= together.value
    few = [s for s in truth if s.labels["label"] == "run"] + [s for s in truth if s.labels["label"] == "jump"][:4]
    assert set(fit(timelines, few, per_class=True, progress=False).params.classes) == {"run"}
    with pytest.raises(ValueError, match="edit is of all classes together"):
        fit(timelines, truth, per_class=True, score="edit")


def test_a_fit_is_a_small_file_that_gives_back_the_thresholds(data, tmp_path):
    found = fit(*data, background=["rest"], per_class=True, progress=False)
    found.save(tmp_path / "segments.json")
    assert load_params(tmp_path / "segments.json") == found.params
    assert json.loads((tmp_path / "segments.json").read_text())["fitted"]["value"] == found.value
    for text, message in (
        ("{}", "no entry 'segments'"),
        ("[", "no thresholds"),
        ('{"segments": {"on": 1}}', "unknown"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=message):
            load_params(tmp_path / "bad.json")
    with pytest.raises(DataError, match="no thresholds of segments"):
        load_params(tmp_path / "missing.json")


def test_what_cannot_be_fitted_is_refused(data):
    timelines, truth = data
    with pytest.raises(ValueError, match="unknown score 'f1@51'; did you mean 'f1@50'"):
        fit(timelines, truth, score="f1@51")
    with pytest.raises(DataError, match="no segment besides background"):
        fit(timelines, truth, background=LABELS)
    with pytest.raises(DataError, match=r"no row of the ground truth is about /videos/0.mp4 or the other 3 videos"):
        fit(timelines, [Sample("/elsewhere/0.mp4", {"label": "run"}, 0.0, 1.0)])


# Scores


def test_segments_equal_to_the_truth_score_one(data):
    _, rows, _ = match_truth(*data)
    spans = {t.path: (float(t.start[0]), float(t.end[-1])) for t in data[0]}
    scores = score_segments(rows, rows, spans)
    assert all(scores[name] == pytest.approx(1.0) for name in SCORES)
    assert set(scores["map"].values()) == {1.0}
    nothing = score_segments({path: [] for path in rows}, rows, spans)
    assert all(nothing[name] == 0.0 for name in SCORES if name != "accuracy")
    covered = sum(s.length for several in rows.values() for s in several) / (4 * 60)
    assert nothing["accuracy"] == pytest.approx(1 - covered)


def test_the_numbers_are_those_of_the_segments(data):
    timelines, truth = data
    params = SegmentParams(Thresholds(0.2, 0.2, 0.0, 1.0), background=("rest",))
    scores = score_timelines(timelines, truth, params=params)
    found = {t.path: segments(t, "label", params) for t in timelines}
    _, rows, _ = match_truth(timelines, truth)
    assert scores["f1@50"] == f1_scores(found, rows, [0.5])[0.5]
    assert scores["segments"] == (sum(map(len, found.values())), len(truth))
    assert scores["average_map"] == pytest.approx(sum(scores["map"].values()) / 10)
    assert scores["map"][0.5] == pytest.approx(np.mean([row["ap@50"] for row in scores["classes"].values()]))
    assert sum(row["truth"] for row in scores["classes"].values()) == len(truth)


def test_the_table_shows_the_numbers_and_what_is_left_out(data):
    timelines, truth = data
    odd = [Sample(timelines[0].path, {"label": "fly\n"}, 1.0, 2.0), Sample("/videos/gone.mp4", {"label": "run"})]
    scores = score_timelines(timelines, [*truth, *odd], params=SegmentParams(Thresholds(0.2, 0.2, 0.0, 1.0)))
    assert scores["missing"] == ["/videos/gone.mp4"]
    assert scores["unknown_classes"] == ["fly\n"]
    text = format_scores(scores)
    for name in ("f1@10", "f1@25", "f1@50", "edit", "accuracy", "average_map"):
        assert f"{scores[name]:.1%}" in text
    assert "/videos/gone.mp4" in text
    assert "classes that the model does not have: fly\\n" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    lowest = text.splitlines()[-3:]
    assert lowest[0].split()[:2] == ["fly\\n", "0.0%"]
    assert "… and 2 classes of higher precision" in format_scores(scores, most=1)


def test_a_row_without_times_lasts_as_long_as_its_video(data):
    timeline = data[0][0]
    _, rows, _ = match_truth([timeline], [Sample(timeline.path, {"label": "run"})])
    assert [(s.start, s.end) for s in rows[timeline.path]] == [(0.0, 60.0)]


def test_label_sets_are_matched_by_name_or_named(data):
    timeline = data[0][0]
    action = [Sample(timeline.path, {"action": "run"}, 0.0, 1.0)]
    assert match_truth([timeline], action)[0] == "label"  # one each
    two = [Sample(timeline.path, {"verb": "run", "noun": "dog"}, 0.0, 1.0)]
    with pytest.raises(DataError, match="the model has the label sets label, the ground truth verb, noun"):
        match_truth([timeline], two)
    with pytest.raises(DataError, match="unknown label set 'lable'; did you mean 'label'"):
        match_truth([timeline], two, "lable")
    with pytest.raises(DataError, match="the ground truth has no column 'label'"):
        match_truth([timeline], two, "label")


def test_the_truth_is_read_from_a_table_of_one_split_or_all(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    table = tmp_path / "labels.csv"
    table.write_text("path,start,end,label,split\na.mp4,0,1,run,train\nb.mp4,1,2.5,jump,val\n")
    assert [(s.start, s.end, s.labels) for s in read_truth(table, "val")] == [(1.0, 2.5, {"label": "jump"})]
    assert len(read_truth(table)) == 2
    with pytest.raises(DataError, match="no row has split 'test'; there are train, val"):
        read_truth(table, "test")
    with pytest.raises(DataError, match="cannot be read"):
        read_truth(tmp_path / "none.csv")


def test_videos_without_truth_and_without_segments_have_no_numbers_but_no_error(data):
    timeline = data[0][0]
    scores = score_segments({timeline.path: []}, {timeline.path: []}, {timeline.path: (0.0, 60.0)})
    assert math.isnan(scores["average_map"])
    assert scores["accuracy"] == 1.0


def test_the_truth_outside_of_a_part_of_a_video_is_not_missed(data):
    """The truth is what is found in the whole video: in a part, what is found there is all of it."""
    whole = data[0][0]
    params = SegmentParams(Thresholds(on=0.2, off=0.2, min_length=0.0, merge_gap=0.0), background=("rest",))
    found = segments(whole, "label", params)
    truth = [Sample(whole.path, {"label": one.label}, one.start, one.end) for one in found]
    inside = slice(30, 80)
    cut = {name: getattr(whole, name)[inside] for name in ("start", "end", "center", "padded", "logits")}
    part = replace(whole, **cut, reaches_end=False)
    scores = score_timelines([part], truth, params=params)
    assert 2 < scores["segments"][1] < len(truth) - 2
    for name in SCORES:
        assert scores[name] == pytest.approx(1)
    assert fit([part], truth, background=["rest"], progress=False).value > 0.9
