"""`vivit features`: names of files, tables, failures, kills and several processes on one list."""

import csv
import json
import shutil
import signal
import time

import numpy as np
import pytest

import vivit as package
from vivit.cli.features import find_samples
from vivit.inference.resume import PartialRows

from ..data.videos import counter_frames, write_video
from ..model import tiny
from .conftest import start_vivit

CPU = ["--device", "cpu"]


@pytest.fixture
def videos(tmp_path):
    """a.mp4 and deep/a.mp4."""
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    write_video(tmp_path / "videos" / "a.mp4", counter_frames(60))
    write_video(tmp_path / "videos" / "deep" / "a.mp4", counter_frames(20))
    return tmp_path / "videos"


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_a_folder_of_arrays_with_descriptions_and_a_table(vivit, weights, videos, tmp_path):
    out = tmp_path / "out"
    (videos / "broken.mp4").write_bytes(b"no video")
    code, printed, err = vivit("features", weights, videos, "--out", out, "--level", "position", *CPU)
    assert (code, printed) == (1, "")
    assert f"2 of 3 features in {out}, 2 of them computed now" in err
    assert f"1 failed, listed in {out / 'failures.csv'}" in err
    assert f"{videos / 'a.mp4'}: 15 x 16 (position), one every 4 frames" in err
    assert files(out) == ["a.json", "a.npy", "deep/a.json", "deep/a.npy", "failures.csv", "features.json"]
    [failure] = csv.DictReader((out / "failures.csv").read_text().splitlines())
    assert failure["path"] == str(videos / "broken.mp4")
    assert "cannot be read as a video" in failure["error"]
    expected = package.features(str(weights), videos / "a.mp4", level="position")
    np.testing.assert_array_equal(np.load(out / "a.npy"), expected.values)
    database = json.loads((out / "features.json").read_text())["database"]
    assert {name: row["shape"] for name, row in database.items()} == {"a": [15, 16], "deep/a": [5, 16]}

    (videos / "broken.mp4").unlink()
    code, _, err = vivit("features", weights, videos, "--out", out, "--level", "position", *CPU)
    assert (code, f"2 of 2 features in {out}, 0 of them computed now" in err) == (0, True)
    assert not (out / "failures.csv").exists()


def test_a_table_gives_segments_and_keeps_its_labels(vivit, weights, videos, tmp_path):
    rows = ["path,start,end,label,split", "a.mp4,0.4,1.2,x,train", "a.mp4,1.25,,y,val", "deep/a.mp4,,,x,val"]
    (videos / "list.csv").write_text("\n".join(rows))
    code, _, _ = vivit("features", weights, videos / "list.csv", "--out", tmp_path / "out", "--hop", 0.2, *CPU)
    assert code == 0
    assert [name for name in files(tmp_path / "out") if name.endswith("npy")] == [
        "a_0.4-1.2.npy",
        "a_1.25-end.npy",
        "deep/a.npy",
    ]
    about = json.loads((tmp_path / "out" / "a_0.4-1.2.json").read_text())
    assert (about["labels"], about["segment"]) == ({"label": "x"}, [0.4, 1.2])
    expected = package.features(str(weights), videos / "a.mp4", hop=0.2, start=0.4, end=1.2)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a_0.4-1.2.npy"), expected.values)
    (videos / "paths.jsonl").write_text('{"path": "a.mp4"}\n')
    code, _, err = vivit("features", weights, videos / "paths.jsonl", "--out", tmp_path / "plain", *CPU)
    assert (code, json.loads((tmp_path / "plain" / "a.json").read_text())["labels"]) == (0, {})
    (videos / "wrong.csv").write_text("path\nnone.mp4\n")
    code, _, err = vivit("features", weights, videos / "wrong.csv", "--out", tmp_path / "plain", *CPU)
    assert code == 2
    assert "wrong.csv:2: no file" in err


def test_names_are_those_of_the_videos_and_never_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.mp4", "one/a.mkv", "one/b.v2.mp4", "one/features.mp4", "two/a.mp4", "two/frames/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in find_samples(["one"])] == ["a.mkv", "a.mp4", "b.v2", "features.mp4"]
    assert [name for name, _ in find_samples(["two/frames", "one/b.v2.mp4", "one"])][:2] == ["frames", "b.v2"]
    assert [sample.path for _, sample in find_samples(["one/a.mp4", str(tmp_path / "one" / "a.mp4")])] == ["one/a.mp4"]
    with pytest.raises(ValueError, match=r"one/a\.mp4 and two/a\.mp4 would both become a\.mp4; give the folder"):
        find_samples(["one/a.mp4", "two/a.mp4"])
    assert [name for name, _ in find_samples(["."])] == [
        *("one/a.mkv", "one/a.mp4", "one/b.v2", "one/features", "two/a")
    ]


def test_what_another_process_computes_is_waited_for(vivit, weights, videos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    held = PartialRows(out / "a.partial", "other", 3)
    held.__enter__()
    monkeypatch.setattr("vivit.cli.features.time.sleep", lambda seconds: held.__exit__(None, None, None))
    code, _, err = vivit("features", weights, videos, "--out", out, *CPU)
    assert code == 0
    assert "waiting for 1 that other processes compute" in err
    assert err.index("deep/a.mp4: ") < err.index("waiting") < err.index(f"{videos / 'a.mp4'}: ")


def test_errors_say_what_to_do(vivit, weights, videos, tmp_path):
    other = tiny.model("spatiotemporal").save_pretrained(tmp_path / "other")
    out = ["--out", tmp_path / "out"]
    for words, message in (
        ([weights, *out], "no video; usage: vivit features WEIGHTS VIDEO [VIDEO ...] --out DIR"),
        ([weights, videos], "no folder to write to: --out DIR"),
        ([weights, videos, "--out", videos / "a.mp4"], "a.mp4 is a file; --out takes a folder"),
        ([weights, videos, *out, "--hop", 0], "hop is 0"),
        ([weights, videos, *out, "--batch", 0], "batch is 0"),
        ([weights, videos, *out, "--hop", 1, "--level", "token"], "leave the hop out"),
        ([other, videos, *out, "--level", "position"], "level position needs Model 2"),
        ([weights, videos / "none.mp4", *out], "does not exist"),
    ):
        code, _, err = vivit("features", *words, *CPU)
        assert (code, message in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def start(weights, videos, out, log):
    return start_vivit("features", weights, videos, "--out", out, "--level", "position", *CPU, log=log)


def computed_now(text):
    [line] = [line for line in text.splitlines() if "computed now" in line]
    return int(line.split(", ")[1].split()[0])


@pytest.fixture
def many(tmp_path):
    """Six videos of 200 frames."""
    folder = tmp_path / "many"
    folder.mkdir()
    first = write_video(folder / "0.mp4", counter_frames(200))
    for number in range(1, 6):
        shutil.copy(first, folder / f"{number}.mp4")
    return folder


def test_three_processes_on_one_folder_compute_each_video_once(weights, many, tmp_path):
    logs = [tmp_path / f"log{number}.txt" for number in range(3)]
    running = [start(weights, many, tmp_path / "out", log) for log in logs]
    for process in running:
        process.join(300)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert sum(computed_now(log.read_text()) for log in logs) == 6
    assert len(files(tmp_path / "out")) == 13
    assert len(json.loads((tmp_path / "out" / "features.json").read_text())["database"]) == 6


def kill_until_done(weights, many, out, kills, rng):
    """Run the command and kill it after random times, at most `kills` times; return the number of kills."""
    done, log = 0, out.with_suffix(".log")
    while True:
        process = start(weights, many, out, log)
        seen = len(list(out.rglob("*"))) if out.exists() else 0
        deadline = time.monotonic() + 600
        while done < kills and process.is_alive() and time.monotonic() < deadline:
            if out.exists() and (len(list(out.rglob("*"))) > seen or rng.random() < 0.02):
                time.sleep(rng.random() * 0.05)
                process.kill()
                done += 1
                break
            time.sleep(0.001)
        process.join(300)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, log.read_text()
            return done


def test_kills_at_any_time_leave_only_complete_files_and_the_same_numbers(weights, many, tmp_path):
    check_kills(weights, many, tmp_path, 4)


@pytest.mark.drill
def test_twenty_kills_at_any_time_leave_only_complete_files_and_the_same_numbers(weights, many, tmp_path):
    check_kills(weights, many, tmp_path, 20)


def check_kills(weights, many, tmp_path, kills):
    expected = package.features(str(weights), many / "0.mp4", level="position").values
    rounds = 0
    while kills > 0:  # a killed run that got far leaves less to kill: then start with an empty folder
        out, rounds = tmp_path / f"out{rounds}", rounds + 1
        done = kill_until_done(weights, many, out, min(kills, 6), np.random.default_rng(rounds))
        kills -= max(done, 1)
        names = [f"{number}.{suffix}" for number in range(6) for suffix in ("json", "npy")]
        left = [name for name in files(out) if not name.startswith(".features.json.")]
        assert left == [*names, "features.json"]
        for number in range(6):
            np.testing.assert_array_equal(np.load(out / f"{number}.npy"), expected)
