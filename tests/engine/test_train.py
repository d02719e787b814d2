"""Training on real files: it learns, says what it does, and leaves all that is needed to repeat it."""

import json
import shutil
import sys
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vivit
from vivit.config import replace
from vivit.data.datasets.registry import read_samples
from vivit.data.loader import sample_order
from vivit.engine import setup as engine_setup
from vivit.engine import train as train_module
from vivit.engine.distributed import World
from vivit.engine.evaluate import evaluate
from vivit.engine.optim import build_optimizer
from vivit.engine.run import read_config
from vivit.engine.train import train
from vivit.errors import DataError

from .tiny import (
    CLASSES,
    assert_equal_runs,
    losses,
    metrics,
    quick,
    tiny_config,
    train_and_stop,
    write_table,
)


@pytest.mark.parametrize("label_sets", [1, 2])
def test_a_tiny_data_set_is_learned_by_heart(label_sets, tmp_path):
    root = write_table(tmp_path / "data", label_sets=label_sets)
    config = tiny_config(root, tmp_path / "run")
    run = train(quick(config, lr=1e-2, epochs=40, warmup_epochs=1, layer_decay=1))
    model = vivit.from_pretrained(run / "weights").eval()
    assert list(model.config.classes) == ["colour", "light"][:label_sets]
    samples = read_samples("folder", str(root), "train")
    for got in (result := evaluate(model, samples, protocol=config.eval)).accuracy, result.single_view_accuracy:
        assert {name: scores["top1"] for name, scores in got.items()} == dict.fromkeys(got, 1.0)
    assert losses(run)[-1] < 0.2 < losses(run)[0]


def test_the_run_folder_holds_all_that_is_needed_to_read_and_repeat_it(data_root, straight):
    there = {path.name for path in straight.iterdir()}
    assert there == {
        ".lock",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "best",
        "weights",
    }
    asked = tiny_config(data_root, straight)
    resolved = replace(asked, model=replace(asked.model, classes=CLASSES))
    assert read_config(straight) == resolved
    environment = json.loads((straight / "environment.json").read_text())
    assert environment["packages"]["torch"] == metadata.version("torch")
    assert {"command", "commit", "python", "machine", "started"} <= set(environment)
    assert vivit.from_pretrained(straight / "weights").config == resolved.model
    assert list((straight / "tensorboard").glob("events.*"))
    assert len(list((straight / "checkpoints").iterdir())) == asked.keep_checkpoints


def test_every_start_of_a_run_is_recorded(stopped, config):
    shutil.copytree(stopped, config.run)
    path = Path(config.run) / "environment.json"
    first = json.loads(path.read_text())
    assert (first["step"], first["continued"]) == (0, [])
    for step in (6, 10):
        train(config)
        now = json.loads(path.read_text())
        assert {k: v for k, v in now.items() if k != "continued"} == {
            k: v for k, v in first.items() if k != "continued"
        }
        assert now["continued"][-1]["step"] == step
        assert {"command", "commit", "packages", "processes", "started"} <= set(now["continued"][-1])
    assert len(now["continued"]) == 2


def test_readings_come_every_few_steps_and_cover_all_of_them(config, capsys):
    train(replace(config, log_every=4, eval_every=0.8))
    lines = metrics(config.run)
    assert [line["step"] for line in lines if "loss" in line] == [4, 8, 10]
    assert [line["step"] for line in lines if "val/colour/top1" in line] == [3, 6, 9, 10]
    out = capsys.readouterr().out
    assert "\x1b" not in out  # plain lines where there is no terminal
    (line,) = (line for line in out.splitlines() if line.startswith("step 8/10 "))
    for shown in ("loss ", "lr ", " clips/s", " TFLOP/s", "% waiting for data", " left"):
        assert shown in line


def test_a_reading_is_the_mean_over_its_clips(config, straight):
    train(replace(config, log_every=10))
    (reading,) = (line for line in metrics(config.run) if "loss" in line)
    each = [line for line in metrics(straight) if "loss" in line]
    stream = [i for epoch in range(3) for i in sample_order(27, seed=0, epoch=epoch).tolist()]
    shown = [8 - stream[8 * step : 8 * step + 8].count(26) for step in range(10)]  # the last file is broken
    assert sorted(set(shown)) == [7, 8]
    assert reading["loss"] == pytest.approx(sum(n * line["loss"] for n, line in zip(shown, each)) / sum(shown))
    assert reading["grad_norm"] == pytest.approx(sum(line["grad_norm"] for line in each) / 10)


def test_a_folder_with_other_settings_is_refused_with_the_differing_fields(config, straight):
    other = replace(config, run=str(straight), seed=1, optim=replace(config.optim, lr=0.5))
    with pytest.raises(ValueError, match="holds a run with other settings") as error:
        train(other)
    lines = [line.strip() for line in str(error.value).splitlines()[1:-1]]
    assert lines == ["optim.lr: 0.003 -> 0.5", "seed: 0 -> 1"]


def test_checkpoints_without_their_settings_are_refused(config, straight):
    shutil.copytree(straight, config.run)
    (Path(config.run) / "config.json").unlink()
    with pytest.raises(ValueError, match="has checkpoints and weights but no config.json"):
        train(config)


def test_a_run_that_never_began_does_not_occupy_its_folder(config):
    wrong = replace(config, augment=replace(config.augment, repeats=3))
    with pytest.raises(ValueError, match="batch_size 8 is not a multiple of augment.repeats 3"):
        train(wrong)
    assert not Path(config.run).exists() or not list(Path(config.run).glob("*"))
    with pytest.raises(ValueError, match=r"optim.freeze encoder tokenizer head leaves nothing to train"):
        train(quick(config, freeze=("encoder", "tokenizer", "head")))
    train(quick(config, epochs=1))


def test_no_epochs_validate_the_start(config):
    run = train(quick(config, epochs=0, warmup_epochs=0))
    [line] = metrics(run)
    assert line["step"] == 0
    assert "val/colour/top1" in line
    assert metrics(train(quick(config, epochs=0, warmup_epochs=0))) == [line]


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b'{"step": 1', b"[]\n"])
def test_lines_of_metrics_that_a_power_cut_damaged_are_dropped(config, straight, damage):
    shutil.copytree(straight, config.run)
    before = metrics(config.run)
    with (Path(config.run) / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    train(config)
    assert metrics(config.run) == before
    (Path(config.run) / "config.json").write_text("")
    with pytest.raises(ValueError, match="config.json is damaged"):
        train(config)


def test_weights_of_something_else_are_not_overwritten(config):
    weights = Path(config.run) / "weights" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"mine")
    with pytest.raises(ValueError, match="has weights but no config.json"):
        train(config)
    assert weights.read_bytes() == b"mine"


@pytest.mark.parametrize("frame_cache", [0.0, 4.0])
def test_a_folder_with_the_name_of_the_frame_cache_keeps_its_files(config, straight, frame_cache):
    mine = [Path(config.run) / "frames" / name for name in ("a.jpg", "video/1.jpg", "b.rgb", ".c.tmp")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    train(replace(config, data=replace(config.data, frame_cache=frame_cache)))
    assert all(path.read_bytes() == b"mine" for path in mine)
    assert sorted((Path(config.run) / "frames").rglob("*")) == sorted([*mine, mine[1].parent])
    assert_equal_runs(config.run, straight)


def test_a_finished_run_says_so_and_changes_nothing_whatever_may_change(config, straight, capsys):
    shutil.copytree(straight, config.run)
    data = replace(config.data, workers=1, max_unreadable=3)
    train(replace(config, data=data, eval=replace(config.eval, batch_views=5), log_every=7, keep_checkpoints=1))
    assert "training finished (10 steps); weights in" in capsys.readouterr().out
    assert_equal_runs(config.run, straight)


def test_a_wrong_label_stops_before_the_first_step_and_leaves_no_folder(config):
    classes = CLASSES | {"colour": ("blue", "green")}
    with pytest.raises(DataError, match=r"labels.csv:\d+: colour 'red' is not among the 2 classes"):
        train(replace(config, model=replace(config.model, classes=classes)))
    assert not Path(config.run).exists()


def test_processes_that_would_not_wait_for_each_others_storage_are_refused(config, monkeypatch):
    config = replace(config, parallel=replace(config.parallel, timeout=config.data.storage_timeout))
    world = World(0, 2, torch.device("cpu"))
    monkeypatch.setattr(train_module, "init_distributed", lambda *how: nullcontext(world))
    with pytest.raises(
        ValueError, match=r"timeout 300 is not more than .*storage_timeout 300.*raise --parallel.timeout"
    ):
        train(config)
    train_module.check_timeouts(config, processes=1)


def test_training_needs_no_tensorboard(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = train(quick(config))
    assert not (run / "tensorboard").exists()
    assert metrics(run)


def test_weights_to_start_from_are_where_training_starts(config, straight, monkeypatch):
    starts = []

    def look(model, config):
        starts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return build_optimizer(model, config)

    monkeypatch.setattr(engine_setup, "build_optimizer", look)
    train(replace(quick(config), init=str(straight / "weights")))
    expected = vivit.from_pretrained(straight / "weights").state_dict()
    assert set(starts[0]) == set(expected)
    assert all(bool((starts[0][k] == v).all()) for k, v in expected.items())


def test_frozen_parameters_stay_as_they_are_and_all_others_learn(config, straight):
    """The published recipe: the spatial encoder stays that of the image model. Interrupted once on the way."""
    frozen = ("encoder.spatial", "tokenizer")
    config = replace(quick(config, freeze=frozen), init=str(straight / "weights"))
    train_and_stop(config, 1)
    train(config)
    before, after = (load_file(folder / "weights" / "model.safetensors") for folder in (straight, Path(config.run)))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith(frozen), name


def test_each_layer_learns_at_its_share_of_the_schedules_rate(config, monkeypatch):
    made = []
    monkeypatch.setattr(engine_setup, "build_optimizer", lambda *a: made.append(build_optimizer(*a)) or made[0])
    run = train(quick(config, layer_decay=0.5))
    last = metrics(run)[-2]["lr"]
    assert last > 0
    (optimizer,) = made
    rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({scale: last * scale for scale in (1, 0.5, 0.25, 0.125)})
