"""`vivit data check`: counts, and every file that cannot be used."""

import pytest

from vivit.data.check import check
from vivit.data.sample import DataError

from .videos import counter_frames, write_video


@pytest.fixture
def folder(tmp_path):
    for split, videos in {"train": ("cat/1", "cat/2", "dog/3"), "val": ("cat/4", "dog/5")}.items():
        for name in videos:
            path = tmp_path / split / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, counter_frames(10))
    return tmp_path


def test_a_sound_data_set_is_counted_by_split_and_class(folder):
    report = check(str(folder))
    assert report.problems == []
    assert report.videos == {"train": 3, "val": 2}
    assert report.counts["train"]["label"] == {"cat": 2, "dog": 1}
    assert report.seconds == pytest.approx(5 * 10 / 25)
    rows = [line.split() for line in str(report).splitlines()]
    assert ["label", "train", "val"] in rows
    assert ["cat", "2", "1"] in rows
    assert ["dog", "1", "1"] in rows


def test_every_file_that_cannot_be_used_is_named(folder):
    (folder / "train/cat/1.mp4").write_bytes(b"")
    (folder / "val/dog/5.mp4").write_bytes(b"hello")
    report = check(str(folder), workers=1)
    assert len(report.problems) == 2
    assert all(any(name in problem for problem in report.problems) for name in ("1.mp4", "5.mp4"))
    assert "2 problems" in str(report)


def test_a_class_that_training_does_not_have_is_an_error(folder):
    (folder / "val/dog").rename(folder / "val/horse")
    with pytest.raises(DataError, match="label 'horse' is not among the 2 classes"):
        check(str(folder))
