"""The made world: an observer who measures pixels reads the verb off the order of the frames, and off nothing else."""

import csv
from collections import Counter

import av
import numpy as np
import pytest

from vivit.data.tools import synthetic
from vivit.data.tools.synthetic import NOUNS, VERBS, render, scene, track, write_dataset

OPPOSITE = dict(zip(VERBS, (VERBS[i ^ 1] for i in range(len(VERBS)))))
PAIRS = len(NOUNS) * len(VERBS)
BARS = [PAIRS * k + NOUNS.index("bar") * len(VERBS) + v for k in range(8) for v in range(len(VERBS))]  # 8 per verb
BACKGROUND_LIMIT = 110  # shapes have a channel at 255


def observed_verb(frames):
    """The verb of a video of a bar, from its pixels: centroid, area and long axis, and their usual step per frame."""
    height, states = frames.shape[1], []
    for frame in frames:
        y, x = np.nonzero(frame.max(axis=-1) > BACKGROUND_LIMIT)
        (xx, xy), (_, yy) = np.cov(x, y)
        states.append((x.mean() / height, y.mean() / height, np.log(len(x)) / 2, np.arctan2(2 * xy, xx - yy) / 2))
    steps = np.diff(np.array(states), axis=0)
    steps[:, 3] = (steps[:, 3] + np.pi / 2) % np.pi - np.pi / 2  # an axis looks the same after half a turn
    usual = np.median(steps, axis=0) / (0.045, 0.045, np.log(1.06), np.deg2rad(16))
    way = np.abs(usual).argmax()
    names = (("right", "left"), ("down", "up"), ("towards", "away"), ("clockwise", "counter-clockwise"))
    return names[way][int(usual[way] < 0)]


@pytest.fixture(scope="module")
def bars():
    return [(frames, params["verb"]) for frames, params in (render(0, "val", i) for i in BARS)]


def test_a_video_is_a_pure_function_of_seed_split_and_index():
    frames, params = render(3, "train", 5)
    again, params_again = render(3, "train", 5)
    assert params == params_again
    assert np.array_equal(frames, again)
    for other in ((4, "train", 5), (3, "val", 5), (3, "train", 5 + PAIRS)):
        assert not np.array_equal(frames, render(*other)[0])


def test_frames_have_the_size_asked_for():
    frames, _ = render(0, "val", 0, num_frames=14, size=(40, 72))
    assert frames.shape == (14, 40, 72, 3)
    assert frames.dtype == np.uint8


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="'test'.*train, val"):
        render(0, "test", 0)


def test_every_run_of_videos_holds_each_pair_of_labels_once():
    for start in (0, 7):
        run = [scene(0, "train", i, num_frames=40) for i in range(start, start + PAIRS)]
        assert Counter((s["noun"], s["verb"]) for s in run) == Counter((n, v) for n in NOUNS for v in VERBS)


def test_the_splits_share_no_shape_no_place_and_no_background():
    def used(split):
        scenes = [scene(0, split, i, num_frames=40) for i in range(20 * PAIRS)]
        assert len({s["texture"] for s in scenes}) == len(scenes)
        shapes = {(s["noun"], s["hue"]) for s in scenes}
        return shapes, {place for s in scenes for place in s["places"]}, {s["texture"] for s in scenes}

    for train, val in zip(used("train"), used("val")):
        assert len(train) > 20
        assert not train & val


def test_an_observer_of_pixels_sees_the_verb(bars):
    assert [observed_verb(frames) for frames, _ in bars] == [verb for _, verb in bars]


def test_played_backwards_every_verb_is_its_opposite(bars):
    assert [observed_verb(frames[::-1]) for frames, _ in bars] == [OPPOSITE[verb] for _, verb in bars]


def test_in_random_order_the_observer_guesses(bars):
    rng = np.random.default_rng(0)
    right = [observed_verb(rng.permutation(frames)) == verb for frames, verb in bars for _ in range(4)]
    assert np.mean(right) < 0.25  # 1/8 is chance


def test_where_the_shape_is_does_not_tell_how_it_moves():
    """Naive Bayes on x, y, size and angle of one frame, and of 16 frames as a heap; chance is 1/8."""

    def tracks(split, count):
        scenes = [scene(0, split, i, num_frames=40) for i in range(count)]
        return np.stack([track(s, 40)[:32:2] for s in scenes]), np.array([VERBS.index(s["verb"]) for s in scenes])

    seen, verbs = tracks("train", 50 * PAIRS)
    new, truth = tracks("val", 25 * PAIRS)
    score = np.zeros((*new.shape[:2], len(VERBS)))
    for way in range(seen.shape[-1]):
        edges = np.quantile(seen[..., way], np.linspace(0, 1, 13)[1:-1])
        for verb in range(len(VERBS)):
            counts = np.bincount(np.digitize(seen[verbs == verb, :, way].ravel(), edges), minlength=12) + 1
            score[..., verb] += np.log(counts / counts.sum())[np.digitize(new[..., way], edges)]
    assert np.mean(score.argmax(-1) == truth[:, None]) < 0.18
    assert np.mean(score.sum(1).argmax(-1) == truth) < 0.25


def rows(table):
    return list(csv.DictReader(table.read_text().splitlines()))


def stamps(table):
    return {path.name: path.stat().st_mtime_ns for path in table.parent.rglob("*.*")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("made"), seed=1, train=PAIRS, val=5)


def test_the_table_lists_every_video_with_the_labels_it_was_rendered_with(dataset):
    listed = rows(dataset)
    assert list(listed[0]) == ["path", "noun", "verb", "split"]
    assert Counter(row["split"] for row in listed) == {"train": PAIRS, "val": 5}
    assert len({row["path"] for row in listed}) == len(listed)
    for split in ("train", "val"):
        for index, row in enumerate(row for row in listed if row["split"] == split):
            made = scene(1, split, index, num_frames=40)
            assert (row["noun"], row["verb"]) == (made["noun"], made["verb"])
            assert (dataset.parent / row["path"]).is_file()


def test_the_files_are_h264_and_look_like_what_was_rendered(dataset):
    path = next(row["path"] for row in rows(dataset) if row["split"] == "val")
    with av.open(dataset.parent / path) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    rendered, _ = render(1, "val", 0)
    assert decoded.shape == rendered.shape
    error = np.mean((decoded.astype(float) - rendered) ** 2)
    assert 10 * np.log10(255**2 / error) > 28  # dB


def test_processes_write_the_same_files(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "WORTH_PROCESSES", 2)
    table = write_dataset(tmp_path, seed=1, train=3, val=1)
    assert rows(table) == [row for row in rows(dataset) if row["path"] in {r["path"] for r in rows(table)}]
    for row in rows(table):
        assert (tmp_path / row["path"]).read_bytes() == (dataset.parent / row["path"]).read_bytes()


def test_a_second_call_writes_nothing(dataset):
    before = stamps(dataset)
    assert write_dataset(dataset.parent, seed=1, train=PAIRS, val=5) == dataset
    assert stamps(dataset) == before


def test_an_interrupted_run_is_done_again_and_other_settings_write_anew(tmp_path):
    table = tmp_path / "labels.csv"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "train-0000.mp4").write_bytes(b"half a video")  # the table is written last
    assert write_dataset(tmp_path, seed=1, train=2, val=1) == table
    with av.open(tmp_path / "videos" / "train-0000.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 40
    write_dataset(tmp_path, seed=1, train=3, val=1)
    assert len(rows(table)) == 4
