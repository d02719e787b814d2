"""`vivit data prepare` into a folder that holds files: none of the user's is lost, none of other videos stays."""

import csv
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vivit.cli import data
from vivit.data.datasets.registry import read_samples
from vivit.data.tools import encode
from vivit.data.tools.check import check
from vivit.data.tools.encode import EncodingOptions
from vivit.data.tools.prepare import prepare
from vivit.data.video.decoder import Video

from ..videos import counter_frames, write_video
from .test_prepare import SMALL, shown

OLD = 10**18  # a date in 2001, in nanoseconds


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)


def make(path: Path, first: int, frames: int = 6) -> Path:
    """Write an old video whose frames show the numbers from `first` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, counter_frames(first + frames, 64, 64)[first:])
    os.utime(path, ns=(OLD, OLD))
    return path


def first_numbers(dest: Path) -> dict[str, int]:
    """Return what the first frame of each new video shows, of the table and of the folder."""
    with (dest / "labels.csv").open() as file:
        listed = {row["path"] for row in csv.DictReader(file)}
    assert {path.relative_to(dest).as_posix() for path in dest.rglob("*.mp4")} == listed
    return {name: shown(dest / name)[0][0] for name in sorted(listed)}


def run(source: Path, dest: Path, **how):
    return prepare(str(source), str(dest), encoding=SMALL, workers=1, splits=("train",), **how)


def dataset(root: Path, first: int) -> Path:
    for i, label in enumerate("xyz"):
        make(root / f"train/{label}/{i}.mp4", first + 10 * i)
    return root


def test_the_folder_of_the_videos_is_refused_and_the_table_stays(tmp_path, monkeypatch):
    make(tmp_path / "videos/a.mp4", 0)
    table = tmp_path / "videos/labels.csv"
    table.write_text("path,label,camera,split\na.mp4,x,left,train\n")
    before = {path: path.read_bytes() for path in table.parent.iterdir()}
    (tmp_path / "link").symlink_to(table.parent)
    for dest in (table.parent, tmp_path / "link"):
        with pytest.raises(
            ValueError, match=r"is the folder of the videos.*; give another folder, such as .*videos_fast"
        ):
            run(table, dest)
    monkeypatch.chdir(table.parent)
    with pytest.raises(ValueError, match="is the folder of the videos"):
        run(Path("labels.csv"), Path("."))
    assert {path: path.read_bytes() for path in table.parent.iterdir()} == before
    assert run(Path("labels.csv"), Path("fast")).written == 1  # a table lists its videos: a folder below it is no class


def test_a_folder_inside_class_folders_is_refused(tmp_path):
    root = dataset(tmp_path / "videos", 0)
    for dest in (root, root / "fast", root / "train/x/fast"):
        with pytest.raises(ValueError, match="the folder of the videos"):
            run(root, dest)
    assert not (root / "fast").exists()
    assert run(root, tmp_path / "videos_fast").written == 3


@pytest.mark.parametrize("name", ["labels.csv", "classes.json", "bad.txt", "train/x/0.mp4"])
def test_files_of_the_user_in_the_new_folder_are_refused(tmp_path, name):
    root, dest = dataset(tmp_path / "videos", 0), tmp_path / "dest"
    (dest / name).parent.mkdir(parents=True)
    (dest / name).write_text("mine")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"(?s)no earlier prepare wrote.*{name}"):
            run(root, dest)
    assert (dest / name).read_text() == "mine"
    assert not (dest / "settings.json").exists()


def test_another_dataset_with_the_same_names_and_dates_replaces_the_first(tmp_path):
    one, two, dest = dataset(tmp_path / "one", 0), dataset(tmp_path / "two", 100), tmp_path / "dest"
    assert run(one, dest).written == 3
    done = run(two, dest)
    assert (done.written, done.kept) == (3, 0)
    assert first_numbers(dest) == {"train/x/0.mp4": 100, "train/y/1.mp4": 110, "train/z/2.mp4": 120}


def test_a_new_video_of_the_same_stem_gets_its_own_pictures(tmp_path):
    root, dest = dataset(tmp_path / "videos", 0), tmp_path / "dest"
    run(root, dest)
    make(root / "train/x/0.MOV", 50)
    run(root, dest)
    with (dest / "labels.csv").open() as file:
        new = [row["path"] for row in csv.DictReader(file)]
    old = [s.path for s in read_samples("folder", str(root), "train")]
    assert [first_numbers(dest)[name] for name in new] == [shown(path)[0][0] for path in old]
    assert sorted(first_numbers(dest).values()) == [0, 10, 20, 50]


def test_another_rate_of_a_folder_of_images_is_written_again(tmp_path):
    for i, image in enumerate(counter_frames(5, 64, 64)):
        path = tmp_path / f"videos/a/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    make(tmp_path / "videos/b.mp4", 0)
    table = tmp_path / "videos/labels.csv"
    for fps in (25, 5, 5):
        table.write_text(f"path,label,fps,split\na,x,{fps},train\nb.mp4,y,,train\n")
        done = run(table, tmp_path / "dest")
        np.testing.assert_allclose(np.diff(shown(tmp_path / "dest/a.mp4")[1]), 1 / fps, atol=1e-4)
    assert (done.written, done.kept) == (0, 2)


def test_deleted_and_broken_videos_leave_neither_files_nor_folders(tmp_path):
    root, dest = dataset(tmp_path / "videos", 0), tmp_path / "dest"
    run(root, dest)
    (root / "train/x/0.mp4").unlink()
    (root / "train/x").rmdir()
    (root / "train/y/1.mp4").write_bytes(b"no video")
    (dest / "train/x/0.mp4.part").write_bytes(b"cut off")
    done = run(root, dest)
    assert (done.written, done.kept, len(done.bad), done.removed) == (0, 1, 1, 1)
    assert "1 videos of an earlier run removed" in str(done)
    assert first_numbers(dest) == {"train/z/2.mp4": 20}
    assert os.listdir(dest / "train") == ["z"]
    assert check(str(dest), splits=("train",), workers=1).videos == {"train": 1}


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    root, dest, written = dataset(tmp_path / "videos", 0), tmp_path / "dest", []
    whole = encode._encode

    def stop_at_the_third(job, part):
        if len(written) == 2:
            raise KeyboardInterrupt
        whole(job, part)
        written.append(job.dest)

    monkeypatch.setattr("vivit.data.tools.encode._encode", stop_at_the_third)
    monkeypatch.setattr(
        "vivit.data.tools.prepare.map_in_processes", lambda f, jobs, **how: ((job, f(job)) for job in jobs)
    )
    with pytest.raises(KeyboardInterrupt):
        run(root, dest)
    monkeypatch.setattr("vivit.data.tools.encode._encode", whole)
    done = run(root, dest)
    assert (done.written, done.kept) == (1, 2)
    assert list(first_numbers(dest).values()) == [0, 10, 20]


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"sources": {"../../labels.csv": []}})])
def test_a_damaged_file_of_settings_is_named(tmp_path, content):
    root, dest = dataset(tmp_path / "videos", 0), tmp_path / "dest"
    run(root, dest)
    (dest / "settings.json").write_text(content)
    (tmp_path.parent / "labels.csv").write_text("mine")
    with pytest.raises(
        ValueError, match=r"settings.json was not written by this version of prepare.*; give another folder"
    ):
        run(root, dest)
    assert (tmp_path.parent / "labels.csv").read_text() == "mine"


def test_shards_of_an_earlier_run_go(tmp_path):
    root, dest = dataset(tmp_path / "videos", 0), tmp_path / "dest"
    (dest / "shards").mkdir(parents=True)
    for name in ("train-000007.tar", "backup.tar"):
        (dest / "shards" / name).write_bytes(b"")
    done = run(root, dest, shard_mib=1)
    assert sorted(os.listdir(dest / "shards")) == ["backup.tar", "index.jsonl", *done.shards]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 0}, "short_side is 0; it must be above 0"),
        ({"short_side": -5}, "short_side is -5; it must be above 0"),
        ({"max_fps": 0}, "max_fps is 0; it must be above 0"),
        ({"max_fps": float("nan")}, "max_fps is nan; it must be above 0"),
        ({"crf": -1}, "crf is -1; it must be 0 to 51"),
        ({"crf": 52}, "crf is 52; it must be 0 to 51"),
    ],
)
def test_encoding_out_of_bounds_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EncodingOptions(**options)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        *(("prepare", f"{name}=-1") for name in ("--shard-mib", "--workers", "--short-side")),
        *(("check", f"{name}={value}") for name in ("--workers", "--num-frames") for value in (0, -1)),
        *(("check", f"--frame-stride={value}") for value in ("0.0", "nan", "inf")),
    ],
)
def test_options_of_the_commands_out_of_bounds_are_refused(tmp_path, capsys, verb, option):
    places = [str(dataset(tmp_path / "videos", 0)), str(tmp_path / "dest")][: 2 if verb == "prepare" else 1]
    try:
        data.run([verb, *places, option])
        message = ""
    except (ValueError, SystemExit) as error:
        message = f"{error}{capsys.readouterr()}"
    name, value = option.removeprefix("--").split("=")
    assert f"{name.replace('-', '_')} is {value}; it must be" in message
    assert not (tmp_path / "dest").exists()


def test_the_folder_itself_can_be_given_where_it_holds_shards_too(tmp_path):
    root, dest = tmp_path / "videos", tmp_path / "dest"
    for i, label in enumerate("xxyy"):
        make(root / f"{label}/{i}.mp4", 10 * i)
    (root / "labels.csv").write_text(
        "path,label,split\n" + "".join(f"{c}/{i}.mp4,{c},train\n" for i, c in enumerate("xxyy"))
    )
    run(root / "labels.csv", dest, shard_mib=1)
    names = {
        s.path.removeprefix(f"{dest}/") for split in ("train", "val") for s in read_samples("folder", str(dest), split)
    }
    assert names == {"x/0.mp4", "x/1.mp4", "y/2.mp4", "y/3.mp4"}
    make(dest / "shards/4.mp4", 40)  # a class of this name
    assert {s.labels["label"] for s in read_samples("folder", str(dest), "train")} == {"x", "y", "shards"}


def test_a_frame_that_does_not_decode_costs_the_video_or_only_the_segments_that_hold_it(tmp_path):
    path = make(tmp_path / "a.mp4", 0, frames=48)  # a key frame every 12
    with av.open(str(path)) as container:
        last = max((p for p in container.demux(video=0) if p.size), key=lambda p: p.pos)
    content = path.read_bytes()
    path.write_bytes(content[: last.pos] + bytes(last.size) + content[last.pos + last.size :])
    assert "of 48 do" in (Video(path).damage() or "")
    make(tmp_path / "b.mp4", 100)
    table = tmp_path / "labels.csv"
    table.write_text("path,label,start,end,split\na.mp4,x,0,0.4,train\na.mp4,y,1.4,2,train\nb.mp4,y,,,train\n")
    done = run(table, tmp_path / "dest")
    assert ([*first_numbers(tmp_path / "dest")], len(done.bad)) == (["b.mp4"], 1)
    done = run(table, tmp_path / "parts", segments=True)
    assert ([*first_numbers(tmp_path / "parts").values()], len(done.bad)) == ([0, 100], 1)


@pytest.mark.parametrize("shard_mib", [0, 1])
def test_a_table_whose_label_columns_must_be_named_is_prepared(tmp_path, shard_mib):
    make(tmp_path / "in/a.mp4", 0)
    table = tmp_path / "in/list.csv"
    table.write_text("path,name,split\na.mp4,x,train\n")
    done = run(table, tmp_path / "out", labels=("name",), shard_mib=shard_mib)
    assert done.problems == done.bad == []
    [row] = read_samples("folder", str(done.table), "train", labels=("name",))
    assert (row.labels, shown(row.path)[0][0]) == ({"name": "x"}, 0)
    for path in (tmp_path / "out/shards",) * bool(shard_mib):
        assert [s.labels for s in read_samples("shards", str(path), "train")] == [{"name": "x"}]
