"""The clip's stride follows the length of the videos, in whatever form they come."""

import pytest
from PIL import Image

from tests.data.videos import counter_frames, write_video
from vivit.data.datasets.registry import read_samples
from vivit.data.sample import Sample
from vivit.data.tools.prepare import prepare
from vivit.recipes.finetune import fitting_stride, looked_at


def test_files_image_folders_tables_and_shards_of_the_same_frames_have_the_same_stride(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    frames = counter_frames(40, 32, 32)
    (tmp_path / "files/x").mkdir(parents=True)
    write_video(tmp_path / "files/x/a.mp4", frames, fps=10)
    (tmp_path / "images/x/a").mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"images/x/a/{i:03d}.png")
    (tmp_path / "labels.csv").write_text("path,label,split\nfiles/x/a.mp4,x,train\n")
    prepare(str(tmp_path / "labels.csv"), str(tmp_path / "fast"), splits=("train",), shard_mib=1, workers=1)
    lists = [
        read_samples("folder", str(tmp_path / "labels.csv"), "train"),
        read_samples("folder", str(tmp_path / "fast/labels.csv"), "train"),
        read_samples("shards", str(tmp_path / "fast/shards"), "train"),
        [Sample(str(tmp_path / "images/x/a"))],
    ]
    for samples in lists:
        assert looked_at(samples) == [(32, 40)]
        assert fitting_stride(samples, 10) == 4
        assert fitting_stride(samples, 16) == 2


@pytest.mark.parametrize(("start", "end", "number"), [(0.4, 1.0, 6), (2.0, None, 20), (None, 0.05, 1), (9.0, None, 0)])
def test_only_the_frames_of_the_part_count(tmp_path, start, end, number):
    path = write_video(tmp_path / "a.mp4", counter_frames(40, 32, 32), fps=10)
    found = looked_at([Sample(str(path), start=start, end=end)])
    assert found == ([(32, number)] if number else [])


def test_a_video_that_cannot_be_read_does_not_count(tmp_path):
    good = write_video(tmp_path / "a.mp4", counter_frames(40, 32, 32))
    assert fitting_stride([Sample(str(tmp_path / "no.mp4")), Sample(str(good))], 10) == 4
