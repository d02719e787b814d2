"""`vivit data check`: counts, everything that cannot be used, and a manifest that spares the next look."""

import csv
import json
import logging
import os
import shutil
import signal

import pytest

from vivit.data.datasets.registry import read_annotations, read_samples
from vivit.data.manifest import default_path
from vivit.data.sample_table import class_names, encode_labels, list_hash
from vivit.data.tools import probe
from vivit.data.tools.check import check
from vivit.data.video import build_index
from vivit.data.video.decoder import Video
from vivit.errors import DataError

from ..videos import counter_frames, write_video


def write_videos(root, splits, frames=10):
    """Videos of different lengths, `frames` or a few more."""
    for split, videos in splits.items():
        for i, name in enumerate(videos):
            path = root / split / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, counter_frames(frames + i + (split != "train") * 5))
    return root


@pytest.fixture
def folder(tmp_path):
    return write_videos(tmp_path, {"train": ("cat/1", "cat/2", "dog/3"), "val": ("cat/4", "dog/5")})


def quick_check(root, **how):
    return check(str(root), workers=1, num_frames=4, frame_stride=2, **how)


def test_a_sound_data_set_is_counted_by_split_and_class(folder):
    report = check(str(folder))
    assert report.problems == []
    assert report.videos == {"train": 3, "val": 2}
    assert report.counts["train"]["label"] == {"cat": 2, "dog": 1}
    assert report.seconds == pytest.approx((10 + 11 + 12 + 15 + 16) / 25)
    rows = [line.split() for line in str(report).splitlines()]
    assert ["label", "train", "val"] in rows
    assert ["cat", "2", "1"] in rows
    assert ["dog", "1", "1"] in rows


def test_no_split_and_shards_are_refused(folder):
    with pytest.raises(DataError, match="no split is given; --splits takes"):
        quick_check(folder, splits=())
    with pytest.raises(DataError, match="shards have no annotations"):
        quick_check(folder, dataset="shards")


def test_every_file_that_cannot_be_used_is_named(folder):
    (folder / "train/cat/1.mp4").write_bytes(b"")
    (folder / "val/dog/5.mp4").write_bytes(b"hello")
    data = write_video(folder / "train/cat/2.mp4", counter_frames(40), container_options={"movflags": "faststart"})
    data.write_bytes(data.read_bytes()[:-3000])
    report = quick_check(folder)
    assert [line.split(":")[0] for line in report.found["unreadable"]] == ["train/cat/1.mp4", "val/dog/5.mp4"]
    assert report.found["damaged"][0].startswith("train/cat/2.mp4: truncated: ")
    assert len(report.problems) == 3
    assert "3 problems" in str(report)


def test_a_file_that_crashes_the_decoder_is_named_and_the_others_are_looked_at(folder, monkeypatch):
    def open_video(path, *, plain=probe.open_video, **how):
        if path.endswith("train/cat/2.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(path, **how)

    monkeypatch.setattr(probe, "open_video", open_video)
    report = quick_check(folder)
    assert len(report.files) == 5
    assert report.problems == ["train/cat/2.mp4: reading it ends the process (a crash in the decoder)"]


def test_a_class_that_training_does_not_have_is_named(folder):
    (folder / "val/dog").rename(folder / "val/horse")
    assert quick_check(folder).found["mislabelled"] == ["val/horse/5.mp4: label 'horse' is not among the 2 classes"]


def test_wrong_rows_of_all_splits_are_listed_at_once_and_what_can_be_read_is_looked_at(folder):
    table = folder / "labels.csv"
    table.write_text("path,label,start,split\ntrain/cat/1.mp4,cat,,train\ntrain/cat/9.mp4,cat,-1,train\n")
    with pytest.raises(DataError, match=r"(?s)labels.csv:3: .*-1.*labels.csv:3: no file"):
        quick_check(table)
    table.write_text("path,label,split\ntrain/cat/1.mp4,cat,train\n")
    report = quick_check(table)
    assert report.videos == {"train": 1}
    assert "no row has split 'val'" in report.found["annotations"][0]


def test_without_a_split_to_validate_on_training_videos_are_held_out(folder, caplog):
    (folder / "val").rename(folder / "test")
    report = quick_check(folder)
    assert list(report.videos) == ["train"]
    assert "annotations" not in report.found
    assert "has no split 'val': " in caplog.text


def test_equal_files_are_named_as_duplicates_and_across_splits_as_a_leak(folder):
    shutil.copy(folder / "train/cat/1.mp4", folder / "train/dog/copy.mp4")
    shutil.copy(folder / "train/dog/3.mp4", folder / "val/cat/copy.mp4")
    report = quick_check(folder)
    assert report.found["duplicated"] == ["train/cat/1.mp4 = train/dog/copy.mp4"]
    assert report.found["leak"] == ["train/dog/3.mp4 = val/cat/copy.mp4"]
    other = bytearray((folder / "train/cat/1.mp4").read_bytes())
    other[-1] ^= 1  # the same size is not the same video
    (folder / "train/dog/copy.mp4").write_bytes(other)
    assert "duplicated" not in quick_check(folder).found


def test_two_parts_of_one_video_are_no_duplicates(folder):
    table = folder / "labels.csv"
    table.write_text("path,label,start,end,split\ntrain/cat/1.mp4,cat,0,.2,train\ntrain/cat/1.mp4,cat,.2,.4,val\n")
    assert quick_check(table).problems == []


def test_videos_and_parts_shorter_than_a_clip_are_listed_and_a_part_beyond_the_end_is_a_problem(folder):
    table = folder / "labels.csv"
    rows = "train/cat/1.mp4,cat,,\ntrain/cat/2.mp4,cat,0,0.2\nval/cat/4.mp4,dog,3,\nval/dog/5.mp4,dog,,\n"
    table.write_text("path,label,start,end\n" + rows)
    report = check(str(table), splits=("train",), workers=1, num_frames=6, frame_stride=2)  # 11 frames
    names = {line.split(":")[0] for line in report.short}
    assert names <= {"train/cat/1.mp4", "train/cat/2.mp4 from 0 to 0.2 s", "val/cat/4.mp4 from 3 to 0.6 s"}
    all_rows = [check(str(table), splits=(s,), workers=1, num_frames=6, frame_stride=2) for s in ("train", "val")]
    found = [line for r in all_rows for line in r.found.get("outside", [])]
    assert found == ["labels.csv:4: val/cat/4.mp4 from 3 to 0.6 s, which lasts 0.60 s"]


def test_a_second_check_opens_only_what_has_changed(folder, monkeypatch):
    assert quick_check(folder).opened == 5
    opened = []
    monkeypatch.setattr(
        probe, "probe_video", lambda job, plain=probe.probe_video: opened.append(job.name) or plain(job)
    )
    monkeypatch.setattr(probe, "map_in_processes", lambda f, jobs, **how: ((job, f(job)) for job in jobs))
    again = quick_check(folder)
    assert (again.opened, opened) == (0, [])
    write_video(folder / "train/cat/2.mp4", counter_frames(30))
    write_video(folder / "val/cat/new.mp4", counter_frames(31))
    (folder / "train/dog/3.mp4").write_bytes(b"")
    report = quick_check(folder)
    assert sorted(opened) == ["train/cat/2.mp4", "train/dog/3.mp4", "val/cat/new.mp4"]
    assert report.opened == 3
    assert len(report.files) == 6
    assert quick_check(folder).opened == 1  # the empty file: a cause of an error may have gone


def test_with_a_manifest_no_file_is_read_through_or_asked_for(folder, monkeypatch):
    plain = read_samples("folder", str(folder), "train")
    quick_check(folder)
    assert default_path("folder", str(folder)) == folder / "manifest.folder.jsonl"
    monkeypatch.setattr(build_index, "scan_packets", lambda *args: pytest.fail("a file was read through"))
    monkeypatch.setattr(
        "vivit.data.datasets.registry.read_annotations", lambda *args: pytest.fail("annotations were read")
    )
    samples = read_samples("folder", str(folder), "train")
    assert [s.path for s in samples] == [s.path for s in plain]
    assert list_hash(samples, ordered=True) == list_hash(plain, ordered=True)
    assert class_names(samples) == class_names(plain)
    assert encode_labels(samples, class_names(plain)).equal(encode_labels(plain, class_names(plain)))
    for sample in samples:
        assert Video(sample.path, index=sample.index).num_frames >= 10


@pytest.mark.parametrize("change", ["new video", "new class", "table"])
def test_a_manifest_of_data_that_has_changed_is_not_used_and_says_so(folder, caplog, change):
    root = folder
    if change == "table":
        root = folder / "labels.csv"
        root.write_text("path,label,split\ntrain/cat/1.mp4,cat,train\nval/cat/4.mp4,cat,val\n")
    quick_check(root)
    if change == "table":
        root.write_text("path,label,split\ntrain/cat/1.mp4,dog,train\nval/cat/4.mp4,cat,val\n")
    else:
        write_videos(folder, {"train": ("dog/6",) if change == "new video" else ("horse/6",)})
    with caplog.at_level(logging.WARNING, "vivit"):
        samples = read_samples("folder", str(root), "train")
    assert "vivit data check brings it up to date" in caplog.text
    assert list(samples) == read_annotations("folder", str(root), "train")[0]
    quick_check(root)
    caplog.clear()
    assert list(map(str, read_samples("folder", str(root), "train"))) != []
    assert not caplog.text


def test_a_manifest_may_lie_elsewhere_and_one_that_is_not_there_is_an_error(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "m.jsonl"
    with pytest.raises(DataError, match="vivit data check folder .* --manifest .*m.jsonl writes it"):
        read_samples("folder", str(folder), "train", manifest=str(path))
    quick_check(folder, manifest=str(path))
    assert not (folder / "manifest.folder.jsonl").exists()
    assert read_samples("folder", str(folder), "train", manifest=str(path))[0].index is not None
    path.write_text(path.read_text().replace('"dataset":"folder"', '"dataset":"ssv2"'))
    with pytest.raises(DataError, match="a manifest of ssv2, not of folder"):
        read_samples("folder", str(folder), "train", manifest=str(path))


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(folder):
    quick_check(folder)
    path = folder / "manifest.folder.jsonl"
    text = path.read_text()
    for wrong in (text[: len(text) // 2], "{}", "hello", text.replace('"manifest":3', '"manifest":99')):
        path.write_text(wrong)
        with pytest.raises(DataError, match="run vivit data check again"):
            read_samples("folder", str(folder), "train")
    quick_check(folder)
    assert path.read_text() == text


def test_unreadable_files_are_left_out_by_name_and_kept_for_the_test(folder):
    (folder / "train/cat/1.mp4").write_bytes(b"no video")
    quick_check(folder)
    samples = read_samples("folder", str(folder), "train")
    assert len(samples) == 3
    kept, left_out = samples.readable()
    assert [os.path.basename(s.path) for s in kept] == ["2.mp4", "3.mp4"]
    assert list(left_out) == [str(folder / "train/cat/1.mp4")]
    assert "cannot be read as a video" in left_out[str(folder / "train/cat/1.mp4")]


def test_names_of_any_kind_survive_the_manifest(tmp_path):
    names = ["a b", "ü ⌘", 'quo"te', "]\n[", "#1.tar#x", os.fsdecode(b"\xff\xfe")]
    write_videos(tmp_path, {"train": [f"cat/{name}" for name in names], "val": ["cat/x"]})
    plain = [s.path for s in read_samples("folder", str(tmp_path), "train")]
    quick_check(tmp_path)
    samples = read_samples("folder", str(tmp_path), "train")
    assert [s.path for s in samples] == plain
    assert all(s.index for s in samples)
    list_hash(samples)


def test_the_manifest_is_lines_of_json_with_the_names_of_its_columns(folder):
    report = quick_check(folder)
    lines = [json.loads(line) for line in report.manifest.read_text().splitlines()]
    header, rows = lines[0], lines[1:]
    files = [dict(zip(header["file_columns"], row)) for row in rows[: header["files"]]]
    samples = [dict(zip(header["sample_columns"], row)) for row in rows[header["files"] :]]
    truth = {s.path: s.labels for split in ("train", "val") for s in read_annotations("folder", str(folder), split)[0]}
    assert {str(folder / files[s["file"]]["path"]): {"label": s["label"]} for s in samples} == truth
    for facts in files:
        video = Video(folder / facts["path"])
        assert (facts["num_frames"], facts["width"], facts["height"]) == (video.num_frames, 64, 48)
        assert facts["bytes"] == (folder / facts["path"]).stat().st_size
        assert facts["duration"] == pytest.approx(video.duration)


def test_many_classes_are_shown_by_the_most_and_least_frequent(tmp_path):
    write_videos(tmp_path, {"train": ["0/x"], "val": ["0/y"]})
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "start"])
        for k in range(60):
            writer.writerows(
                [["train/0/x.mp4", f"class{k:02}", "train", k / 1000 + i / 10_000_000] for i in range(k + 1)]
            )
        writer.writerow(["val/0/y.mp4", "class00", "val", 0])
    text = str(quick_check(tmp_path / "labels.csv"))
    assert "60 classes, the most and least frequent; 0 have no video in train" in text
    assert "class59" in text
    assert "class00" in text
    assert "class30" not in text
