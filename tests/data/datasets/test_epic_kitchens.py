"""EPIC-Kitchens-100: parts of long videos, which are files or frames; verbs and nouns in the official order."""

import shutil

import numpy as np
import pytest
import torch

from vivit.config import EvalConfig, ModelConfig, Preprocessing
from vivit.data.dataset import candidate_frames, eval_views
from vivit.data.datasets.registry import official_classes, read_samples
from vivit.data.sample_table import encode_labels
from vivit.data.video.frame_folder import open_video
from vivit.errors import DataError

from ..video.test_frame_folder import shown, write_frames
from ..videos import read_all
from .official import FRAMES, RATE, add, epic_kitchens, problems

MODEL = ModelConfig(num_frames=4, image_size=(32, 48), preprocessing=Preprocessing(frame_stride=1, crop_fraction=1))
SINGLE = EvalConfig(temporal_views=1, spatial_views=1)


def to_frames(root, place="{person}/rgb_frames/{video}", name="frame_{:010d}.jpg", **how):
    """Turn the video files into folders of their frames."""
    for path in sorted(root.rglob("*.MP4")):
        folder = root / place.format(person=path.stem.split("_")[0], video=path.stem)
        write_frames(folder, read_all(path), name=name, **how)
        path.unlink()


def test_actions_are_parts_of_videos_with_a_noun_and_a_verb(tmp_path):
    epic_kitchens(tmp_path)
    samples = read_samples("epic_kitchens", str(tmp_path), "train")
    assert [s.labels for s in samples] == [
        {"noun": "plate", "verb": "take"},
        {"noun": "tap", "verb": "put"},
        {"noun": "tap", "verb": "put"},
        {"noun": "plate", "verb": "wash"},
    ]
    assert [(s.start, s.end) for s in samples] == [(0.0, 1.0), (0.5, 1.49), (0.5, 1.49), (0.25, 2.0)]
    assert [s.path.rsplit("/", 1)[1] for s in samples] == ["P01_01.MP4"] * 3 + ["P02_101.MP4"]
    assert samples[1].where == "EPIC_100_train.csv:3"


def test_classes_are_in_the_official_order_nouns_first(tmp_path):
    epic_kitchens(tmp_path)
    classes = official_classes("epic_kitchens", str(tmp_path))
    assert list(classes.items()) == [("noun", ("tap", "spoon", "plate")), ("verb", ("take", "put", "wash"))]
    labels = encode_labels(read_samples("epic_kitchens", str(tmp_path), "validation"), classes)
    assert labels.tolist() == [[0, 0], [2, 1]]  # noun_class, verb_class of the rows


@pytest.mark.parametrize("split", ["train", "val"])
def test_video_files_and_jpeg_frames_give_the_same_frames(split, tmp_path):
    epic_kitchens(tmp_path / "files")
    shutil.copytree(tmp_path / "files", tmp_path / "frames")
    to_frames(tmp_path / "frames", quality=95, subsampling=0)
    files = read_samples("epic_kitchens", str(tmp_path / "files"), split)
    views = [eval_views(s, MODEL, SINGLE) for s in files]
    times = np.arange(FRAMES) / RATE
    for file, of_file, frames in zip(
        files, views, read_samples("epic_kitchens", str(tmp_path / "frames"), split), strict=True
    ):
        clocks = [candidate_frames(open_video(s.path, fps=s.fps), s, MODEL)[0].tolist() for s in (file, frames)]
        assert clocks[0] == clocks[1] == np.flatnonzero((times >= file.start) & (times < file.end)).tolist()
        of_frames = eval_views(frames, MODEL, SINGLE)
        assert shown(of_file[0]) == shown(of_frames[0])
        assert (of_file.float() - of_frames.float()).abs().mean() < 2  # what JPEG loses
    to_frames(tmp_path / "files", name="frame_{:010d}.png")
    for of_file, frames in zip(views, read_samples("epic_kitchens", str(tmp_path / "files"), split), strict=True):
        assert torch.equal(of_file, eval_views(frames, MODEL, SINGLE))  # PNG loses nothing


@pytest.mark.parametrize("place", ["{video}", "rgb/train/{person}/{video}", "{person}/rgb_frames/{video}"])
def test_frames_may_lie_in_any_folder_and_go_before_the_video(place, tmp_path):
    epic_kitchens(tmp_path)
    shutil.copytree(tmp_path / "P01", tmp_path / "again/P01")
    to_frames(tmp_path / "again", place=f"../{place}")
    write_frames(tmp_path / "P01/flow_frames/P01_01/u", np.zeros((2, 8, 8, 3), np.uint8), name="frame_{:010d}.jpg")
    found = {s.path for s in read_samples("epic_kitchens", str(tmp_path), "train")}
    expected = {f"{tmp_path}/{place.format(person='P01', video='P01_01')}", f"{tmp_path}/P02/videos/P02_101.MP4"}
    assert found == expected


@pytest.mark.parametrize(("video", "official"), [("P01_01", 60), ("P02_101", 50)])
def test_the_rate_of_frames_is_the_official_one_unless_there_are_fewer_or_nobody_says(video, official, tmp_path):
    epic_kitchens(tmp_path)
    [path] = tmp_path.rglob(f"{video}.MP4")
    path.unlink()

    def rate(images, *, info=True):
        folder = tmp_path / "frames" / video
        shutil.rmtree(folder, ignore_errors=True)
        write_frames(folder, np.zeros((images, 8, 8, 3), np.uint8), name="frame_{:010d}.jpg")
        if not info:
            (tmp_path / "EPIC_100_video_info.csv").unlink()
        return {s.fps for s in read_samples("epic_kitchens", str(tmp_path), "train") if video in s.path}

    seconds = FRAMES // RATE
    assert rate(official * seconds) == rate(official * seconds + 4) == {official}
    assert rate(RATE * seconds) == rate(RATE * seconds - 1) == {RATE}
    assert rate(RATE * seconds, info=False) == {official}


def test_every_wrong_row_is_listed_at_once_with_file_and_line(tmp_path):
    epic_kitchens(tmp_path)
    row = "{},P01,P01_01,00:00:00.560,{},{},1,60,take plate,take,{},plate,{},['plate'],[2]".format
    first = add(
        tmp_path,
        "EPIC_100_train.csv",
        row("a", "00:00:01.00", "00:00:00.50", 0, 2),
        row("b", "-1", "00:00:00.50", 0, 2),
        row("c", "00:00:01.00", "a minute", 0, 2),
        row("d", "00:00:00.10", "00:00:00.50", 97, 2),
        row("e", "00:00:00.10", "00:00:00.50", 0, "plate"),
        row("", "00:00:00.10", "00:00:00.50", 0, 2),
        row("P01_01_0", "00:00:00.10", "00:00:00.50", 0, 2),
        row("f", "00:00:00.10", "00:00:00.50", 0, 2).replace(",P01_01,", ",../P01_01,"),
        "g,P01,P01_01",
        ",,,",
    )
    add(tmp_path, "EPIC_100_verb_classes.csv", "5,fly,['fly'],leave")
    add(tmp_path, "EPIC_100_video_info.csv", "P09_01,long,60,48x32")
    table = "EPIC_100_train.csv"
    expected = [
        "EPIC_100_verb_classes.csv:5: id '5', where 3 follows",
        "EPIC_100_video_info.csv:5: fps '60' and duration 'long' are no numbers",
        f"{table}:{first}: stop_timestamp 0.5 is not after start_timestamp 1.0",
        f"{table}:{first + 1}: start_timestamp is '-1'; it takes seconds, 0 or more",
        f"{table}:{first + 2}: stop_timestamp is 'a minute'; it takes seconds, 0 or more",
        f"{table}:{first + 3}: verb_class '97' is not among the 4 classes; allowed: 0, 1, 2, 5",
        f"{table}:{first + 4}: noun_class 'plate' is not among the 3 classes; allowed: 0, 1, 2",
        f"{table}:{first + 5}: narration_id is empty",
        f"{table}:{first + 6}: P01_01_0 of P01_01 again, after {table}:2",
        f"{table}:{first + 7}: video_id '../P01_01' is outside {tmp_path}",
        f"{table}:{first + 8}: 3 fields",
        f"{table}:{first + 9}: an empty row",
    ]
    got = sorted(problems("epic_kitchens", tmp_path))
    assert len(got) == len(expected)
    for line, beginning in zip(got, sorted(expected)):
        assert line.startswith(beginning)


def test_columns_and_files_that_are_not_there_are_named_together(tmp_path):
    epic_kitchens(tmp_path)
    for name in ("EPIC_100_train.csv", "EPIC_100_verb_classes.csv"):
        file = tmp_path / name
        file.write_text(file.read_text().replace("video_id", "video").replace("key", "name"))
    (tmp_path / "EPIC_100_noun_classes.csv").unlink()
    got = problems("epic_kitchens", tmp_path)
    assert len(got) == 3
    assert any(line.startswith("EPIC_100_train.csv: no column video_id; the header is narration_id,") for line in got)
    assert any(line.startswith("EPIC_100_verb_classes.csv: no column key; the header is id,name,") for line in got)
    assert any(line.startswith("the list of nouns: no EPIC_100_noun_classes.csv or") for line in got)
    with pytest.raises(DataError, match="no list of classes"):
        official_classes("epic_kitchens", str(tmp_path))
    with pytest.raises(DataError, match="keep the labels of the test videos"):
        read_samples("epic_kitchens", str(tmp_path), "test")
