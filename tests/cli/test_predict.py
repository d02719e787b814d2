"""`vivit predict` on folders, with tables, thresholds and segments, and its exit codes."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

import vivit as package
from vivit.cli.predict import is_demo
from vivit.data.tools.synthetic import NOUNS, VERBS, render, write_video

from ..model import tiny
from ..weights.prism import save, their_clip
from ..weights.test_text_tower import save_tokenizer

QUICK = ["--temporal-views", 1, "--spatial-views", 1, "--device", "cpu"]


@pytest.fixture
def videos(tmp_path):
    """a.mp4, deep/er/b.MP4, a folder of images, and files that are no videos."""
    root = tmp_path / "videos"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "frames").mkdir()
    frames = render(0, "val", 0, num_frames=30)[0]
    write_video(root / "a.mp4", frames)
    (root / "deep" / "er" / "b.MP4").write_bytes((root / "a.mp4").read_bytes())
    for i, frame in enumerate(np.asarray(frames)[:8]):
        Image.fromarray(np.asarray(frame)).save(root / "frames" / f"{i:03}.png")
    (root / "notes.txt").write_text("no video")
    return root


def test_folders_are_searched_and_a_video_named_twice_is_predicted_once(vivit, weights, videos):
    twice = f"{videos}/deep/../a.mp4"
    code, out, err = vivit("predict", weights, videos, videos / "a.mp4", twice, "--json", *QUICK)
    assert (code, err) == (0, "")
    paths = [json.loads(line)["path"] for line in out.splitlines()]
    assert paths == [f"{videos}/a.mp4", f"{videos}/deep/er/b.MP4", f"{videos}/frames"]
    code, out, _ = vivit("predict", weights, videos / "frames", *QUICK)
    assert (code, out.splitlines()[0]) == (0, f"{videos}/frames")


def test_the_table_has_a_row_per_video_also_for_those_that_cannot_be_read(vivit, weights, videos, tmp_path):
    (videos / "broken.mp4").write_bytes(b"no video")
    code, out, err = vivit("predict", weights, videos, "--csv", tmp_path / "table.csv", *QUICK)
    assert (code, out) == (1, "")
    assert "broken.mp4" in err
    assert f"3 of 4 videos written to {tmp_path / 'table.csv'}" in err
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "label", "label_probability", "error"]
    model = package.from_pretrained(weights)
    for row in rows:
        if row["path"].endswith("broken.mp4"):
            assert (row["label"], row["label_probability"]) == ("", "")
            assert "broken.mp4" in row["error"]
            continue
        best = package.predict(model, row["path"], temporal_views=1, spatial_views=1).classes["label"][0]
        assert (row["label"], row["error"]) == (best[0], "")
        assert float(row["label_probability"]) == pytest.approx(best[1], abs=1e-6)


def test_below_the_threshold_an_answer_is_unsure(vivit, weights, videos, tmp_path):
    clip, table = videos / "a.mp4", tmp_path / "table.csv"
    [(_, best), *_] = package.predict(
        package.from_pretrained(weights), clip, temporal_views=1, spatial_views=1
    ).classes["label"]
    for threshold, is_unsure in ((best - 0.01, False), (best + 0.01, True)):
        options = ["--threshold", threshold, *QUICK]
        assert ("unsure: no class reaches" in vivit("predict", weights, clip, *options)[1]) == is_unsure
        answer = json.loads(vivit("predict", weights, clip, "--json", *options)[1])
        assert answer["unsure"] == (["label"] if is_unsure else [])
        vivit("predict", weights, clip, "--csv", table, *options)
        [row] = csv.DictReader(table.read_text().splitlines())
        assert (row["label"] == "unsure") == is_unsure


def test_start_and_end_choose_a_segment(vivit, weights, videos):
    options = ["--start", 0.5, "--end", 0.9, "--json", *QUICK]
    answer = json.loads(vivit("predict", weights, videos / "a.mp4", *options)[1])
    model, views = package.from_pretrained(weights), {"temporal_views": 1, "spatial_views": 1}
    expected = package.predict(model, videos / "a.mp4", start=0.5, end=0.9, **views).to_dict()
    assert answer == expected
    assert answer != package.predict(model, videos / "a.mp4", **views).to_dict()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--start", "-1"], "start is -1.0"),
        (["--start", "2", "--end", "1"], "end is 1.0; it must be after start=2.0"),
        (["--threshold", "2"], "threshold is 2.0"),
        (["--csv", "nowhere/table.csv"], "nowhere does not exist; --csv takes a file"),
        (["--csv", "."], "is a folder; --csv takes the name of a file"),
    ],
)
def test_a_wrong_option_is_refused_before_the_weights_are_loaded(options, said, vivit, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = vivit("predict", "no/such/weights", videos, *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())


def test_missing_files_and_folders_without_videos_are_named_before_the_weights_are_loaded(vivit, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = vivit("predict", "no/such/weights", tmp_path / "a.mp4", tmp_path / "empty")
    assert (code, out) == (2, "")
    assert f"{tmp_path}/a.mp4: does not exist" in err
    assert f"{tmp_path}/empty: no video in this folder" in err
    assert "no/such/weights" not in err


def test_weights_that_do_not_exist_are_an_error_of_one_line(vivit, videos):
    code, out, err = vivit("predict", "no/such/folder", videos / "a.mp4")
    assert (code, out) == (2, "")
    assert "no/such/folder" in err
    assert len(err.splitlines()) == 1


def test_weights_of_the_demo_say_that_their_classes_are_the_demos(vivit, videos, tmp_path):
    model = tiny.model(classes={"noun": NOUNS, "verb": tuple(sorted(VERBS))})
    weights = model.save_pretrained(tmp_path / "demo")
    code, _, err = vivit("predict", weights, videos / "a.mp4", *QUICK)
    assert code == 0
    assert "these are the classes of the demo's synthetic videos" in err
    assert not is_demo({"noun": ("cat", "dog")})


def test_a_terminal_gets_a_bar_and_a_file_only_results(vivit, weights, videos, monkeypatch):
    answers = vivit("predict", weights, videos, *QUICK)[1]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    code, out, err = vivit("predict", weights, videos, *QUICK)
    assert (code, out) == (0, answers)
    assert "predicting" in err


def test_classes_in_words_need_no_training(vivit, videos, tmp_path):
    folder = save_tokenizer(save(their_clip({"max_position_embeddings": 12}), tmp_path / "prism", "Hugging Face"))
    classes = ["a person runs", "a person jumps"]
    code, out, _ = vivit("predict", folder, videos / "a.mp4", "--classes", *classes, "--json", *QUICK)
    assert code == 0
    answer = json.loads(out)["classes"]["label"]
    assert {row["name"] for row in answer} == set(classes)
    model = package.zero_shot(folder, classes)
    expected = package.predict(model, videos / "a.mp4", temporal_views=1, spatial_views=1).classes["label"]
    assert [(row["name"], row["probability"]) for row in answer] == expected
    other = tiny.model().save_pretrained(tmp_path / "other")
    code, _, err = vivit("predict", other, videos / "a.mp4", "--classes", *classes)
    assert code == 2
    assert "no text tower" in err
