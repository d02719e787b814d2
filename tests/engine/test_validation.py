"""Validation during training: what cannot be read or is no number never decides anything."""

import math
import os
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vivit.config import replace
from vivit.data.dataset import EvalDataset
from vivit.engine import validation as validation_module
from vivit.engine.train import train
from vivit.errors import DataError
from vivit.model.vivit import ViViT

from .tiny import metrics, tiny_config, with_data


def break_videos(root, split):
    """Damage every video of a split, as a bad copy would."""
    for path in (root.parent / "videos").glob(f"{split}*.mp4"):
        path.write_bytes(b"not a video")


@pytest.mark.parametrize("result", ["last", "best"])
def test_a_validation_in_which_nothing_can_be_read_ends_the_run_with_the_reasons_and_its_steps_saved(
    own_data, tmp_path, result
):
    good = {path: path.read_bytes() for path in (own_data.parent / "videos").glob("val*.mp4")}
    break_videos(own_data, "val")
    config = tiny_config(own_data, tmp_path / "run", eval_every=1, save_every=100, final_weights=result)
    with pytest.raises(DataError, match=r"validation at step 1: none of the videos of split 'val' can be read \(2\)"):
        train(config)
    assert [line["step"] for line in metrics(config.run)] == [1]
    assert not any("val/" in key for line in metrics(config.run) for key in line)
    for path, content in good.items():  # and the same command continues
        path.write_bytes(content)
    train(config)
    assert [line["step"] for line in metrics(config.run) if "val/colour/top1" in line] == [1, 2, 3]
    assert (Path(config.run) / "weights" / "model.safetensors").is_file()


def test_a_baseline_of_which_nothing_can_be_read_ends_the_run_before_the_first_step(own_data, straight, tmp_path):
    break_videos(own_data, "val")
    config = tiny_config(
        own_data, tmp_path / "run", init=str(straight / "weights"), linear_probe=True, final_weights="best"
    )
    with pytest.raises(DataError, match="validation at step 0: none of the videos"):
        train(config)


def evaluations(monkeypatch, top1):
    """Let the validations give these accuracies, one after the other."""
    results = iter(top1)

    def fake(*args, progress, **kwargs):
        progress(0)
        return Namespace(
            samples=["a"], missing={}, single_view_accuracy={"x": {"top1": 1.0}, "all": {"top1": next(results)}}
        )

    monkeypatch.setattr(validation_module, "evaluate", fake)


@pytest.mark.parametrize(
    ("top1", "best_step"), [([math.nan, 0.2, math.nan, 0.1], 6), ([0.0, math.nan, math.nan, math.nan], 3)]
)
def test_a_result_that_is_no_number_is_never_the_best(config, monkeypatch, top1, best_step):
    evaluations(monkeypatch, top1)
    saved = []
    monkeypatch.setattr(validation_module, "keep_best", keep_and(saved.append, validation_module.keep_best))
    run = train(replace(config, final_weights="best"))
    assert saved[-1] == best_step
    best, weights = (load_file(run / name / "model.safetensors") for name in ("best", "weights"))
    assert all(torch.equal(best[key], weights[key]) for key in best)


def keep_and(note, keep):
    def noted(t, result):
        keep(t, result)
        note(t.progress.step)

    return noted


def test_without_a_valid_result_the_last_weights_are_kept_and_that_is_said(config, straight, monkeypatch, capsys):
    evaluations(monkeypatch, [math.nan] * 4)
    run = train(replace(config, final_weights="best"))
    assert not (run / "best").exists()
    assert "has no weights; " in capsys.readouterr().out
    ours, theirs = (load_file(folder / "weights" / "model.safetensors") for folder in (run, straight))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space")])
def test_where_the_best_weights_cannot_be_saved_training_goes_on_and_says_so(
    config, straight, monkeypatch, capsys, error
):
    """The result of weights that are not there does not count: the next best are kept."""
    save, calls = ViViT.save_pretrained, iter(range(100))

    def save_or_fail(self, folder):
        if Path(folder).name == "best" and next(calls) == 0:
            raise error
        return save(self, folder)

    monkeypatch.setattr(ViViT, "save_pretrained", save_or_fail)
    train(replace(config, final_weights="best"))
    out = capsys.readouterr().out
    assert out.count("best weights NOT SAVED at step 3: ") == 1
    assert (Path(config.run) / "best" / "model.safetensors").is_file()


# The killed worker leaves unsent data in a socket that is never closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_validation_video_that_kills_its_worker_is_missing_and_named(own_data, tmp_path, monkeypatch, capsys):
    original, calls = EvalDataset.__getitem__, tmp_path / "calls"

    def read(self, index):
        if self.samples[index].path.endswith("val1.mp4"):
            with calls.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index)

    monkeypatch.setattr(EvalDataset, "__getitem__", read)
    config = with_data(tiny_config(own_data, tmp_path / "run", eval_every=1, save_every=100), workers=1)
    folder = train(config)
    assert "val1.mp4" in (folder / "skipped_files.json").read_text()
    lines = [line for line in metrics(folder) if "val/videos" in line]
    assert [(line["val/videos"], line["val/missing"]) for line in lines] == [(1, 1)] * 3
    assert "(1 videos, 1 missing)" in capsys.readouterr().out
    assert calls.read_text() == "x"  # not opened again
