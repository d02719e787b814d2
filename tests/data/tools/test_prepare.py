"""`vivit data prepare`: the same pictures at the same times, smaller, whatever happens on the way."""

import csv
import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from vivit.data.clips import frame_range
from vivit.data.datasets.registry import official_classes, read_samples
from vivit.data.tools.check import check
from vivit.data.tools.encode import KEY_EVERY, EncodingOptions, even_rate, scaled_size, schedule
from vivit.data.tools.prepare import prepare
from vivit.data.video.decoder import Video
from vivit.data.views import open_sample, segment_frames
from vivit.errors import DataError, FolderInUse
from vivit.files import exclusive_lock

from ..datasets import official
from ..videos import counter_frames, read_counter, write_video

SMALL = EncodingOptions(short_side=64, max_fps=30)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
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
    done = prepare(str(root), str(dest), encoding=SMALL, workers=1)
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
        old, new = read_samples("folder", str(root), split), read_samples("folder", str(dest / "labels.csv"), split)
        assert [(s.labels, s.start, s.end) for s in new] == [(s.labels, s.start, s.end) for s in old]
        assert all(s.index for s in new)
    assert official_classes("folder", str(dest / "labels.csv")) == {"kind": ("cat",), "size": ("1", "2")}
    assert check(str(dest / "labels.csv"), workers=1).opened == 0


def test_groups_are_those_of_the_old_table_in_the_new_one_and_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    rows = {"a": "walk, 1", "b": "walk, 1", "c": "", "d": "z"}
    for name in rows:
        write_video(tmp_path / f"{name}.mp4", counter_frames(8))
    lines = [f'{name}.mp4,x,"{group}",{"val" if name == "d" else "train"}' for name, group in rows.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,group,split", *lines]) + "\n")
    prepare(str(tmp_path / "labels.csv"), str(tmp_path / "dest"), encoding=SMALL, workers=1, shard_mib=1)
    for split, groups in {"train": ["walk, 1", "walk, 1", ""], "val": ["z"]}.items():
        for dataset, root in (("folder", "dest/labels.csv"), ("shards", "dest/shards")):
            samples = read_samples(dataset, str(tmp_path / root), split)
            assert ([s.group for s in samples], samples[0].labels) == (groups, {"label": "x"})


def test_a_second_run_does_only_what_is_missing_or_out_of_date(root, tmp_path):
    dest = tmp_path / "dest"
    prepare(str(root), str(dest), encoding=SMALL, workers=1)
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*.mp4")}
    (dest / "dog/b.mp4").unlink()
    (dest / "dog/b.mp4.part").write_bytes(b"cut off")
    future = max(before.values()) + 10**9
    os.utime(root.parent / "dog/small.mkv", ns=(future, future))
    done = prepare(str(root), str(dest), encoding=SMALL, workers=1)
    assert (done.written, done.kept) == (2, 2)
    changed = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"b.mp4", "small.mp4"}
    assert not list(dest.rglob("*.part"))
    with pytest.raises(ValueError, match="was begun with .*; give another folder"):
        prepare(str(root), str(dest), encoding=EncodingOptions(short_side=32), workers=1)


def test_bad_files_are_listed_and_left_out_of_the_table(root, tmp_path):
    (root.parent / "dog/b.mp4").write_bytes(b"no video")
    done = prepare(str(root), str(tmp_path / "dest"), encoding=SMALL, workers=1)
    assert done.written == 3
    assert "dog/b.mp4: cannot be read as a video" in done.bad[0]
    assert (tmp_path / "dest/bad.txt").read_text().splitlines() == done.bad
    with (tmp_path / "dest/labels.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [
            "cat/a_b.mp4", "cat/wide.mp4", "cat/wide.mp4", "dog/small.mp4"
        ]  # fmt: skip


def test_parts_become_files_of_their_own(root, tmp_path):
    done = prepare(str(root), str(tmp_path / "dest"), encoding=SMALL, segments=True, shard_mib=1, workers=1)
    assert done.written == 5
    first, second = read_samples("folder", str(done.table), "train")[1:]
    assert (first.start, first.end) == (None, None)
    assert shown(first.path)[0] == list(range(10, 30))
    assert shown(second.path)[0] == list(range(50, 80))
    assert done.shards == ["train-000000.tar", "val-000000.tar"]
    packed = read_samples("shards", str(tmp_path / "dest/shards"), "train")
    assert [s.labels for s in packed] == [s.labels for s in read_samples("folder", str(root), "train")]
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
    sizes = [scaled_size(h, w, 320) for h, w in ((1080, 1920), (240, 320), (719, 405), (33, 51), (1, 9))]
    assert sizes == [(320, 568), (240, 320), (568, 320), (32, 52), (2, 8)]


@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 15, 7])
def test_a_part_becomes_the_frames_that_training_sees_of_it(fps):
    times, rng = np.arange(90) / float(fps), np.random.default_rng(int(fps))
    duration = 90 / float(fps)
    for _ in range(500):
        start = rng.choice([rng.uniform(0, duration - 0.01), times[rng.integers(90)]]).round(rng.integers(1, 8))
        end = rng.choice([start + rng.uniform(0.001, 3), times[rng.integers(90)] + 1]).round(rng.integers(1, 8))
        _, shown = schedule(times, duration, max_fps=30, start=start, end=end)
        expected = frame_range(times, duration, start, end)
        if expected and times[expected[0]] < start - 1e-6:  # no frame appears in the part
            assert set(shown) == set(expected)
        else:
            assert shown.tolist() == list(expected)


def test_training_sees_the_same_pictures_of_a_prepared_part_as_of_the_original(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    write_video(tmp_path / "a.mp4", counter_frames(60, 64, 64), fps=Fraction(30000, 1001))
    starts = [0.0333667, 0.5005, 1.000999, 1.0344, 0.2]
    rows = [f"a.mp4,x,{start},{start + 0.5},train" for start in starts]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,start,end,split", *rows]) + "\n")
    done = prepare(str(tmp_path / "labels.csv"), str(tmp_path / "dest"), splits=("train",), segments=True, workers=1)
    old, new = (
        read_samples("folder", str(tmp_path / "labels.csv"), "train"),
        read_samples("folder", str(done.table), "train"),
    )
    for before, after in zip(old, new, strict=True):
        assert shown(after.path)[0] == list(segment_frames(open_sample(before), before))


def test_a_still_part_of_a_slide_show_becomes_a_still(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    write_video(tmp_path / "slides.mp4", counter_frames(3, 64, 64), pts=[0, 100, 150])  # at 0, 4 and 6 s
    (tmp_path / "labels.csv").write_text("path,label,start,end,split\nslides.mp4,x,4.5,5.5,train\n")
    done = prepare(str(tmp_path / "labels.csv"), str(tmp_path / "dest"), splits=("train",), segments=True, workers=1)
    assert set(shown(read_samples("folder", str(done.table), "train")[0].path)[0]) == {1}


def test_a_picture_every_half_hour_keeps_its_rate_and_absurd_times_are_refused():
    times = np.arange(48) * 1800.0
    rate, numbers = schedule(times, 48 * 1800.0, max_fps=30)
    assert (rate, numbers.tolist()) == (Fraction(1, 1800), list(range(48)))
    assert even_rate(0.4, 30) == Fraction(2, 5)
    for absurd in (times * 1e12, np.array([0, 1e-320])):
        with pytest.raises(ValueError, match="frames spread over"):
            schedule(absurd, float(absurd[-1]) * 2, max_fps=30)
    with pytest.raises(ValueError, match=r"3 frames spread over 1e\+09 s"):
        schedule(np.arange(3.0), 1e9, max_fps=30)  # the last one is shown for 30 years


def test_a_time_lapse_and_absurd_time_stamps_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    write_video(tmp_path / "lapse.mkv", counter_frames(4, 64, 64), fps=1, pts=[1800 * i for i in range(4)])
    write_video(tmp_path / "absurd.mkv", counter_frames(4, 64, 64), fps=1, pts=[0, 1, 2, 10**11])
    (tmp_path / "labels.csv").write_text("path,label,split\nlapse.mkv,x,train\nabsurd.mkv,x,train\n")
    done = prepare(str(tmp_path / "labels.csv"), str(tmp_path / "dest"), splits=("train",), workers=1)
    assert done.bad == []
    lapse, absurd = (shown(sample.path) for sample in read_samples("folder", str(done.table), "train"))
    assert lapse[0] == absurd[0] == [0, 1, 2, 3]
    np.testing.assert_allclose(lapse[1], [0, 1800, 3600, 5400])
    np.testing.assert_allclose(
        absurd[1], [0, 1, 2, 3]
    )  # a gap of 3,000 years is a jump of the clock, no picture's time


@pytest.mark.parametrize("suffix", ["mpg", "ts"])
def test_program_and_transport_streams_of_many_groups_of_pictures_are_prepared(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    codec = {"mpg": "mpeg2video", "ts": "libx264"}[suffix]
    path = write_video(tmp_path / f"a.{suffix}", counter_frames(60, 64, 64), codec=codec, keyint=12)
    (tmp_path / "labels.csv").write_text(f"path,label,split\n{path.name},x,train\n")
    done = prepare(str(tmp_path / "labels.csv"), str(tmp_path / "dest"), splits=("train",), workers=1)
    assert done.bad == []
    assert shown(read_samples("folder", str(done.table), "train")[0].path)[0] == list(range(60))


def test_where_nothing_can_be_written_the_error_says_how_many_why_and_where_the_list_is(tmp_path):
    for i in range(5):
        (tmp_path / "bad/x").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"bad/x/{i}.mp4").write_bytes(bytes(4000))
    dest = tmp_path / "dest"
    message = r"(?s)none of the 5 videos could be written; the list is in .*bad.txt \(5\).*\d.mp4: cannot be.*2 more"
    with pytest.raises(DataError, match=message):
        prepare(str(tmp_path / "bad"), str(dest), workers=1)
    assert len((dest / "bad.txt").read_text().splitlines()) == 5
    assert not (dest / "labels.csv").exists()


def test_names_of_any_length_and_any_bytes_are_written_under_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    long = "春节联欢晚会" * 13 + "舞台"
    names = [f"{long}{i}.mp4" for i in (1, 2)] + ["a.b.mp4", "a_b.mp4", "a#b.mp4"]
    (tmp_path / "x").mkdir()
    for i, name in enumerate(names):
        write_video(tmp_path / "plain.mp4", counter_frames(40 + i, 64, 64)).rename(tmp_path / "x" / name)
    rows = [f"x/{name},label,{t},{t + 0.5},train" for name in names for t in (0, 0.2, 0.2004, 1)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,start,end,split", *rows]), encoding="utf-8")
    for segments in (True, False):
        dest = tmp_path / f"dest{segments}"
        done = prepare(str(tmp_path / "labels.csv"), str(dest), splits=("train",), segments=segments, workers=1)
        assert done.bad == []
        files = {sample.path for sample in read_samples("folder", str(done.table), "train")}
        assert len(files) == done.written == (20 if segments else 5)
        assert all(len(os.fsencode(name)) < 255 - len(".part") for name in os.listdir(dest / "x"))


def test_a_second_prepare_in_the_same_folder_is_refused(root, tmp_path):
    with exclusive_lock(tmp_path / "dest", what="vivit data prepare"), pytest.raises(FolderInUse, match="is in use"):
        prepare(str(root), str(tmp_path / "dest"), encoding=SMALL, workers=1)
    assert os.listdir(tmp_path / "dest") == [".lock"]


def test_missing_official_videos_are_told_apart_from_faults(tmp_path, monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    official.ucf101(tmp_path / "ucf")
    next(iter(sorted((tmp_path / "ucf").rglob("*.avi")))).unlink()
    done = prepare(str(tmp_path / "ucf"), str(tmp_path / "dest"), dataset="ucf101", workers=1)
    assert (done.bad, done.problems, len(done.missing)) == ([], [], 1)
    assert f"1 videos of the official list are not there\n  {done.missing[0]}" in str(done)


def test_a_full_disk_ends_the_command_and_is_no_fault_of_the_videos(root, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vivit.data.tools.encode._encode", full)
    monkeypatch.setattr(
        "vivit.data.tools.prepare.map_in_processes", lambda f, jobs, **how: ((job, f(job)) for job in jobs)
    )
    with pytest.raises(DataError, match="cannot be written .No space left on device"):
        prepare(str(root), str(tmp_path / "dest"), encoding=SMALL, workers=1)
