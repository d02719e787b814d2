"""Warnings of `vivit data check`: classes, what it passed over, damage in the middle, read-only data."""

import errno
import os
import shutil

import av
import pytest

from vivit.data.datasets.registry import read_samples
from vivit.data.manifest import default_path
from vivit.data.tools import check as check_module
from vivit.data.tools import probe
from vivit.data.tools.check import check
from vivit.data.tools.check_report import Report
from vivit.errors import DataError

from ..datasets.official import kinetics
from ..video.test_frame_folder import write_frames
from ..videos import counter_frames, write_video
from .test_check import folder, quick_check, write_videos  # noqa: F401  (a fixture)


def few(tmp_path, **splits):
    """Class folders with tiny videos: split → class → how many."""
    for split, classes in splits.items():
        names = [f"{name}/{split}{name}{i}" for name, many in classes.items() for i in range(many)]
        write_videos(tmp_path, {split: names}, frames=3)
    return quick_check(tmp_path, splits=tuple(splits))


def test_classes_that_cannot_be_learned_or_measured_are_named(tmp_path):
    report = few(tmp_path, train={"a": 2, "b": 2, "once": 1}, val={"a": 1})
    assert report.found["classes"] == [
        "label: a single clip in train: 'once'",
        "label: no clip in val: 'b', 'once'",
    ]
    assert "2 warnings" in str(report)


def test_a_single_class_is_said(tmp_path):
    assert "label: a single class, so there is nothing to tell apart: 'a'" in few(tmp_path, train={"a": 3}).warnings


def test_classes_that_differ_in_spelling_only_are_said(tmp_path):
    warnings = few(tmp_path, train={"Hand_Stand": 2, "hand stand": 2, "b": 2}).warnings
    assert any("differ in capitals, spaces or dashes only: 'Hand_Stand', 'hand stand'" in line for line in warnings)


def test_the_same_folders_inside_every_class_are_said(tmp_path):
    write_videos(tmp_path, {f"{c}/{cam}": ["1", "2"] for c in ("cat", "dog") for cam in ("cam1", "cam2")})
    [line] = [line for line in quick_check(tmp_path, splits=("train",)).warnings if "outer" in line]
    assert line == "every folder (cat, dog) holds folders cam1, cam2; the classes are the outer ones"


def test_what_is_passed_over_is_counted_by_suffix(folder):  # noqa: F811
    for name in ("train/cat/a.heic", "train/cat/b.HEIC", "val/c.txt", "train/@eaDir/x.jpg", "raw/1.mp4", "2.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    assert quick_check(folder).found["passed over"] == [
        "other files and system folders: 2 .heic, 1 .txt, 1 @eaDir/",
        "1 videos in no folder, which is neither a class nor one of the splits",
        "1 videos in the folder raw, which is neither a class nor one of the splits",
    ]


def test_videos_directly_in_a_split_folder_are_said(tmp_path):
    inside = [f"{c}/{i}" for c in "ab" for i in range(3)]
    write_videos(tmp_path, {"train": [*inside, "x", "y"], "val": inside, "test": [*inside, "z"]}, frames=3)
    report = quick_check(tmp_path)
    assert report.videos == {"train": 6, "val": 6}
    assert report.found["passed over"] == [
        "1 videos directly in the folder test, in no class",
        "2 videos directly in the folder train, in no class",
    ]


def test_videos_that_another_split_holds_out_are_not_passed_over(tmp_path):
    write_videos(tmp_path, {"train": ["deep/1", *"23456"], "b": list("12345")}, frames=3)
    for splits in (("val",), ("train",), ("train", "val")):
        assert "passed over" not in quick_check(tmp_path, splits=splits).found


def test_a_table_says_which_columns_are_labels(folder):  # noqa: F811
    table = folder / "labels.csv"
    table.write_text("path,label,camera,split\ntrain/cat/1.mp4,a,3,train\nval/cat/4.mp4,a,3,val\n")
    report = quick_check(table)
    assert "label columns: label (by the usual names of labels); not labels: camera" in str(report)
    assert list(quick_check(table, labels=("camera",)).classes) == ["camera"]
    assert list(read_samples("folder", str(table), "train", labels=("camera",))[0].labels) == ["camera"]


def test_a_manifest_for_other_labels_is_not_used(folder, caplog):  # noqa: F811
    table = folder / "labels.csv"
    table.write_text("path,verb,noun,split\ntrain/cat/1.mp4,a,x,train\ntrain/cat/2.mp4,b,,train\n")
    quick_check(table, labels=("verb",), splits=("train",))
    assert read_samples("folder", str(table), "train", labels=("verb",))[0].index is not None
    with pytest.raises(DataError, match="labels.csv:3: noun is empty"):
        read_samples("folder", str(table), "train")
    assert "it is for other data.labels (verb)" in caplog.text


def test_a_video_missing_from_an_official_list_is_no_problem(tmp_path):
    kinetics(tmp_path)
    next(tmp_path.glob("train/zumba/0*")).unlink()
    report = check(str(tmp_path), dataset="kinetics400", splits=("train",), workers=1)
    missing = report.found["missing"]
    assert missing
    assert set(missing) <= set(report.warnings)
    assert not set(missing) & set(report.problems)


def damage_the_middle(path):
    """Overwrite the packets of frames 10 to 19 of 40; the file begins and ends well."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in sorted(places)[10:20]:
        data[position + 4 : position + size] = bytes(251 - i % 250 for i in range(size - 4))
    path.write_bytes(data)


def test_damage_in_the_middle_is_found_by_a_thorough_check_and_remembered(tmp_path):
    write_videos(tmp_path, {"train": ("cat/1", "dog/2")}, frames=40)
    damage_the_middle(write_video(tmp_path / "train/cat/1.mp4", counter_frames(40)))
    write_frames(tmp_path / "train/dog/3", counter_frames(5))
    (tmp_path / "train/dog/3" / sorted(p.name for p in (tmp_path / "train/dog/3").iterdir())[2]).write_bytes(b"")
    plain = quick_check(tmp_path, splits=("train",))
    assert not plain.problems
    report = quick_check(tmp_path, splits=("train",), thorough=True)
    assert report.opened == 3
    cat, dog = sorted(report.found["damaged"])
    assert cat.startswith("train/cat/1.mp4: ")
    assert dog.startswith("train/dog/3: ")
    assert "cannot be read as an image" in dog
    again = quick_check(tmp_path, splits=("train",))
    assert (again.opened, again.found["damaged"]) == (0, [cat, dog])


def test_a_video_whose_last_frames_are_bad_is_damaged_and_training_uses_it(tmp_path):
    write_videos(tmp_path, {"train": ("cat/1", "cat/2", "dog/3")}, frames=10)
    path = write_video(
        tmp_path / "train/cat/1.mp4",
        counter_frames(200),
        options={"bf": "0"},
        container_options={"movflags": "faststart"},
    )
    data = path.read_bytes()
    path.write_bytes(data[: -(len(data) // 20)] + bytes(len(data) // 20))  # of a download that was not completed
    images = write_frames(tmp_path / "train/dog/4", counter_frames(5))
    last = sorted(images.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:100])
    for thorough in (False, True):
        report = quick_check(tmp_path, splits=("train",), thorough=thorough)
        assert "unreadable" not in report.found
        cat, dog = sorted(report.found["damaged"])
        assert cat.startswith("train/cat/1.mp4: frame")
        assert dog.startswith(f"train/dog/4: {last.name} cannot be read as an image")
        kept, left_out = read_samples("folder", str(tmp_path), "train").readable()
        assert (len(kept), left_out) == (4, {})


def test_a_broken_first_image_is_named(tmp_path):
    write_videos(tmp_path, {"train": ("cat/1", "dog/2")})
    first = min(write_frames(tmp_path / "train/dog/3", counter_frames(5)).iterdir())
    first.write_bytes(b"")
    [line] = quick_check(tmp_path, splits=("train",)).found["unreadable"]
    assert line.startswith(f"train/dog/3: {first.name} cannot be read as an image")


def test_a_file_that_can_be_read_again_is_no_longer_a_problem(folder, monkeypatch):  # noqa: F811
    def refuse(path, *, plain=probe.open_video, **how):
        if path.endswith("train/cat/2.mp4"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, **how)

    with monkeypatch.context() as m:
        m.setattr(probe, "open_video", refuse)
        assert "Permission denied" in quick_check(folder).found["unreadable"][0]
    report = quick_check(folder)
    assert (report.opened, report.problems) == (1, [])
    assert quick_check(folder).opened == 0


def test_a_hash_that_could_not_be_computed_is_computed_the_next_time(folder, monkeypatch):  # noqa: F811
    shutil.copy(folder / "train/cat/1.mp4", folder / "train/dog/copy.mp4")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as m:
        m.setattr(probe, "hash_file", refuse)
        assert "duplicated" not in quick_check(folder).found
    assert quick_check(folder).found["duplicated"] == ["train/cat/1.mp4 = train/dog/copy.mp4"]


def test_another_rate_of_a_folder_of_images_is_taken_over(tmp_path):
    write_frames(tmp_path / "a", counter_frames(20))
    table = tmp_path / "labels.csv"
    for fps, seconds in ((5, 4.0), (10, 2.0), ("", 0.8), (25, 0.8)):
        table.write_text(f"path,label,fps,split\na,x,{fps},train\n")
        report = quick_check(table, splits=("train",))
        assert (report.files[0].duration, report.opened) == (pytest.approx(seconds), int(fps != 25))


@pytest.mark.parametrize(
    "error", [IndexError("list index out of range"), ZeroDivisionError("x"), RuntimeError("\x1b[31m")]
)
def test_any_exception_of_a_library_is_a_problem_of_its_file(folder, monkeypatch, error):  # noqa: F811
    def open_video(path, *, plain=probe.open_video, **how):
        if path.endswith("train/cat/2.mp4"):
            raise error
        return plain(path, **how)

    monkeypatch.setattr(probe, "open_video", open_video)
    report = quick_check(folder)
    [line] = report.problems
    assert line.startswith(f"train/cat/2.mp4: cannot be read ({type(error).__name__}: ")
    assert "\x1b" not in str(report)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_the_data_cannot_be_written_to_the_report_is_given_all_the_same(folder, monkeypatch, code):  # noqa: F811
    (folder / "train/cat/1.mp4").write_bytes(b"")
    events = []

    def refuse(**how):
        events.append("tried")
        raise OSError(code, "cannot")

    monkeypatch.setattr(check_module, "TemporaryFile", refuse)
    monkeypatch.setattr(
        check_module, "probe_files", lambda *a, f=check_module.probe_files: events.append("read") or f(*a)
    )
    report = quick_check(folder)
    assert events == ["tried", "read"]
    assert (len(report.problems), report.manifest) == (1, None)
    assert "--manifest PATH" in report.found["not kept"][0]
    assert not default_path("folder", str(folder)).exists()
    with pytest.raises(DataError, match="give another place with --manifest"):
        quick_check(folder, manifest=str(folder / "m.jsonl"))


def test_a_disk_that_fills_up_at_the_end_is_a_problem_in_the_report(folder, monkeypatch):  # noqa: F811
    def full(*args, **how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(check_module, "write_manifest", full)
    report = quick_check(folder)
    assert report.problems == [f"{folder}/manifest.folder.jsonl cannot be written (No space left on device)"]
    assert report.manifest is None


def test_names_with_escape_sequences_reach_no_terminal(tmp_path):
    write_videos(tmp_path, {"train": ("\x1b]0;x\x07/1", "b\u202ec/2")})
    (tmp_path / "train/b\u202ec/2.mp4").write_bytes(b"")
    text = str(quick_check(tmp_path, splits=("train",)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;x\\x07" in text
    assert isinstance(Report(), Report)


def test_classes_that_are_not_utf_8_have_a_name_that_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_videos(tmp_path, {"train": (f"{name}/{name}", "b/1"), "val": (f"{name}/2", "b/3")})
    report = quick_check(tmp_path)
    assert report.classes == {"label": ("b", "caf\\xe9")}
    assert report.problems == []
    str(report).encode()
    shutil.copy(tmp_path / f"train/{name}/{name}.mp4", tmp_path / "val/b/copy.mp4")
    str(quick_check(tmp_path)).encode()
