"""Which folders are splits, which are classes, and which are neither."""

from collections import Counter
from pathlib import Path

import pytest

from vivit.data.datasets.find_videos import find_videos
from vivit.data.datasets.folder import read_folder
from vivit.data.datasets.split_names import usual_split
from vivit.errors import DataError

from .test_folder import problems, touch


def found(root: Path, split: str) -> dict[str, str]:
    """Class by path."""
    return {str(Path(s.path).relative_to(root)): s.labels["label"] for s in read_folder(root, split)}


def videos(*folders: str, many: int = 3) -> list[str]:
    return [f"{folder}/{i}.mp4" for folder in folders for i in range(many)]


@pytest.mark.parametrize(
    "names",
    [
        ("training", "validation", "testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", "valid", "Testing"),
        ("train_set", "dev-set", "test set"),
        ("videos_train", "videos_val", "videos_test"),
    ],
)
def test_split_folders_are_known_in_any_usual_spelling(tmp_path, names):
    touch(tmp_path, *videos(*(f"{split}/{c}" for split in names for c in "ab"), many=1))
    for folder, split in zip(names, ("train", "val", "test")):
        assert found(tmp_path, split) == {f"{folder}/a/0.mp4": "a", f"{folder}/b/0.mp4": "b"}
        assert found(tmp_path, folder) == found(tmp_path, split)


@pytest.mark.parametrize("name", ["trains", "vale", "detest", "training day", "car", "", "datum", "tested"])
def test_other_words_are_no_splits(name):
    assert usual_split(name) is None


def test_two_folders_for_one_split_are_refused(tmp_path):
    touch(tmp_path, *videos("train/a", "train/b", "val/a", "validation/b"))
    assert "val and validation both name the split val" in problems(tmp_path)


def test_one_split_alone_says_how_to_hold_out_from_it(tmp_path):
    touch(tmp_path, *videos("Training/a", "Training/b", many=5))
    assert len(found(tmp_path, "train")) == 10
    assert f"no split 'val'; the folders are train. Name one with data.eval_split, or give {tmp_path}/Training" in (
        problems(tmp_path, "val")
    )


def test_next_to_usual_splits_one_may_have_any_name(tmp_path):
    touch(tmp_path, *videos("train/a", "train/b", "unseen/a", "unseen/b", many=1))
    assert found(tmp_path, "unseen") == {"unseen/a/0.mp4": "a", "unseen/b/0.mp4": "b"}
    assert len(found(tmp_path, "train")) == 2


def test_a_folder_next_to_two_splits_is_passed_over(tmp_path):
    touch(tmp_path, *videos("train/a", "train/b", "val/a", "raw"), "notes/readme.txt")
    assert len(found(tmp_path, "train")) == 6
    assert len(found(tmp_path, "val")) == 3


@pytest.mark.parametrize("name", ["train", "Test", "val"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    touch(tmp_path, *videos("bus", "car", name, many=5))
    train, val = found(tmp_path, "train"), found(tmp_path, "val")
    assert Counter(train.values()) == {"bus": 4, "car": 4, name: 4}
    assert Counter(val.values()) == {"bus": 1, "car": 1, name: 1}


def test_a_class_called_like_a_split_may_hold_folders_of_images(tmp_path):
    touch(tmp_path, *(f"{c}/{c}{i}/{j:03}.png" for c in ("bus", "train") for i in range(5) for j in range(3)))
    assert Counter(found(tmp_path, "train").values()) == {"bus": 4, "train": 4}


def test_a_folder_that_may_be_a_split_or_a_class_is_refused(tmp_path):
    touch(tmp_path, *videos("bus", "car", "train/steam", "train/diesel"))
    assert "train may be a split or a class: it holds folders of videos, and bus, car next to it does not" in (
        problems(tmp_path)
    )


def test_videos_directly_in_split_folders_have_no_class(tmp_path):
    touch(tmp_path, *videos("train", "val"))
    assert "the videos are directly in train, val; expected one subfolder per class in each" in problems(tmp_path)


def test_split_folders_inside_class_folders_are_read(tmp_path):
    touch(tmp_path, *videos("cat/Train", "dog/Train", "cat/Validation", "dog/Validation", many=1))
    assert found(tmp_path, "train") == {"cat/Train/0.mp4": "cat", "dog/Train/0.mp4": "dog"}
    assert found(tmp_path, "val") == {"cat/Validation/0.mp4": "cat", "dog/Validation/0.mp4": "dog"}
    touch(tmp_path, "dog/more.mp4")
    assert "others do not, such as dog/more.mp4" in problems(tmp_path)


@pytest.mark.parametrize(
    ("folders", "give", "levels"),
    [
        (("UCF-101/a", "UCF-101/b"), "UCF-101", "two"),
        (("x/y/a", "x/y/b"), "x/y", "three"),
        (("x/y/z/a", "x/y/z/b"), "x/y/z", "four"),
        (("x/train/a", "x/train/b", "x/val/a"), "x", "two"),
        (("x/train/a", "x/train/b"), "x", "two"),
    ],
)
def test_a_folder_too_high_up_names_the_one_to_give(tmp_path, folders, give, levels):
    touch(tmp_path, *videos(*folders))
    for split in ("train", "val"):
        message = problems(tmp_path, split)
        assert "would be a single class" in message
        assert f"The videos are {levels} levels down" in message
        assert message.endswith(f": give {tmp_path}/{give}")
    read_folder(tmp_path / give, "train")


def test_a_folder_too_high_up_inside_the_splits_is_refused(tmp_path):
    touch(tmp_path, *videos("train/UCF/a", "train/UCF/b", "val/UCF/a"))
    assert "the folder train/UCF alone would be a single class" in problems(tmp_path)
    assert "move these folders up, into train" in problems(tmp_path)


def test_videos_next_to_no_class_folder_are_counted(tmp_path):
    touch(tmp_path, "1.mp4", "2.MTS")
    assert "found no folder; 2 videos are directly in it" in problems(tmp_path)


def test_what_systems_and_photo_tools_leave_is_no_video(tmp_path):
    junk = ["@eaDir/1.mp4/SYNOVIDEO.jpg", "#recycle/old.mp4", ".thumbnails/1.jpg", "._1.mp4", "1.jpg", "Thumbs.db"]
    touch(tmp_path, *(f"{c}/{name}" for c in ("cat", "dog") for name in ["1.mp4", "2.mp4", *junk]))
    touch(
        tmp_path, "__MACOSX/cat/._1.mp4", "@eaDir/x/y.jpg", "#recycle/z/1.mp4", "$RECYCLE.BIN/a/1.mp4", ".git/a/b.mp4"
    )
    both = found(tmp_path, "train") | found(tmp_path, "val")
    assert both == {f"{c}/{i}.mp4": c for c in ("cat", "dog") for i in (1, 2)}


@pytest.mark.parametrize(
    "stills",
    [
        ["thumbs/1.jpg", "thumbs/2.jpg"],
        ["previews/1_small.jpg", "previews/2-0001.png"],
        ["cover/front.jpg"],
        ["1/0001.png", "1/0002.png"],
        ["1.gif"],
    ],
)
def test_stills_of_the_videos_next_to_them_are_no_videos(tmp_path, stills):
    touch(tmp_path, "1.mp4", "2.avi", *stills)
    assert find_videos(tmp_path, thorough=True) == ["1.mp4", "2.avi"]


def test_a_folder_of_frames_next_to_a_video_file_is_a_video_of_its_own(tmp_path):
    touch(tmp_path, "1.mp4", *(f"3/{i:03}.png" for i in range(3)))
    assert find_videos(tmp_path, thorough=True) == ["1.mp4", "3"]


def test_every_suffix_that_the_decoder_reads_is_found_in_any_capitals(tmp_path):
    suffixes = ("mts", "M2TS", "asf", "ogv", "VOB", "3g2", "gif", "mpg", "MP4", "m2t", "f4v", "mxf", "qt", "divx")
    names = [f"{i}.{suffix}" for i, suffix in enumerate(suffixes)]
    touch(tmp_path, *names)
    assert find_videos(tmp_path, thorough=True) == sorted(names)


def test_what_is_passed_over_is_counted_by_suffix(tmp_path):
    touch(tmp_path, "a/1.mp4", "a/2.heic", "a/3.HEIC", "a/poster.jpg", "a/README", "a/@eaDir/1.jpg", "b/x.txt")
    counts: Counter[str] = Counter()
    assert find_videos(tmp_path, thorough=True, passed_over=counts) == ["a/1.mp4"]
    assert counts == {".heic": 2, ".jpg": 1, "no suffix": 1, "@eaDir/": 1, ".txt": 1}
    with pytest.raises(DataError, match=r"b: a class folder without videos .*; it holds 1 \.txt"):
        read_folder(tmp_path, "train")


def test_names_composed_in_two_ways_are_one_class(tmp_path):
    touch(tmp_path, *videos("train/caf\u00e9", "train/b", "val/cafe\u0301", "val/b", many=1))
    assert set(found(tmp_path, "train").values()) == set(found(tmp_path, "val").values()) == {"caf\u00e9", "b"}


def test_an_unknown_split_of_plain_class_folders_is_refused(tmp_path):
    touch(tmp_path, *videos("a", "b", many=5))
    assert "unknown split 'trian'" in problems(tmp_path, "trian")
    assert found(tmp_path, "training") == found(tmp_path, "train")
