"""The paper's three analyses: what they compare, that runs are paired and resume, and the conclusions."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision
from torch import nn

from vivit.config import Config, ModelConfig, Preprocessing, differences, replace
from vivit.engine.compare import compare as compare_pair
from vivit.engine.evaluation import load_evaluation
from vivit.engine.train import train, train_in
from vivit.model.cnn_baselines import CNN_BASELINES, CNNBaseline
from vivit.model.cost import count_cost
from vivit.presets import preset
from vivit.recipes import RECIPES
from vivit.studies import runner as runner_module
from vivit.studies import study as study_module
from vivit.studies.definitions import architecture, regularisation, tokenisation
from vivit.studies.runner import StudyRun, run_all, run_in_parallel
from vivit.studies.statistics import compare, over_seeds
from vivit.studies.study import study, with_data_classes
from vivit.studies.table import format_difference, format_mean, format_results

from ..engine import tiny
from ..engine.test_compare import evaluation
from ..engine.tiny import assert_equal_runs, tiny_config, write_table

KINETICS = {"action": tuple(str(i) for i in range(400))}


def base(variant="FE", **changes):
    return Config(model=preset(f"ViViT-B/16x2 {variant}".strip(), classes=KINETICS), **changes)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("data") / "data", train=16, val=6)


@pytest.fixture
def config(table, tmp_path, monkeypatch):
    """One step, one view, and speeds of two steps each."""
    monkeypatch.setattr(study_module, "speed", partial(study_module.speed, seconds=0.0))
    config = tiny_config(table, tmp_path / "study", eval_every=1, save_every=1)
    optim = replace(config.optim, epochs=0.5, warmup_epochs=0, ema=None)
    return replace(config, optim=optim, eval=replace(config.eval, temporal_views=1, spatial_views=1))


def test_the_budget_of_a_recipe_is_left_out(config, monkeypatch, capsys):
    """With it a random start would be refused, and rows would train for as long as the machine allows."""
    seen = []

    def stop(runs, **_):
        seen.extend(runs)
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "run_all", stop)
    with pytest.raises(KeyboardInterrupt):
        study("regularisation", replace(config, budget="auto"), seeds=1)
    assert [run.config.budget for run in seen] == [None] * 5
    assert "budget is left out" in capsys.readouterr().out


def test_the_models_of_the_architecture_study_are_those_of_the_paper():
    """Parameters in millions, as the official code has them; the average-pool baseline as the paper says."""
    rows = {row.name: row.config for row in architecture(base()).rows}
    official = {"model_1": 88.954, "model_2": 115.063, "model_3": 117.319, "model_4": 88.952, "average": 86.7}
    for name, millions in official.items():
        rounding = 0.05 if name == "average" else 0.0006
        assert count_cost(rows[name].model)[-1].parameters / 1e6 == pytest.approx(millions, abs=rounding), name
    assert {rows[f"depth_{d}"].model.temporal_depth for d in (1, 2)} == {1, 2}  # 4 is Model 2's own


def test_every_way_to_make_tokens_gives_as_many_and_differs_in_nothing_else():
    config = base("", init="vit.safetensors")
    rows = tokenisation(config).rows
    assert len({row.config.model.grid for row in rows}) == 1
    assert [row.config.kernel_init for row in rows] == ["central_frame", "random", "filter_inflation", "central_frame"]
    changed = {line.split(":")[0] for row in rows for line in differences(config, row.config)}
    assert changed == {"kernel_init", "model.tokenizer", "model.sampled_frames", "model.tubelet_size"}


def test_without_an_image_model_the_inflated_rows_say_what_they_need():
    rows = tokenisation(base()).rows
    assert [row.config is not None for row in rows] == [True, True, False, False]
    assert all("--init" in row.why_not for row in rows[2:])


def test_each_rung_of_the_ladder_adds_one_regulariser_and_the_last_has_all_of_the_papers():
    recipe = replace(RECIPES["paper/epic_kitchens"](), init="vit.safetensors")
    configs = [row.config for row in regularisation(recipe).rows]
    steps = [{line.split(":")[0] for line in differences(a, b)} for a, b in zip(configs, configs[1:])]
    rand_augment = {"augment.rand_augment_layers", "augment.rand_augment_magnitude"}
    assert steps[0] == {"init"}
    assert steps[1] == {"model.drop_path"}
    assert steps[2] <= rand_augment
    assert steps[2]
    assert steps[3:] == [{"optim.label_smoothing"}, {"augment.mixup"}]
    assert {line.split(":")[0] for line in differences(configs[-1], recipe)} == {"augment.color_jitter"}


def test_settings_that_do_not_go_together_leave_one_row_out():
    config = base(optim=replace(Config().optim, epochs=1, warmup_epochs=0))
    rows = {row.name: row for row in architecture(replace(config, model=replace(config.model, num_heads=3))).rows}
    assert rows["model_4"].config.model.num_heads == 4  # halves of the heads: an even number
    rows = {
        row.name: row
        for row in architecture(replace(config, model=replace(config.model, embed_dim=9, num_heads=9))).rows
    }
    assert rows["model_4"].config is None
    assert "num_heads" in rows["model_4"].why_not
    assert rows["model_1"].config is not None


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_an_interval_needs_three_seeds(seeds):
    found = over_seeds([0.5, 0.52, 0.51][:seeds])
    assert ("±" in format_mean(found, seeds)) == (seeds == 3)
    difference = found | {"seeds": seeds, "videos_low": -0.01, "videos_high": 0.02}
    assert (format_difference(difference)[1] == "too few seeds") == (seeds < 3)
    assert format_difference(difference)[2] == "[-1.0, +2.0]"


@pytest.mark.parametrize("name", CNN_BASELINES)
@torch.no_grad()
def test_prior_art_computes_what_torchvision_does(name):
    """Its own network with its own classifier, on pixels normalised by hand."""
    pixels = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    side = 224 if name == "s3d" else 32  # the least that torchvision's S3D takes
    frames = 16 if name == "s3d" else 4
    config = ModelConfig(classes={"a": ("x", "y"), "b": ("u", "v", "w")}, preprocessing=pixels)
    ours = CNN_BASELINES[name](replace(config, num_frames=frames, image_size=(side, side))).eval()
    nn.init.normal_(ours.head.weight)
    theirs = getattr(torchvision.models.video, name)(num_classes=5).eval()
    head = {"weight": ours.head.weight, "bias": ours.head.bias}
    shape = theirs.get_submodule("classifier.1").weight.shape if name == "s3d" else ours.head.weight.shape
    where = "classifier.1" if name == "s3d" else "fc"
    state = ours.network.state_dict() | {f"{where}.{k}": v.view(shape) if k == "weight" else v for k, v in head.items()}
    theirs.load_state_dict(state)
    video = torch.randint(256, (1, frames, 3, side, side), dtype=torch.uint8)
    by_hand = (video / 255 - torch.tensor(pixels.mean).view(3, 1, 1)) / torch.tensor(pixels.std).view(3, 1, 1)
    torch.testing.assert_close(ours(video), theirs(by_hand.transpose(1, 2)), atol=1e-4, rtol=1e-4)


class Small(CNNBaseline):
    @staticmethod
    def build_network():
        layers = nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
        return nn.Sequential(*layers), 4


def test_prior_art_resumes_as_if_never_stopped_and_loads_what_it_saved(table, tmp_path, monkeypatch):
    a, b = (tiny_config(table, tmp_path / name) for name in "ab")
    train(a, build=Small)
    monkeypatch.setattr(tiny, "train_in", partial(train_in, build=Small))
    tiny.train_and_stop(b, 3)
    train(b, build=Small)
    assert_equal_runs(a.run, b.run)
    model = Small.load(Path(a.run) / "weights").eval()
    assert model.config.classes
    assert model.state_dict()["network.1.running_mean"].abs().sum() > 0
    with pytest.raises(ValueError, match="holds vivit prior art Small, not R3D18"):
        CNN_BASELINES["r3d_18"].load(Path(a.run) / "weights")


def test_a_failing_row_is_shown_the_others_run_and_the_same_command_completes_it(config, monkeypatch, capsys):
    trained = []

    def train_unless_mixed(job_config, **how):
        if job_config.augment.mixup and not trained.count("again"):
            raise RuntimeError("no memory for mixup")
        trained.append(job_config.run)
        return train(job_config, **how)

    monkeypatch.setattr(runner_module, "train", train_unless_mixed)
    results = study("regularisation", config, recipe="tiny", seeds=2)
    assert results["failed"] == 2
    assert len(trained) == 8
    rows = {row["name"]: row for row in results["rows"]}
    assert rows["mixup"]["problems"] == dict.fromkeys((0, 1), "RuntimeError: no memory for mixup")
    assert not rows["mixup"]["top1"]
    assert rows["label_smoothing"]["top1"]
    out = capsys.readouterr().out
    assert "+ mixup, seed 1 FAILED: RuntimeError: no memory for mixup" in out
    assert "too few seeds" in out
    page = Path(config.run) / "report.html"
    assert "too few seeds" in page.read_text()
    assert "no memory for mixup" in page.read_text()
    assert not {"http:", "https:", "<script"} & set(page.read_text().split('"'))

    trained[:] = ["again"]
    results = study("regularisation", config, recipe="tiny", seeds=2)
    assert results["failed"] == 0
    assert trained == ["again", *(f"{config.run}/mixup/seed-{s}" for s in (0, 1))]
    assert json.loads((Path(config.run) / "results.json").read_text())["rows"][-1]["problems"] == {}
    assert not list(Path(config.run).glob("*/*/checkpoints"))

    # A row is one ordinary run, and the differences are those of `vivit compare`.
    alone = replace(regularisation(config).rows[1].config, run=str(Path(config.run).parent / "alone"))
    weights = [Path(run) / "weights" / "model.safetensors" for run in (train(alone), f"{config.run}/drop_path/seed-0")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    sides = [
        {s: load_evaluation(Path(config.run) / f"{n}/seed-{s}/predictions.npz") for s in (0, 1)}
        for n in ("start", "mixup")
    ]
    found = compare(*sides, "all")
    pairs = [compare_pair(a, b).differences["all"] for a, b in zip(*(side.values() for side in sides))]
    assert found["mean"] == pytest.approx(np.mean([d.b - d.a for d in pairs]))
    test = scipy.stats.ttest_rel([d.b for d in pairs], [d.a for d in pairs])
    if found["low"] != found["high"]:
        low, high = test.confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-3)


def test_processes_of_their_own_do_the_same_and_name_the_run_that_fails(config):
    good = replace(config, run=f"{config.run}/good")
    bad = replace(config, run=f"{config.run}/bad", data=replace(config.data, root="nowhere"))
    later = replace(config, run=f"{config.run}/later")
    jobs = [StudyRun("bad", bad), StudyRun("good", good), StudyRun("later", later)]
    errors = run_in_parallel(jobs, 1, lambda line: None)
    assert list(errors) == [Path(bad.run)]
    assert "nowhere" in errors[Path(bad.run)]
    assert run_all([replace_run(jobs[1], f"{config.run}/here")], num_jobs=1, log_line=lambda line: None) == {}
    a, b, c = (load_evaluation(Path(config.run) / name / "predictions.npz") for name in ("good", "later", "here"))
    assert torch.equal(a.multi, b.multi)
    assert torch.equal(a.multi, c.multi)
    assert "training finished" in (Path(good.run) / "log.txt").read_text()


def replace_run(job, run):
    return StudyRun(job.title, replace(job.config, run=run))


def test_rows_that_cannot_be_compared_say_why(config):
    config = with_data_classes(config)
    plan = regularisation(config)
    first, other = [row for row in plan.rows if row.config][:2]
    runs = {(row.name, 0): study_module.study_run(plan, row, 0, config.run) for row in (first, other)}
    for run, folder in zip(runs.values(), ("fold/val", "fold/test")):
        run.folder.mkdir(parents=True)
        evaluation(folder=folder).save(run.folder / "predictions.npz")
    found = study_module.collect(plan, runs, dict.fromkeys(row.name for row in plan.rows), config)
    facts = {row["name"]: row for row in found["rows"]}
    assert "to_first" not in facts[other.name]
    assert "fold/val/close/0.mp4, fold/test/close/0.mp4" in facts[other.name]["not_compared"]["to_first"]
    text = format_results({**found, "title": "", "seeds": [0], "data": {"splits": {}}, "protocol": ""})
    assert f"{other.title}: not compared with the first, no video was measured in all" in text


def test_a_folder_with_other_settings_is_not_mixed_in(config):
    study("tokenisation", config, seeds=1)
    with pytest.raises(ValueError, match=r"optim.lr: .* -> 0.5"):
        study("tokenisation", replace(config, optim=replace(config.optim, lr=0.5)), seeds=1)
