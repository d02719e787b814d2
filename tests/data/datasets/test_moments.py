"""Moments in Time: paths and classes of its lists, the order of its categories, and wrong rows."""

import shutil

from vivit.data.datasets.registry import official_classes, read_samples
from vivit.data.sample_table import encode_labels

from .official import add, found, moments, problems, text

TRAIN = [
    ("washing/yt-1_2.mp4", "washing"),
    ("adult+male+singing/yt-1_2.mp4", "adult+male+singing"),  # the same name in two classes
    ("washing/getty-b.mp4", "washing"),
    ("adult+male+singing/c.mp4", "adult+male+singing"),
]


def test_videos_come_in_the_order_of_the_list_and_classes_in_that_of_their_numbers(tmp_path):
    moments(tmp_path)
    assert found("moments", tmp_path, "train") == [(f"training/{path}", label) for path, label in TRAIN]
    classes = official_classes("moments", str(tmp_path))
    assert classes == {"action": ("washing", "adult+male+singing")}
    assert encode_labels(read_samples("moments", str(tmp_path), "val"), classes).tolist() == [[1], [0]]


def test_class_folders_may_lie_in_the_root(tmp_path):
    moments(tmp_path)
    shutil.copytree(tmp_path / "training", tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "training")
    assert found("moments", tmp_path, "train") == TRAIN


def test_every_wrong_row_is_listed_at_once_with_file_and_line(tmp_path):
    moments(tmp_path)
    first = add(
        tmp_path,
        "trainingSet.csv",
        ",washing,3,0",
        "washing/f.mp4,,3,0",
        "washing/f.mp4,washin,3,0",
        "../washing/f.mp4,washing,3,0",
        "/washing/f.mp4,washing,3,0",
        "washing/yt-1_2.mp4,washing,3,0",
        "washing/f.mp4",
        ",,,",
    )
    text(tmp_path, "moments_categories.txt", "washing,0", "adult+male+singing,2")
    expected = [
        "file is empty",
        "class is empty",
        "class 'washin' is not among the 2 classes; did you mean 'washing'?",
        f"../washing/f.mp4 is outside {tmp_path}/training",
        f"/washing/f.mp4 is outside {tmp_path}/training",
        "washing/yt-1_2.mp4 again, after trainingSet.csv:1",
        "1 fields, expected file,class",
        "file is empty",
        "class is empty",
    ]
    lines = [*range(first, first + 8), first + 7]
    got = problems("moments", tmp_path)
    categories = "moments_categories.txt: the 2 categories do not have the numbers from 0 up, one each"
    assert sorted(got) == sorted([categories, *(f"trainingSet.csv:{n}: {e}" for n, e in zip(lines, expected))])


def test_files_that_are_not_there_are_named_together(tmp_path):
    got = problems("moments", tmp_path, "val")
    assert [line.split(" in ")[0] for line in got] == [
        "the list of the validation videos: no validationSet.csv",
        "the list of categories: no moments_categories.txt",
    ]
