"""The schedule against the official one, optimiser steps against their equations."""

import numpy as np
import pytest
import torch

from vivit.config import ModelConfig, OptimConfig, replace
from vivit.engine.optim import EMA, build_optimizer, freeze, learning_rate
from vivit.model.vivit import ViViT

from ..parity.official import GOLDEN

MODEL = ModelConfig(
    classes={"label": ("a", "b")},
    num_frames=4,
    image_size=(16, 16),
    tubelet_size=(2, 8, 8),
    embed_dim=8,
    depth=1,
    temporal_depth=1,
    num_heads=2,
)


@pytest.mark.parametrize("name", ["lr_schedule_a", "lr_schedule_b"])
def test_the_learning_rate_is_the_official_one_at_every_step(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        how = {"base": float(arrays["base"])} | {k: int(arrays[k]) for k in ("warmup_steps", "total_steps")}
        expected = arrays["lr"]
    got = [learning_rate(step, **how) for step in range(len(expected))]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)  # theirs is float32


def test_without_warm_up_the_schedule_starts_at_the_base_rate():
    assert learning_rate(0, base=0.3, warmup_steps=0, total_steps=10) == 0.3


def test_kernels_are_decayed_and_norms_biases_positions_and_class_tokens_are_not():
    model = ViViT(MODEL)
    plain, decayed = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    assert plain["lr_scale"] == decayed["lr_scale"] == 1
    names = {id(p): name for name, p in model.named_parameters()}
    in_group = {names[id(p)]: group is decayed for group in (decayed, plain) for p in group["params"]}
    assert set(in_group) == set(names.values())
    expected = ("proj.weight", "qkv.weight", "fc1.weight", "fc2.weight", "head.weight")
    assert {name for name, is_decayed in in_group.items() if is_decayed} == {
        n for n in names.values() if n.endswith(expected)
    }


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_two_steps_follow_the_equations(name):
    model = ViViT(MODEL)
    config = OptimConfig(name=name, lr=0.1, momentum=0.8, weight_decay=0.05)
    optimizer = build_optimizer(model, config)
    p = model.tokenizer.proj.weight
    x, m, v = p.detach().double().clone(), 0.0, 0.0
    for step in (1, 2):
        p.grad = torch.randn_like(p)
        g = p.grad.double()
        optimizer.step()
        if name == "sgd":
            m = 0.8 * m + (g + 0.05 * x)
            x = x - 0.1 * m
        else:
            m, v = 0.8 * m + 0.2 * g, 0.999 * v + 0.001 * g**2
            x = x * (1 - 0.1 * 0.05) - 0.1 * (m / (1 - 0.8**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(p.detach().double(), x, atol=1e-5, rtol=1e-5)


# By hand: the head (and what is over time only) learns at the full rate, each layer at half the rate of the one above.
LAYERS = {
    "spatiotemporal": {
        "tokenizer.": 1 / 8,
        "encoder.cls_token": 1 / 8,
        "encoder.pos_embed": 1 / 8,
        "encoder.blocks.0.": 1 / 4,
        "encoder.blocks.1.": 1 / 2,
        "encoder.norm.": 1 / 2,
        "head.": 1,
    },
    "factorised_encoder": {
        "tokenizer.": 1 / 8,
        "encoder.spatial.cls_token": 1 / 8,
        "encoder.spatial.pos_embed": 1 / 8,
        "encoder.spatial.blocks.0.": 1 / 4,
        "encoder.spatial.blocks.1.": 1 / 2,
        "encoder.spatial.norm.": 1 / 2,
        "encoder.temporal.": 1,
        "head.": 1,
    },
    "VideoPrism": {  # whose layers over time are pretrained
        "tokenizer.": 1 / 32,
        "encoder.spatial.pos_embed": 1 / 32,
        "encoder.spatial.blocks.0.": 1 / 16,
        "encoder.spatial.blocks.1.": 1 / 8,
        "encoder.spatial.norm.": 1 / 8,
        "encoder.temporal.pos_embed": 1 / 8,
        "encoder.temporal.blocks.0.": 1 / 4,
        "encoder.temporal.norm.": 1 / 4,
        "encoder.temporal.joint.0.": 1 / 2,
        "encoder.temporal.attention_pool.": 1,
        "head.": 1,
    },
}
PRISM = {"pool": "mean", "pool_space": False, "joint_depth": 1, "attention_pool": True, "temporal_depth": 1}
CHANGES = {"VideoPrism": PRISM | {"encoder": "factorised_encoder"}}


@pytest.mark.parametrize("encoder", LAYERS)
def test_layers_learn_the_slower_the_deeper_they_lie(encoder):
    model = ViViT(replace(MODEL, depth=2, **CHANGES.get(encoder, {"encoder": encoder, "temporal_depth": 2})))
    optimizer = build_optimizer(model, OptimConfig(layer_decay=0.5, weight_decay=0.1))
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        (expected,) = (scale for prefix, scale in LAYERS[encoder].items() if name.startswith(prefix))
        assert scales[id(p)] == expected, name
        kernel = name.endswith(("proj.weight", "kv.weight", "fc1.weight", "fc2.weight", "head.weight"))
        assert decays[id(p)] == (0.1 if kernel else 0), name


def test_freezing_goes_by_the_beginning_of_whole_names():
    model = ViViT(replace(MODEL, depth=11))
    freeze(model, ("encoder.spatial.blocks.1", "encoder.spatial.pos_embed", "tokenizer."))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    beginnings = ("encoder.spatial.blocks.1.", "encoder.spatial.pos_embed", "tokenizer.")  # not blocks.10
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(beginnings)}
    groups = build_optimizer(model, OptimConfig()).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters() if p.requires_grad}
    freeze(model, ())
    assert all(p.requires_grad for p in model.parameters())


def test_freezing_what_is_not_there_is_an_error_that_says_what_is():
    with pytest.raises(ValueError, match=r"no parameter begins with 'spatial'; there are encoder.spatial, .*tokenizer"):
        freeze(ViViT(MODEL), ("tokenizer", "spatial"))


def test_the_average_is_that_of_a_plain_loop_and_steps_aside_unchanged():
    model = torch.nn.Linear(3, 2)
    average, expected = EMA(model, 0.9), [p.detach().double().clone() for p in model.parameters()]
    for _ in range(20):
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.add_(torch.randn_like(p))
                expected[i] = 0.9 * expected[i] + 0.1 * p.double()
        average.update()
    raw = [p.detach().clone() for p in model.parameters()]
    with average.applied():
        for p, e in zip(model.parameters(), expected):
            torch.testing.assert_close(p.double(), e, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(p, r) for p, r in zip(model.parameters(), raw))
    for value, e in zip(average.values, expected):
        torch.testing.assert_close(value.double(), e, atol=1e-5, rtol=1e-5)
