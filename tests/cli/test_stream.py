"""`vivit stream`: its lines are the rows of the timeline, and an address is refused before anything is loaded."""

import json

import numpy as np
import pytest

import vivit as package

from ..data.videos import counter_frames, write_video
from ..model import tiny


def test_the_lines_have_the_probabilities_of_the_timeline(vivit, tmp_path):
    classes = {"noun": ("a", "b"), "verb": ("c", "d", "e")}
    weights = tiny.model(classes=classes).save_pretrained(tmp_path / "weights")
    path = write_video(tmp_path / "v.mp4", counter_frames(60))
    code, out, err = vivit("stream", weights, path, "--hop", 0.3, "--top-k", 2, "--device", "cpu")
    assert code == 0
    assert "rows; latency p50" in err
    expected = package.timeline(str(weights), path, hop=0.3)
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == len(expected)
    for i, line in enumerate(lines):
        assert line["source"] == str(path)
        assert line["center"] == pytest.approx(expected.center[i], abs=1e-6)
        for label_set, names in classes.items():
            probabilities = expected.probabilities(label_set)[i]
            best = np.argsort(-probabilities)[:2]
            assert [one["name"] for one in line["classes"][label_set]] == [names[j] for j in best]
            assert [one["probability"] for one in line["classes"][label_set]] == pytest.approx(probabilities[best])


def test_lines_of_several_sources_say_which(vivit, tmp_path):
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    paths = [str(write_video(tmp_path / name, counter_frames(n))) for name, n in (("a.mp4", 60), ("b.mp4", 30))]
    code, out, err = vivit("stream", weights, *paths, "--hop", 0.3, "--events", "--device", "cpu")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    for path in paths:
        _, alone, _ = vivit("stream", weights, path, "--hop", 0.3, "--events", "--device", "cpu")
        expected = [json.loads(line) for line in alone.splitlines()]
        mine = [line for line in lines if line["source"] == path]
        assert [line.get("center") for line in mine] == [line.get("center") for line in expected]
        assert sum("event" in line for line in mine) == sum("event" in line for line in expected)
        assert f"{path}: {sum('center' in line for line in mine)} rows; latency p50" in err
    none = tmp_path / "none.mp4"
    code, out, err = vivit("stream", weights, *paths, paths[0], "--device", "cpu")
    assert (code, "is given more than once" in err) == (2, True)
    code, out, err = vivit("stream", weights, *paths, none, "--device", "cpu")
    assert (code, "none.mp4: no such file" in err) == (2, True)


def test_wrong_arguments_are_errors_before_the_weights_are_loaded(vivit):
    for words, message in (
        ([], "no source to read; usage: vivit stream WEIGHTS SOURCE"),
        (["rtsp://127.0.0.1/x"], "--protocol rtsp"),
        (["http://127.0.0.1/x.ts", "--protocol", "rtsp"], "--protocol http, not rtsp"),
        (["file.mp4", "--hop", 0], "hop is 0"),
        (["file.mp4", "--give-up", -1], "give_up is -1"),
    ):
        code, _, err = vivit("stream", "no_weights", *words)
        assert (code, message in err) == (2, True), err


def test_a_file_that_is_none_is_an_error(vivit, tmp_path):
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    code, out, err = vivit("stream", weights, tmp_path / "none.mp4", "--device", "cpu")
    assert (code, out) == (2, "")
    assert "none.mp4: no such file" in err
