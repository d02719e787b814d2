"""Kinetics: clips are found by id and times in any folders, and all wrong rows are told at once."""

import logging

import pytest

from vivit.data.datasets.registry import left_out, official_classes, read_samples
from vivit.data.sample_table import encode_labels
from vivit.errors import DataError

from .official import add, found, kinetics, problems, text, videos

CLIPS = ["-abc_DEF123_000040_000050", "0123456789a_000003_000013"]
CLIPS += ["AbCdEfGhIjK_000112_000122", "lllllllllll_000000_000010"]
LABELS = ["air drumming", "zumba", "air drumming", "zumba"]


def test_clips_come_in_the_order_of_the_list_with_their_labels(tmp_path):
    kinetics(tmp_path)
    places = [f"train/{label}/{clip}.mp4" for label, clip in zip(LABELS, CLIPS)]
    assert found("kinetics400", tmp_path, "train") == list(zip(places, LABELS))
    samples = read_samples("kinetics700", str(tmp_path), "validation")
    assert [s.labels for s in samples] == [{"action": "zumba"}, {"action": "air drumming"}]
    assert [s.where for s in samples] == ["validate.csv:2", "validate.csv:3"]
    assert {(s.start, s.end) for s in samples} == {(None, None)}  # the clips are cut already


def test_classes_are_in_alphabetical_order(tmp_path):
    kinetics(tmp_path)
    classes = official_classes("kinetics400", str(tmp_path))
    assert classes == {"action": ("air drumming", "zumba")}
    assert encode_labels(read_samples("kinetics400", str(tmp_path), "val"), classes).tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "place", ["{clip}.mp4", "train/{clip}.mkv", "air_drumming/{clip}.mp4", "k400/train/x/{clip}.webm"]
)
def test_folders_may_be_named_and_nested_in_any_way(place, tmp_path):
    kinetics(tmp_path)
    for split in ("train", "val"):
        for path in (tmp_path / split).rglob("*.mp4"):
            path.unlink()
    places = [place.format(clip=clip) for clip in CLIPS]
    videos(tmp_path, *places)
    assert found("kinetics400", tmp_path, "train") == list(zip(places, LABELS))


def test_names_of_the_lists_as_the_mirrors_give_them(tmp_path):
    kinetics(tmp_path)
    (tmp_path / "annotations/train.csv").rename(tmp_path / "kinetics-400_train.csv")
    (tmp_path / "annotations/validate.csv").rename(tmp_path / "kinetics-400_val.csv")
    assert len(read_samples("kinetics400", str(tmp_path), "train")) == 4
    assert len(read_samples("kinetics400", str(tmp_path), "val")) == 2


def test_missing_videos_are_left_out_counted_and_listed(tmp_path, caplog):
    kinetics(tmp_path)
    (tmp_path / "train/zumba/0123456789a_000003_000013.mp4").unlink()
    with caplog.at_level(logging.WARNING, "vivit"):
        assert len(read_samples("kinetics400", str(tmp_path), "train")) == 3
    assert "1 of 4 videos (25.0 %)" in caplog.text
    assert "0123456789a_000003_000013" in caplog.text
    assert left_out("kinetics400", str(tmp_path), "train") == ["train.csv:3: no video 0123456789a_000003_000013"]


def test_if_all_videos_are_missing_the_error_says_what_is_accepted(tmp_path):
    kinetics(tmp_path)
    for path in tmp_path.rglob("*.mp4"):
        path.unlink()
    message = "\n".join(problems("kinetics400", tmp_path))
    assert "train.csv:2: no video -abc_DEF123_000040_000050" in message
    assert "videos named ID_000012_000022.mp4" in message


def test_every_wrong_row_is_listed_at_once_with_file_and_line(tmp_path):
    kinetics(tmp_path)
    first = add(
        tmp_path,
        "annotations/validate.csv",
        ",aaaaaaaaaaa,1,11,validate",
        "zumba,aaaaaaaaaaa,11,11,validate",
        "zumba,aaaaaaaaaaa,-1,9,validate",
        "zumba,aaaaaaaaaaa,one,9,validate",
        "zumbaa,aaaaaaaaaaa,1,11,validate",
        "zumba,../../etc/aaa,1,11,validate",
        "zumba,vvvvvvvvvvv,7,17,validate",
        "zumba,vvvvvvvvvvv",
        ",,,,",
    )
    expected = [
        "label is empty",
        "time_end 11.0 is not after time_start 11.0",
        "time_start is '-1'; it takes seconds",
        "time_start is 'one'",
        "label 'zumbaa' is not among the 2 classes; did you mean 'zumba'?",
        "youtube_id '../../etc/aaa' is outside",
        "vvvvvvvvvvv_000007_000017 again, after validate.csv:2",
        "2 fields, expected label,youtube_id,time_start,time_end,split",
        "label is empty",
    ]
    got = problems("kinetics400", tmp_path, "val")
    for line, problem in enumerate(expected, start=first):
        assert any(f"validate.csv:{line}: {problem}" in g for g in got), (line, problem, got)
    assert {int(g.split(":")[1]) for g in got} == set(range(first, first + len(expected)))


def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path):
    kinetics(tmp_path)
    line = add(
        tmp_path, "annotations/validate.csv", '"zumba,aaaaaaaaaaa,1,11,validate', "zumba,bbbbbbbbbbb,1,11,validate"
    )
    assert problems("kinetics400", tmp_path, "val")[-1] == (
        f"validate.csv: not a readable UTF-8 table: line {line}: a quote opens and never closes; close it"
    )


def test_columns_that_are_not_there_and_lists_that_are_not_there_are_named(tmp_path):
    kinetics(tmp_path)
    assert problems("kinetics400", tmp_path, "test") == [
        "test.csv: no column label; the header is youtube_id,time_start,time_end,split"
    ]
    text(tmp_path, "annotations/train.csv", "")
    assert problems("kinetics400", tmp_path) == [
        "train.csv: no column label, youtube_id, time_start, time_end; the header is -"
    ]
    (tmp_path / "annotations/train.csv").unlink()
    assert "the list of the train clips: no train.csv or" in problems("kinetics400", tmp_path)[0]
    text(tmp_path, "annotations/train.csv", "label,youtube_id,time_start,time_end,split")
    assert problems("kinetics400", tmp_path) == ["train.csv: no rows"]
    text(tmp_path, "train.csv", "label,youtube_id,time_start,time_end,split")
    assert "train.csv, annotations/train.csv could all be it" in problems("kinetics400", tmp_path)[0]


def test_an_unknown_split_and_a_file_as_the_root_say_so(tmp_path):
    kinetics(tmp_path)
    with pytest.raises(DataError, match="unknown split 'trian'; did you mean 'train'"):
        read_samples("kinetics400", str(tmp_path), "trian")
    with pytest.raises(DataError, match="is a file; give the folder"):
        read_samples("kinetics400", str(tmp_path / "annotations/train.csv"), "train")
