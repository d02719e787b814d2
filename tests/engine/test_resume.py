"""Stopping and resuming a run: at once, where the data have moved, one training at a time."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vivit.config import replace
from vivit.data.dataset import TrainDataset
from vivit.engine import train as train_module
from vivit.engine import validation as validation_module
from vivit.engine.run import Run, check_same_run, read_config
from vivit.engine.train import train
from vivit.errors import FolderInUse, Stopped
from vivit.files import exclusive_lock

from .tiny import (
    ALONE,
    assert_equal_runs,
    clip_that,
    metrics,
    quick,
    tiny_config,
    train_and_stop,
    with_data,
)


def test_a_checkpoint_from_before_these_fields_loads(continued, straight):
    latest = max((Path(continued.run) / "checkpoints").iterdir())
    manifest = json.loads((latest / "manifest.json").read_text())
    old = {"step", "best", "skipped", "unreadable", "best_step", "baseline", "model", "train_list", "meter"}
    for key in set(manifest["progress"]) - old:
        del manifest["progress"][key]
    manifest["progress"]["best"] = math.nan  # of a validation in which nothing could be read
    (latest / "manifest.json").write_text(json.dumps(manifest))
    train(continued)
    ours, theirs = (load_file(Path(run) / "weights" / "model.safetensors") for run in (continued.run, straight))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("moved", ["copied", "slash", "absolute", "relative"])
def test_a_run_continues_where_its_data_have_moved(own_data, tmp_path, monkeypatch, moved):
    root = own_data.parent
    (root / "labels.csv").unlink()
    for split, names in (("train", "train*.mp4"), ("val", "val*.mp4")):
        for i, path in enumerate(sorted((root / "videos").glob(names))):
            target = root / split / "ab"[i % 2] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    (root / "videos").rmdir()
    monkeypatch.chdir(tmp_path)
    first = {"relative": str(root.absolute())}.get(moved, "data")
    config = tiny_config(first, tmp_path / "run")
    train_and_stop(config, 1)
    if moved == "copied":
        root.rename(tmp_path / "elsewhere")
    place = {"copied": "elsewhere", "slash": "data/", "absolute": str(root.absolute()), "relative": "data"}[moved]
    run = train(with_data(config, root=place))
    assert read_config(run).data.root == place


def test_validation_videos_that_changed_since_the_checkpoint_are_refused(data_root, tmp_path):
    (tmp_path / "videos").symlink_to(data_root.parent / "videos")
    table = tmp_path / "labels.csv"
    table.write_text(data_root.read_text())
    config = with_data(quick(tiny_config(table, tmp_path / "run")))
    train_and_stop(config, 1)
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if "val0.mp4" not in row) + "\n")
    with pytest.raises(ValueError, match=r"another list of validation videos \(there (\w{12}), now (?!\1)\w{12} in"):
        train(config)


def test_weights_to_start_from_are_one_setting_however_their_path_is_written(config, straight, monkeypatch):
    config = replace(quick(config), init=str(straight / "weights"))
    train_and_stop(config, 1)
    config = read_config(Path(config.run))
    monkeypatch.chdir(straight.parent)
    for init in (f"{straight}/weights/", "run/weights", "run", str(straight)):
        check_same_run(replace(config, init=init))
    for init in (None, "run/best", "google/vivit"):
        with pytest.raises(ValueError, match="init: "):
            check_same_run(replace(config, init=init))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_validation_ends_it_and_the_run_continues_with_it(
    config, straight, monkeypatch, number, capfd
):
    evaluate = validation_module.evaluate

    def interrupted(*args, progress, **how):
        os.kill(os.getpid(), number)
        return evaluate(*args, progress=progress, **how)

    monkeypatch.setattr(validation_module, "evaluate", interrupted)
    with pytest.raises(Stopped):
        train(config)
    assert "stopping after this step; press again to quit without saving" in capfd.readouterr().err
    monkeypatch.undo()
    assert [line["step"] for line in metrics(config.run)] == [1, 2, 3]
    assert not any("val/videos" in line for line in metrics(config.run))
    train(config)
    assert_equal_runs(config.run, straight)


def test_a_signal_while_waiting_for_data_ends_the_wait(config, monkeypatch):
    slow = clip_that(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(1000)))
    monkeypatch.setattr(TrainDataset, "clip", slow)
    started = time.monotonic()
    with pytest.raises(Stopped):
        train(config)
    assert time.monotonic() - started < 300
    assert list((Path(config.run) / "checkpoints").glob("step-*/manifest.json"))


def test_a_second_signal_ends_at_once_without_saving(config, monkeypatch):
    def twice(at, **how):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.4)
        os.kill(os.getpid(), signal.SIGINT)
        return 0.0

    monkeypatch.setattr(train_module, "learning_rate", twice)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert not list((Path(config.run) / "checkpoints").glob("step-*"))


def test_a_second_training_in_a_folder_is_refused_and_changes_nothing(config, stopped):
    shutil.copytree(stopped, config.run)
    before = {path: path.stat().st_mtime_ns for path in Path(config.run).rglob("*") if path.name != ".lock"}
    with exclusive_lock(config.run, what="vivit train"), pytest.raises(FolderInUse, match="vivit train by process"):
        train(config)
    assert before == {path: path.stat().st_mtime_ns for path in Path(config.run).rglob("*") if path.name != ".lock"}


def test_temporary_files_that_a_kill_left_are_removed_at_the_next_start(continued):
    run = Path(continued.run)
    old = [
        run / "config.json.tmp",
        run / "metrics.tmp",
        run / ".metrics.jsonl.12-ab.tmp",
        run / "best/.model.safetensors.x",
    ]
    others = [run / ".results.json.12-ab.tmp", run / "notes.tmp"]
    for path in old + others:
        path.write_text("half")
    train(continued)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in others)


def test_names_in_what_a_run_says_cannot_act_on_the_terminal(config, capsys):
    run = Run(config, ALONE, step=0, steps=1)
    run.log_line("class \x1b]0;title\x07\nnext line")
    assert capsys.readouterr().out == "class \\x1b]0;title\\x07\nnext line\n"
