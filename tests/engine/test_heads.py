"""Heads on cached features, and how they share the budget."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivit.config import Config, ModelConfig, OptimConfig
from vivit.data.sample import Sample
from vivit.engine import feature_cache as features_module
from vivit.engine import heads as heads_module
from vivit.engine import stages as stages_module
from vivit.engine.budget import Budget, estimate, number_of_views, parse_budget
from vivit.engine.heads import (
    HEADS,
    CrossValidation,
    LabelledFeatures,
    Tail,
    cross_validate,
    new_head,
    train_tail,
)
from vivit.engine.metrics import Score, accuracies, score_logits
from vivit.engine.optim import learning_rate
from vivit.engine.probe import fit_linear
from vivit.errors import DataError
from vivit.model.vivit import ViViT
from vivit.weights.load import from_pretrained


def test_balanced_accuracy_counts_every_class_once() -> None:
    """Three of four "a" right, none of one "b": accuracy 3/5, balanced (3/4 + 0/1) / 2."""
    logits = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] + [[1.0, 0.0]])
    found = score_logits(logits, torch.tensor([0, 0, 0, 0, 1])[:, None], [2])
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.balanced == pytest.approx((3 / 4 + 0) / 2)
    assert found.value == pytest.approx((3 / 5 + 3 / 8) / 2)


def test_a_video_without_an_answer_is_wrong_in_every_label_set() -> None:
    labels = torch.zeros(2, 2, dtype=torch.long)
    logits = torch.tensor([[1.0, 0.0, 1.0, 0.0], [torch.nan, 0.0, 1.0, 0.0]])
    found = score_logits(logits, labels, [2, 2])
    assert (found.accuracy, found.balanced, found.joint) == (0.5, 0.5, 0.5)
    assert accuracies(logits, labels, {"a": ("x", "y"), "b": ("x", "y")})["a"]["top1"] == 0.5


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("unlimited", float("inf"))])
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text, torch.device("cpu")) == seconds


def test_auto_budget_is_for_cpus() -> None:
    assert parse_budget("auto", torch.device("cpu")) == 900
    assert parse_budget("auto", torch.device("cuda")) == float("inf")


@pytest.mark.parametrize("word", ["none", "None", "fast", "15", ""])
def test_a_word_that_is_no_budget_is_refused_with_those_that_are(word: str) -> None:
    with pytest.raises(ValueError, match=f"budget is '{word}'; give a time such as 90s.* auto, unlimited, or None"):
        parse_budget(word, torch.device("cpu"))


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])[:, None]
    none = torch.zeros(6, 1, 1, 1)
    features = features_module.Features(none, none[..., 0], None, torch.ones(6, dtype=torch.bool))
    data = LabelledFeatures(features, labels, torch.arange(6), (0,), balanced=True)
    weights = data.weights(torch.arange(6))
    assert weights.mean().item() == pytest.approx(1)
    sums = [weights[labels[:, 0] == k].sum().item() for k in range(3)]
    assert sums == pytest.approx([2, 2, 2])
    equal = LabelledFeatures(features, labels, torch.arange(6), (0,))
    assert torch.equal(equal.weights(torch.arange(6)), torch.ones(6))


def test_a_weighted_linear_fit_is_that_of_repeated_rows() -> None:
    """A weight of 3 on one row is that row three times."""
    torch.manual_seed(0)
    x, labels = torch.randn(12, 5), torch.randint(3, (12, 1))
    weights = torch.ones(12)
    weights[4] = 3
    repeated = torch.cat((torch.arange(12), torch.tensor([4, 4])))
    # the penalty counts per standardised feature, so the repeated rows must have the same mean and deviation
    x = torch.cat((x, -x)) / x.std()
    labels, weights = torch.cat((labels, labels)), torch.cat((weights, weights))
    repeated = torch.cat((repeated, repeated + 12))
    [ours] = fit_linear(x, labels, [3], penalties=(1e-9,), weights=weights / weights.mean())
    [theirs] = fit_linear(x[repeated], labels[repeated], [3], penalties=(1e-9,))
    loss = [
        torch.nn.functional.cross_entropy(x[repeated].double() @ h.weight.T + h.bias, labels[repeated, 0]).item()
        for h in (ours, theirs)
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)


def test_classes_are_unequal_above_twice_the_rarest() -> None:
    assert not stages_module.unequal(torch.tensor([0, 0, 1])[:, None])
    assert stages_module.unequal(torch.tensor([0, 0, 0, 1])[:, None])
    assert stages_module.unequal(torch.tensor([[0, 0], [1, 0], [0, 0], [1, 1]]))


def model_and_features() -> tuple[ViViT, features_module.Features]:
    """Return a small model, and random features of 40 videos of two classes."""
    torch.manual_seed(0)
    x, labels = torch.randn(40, 1, 2, 8), torch.arange(40)[:, None] % 2
    features = features_module.Features(x, torch.zeros(40, 1, 16), None, torch.ones(40, dtype=torch.bool))
    data = LabelledFeatures(features, labels, torch.arange(40), (0,))
    model = ViViT(
        ModelConfig(
            classes={"label": ("a", "b")}, embed_dim=8, depth=1, num_heads=1, temporal_depth=1, num_frames=4,
            image_size=(16, 16), tubelet_size=(2, 8, 8),
        )
    )  # fmt: skip
    return model, data


def test_a_linear_head_without_time_tries_one_penalty_and_others_are_left_out() -> None:
    model, data = model_and_features()
    hurried = cross_validate(model, HEADS[0], data, motion=False, seconds=0.0)
    assert hurried is not None
    assert hurried.setting == heads_module.PENALTIES[0]
    unhurried = cross_validate(model, HEADS[0], data, motion=False)
    assert unhurried is not None
    assert unhurried.score.loss <= hurried.score.loss
    assert cross_validate(model, HEADS[2], data, motion=False, seconds=0.0) is None
    assert cross_validate(model, HEADS[2], data, motion=False, seconds=1e9) is not None


@pytest.mark.parametrize(("slow", "seconds"), [(1.0, 1e9), (1.0, 40.0), (5.0, 40.0), (1.0, 0.0)])
def test_training_on_features_ends_in_time_and_at_the_end_of_its_schedule(
    slow: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 steps of a second, or of five from the tenth on, as on a machine that others begin to use."""
    model, data = model_and_features()
    times, rates = list(accumulate([0.0] + [1.0] * 10 + [slow] * 100)), list[float]()
    clock = iter(times)
    monkeypatch.setattr(heads_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def rate(step: int, **settings: Any) -> float:
        rates.append(learning_rate(step, **settings))
        return rates[-1]

    monkeypatch.setattr(heads_module, "learning_rate", rate)
    tail = Tail(new_head(model, HEADS[2], data, motion=False, seed=0), model.config.depth)
    steps = [*train_tail(tail, data, steps=100, rate=1.0, seconds=seconds)]
    used = times[len(steps)]
    assert steps[-1] == 100
    assert steps == sorted(set(steps))
    if seconds > 100:
        assert steps == [*range(1, 101)]
    else:
        assert used <= seconds + slow
        assert used >= min(0.8 * seconds, 1)
        assert rates[-1] < 0.2 or not seconds


def test_a_repeated_view_is_mirrored_as_the_missing_one_where_it_can_be() -> None:
    assert features_module.view_sources(6, 6) == [0, 1, 2, 3, 4, 5]
    assert features_module.view_sources(6, 3) == [0, 1, 2, 1, 2, 1]
    assert features_module.view_sources(6, 2) == [0, 1, 0, 1, 0, 1]
    assert features_module.view_sources(3, 1) == [0, 0, 0]


def test_stages_share_the_time_that_is_left() -> None:
    """Six stages of 60 s in all: 10 s each; what the first leaves, the others divide."""
    budget = Budget(240.0)
    parts = budget.stages(0.25, count=6)
    assert next(parts) == pytest.approx(10, abs=0.1)
    assert next(parts) == pytest.approx(12, abs=0.1)
    assert next(Budget(240.0, started=time.monotonic() - 200).stages(0.25, count=2)) == pytest.approx(10, abs=0.1)


def test_the_estimate_says_what_thousands_of_clips_leave_out() -> None:
    """5000 clips of 0.36 s take 30 minutes, of which a budget of 15 minutes gives 9 to the features."""
    data = stages_module.Data([Sample("x.mp4")] * 5000, torch.zeros(5000, 1), [], torch.zeros(0, 1), {})
    budget = Budget(900.0, per_clip=0.36)
    views = number_of_views(budget, data)
    assert views == 1
    line = estimate(budget, Config(), data, views)
    assert "features about 9 min for 30% of the videos (all: 30 min)" in line
    assert "heads at most 4 min" in line


def fit_chosen(
    run: Path, monkeypatch: pytest.MonkeyPatch, scores: dict[bool, Score], tuned: Score | None = None
) -> tuple[dict[str, Any], str]:
    """Return stages.json and the last line of the log, where a head with attention pooling is ahead by 2 of 40 videos.

    `scores` are those of the linear head (False) and of that one (True) on 40 validation videos.
    """
    model, data = model_and_features()
    activations = None if tuned is None else torch.zeros(40, 1, 2, 4, 8)
    features = replace(data.features, activations=activations)
    linear = CrossValidation(Score(0.5, 0.5, 1.0, 0.5), torch.zeros(40, 2), 1.0)
    better = CrossValidation(Score(0.55, 0.55, 1.0, 0.55), torch.zeros(40, 2), 1)
    chosen = stages_module.Chosen(HEADS[1], False, True, replace(data, features=features), better, linear)
    monkeypatch.setattr(stages_module, "choose_head", lambda *_, **__: chosen)
    monkeypatch.setattr(stages_module, "score_on", lambda fitted, _: scores[fitted.config.attention_pool])
    monkeypatch.setattr(stages_module, "tune_last_layers", lambda head, *_, **__: (head, tuned))
    videos = [Sample(f"{i}.mp4", {"label": "ab"[i % 2]}) for i in range(40)]
    lists = stages_module.Data(videos, data.labels, videos, data.labels, {})
    said, config = list[str](), Config(run=str(run), model=model.config)
    stages_module.fit_stages(model, config, lists, (features, features), 1, Budget(900.0, per_clip=1.0), said.append)
    return json.loads((run / "stages.json").read_text()), said[-1]


@pytest.mark.parametrize(("accuracy", "kept"), [(0.9, "attention pooling"), (0.2, "linear")])
def test_a_head_that_validation_contradicts_gives_way_to_the_linear_one(
    accuracy: float, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {False: Score(0.5, 0.5, 1.0, 0.5), True: Score(accuracy, accuracy, 1.0, accuracy)}
    found, said = fit_chosen(tmp_path, monkeypatch, scores)
    assert f"chosen: {kept}" in said
    assert found["model"]["attention_pool"] == (kept == "attention pooling")
    assert from_pretrained(tmp_path / "start").config.attention_pool == (kept == "attention pooling")


@pytest.mark.parametrize(("loss", "kept"), [(0.9, "kept"), (1.1, "not better, not kept")])
def test_of_equal_accuracies_of_the_last_layers_the_loss_decides(
    loss: float, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = Score(0.9, 0.9, 1.0, 0.9)
    scores = {False: Score(0.5, 0.5, 1.0, 0.5), True: same}
    found, _ = fit_chosen(tmp_path, monkeypatch, scores, replace(same, loss=loss))
    assert found["stages"][-1]["kept"] == kept


def test_doubtful_lists_what_other_folds_contradict(tmp_path: Path) -> None:
    model = ModelConfig(classes={"label": ("a", "b")})
    samples = [Sample(f"{i}{name}.mp4", {"label": "a"}) for i, name in enumerate(("", "", "\udcfc"))]  # not UTF-8
    data = stages_module.Data(samples, torch.zeros(3, 1, dtype=torch.int64), [], torch.zeros(0, 1), {})
    logits = torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    count = stages_module.write_doubtful(tmp_path / "d.csv", data, logits, model, torch.arange(3), torch.arange(3))
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text(errors="surrogateescape").splitlines()))
    assert [row["path"] for row in rows] == ["2\udcfc.mp4", "1.mp4"]
    assert rows[0]["answer"] == "b"
    assert count == 1
    assert float(rows[0]["probability"]) == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-3)


def test_one_recording_is_split_by_its_clips_and_one_video_is_refused() -> None:
    none = torch.zeros(8, 1, 1, 1)
    readable = torch.ones(8, dtype=torch.bool)
    features = features_module.Features(none, none[..., 0], None, readable)
    data = LabelledFeatures(features, torch.arange(8)[:, None] % 2, torch.zeros(8, dtype=torch.int64), (0,))
    assert len(data.folds().unique()) == 4
    readable[1:] = False
    with pytest.raises(DataError, match="fewer than two"):
        data.folds()


@pytest.mark.parametrize(("epochs", "share"), [(40, 1), (20, 1), (10, 0.5), (4, 0.2), (0, 1)])
def test_a_shortened_schedule_has_a_lower_rate(epochs: float, share: float) -> None:
    asked = Config(optim=OptimConfig(name="adamw", lr=1e-3, epochs=40))
    assert stages_module.rate_of(asked, epochs) == pytest.approx(share * 1e-3)


def test_the_arrays_of_a_cache_have_their_room_on_the_disk_from_the_start(tmp_path):
    shapes = {"positions": ((64, 2, 4, 192), "float32"), "done": ((64,), "uint8")}
    features_module.open_cache(tmp_path / "train", "key", 2, shapes)
    for array, (shape, _) in shapes.items():
        file = tmp_path / "train" / f"{array}.npy"
        assert file.stat().st_blocks * 512 >= file.stat().st_size
        assert np.array_equal(np.load(file), np.zeros(shape))
