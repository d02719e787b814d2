"""The frozen baseline: what it is, that training starts from it, and that it is never lost."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.config import replace
from vivit.data.datasets.registry import read_samples
from vivit.data.sample_table import encode_labels
from vivit.engine import setup as engine_setup
from vivit.engine.distributed import World
from vivit.engine.evaluate import SINGLE_VIEW, evaluate
from vivit.engine.probe import clip_features, fit_linear, fit_linear_probe, folds
from vivit.engine.train import train

from ..weights.random_weights import randomise
from .tiny import ALONE, assert_equal_runs, metrics, tiny_config, train_and_stop


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An image ViT of the size of the tiny models, as timm saves it."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    safetensors.torch.save_file(randomise(vit).state_dict(), path)
    return str(path)


@pytest.fixture
def config(data_root, weights, tmp_path):
    """The tiny run, from the frozen baseline."""
    config = tiny_config(data_root, tmp_path / "run", init=weights, linear_probe=True, final_weights="best")
    return replace(config, model=replace(config.model, temporal_skip=True, mlp_ratio=4.0))


def started(config):
    """(its model before the first step, training samples, their labels)."""
    samples = read_samples("folder", config.data.root, "train")
    classes = {"colour": ("green", "red"), "light": ("bright", "dark")}
    model = vivit.create(config.model, classes=classes, init=config.init)
    return model, samples, encode_labels(samples, classes)


def test_a_fitted_head_is_where_the_penalised_loss_has_no_slope():
    """mean over rows of (probability − truth) ⊗ standardised features + λ W = 0, in plain NumPy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, [1, 5, 0.2, 2], (60, 4)), np.stack((rng.integers(3, size=60), rng.integers(2, size=60)), 1)
    x[:, 0] += y[:, 0]
    [head] = fit_linear(torch.tensor(x), torch.tensor(y), (3, 2), penalties=(0.03,))
    z = (x - x.mean(0)) / x.std(0)
    logits = x @ head.weight.numpy().T + head.bias.numpy()
    slopes = []
    for part, labels in ((slice(0, 3), y[:, 0]), (slice(3, 5), y[:, 1])):
        p = np.exp(logits[:, part])
        error = (p / p.sum(1, keepdims=True) - np.eye(p.shape[1])[labels]) / 60 / 2  # the mean of two label sets
        slopes.append(error.T @ z + 0.03 * head.weight.numpy()[part] * x.std(0))
        assert np.abs(error.sum(0)).max() < 1e-4
    assert np.abs(np.concatenate(slopes)).max() < 1e-4


def test_a_feature_that_never_changes_takes_no_part():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(20)[:, None] % 2
    x[:, 1] = 7
    [head] = fit_linear(x, y, (2,), penalties=(0.1,))
    assert torch.equal(head.weight[:, 1], torch.zeros(2, dtype=torch.float64))
    assert head.weight.isfinite().all()


def test_clips_of_a_video_stay_together_and_every_fold_has_its_share_of_each_class():
    videos = torch.arange(24).repeat_interleave(3)
    labels = (videos % 3)[:, None]
    fold = folds(labels, videos)
    assert all(len(fold[videos == video].unique()) == 1 for video in range(24))
    shares = {(k, c): int(((fold == k) & (labels[:, 0] == c)).sum()) for k in range(4) for c in range(3)}
    assert set(shares.values()) == {6}


def test_fitting_gives_the_model_a_head_and_changes_nothing_else(config):
    model, samples, labels = started(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = []
    fit_linear_probe(model, samples, labels, world=ALONE, log=said.append)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert "135 clips of 27 training videos" in said[0]


def test_two_processes_look_at_half_of_the_videos_each_and_have_the_same_features(config):
    model, samples, _ = started(config)

    class Half(World):
        """A process of two, whose exchange with the other is played by this test."""

        def gather(self, value):
            shares[self.rank] = value
            return shares

    how = {"protocol": SINGLE_VIEW, "workers": 0, "precision": "auto"}
    alone = clip_features(model, samples, world=ALONE, **how)
    shares = [({}, {}), ({}, {})]
    for rank in range(2):
        both = clip_features(model, samples, world=Half(rank, 2, torch.device("cpu")), **how)
    assert torch.equal(both.features, alone.features)
    assert torch.equal(both.videos, alone.videos)
    assert both.missing.keys() == alone.missing.keys()
    assert len(alone.missing) == 1
    assert [len(found) for found, _ in shares] == [13, 13]


def test_an_interrupted_run_has_the_same_baseline_and_measures_it_once(config, tmp_path, monkeypatch):
    fits = []
    monkeypatch.setattr(engine_setup, "fit_linear_probe", lambda *a, **k: fits.append(1) or fit_linear_probe(*a, **k))
    train(replace(config, run=str(tmp_path / "straight")))
    train_and_stop(config, 4)
    assert len(fits) == 2
    train(config)
    assert len(fits) == 2
    assert_equal_runs(config.run, tmp_path / "straight")
    assert [line["step"] for line in metrics(config.run) if "val/all/top1" in line] == [0, 3, 6, 9, 10]


def test_a_run_that_learns_nothing_ends_with_the_baseline_and_says_so(config, capsys):
    optim = replace(config.optim, lr=1e3, grad_clip=None, epochs=0.7, warmup_epochs=0, ema=None, max_nonfinite_steps=99)
    run = train(replace(config, optim=optim, eval_every=0.3))
    model, samples, labels = started(config)
    fit_linear_probe(model, samples, labels, world=ALONE)
    result = evaluate(model, read_samples("folder", config.data.root, "val"), protocol=SINGLE_VIEW)
    accuracy = result.single_view_accuracy["all"]["top1"]
    out = capsys.readouterr().out
    assert f"frozen baseline {accuracy:.1%}, fine-tuned " in " ".join(out.split())
    first = next(line for line in metrics(run) if line["step"] == 0)
    assert first["val/all/top1"] == accuracy
    best = max(line["val/all/top1"] for line in metrics(run) if "val/all/top1" in line)
    if best == accuracy:  # the untrained temporal part is drawn at random, its share of the features is zero
        kept = load_file(run / "weights" / "model.safetensors")
        mine = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.temporal")}
        for name, tensor in mine.items():
            torch.testing.assert_close(kept[name], tensor, atol=1e-5, rtol=1e-4)
    assert best == accuracy


def test_a_random_start_has_no_baseline_and_that_is_said(config, capsys):
    config = replace(config, init=None, final_weights="last", optim=replace(config.optim, epochs=0.4, warmup_epochs=0))
    run = train(config)
    assert "--linear-probe is ignored: it needs --init" in " ".join(capsys.readouterr().out.split())
    assert min(line["step"] for line in metrics(run)) > 0
    assert (Path(run) / "weights" / "model.safetensors").exists()
