"""`vivit data prepare`: the same pictures at the same times, smaller, whatever happens on the way."""

import csv
import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from vivit.data.check import check
from vivit.data.decode import Video
from vivit.data.prepare import KEY_EVERY, Form, prepare, scaled, schedule
from vivit.data.sample import official_classes, read

from .videos import counter_frames, read_counter, write_video

SMALL = Form(short_side=64, max_fps=30)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.prepare.SECONDS", 0.0)
    folder = tmp_path / "source"
    (folder / "cat").mkdir(parents=True)
    (folder / "dog").mkdir()
    write_video(folder / "cat/a.b.webm", counter_frames(50, 96, 128), codec="libvpx-vp9", fps=50)
    write_video(folder / "cat/wide.mp4", counter_frames(80, 96, 192), audio=True, keyint=80)
    write_video(folder / "dog/small.mkv", counter_frames(30, 46, 62))
    write_video(folder / "dog/b.mp4", counter_frames(12, 96, 128), rotation=90)
    table = folder / "labels.csv"
    rows = ["path,kind,size,split,start,end", "cat/a.b.webm,cat,1,train,,", "cat/wide.mp4,cat,2,train,0.4,1.2"]
    rows += ["cat/wide.mp4,cat,1,train,2,", "dog/small.mkv,dog,1,val,,", "dog/b.mp4,dog,2,val,,"]
    table.write_text("\n".join(rows) + "\n")
    return table


def shown(path):
    """The numbers that the frames show, and when."""
    video = Video(path)
    return [read_counter(i) for i in video.frames(range(video.num_frames)).permute(0, 2, 3, 1).numpy()], video.times


def test_videos_keep_their_pictures_times_labels_and_splits_and_change_their_form(root, tmp_path):
    dest = tmp_path / "dest"
    done = prepare(str(root), str(dest), form=SMALL, workers=1)
    assert (done.written, done.kept, done.bad, done.problems) == (4, 0, [], [])
    sizes = {"cat/a_b": (64, 86), "cat/wide": (64, 128), "dog/small": (46, 62), "dog/b": (86, 64)}
    rates = {"cat/a_b": 25, "cat/wide": 25, "dog/small": 25, "dog/b": 25}
    counts = {"cat/a_b": range(0, 50, 2), "cat/wide": range(80), "dog/small": range(30)}
    for name, size in sizes.items():
        path = dest / f"{name}.mp4"
        with av.open(str(path)) as container:
            assert [s.codec_context.name for s in container.streams] == ["h264"]
            packets = [p for p in container.demux(video=0) if p.size]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        assert max(np.diff([*keys, len(packets)])) <= KEY_EVERY
        video = Video(path)
        assert (video.height, video.width) == size
        assert video.fps == pytest.approx(rates[name])
        np.testing.assert_allclose(np.diff(video.times), 1 / rates[name], atol=1e-4)
        if name in counts:
            assert shown(path)[0] == list(counts[name])
    for split in ("train", "val"):
        old, new = read("folder", str(root), split), read("folder", str(dest / "labels.csv"), split)
        assert [(s.labels, s.start, s.end) for s in new] == [(s.labels, s.start, s.end) for s in old]
        assert all(s.index for s in new)
    assert official_classes("folder", str(dest / "labels.csv")) == {"kind": ("cat",), "size": ("1", "2")}
    assert check(str(dest / "labels.csv"), workers=1).opened == 0


def test_a_second_run_does_only_what_is_missing_or_out_of_date(root, tmp_path):
    dest = tmp_path / "dest"
    prepare(str(root), str(dest), form=SMALL, workers=1)
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*.mp4")}
    (dest / "dog/b.mp4").unlink()
    (dest / "dog/b.mp4.part").write_bytes(b"cut off")
    future = max(before.values()) + 10**9
    os.utime(root.parent / "dog/small.mkv", ns=(future, future))
    done = prepare(str(root), str(dest), form=SMALL, workers=1)
    assert (done.written, done.kept) == (2, 2)
    changed = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"b.mp4", "small.mp4"}
    assert not list(dest.rglob("*.part"))
    with pytest.raises(ValueError, match="was begun with .*; give another folder"):
        prepare(str(root), str(dest), form=Form(short_side=32), workers=1)


def test_bad_files_are_listed_and_left_out_of_the_table(root, tmp_path):
    (root.parent / "dog/b.mp4").write_bytes(b"no video")
    done = prepare(str(root), str(tmp_path / "dest"), form=SMALL, workers=1)
    assert done.written == 3
    assert "dog/b.mp4: cannot be read as a video" in done.bad[0]
    assert (tmp_path / "dest/bad.txt").read_text().splitlines() == done.bad
    with (tmp_path / "dest/labels.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [
            "cat/a_b.mp4", "cat/wide.mp4", "cat/wide.mp4", "dog/small.mp4"
        ]  # fmt: skip


def test_parts_become_files_of_their_own(root, tmp_path):
    done = prepare(str(root), str(tmp_path / "dest"), form=SMALL, segments=True, shard_mib=1, workers=1)
    assert done.written == 5
    first, second = read("folder", str(done.table), "train")[1:]
    assert (first.start, first.end) == (None, None)
    assert shown(first.path)[0] == list(range(10, 30))
    assert shown(second.path)[0] == list(range(50, 80))
    assert done.shards == ["train-000000.tar", "val-000000.tar"]
    packed = read("shards", str(tmp_path / "dest/shards"), "train")
    assert [s.labels for s in packed] == [s.labels for s in read("folder", str(root), "train")]
    assert json.loads((tmp_path / "dest/settings.json").read_text())["segments"] is True


@pytest.mark.parametrize(
    ("fps", "rate", "every"), [(25, 25, 1), (30, 30, 1), (50, 25, 2), (59.94, 29.97, 2), (120, 30, 4), (240, 30, 8)]
)
def test_an_even_rate_is_kept_or_divided(fps, rate, every):
    times = np.arange(241) / fps
    new, numbers = schedule(times, 241 / fps, max_fps=30)
    assert float(new) == pytest.approx(rate, rel=1e-4)
    assert numbers.tolist() == list(range(0, 241, every))


def test_an_uneven_rate_becomes_even_and_shows_each_frame_at_its_time():
    times = np.concatenate([np.arange(20) / 50, 0.4 + np.arange(10) / 10])
    rate, numbers = schedule(times, 1.4, max_fps=30)
    ticks = np.arange(len(numbers)) / float(rate)
    tick = 0.5 / (29 / times[-1])
    assert all(times[n] <= t + tick + 1e-9 for n, t in zip(numbers, ticks))
    assert len(numbers) == pytest.approx(1.4 * float(rate), abs=1)
    assert schedule(times, 1.4, max_fps=30, start=9)[1].size == 0
    assert schedule(np.zeros(1), 0.04, max_fps=30) == (Fraction(25), [0])


def test_sizes_are_even_and_never_grow():
    sizes = [scaled(h, w, 320) for h, w in ((1080, 1920), (240, 320), (719, 405), (33, 51), (1, 9))]
    assert sizes == [(320, 568), (240, 320), (568, 320), (32, 52), (2, 8)]
