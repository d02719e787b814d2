"""What goes wrong in runs of days: each has a defined behaviour and a message that names the file."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vivit.cli
from vivit.config import replace
from vivit.data.dataset import TrainDataset, wait_for_storage
from vivit.engine import checkpoint
from vivit.engine import run as run_module
from vivit.engine import train as train_module
from vivit.engine.trackers import TensorBoardWriter
from vivit.engine.train import train
from vivit.errors import DataError, Stopped, VideoError

from .tiny import (
    BAD,
    assert_equal_runs,
    clip_that,
    metrics,
    quick,
    tiny_config,
    train_and_stop,
    with_data,
)


def test_an_unreadable_video_is_left_out_named_once_and_counted(config, capsys):
    train(quick(config, epochs=2))
    out = capsys.readouterr().out
    assert out.count("skipped, unreadable") == 1
    assert "broken-train0.mp4" in out
    lines = metrics(config.run)
    assert [line["unreadable"] for line in lines if "unreadable" in line][-1] == 1
    assert [line["val/missing"] for line in lines if "val/missing" in line] == [1]


def test_more_unreadable_videos_than_allowed_stop_the_run_with_their_names(own_data, tmp_path):
    for i in range(3):
        (own_data.parent / "videos" / f"train{i}.mp4").write_bytes(b"")
    config = quick(tiny_config(own_data, tmp_path / "run"))
    with pytest.raises(DataError, match="more unreadable videos than data.max_unreadable allows") as error:
        train(with_data(config, max_unreadable=2))
    assert all(f"train{i}.mp4" in str(error.value) for i in range(3))
    train(with_data(config, max_unreadable=3))  # as the message says, and it goes on


def test_a_run_without_one_readable_video_is_an_error(own_data, tmp_path):
    for path in (own_data.parent / "videos").glob("train*.mp4"):
        path.write_bytes(b"gone")
    with pytest.raises(DataError, match=r"none of the training videos can be read \(8\)"):
        train(tiny_config(own_data, tmp_path / "run"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_video_that_decodes_forever_is_left_out_after_the_time_limit(config, monkeypatch, capsys, workers):
    monkeypatch.setattr(TrainDataset, "clip", clip_that(lambda: time.sleep(1000)))
    started = time.monotonic()
    train(with_data(quick(config), video_timeout=0.3, workers=workers))
    assert time.monotonic() - started < 300
    assert f"{BAD}: still being decoded after 0.3 s" in capsys.readouterr().out


# The killed worker leaves unsent data in a socket that is never closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_laid_to_its_file_and_the_run_goes_on_without_it(config, monkeypatch, capsys):
    monkeypatch.setattr(TrainDataset, "clip", clip_that(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    folder = train(with_data(quick(config), workers=1))
    out = capsys.readouterr().out
    assert f"{BAD}: a worker process died while it read this file (out of memory?); it is skipped" in out
    assert BAD in (folder / "skipped_files.json").read_text()
    assert "training finished (4 steps)" in out
    assert [line["unreadable"] for line in metrics(folder) if "unreadable" in line][-1] == 2  # with the broken one


def test_storage_that_is_gone_for_a_while_is_waited_for(own_data, tmp_path, caplog):
    away = tmp_path / "away"
    shutil.move(own_data.parent, away)
    threading.Timer(0.2, lambda: shutil.move(away, own_data.parent)).start()
    with caplog.at_level(logging.WARNING, "vivit"):
        wait_for_storage(str(own_data.parent / "videos" / BAD), str(own_data), seconds=5)
    assert "is gone, waiting for it to come back" in caplog.text
    with pytest.raises(VideoError, match="has been gone for 0.2 s"):
        wait_for_storage(str(tmp_path / "never" / BAD), str(tmp_path / "never"), seconds=0.2)


def test_the_videos_of_a_batch_wait_together_for_storage_that_is_gone(tmp_path, monkeypatch):
    naps, root = [], tmp_path / "storage"
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: naps.append(seconds) or sleep(seconds))

    def wait(name):
        with pytest.raises(VideoError, match="has been gone for 0.2 s"):
            wait_for_storage(str(root / name), str(root), seconds=0.2)
        return len(naps)

    first = wait("a.mp4")
    assert first > 5
    assert wait("b.mp4") == wait("c.mp4") == first
    root.mkdir()
    wait_for_storage(str(root / "a.mp4"), str(root), seconds=0.2)
    root.rmdir()
    assert wait("a.mp4") > first + 5  # gone once more, so it is waited for once more


def test_a_single_missing_file_is_not_waited_for(own_data, tmp_path):
    started = time.monotonic()
    wait_for_storage(str(own_data.parent / "none.mp4"), str(own_data), seconds=300)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("root", ["", "folder"])
def test_a_video_in_a_shard_is_there_while_its_tar_file_is(root, tmp_path, caplog):
    """Its path, "a.tar#member", is no file, and samples from Python come without a root."""
    shard = tmp_path / "folder" / "a.tar"
    shard.parent.mkdir()
    shard.write_bytes(b"")
    root, started = root and str(shard.parent), time.monotonic()
    wait_for_storage(f"{shard}#videos/b.mp4", root, seconds=20)
    wait_for_storage(f"{shard.parent}/missing.tar#b.mp4", root, seconds=20)  # one shard is gone, the storage is there
    wait_for_storage(f"s3://bucket/{shard.name}#b.mp4", "", seconds=20)
    assert time.monotonic() - started < 15
    assert not caplog.text
    threading.Timer(0.2, lambda: shutil.move(tmp_path / "away", shard.parent)).start()
    shutil.move(shard.parent, tmp_path / "away")
    wait_for_storage(f"{shard}#videos/b.mp4", root, seconds=5)
    assert "is gone, waiting for it to come back" in caplog.text
    with pytest.raises(VideoError, match=f"{tmp_path}/never has been gone for 0.2 s"):
        wait_for_storage(f"{tmp_path}/never/a.tar#b.mp4", "", seconds=0.2)


def test_a_missing_file_without_a_root_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    wait_for_storage(str(tmp_path / "none.mp4"), "", seconds=20)
    wait_for_storage("none.mp4", "", seconds=20)
    assert time.monotonic() - started < 15


def test_without_room_for_a_checkpoint_training_goes_on_and_says_so(config, straight, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    free = iter([10, 2**40, 10])
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(0, 0, next(free, 2**40)))
    train(with_data(config, frame_cache=0.0))  # which would ask for the free room as well
    out = capsys.readouterr().out
    assert "NOT SAVED at step 2" in out
    assert "NOT SAVED at step 6" in out
    assert out.count("NOT SAVED") == out.count(" KiB, 10 bytes are free") == 2
    assert_equal_runs(config.run, straight)


def test_a_disk_that_fills_while_saving_leaves_the_checkpoint_before_whole(config, monkeypatch, capsys):
    save, calls = checkpoint.state_dict_saver.save, iter(range(100))

    def save_or_fail(*args, **kwargs):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if next(calls) == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            return save(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoint.state_dict_saver, "save", save_or_fail)
    monkeypatch.setattr(run_module, "open_trackers", lambda *_: [])  # their threads would meet the limit as well
    train_and_stop(config, 5)
    assert "NOT SAVED at step 4: " in capsys.readouterr().out
    names = sorted(p.name for p in (Path(config.run) / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000005"]


def test_where_metrics_cannot_be_written_training_goes_on_and_says_so(config, straight, monkeypatch, capsys):
    def fail(*args):
        raise OSError(28, "No space left on device")

    append, calls = run_module.append_line, iter(range(100))
    monkeypatch.setattr(run_module, "append_line", lambda *line: fail() if next(calls) == 3 else append(*line))
    monkeypatch.setattr(TensorBoardWriter, "write", fail)
    train(config)
    out = capsys.readouterr().out
    assert "metrics of step 3 NOT WRITTEN: [Errno 28] No space left on device" in out
    assert out.count("TensorBoard gets no more metrics: [Errno 28] No space left on device") == 1
    ours, theirs = ((Path(folder) / "metrics.jsonl").read_text().splitlines() for folder in (config.run, straight))
    assert len(ours) == len(theirs) - 1


def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    run_module.append_line(path, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            run_module.append_line(path, "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run_module.append_line(path, "third")
    assert path.read_text() == "first\nthird\n"


def test_the_last_save_must_succeed(config, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(0, 0, 10))
    with pytest.raises(OSError, match="a checkpoint needs"):
        train(quick(config))


@pytest.mark.parametrize("damage", ["flip a byte", "lose a file", "lose the manifest"])
def test_a_broken_checkpoint_is_named_kept_aside_and_the_one_before_taken(continued, straight, capsys, damage):
    latest = max((Path(continued.run) / "checkpoints").glob("step-*"))
    shard = next(latest.glob("*.distcp"))
    if damage == "flip a byte":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    else:
        (shard if damage == "lose a file" else latest / "manifest.json").unlink()
    train(continued)
    out = capsys.readouterr().out
    assert "broken checkpoint skipped" in out
    assert f"kept as broken-{latest.name}" in out
    assert "resuming after step 4" in out
    assert_equal_runs(continued.run, straight)


def nan_at(monkeypatch, steps):
    original, calls = train_module.cross_entropy, iter(range(1000))

    def poisoned(*args, **kwargs):
        loss = original(*args, **kwargs)
        return loss * float("nan") if next(calls) in steps else loss

    monkeypatch.setattr(train_module, "cross_entropy", poisoned)


def test_a_step_without_finite_gradients_is_skipped_and_named_with_its_files(config, monkeypatch, capsys):
    nan_at(monkeypatch, {2})
    folder = train(quick(config))
    out = capsys.readouterr().out
    message = out[out.index("step 3: gradients are not finite, the step is skipped; its files are (8):") :]
    assert len([line for line in message.splitlines()[1:] if line.startswith("  ") and line.endswith(".mp4")]) == 8
    assert all(torch.isfinite(t).all() for t in load_file(folder / "weights" / "model.safetensors").values())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    skipped = next(line for line in lines if line.get("skipped") == 1)
    assert skipped["grad_norm"] is None  # NaN is no JSON


def test_too_many_steps_without_finite_gradients_stop_the_run(config, monkeypatch):
    nan_at(monkeypatch, set(range(1000)))
    with pytest.raises(
        FloatingPointError, match=r"(?s)train\d+.mp4.*optim.max_nonfinite_steps allows 2.*lower optim.lr"
    ):
        train(replace(config, optim=replace(config.optim, max_nonfinite_steps=2)))


def test_init_and_going_on_are_told_apart(config, straight, tmp_path, capsys):
    start = shutil.copytree(straight / "weights", tmp_path / "start")
    config = replace(quick(config), init=str(start))
    train_and_stop(config, 1)
    assert f"clips from {start}" in capsys.readouterr().out
    shutil.rmtree(start)  # going on does not read it
    train(config)
    assert "are not read again" in capsys.readouterr().out
    with pytest.raises(ValueError, match="init"):
        train(replace(config, init=None))


@pytest.mark.parametrize("change", ["another video", "another label", "another order"])
def test_a_list_that_changed_since_the_checkpoint_is_refused_with_both_hashes(config, data_root, tmp_path, change):
    """data.root is the same, what it holds is not."""
    (tmp_path / "videos").symlink_to(data_root.parent / "videos")
    table = tmp_path / "labels.csv"
    table.write_text(data_root.read_text())
    config = with_data(quick(config), root=str(table))
    train_and_stop(config, 1)
    header, first, second, *rest = table.read_text().splitlines()
    rows = {
        "another video": [header, first, *rest],
        "another label": [header, first.replace("red,bright", "red,dark"), second, *rest],
        "another order": [header, second, first, *rest],
    }[change]
    table.write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=r"another list of videos \(there (\w{12}), now (?!\1)\w{12} in .*labels.csv"):
        train(config)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_code_says_which_signal_it_was(number, code, data_root, monkeypatch):
    def stop(config):
        raise Stopped(number)

    monkeypatch.setattr(train_module, "train", stop)
    monkeypatch.setattr(sys, "argv", ["vivit", "train", "finetune", "--data.root", str(data_root)])
    with pytest.raises(SystemExit) as ended:
        vivit.cli.main()
    assert ended.value.code == code


def test_ctrl_c_on_a_terminal_ends_the_step_and_saves(data_root, tmp_path):
    settings = {
        "--data.root": data_root, "--run": tmp_path / "run", "--data.workers": 1, "--log-every": 1, "--device": "cpu",
        "--optim.epochs": 40, "--optim.batch-size": 4, "--model.num-frames": 4, "--model.embed-dim": 32,
        "--model.num-heads": 2, "--model.depth": 1,
    }  # fmt: skip
    options = [str(word) for pair in settings.items() for word in pair]
    command = [sys.executable, "-m", "vivit", "train", "finetune", "--model.image-size", "32", "32", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, **pipes, env=environment, start_new_session=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 2/"):
                os.killpg(process.pid, signal.SIGINT)  # the loader's workers get it too
    assert process.returncode == 130, "".join(lines)
    assert "the same command resumes here" in lines[-1]
    done = max(line["step"] for line in metrics(tmp_path / "run"))
    assert lines[-1].startswith(f"stopped after step {done} of ")
    assert (tmp_path / "run" / "checkpoints" / f"step-{done:08d}" / "manifest.json").is_file()
