"""Every setting given to a command has an effect or is refused, and a recipe's help shows the values of its run."""

import re
from dataclasses import is_dataclass, replace
from importlib import metadata

import numpy as np
import pytest
import torch

from vivit.cli.parse import refuse_unused, setting_names
from vivit.cli.recipe_config import FITTED
from vivit.config import Config, EvalConfig, differences
from vivit.data.dataset import eval_views
from vivit.data.datasets.registry import read_samples
from vivit.recipes import RECIPES
from vivit.recipes.finetune import finetune
from vivit.weights.load import from_pretrained

from ..engine.tiny import CLASSES, write_table
from ..model import tiny

ONE_VIEW = ["--eval.temporal-views", 1, "--eval.spatial-views", 1, "--data.workers", 0, "--device", "cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("settings") / "data", train=4, val=2)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = tiny.model(classes=CLASSES, num_frames=4, image_size=(16, 16))
    return model.save_pretrained(tmp_path / "weights")


@pytest.mark.parametrize(
    ("given", "model", "pixels"),
    [
        ("--model.num-frames 8 --model.image-size 32 32", {"num_frames": 8, "image_size": (32, 32)}, {}),
        ("--model.preprocessing.frame-stride 1 --model.num-frames 2", {"num_frames": 2}, {"frame_stride": 1}),
        ("--model.preprocessing.mean 0.1 0.2 0.3", {}, {"mean": (0.1, 0.2, 0.3)}),
        ("--model.preprocessing.clip-seconds 0.1", {}, {"clip_seconds": 0.1}),
        ("--model.preprocessing.crop-fraction 0.5", {}, {"crop_fraction": 0.5}),
    ],
)
def test_eval_tests_the_model_with_the_settings_given(given, model, pixels, root, weights, vivit):
    trained = from_pretrained(weights).config
    changed = from_pretrained(weights, **model, preprocessing=replace(trained.preprocessing, **pixels)).eval()
    code, out, err = vivit("eval", weights, "--data.root", root, *ONE_VIEW, *given.split())
    assert (code, err) == (0, "")
    with np.load(weights / "predictions.npz") as arrays:
        logits = torch.from_numpy(arrays["multi_view"])
    for sample, row in zip(read_samples("folder", str(root), "val"), logits):
        views = eval_views(sample, changed.config, EvalConfig(temporal_views=1, spatial_views=1))
        with torch.no_grad():
            torch.testing.assert_close(row, changed(views)[0], atol=1e-5, rtol=1e-5)
    for name, value in {**model, **{f"preprocessing.{name}": value for name, value in pixels.items()}}.items():
        assert f"model.{name} {value}" in out
    assert ("positions interpolated: encoder" in out) == bool(model)


def test_a_frame_stride_replaces_a_clip_length_in_seconds(root, tmp_path, vivit):
    seconds = tiny.config().preprocessing
    model = tiny.model(classes=CLASSES, preprocessing=replace(seconds, clip_seconds=0.2))
    weights = model.save_pretrained(tmp_path / "weights")
    given = ["--model.preprocessing.frame-stride", 1]
    assert vivit("eval", weights, "--data.root", root, *ONE_VIEW, *given)[0] == 0
    changed = from_pretrained(weights, preprocessing=replace(seconds, frame_stride=1)).eval()
    views = eval_views(read_samples("folder", str(root), "val")[0], changed.config, EvalConfig(1, 1))
    with np.load(weights / "predictions.npz") as arrays, torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(arrays["multi_view"][0]), changed(views)[0], atol=1e-5, rtol=1e-5)


USED = {
    "eval": r"eval\..*|device|precision|run|data\.(root|dataset|labels|manifest|eval_split|workers)|model\.("
    r"num_frames|image_size|preprocessing(\..*)?|encoder|positions|num_heads|attention_order|tokenizer|sampled_frames)",
    "data show": r"augment\..*|seed|init|run|data\.(root|dataset|labels|manifest|train_split|video_timeout|"
    r"storage_timeout)|model\.(num_frames|image_size|tubelet_size|classes|preprocessing(\..*)?)",
}


@pytest.mark.parametrize("command", USED)
def test_every_other_setting_of_a_run_is_refused_by_name(command, vivit, monkeypatch):
    monkeypatch.setattr("vivit.cli.data.recipe_config", lambda name, args: pytest.fail("was not refused"))
    first = {"eval": "some/weights", "data show": "finetune"}[command]
    names = [name for name in setting_names(Config()) if not is_dataclass(getattr(Config(), name, None))]
    refused = [name for name in names if not re.fullmatch(USED[command], name)]
    assert {"optim.lr", "model.depth", "parallel.compile"} <= set(refused)
    for name in refused:
        code, out, err = vivit(*command.split(), first, f"--{name.replace('_', '-')}", "1")
        assert (code, out) == (2, "")
        assert err.startswith(f"vivit: vivit {command} does not use --{name.replace('_', '-')}; leave it out")


def test_no_help_shows_remarks_for_programs(vivit):
    for command in (["eval", "x"], ["data", "show", "demo"], ["predict"]):
        code, out, err = vivit(*command, "--help")
        assert (code, err) == (0, "")
        assert "noqa" not in out


def test_the_version_is_that_of_the_package(vivit):
    assert vivit("--version") == (0, f"vivit {metadata.version('vivit')}\n", "")


def test_settings_are_recognised_however_they_are_spelt():
    for words in (["--optim.lr=5"], ["--optim.batch_size", "3"], ["--model.no-temporal-skip"], ["--no-linear-probe"]):
        with pytest.raises(ValueError, match="vivit eval does not use"):
            refuse_unused(words, ["eval"], "vivit eval")
    refuse_unused(["--eval.temporal-views", "--eval.no-shuffle-frames", "x", "--unknown"], ["eval"], "vivit eval")


def test_an_architecture_other_than_that_of_the_weights_is_refused(root, weights, vivit):
    code, _, err = vivit("eval", weights, "--data.root", root, *ONE_VIEW, "--model.num-heads", 2)
    assert code == 2
    assert "num_heads=4, not 2" in err


def test_predict_without_a_video_is_an_error(vivit, weights):
    code, out, err = vivit("predict", weights)
    assert (code, out) == (2, "")
    assert "no video to predict; usage: vivit predict WEIGHTS VIDEO" in err


def test_the_help_of_finetune_shows_the_values_that_the_run_will_use(root, tmp_path, vivit):
    init = tiny.model().save_pretrained(tmp_path / "init")
    code, out, _ = vivit("train", "finetune", "--data.root", root, "--init", init, "--help")
    fitted = finetune(replace(Config().data, root=str(root)), str(init))
    assert code == 0
    assert fitted.optim.lr != finetune().optim.lr
    assert f"default: {fitted.optim.lr})" in " ".join(out.split())
    assert f"default: {fitted.optim.epochs})" in " ".join(out.split())


def test_without_the_data_the_help_names_the_settings_that_will_be_fitted(root, tmp_path, vivit):
    code, out, _ = vivit("train", "finetune", "--help")
    assert code == 0
    assert ", ".join(name.replace("_", "-") for name in FITTED) in " ".join(out.split())
    init = tiny.model().save_pretrained(tmp_path / "init")
    fitted = finetune(replace(Config().data, root=str(root)), str(init))
    changed = {line.split(":")[0] for line in differences(finetune(), fitted)}
    assert {name if not name.startswith("model.") else "model" for name in changed} - {"init", "data.root"} <= {*FITTED}


def test_a_plan_of_finetune_uses_the_values_of_the_run(root, tmp_path, vivit, monkeypatch):
    init = tiny.model().save_pretrained(tmp_path / "init")
    planned = []
    monkeypatch.setattr("vivit.engine.plan.format_plans", lambda config, **how: planned.append(config) or "a table")
    how = ["--data.root", root, "--gpus", 1, "--num-samples", 100]
    assert vivit("plan", "finetune", "--init", init, *how)[0] == 0
    assert planned == [finetune(replace(Config().data, root=str(root)), str(init))]


def test_data_show_of_finetune_has_the_clips_of_the_fitted_run(root, tmp_path, vivit, monkeypatch):
    init = tiny.model().save_pretrained(tmp_path / "init")
    shown = []
    monkeypatch.setattr("vivit.report.clips.show", lambda config, **how: shown.append(config) or tmp_path)
    assert vivit("data", "show", "finetune", "--data.root", root, "--init", init)[0] == 0
    assert shown == [finetune(replace(Config().data, root=str(root)), str(init))]
    assert RECIPES["finetune"] is finetune


@pytest.mark.parametrize("epochs", [0.5, 3, 300])
@pytest.mark.parametrize("name", RECIPES)
def test_the_warmup_follows_the_epochs_that_are_given_and_stays_where_it_is_given(name, epochs, vivit, monkeypatch):
    trained = []
    monkeypatch.setattr("vivit.engine.train.train", trained.append)
    warmup = epochs / 4
    for given in ([], ["--optim.warmup-epochs", warmup]):
        code, _, err = vivit("train", name, "--optim.epochs", epochs, *given)
        assert code == 0, err
    recipe, (followed, given) = RECIPES[name](), trained
    assert followed.optim.epochs == given.optim.epochs == epochs
    assert followed.optim.warmup_epochs / epochs == pytest.approx(recipe.optim.warmup_epochs / recipe.optim.epochs)
    assert given.optim.warmup_epochs == warmup
    same = replace(recipe.optim, epochs=epochs, warmup_epochs=warmup)
    assert given == replace(recipe, optim=same, eval_every=given.eval_every, save_every=given.save_every)


def test_a_short_run_of_a_fitted_recipe_is_validated_more_than_once(root, tmp_path, vivit, monkeypatch):
    init, trained = tiny.model().save_pretrained(tmp_path / "init"), []
    monkeypatch.setattr("vivit.engine.train.train", trained.append)
    assert vivit("train", "finetune", "--data.root", root, "--init", init, "--optim.epochs", 3)[0] == 0
    assert (trained[0].eval_every, trained[0].save_every, trained[0].optim.warmup_epochs) == (1, 1, pytest.approx(0.3))
    assert (
        vivit("train", "finetune", "--data.root", root, "--init", init, "--eval-every", 2, "--optim.epochs", 3)[0] == 0
    )
    assert trained[1].eval_every == 2
    assert vivit("train", "paper/ssv2", "--optim.epochs", 350)[0] == 0
    assert trained[2].eval_every == RECIPES["paper/ssv2"]().eval_every


def test_no_epochs_and_impossible_numbers_of_epochs(vivit, monkeypatch):
    trained = []
    monkeypatch.setattr("vivit.engine.train.train", trained.append)
    assert vivit("train", "demo", "--optim.epochs", 0)[0] == 0
    assert trained[0].optim.warmup_epochs == 0
    for wrong in (-1, "nan", "inf"):
        code, out, err = vivit("train", "demo", "--optim.epochs", wrong)
        assert code == 2
        assert "it is a number, 0 or more" in " ".join((out + err).split())


def test_other_commands_with_a_recipe_follow_the_epochs_too(root, vivit, monkeypatch):
    seen = []
    monkeypatch.setattr("vivit.engine.plan.format_plans", lambda config, **how: seen.append(config) or "a table")
    monkeypatch.setattr("vivit.studies.study.study", lambda kind, config, **how: seen.append(config) or {"failed": []})
    commands = [
        ("plan", "paper/ssv2", "--gpus", 1, "--num-samples", 100),
        ("plan", "ViViT-B/16x2 FE", "--gpus", 1, "--num-samples", 100),
        ("study", "regularisation", "finetune", "--data.root", root),
    ]
    for words in commands:
        code, _, err = vivit(*words, "--optim.epochs", 1)
        assert code == 0, err
    code, out, err = vivit("slurm", "finetune", "--optim.epochs", 1, "--run", "runs/one")
    assert (code, "--optim.epochs 1" in out) == (0, True), err
    assert [config.optim.epochs for config in seen] == [1] * len(commands)


WRITTEN = ["predictions.csv", "predictions.npz", "report.html", "results.json"]


def test_an_unreadable_test_set_is_an_error_and_results_that_cannot_be_written_are_said(root, weights, tmp_path, vivit):
    (tmp_path / "file").write_text("in the way")
    code, out, err = vivit("eval", weights, "--data.root", root, *ONE_VIEW, "--run", tmp_path / "file" / "folder")
    assert code == 2
    assert "2 videos, 0 missing" in out
    assert "results.json and predictions.npz are not written" in err
    code, out, err = vivit("eval", weights, "--data.root", root, *ONE_VIEW, "--run", tmp_path / "other")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == WRITTEN
    broken = write_table(tmp_path / "broken", train=1, val=0, broken=1)
    code, out, err = vivit("eval", weights, "--data.root", broken, *ONE_VIEW)
    assert (code, out.strip()) == (2, "")
    assert "none of the videos can be read" in err
