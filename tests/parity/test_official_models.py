"""Models 1-4 against the official code: same parameters, same video, same numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vivit.weights import scenic

from .official import CASES, GOLDEN, load_case


@pytest.mark.parametrize("name", CASES)
def test_features_logits_and_loss_equal_the_official_code(name):
    model, _, expected = load_case(name)
    with torch.no_grad():
        features, logits = model.features(expected["video"]), model(expected["video"])
    torch.testing.assert_close(features, expected["features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)
    loss = F.cross_entropy(logits, expected["labels"].long())
    torch.testing.assert_close(loss, expected["cross_entropy"].reshape(()).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_has_the_official_gradient_norm(name):
    model, case, expected = load_case(name)
    F.cross_entropy(model(expected["video"]), expected["labels"].long()).backward()
    ours = {key: p.grad.numpy() for key, p in model.named_parameters()}
    compared = 0
    for official, norm in case["gradient_l2_norm"].items():
        key, pick = _ours(official, case["hidden_size"])
        got = float(np.linalg.norm(pick(ours[key])))
        # Keys' biases shift all logits of a softmax alike: their gradient is zero up to rounding.
        assert got == pytest.approx(norm, rel=1e-3, abs=1e-5 if "/key/bias" in official else 1e-7), official
        compared += 1
    assert compared == len(case["gradient_l2_norm"]) > 30


def _ours(official, width):
    """Our parameter that holds an official one, and the slice of it (queries, keys and values are fused)."""
    fused = {"query": 0, "key": 1, "value": 2}
    part, leaf = (["", "", *official.split("/")])[-2:]
    if part not in fused:
        return next(iter(scenic.to_vivit({official: _dummy(official)}))), lambda g: g
    stem = official.removesuffix(f"{part}/{leaf}")
    group = {name: _dummy(name) for name in (f"{stem}{p}/{x}" for p in fused for x in ("kernel", "bias"))}
    i = fused[part]
    names = {"kernel": "qkv.weight", "bias": "qkv.bias"}
    return next(n for n in scenic.to_vivit(group) if n.endswith(names[leaf])), lambda g: g[i * width : (i + 1) * width]


def _dummy(official):
    """An array with the number of axes that an official parameter of this name has."""
    if official == "embedding/kernel":
        return np.zeros((1,) * 5, np.float32)
    if official.endswith("pos_embedding") or official.startswith("cls"):
        return np.zeros((1,) * 3, np.float32)
    attention = any(f"/{x}/" in official for x in ("query", "key", "value", "out"))
    if official.endswith("kernel"):
        return np.zeros((1,) * (3 if attention else 2), np.float32)
    return np.zeros((1, 1) if attention and "/out/" not in official else (1,), np.float32)


@pytest.mark.parametrize("name", ["m1_cls", "m2_cls", "m3_time_space", "m4"])
def test_parameter_counts_equal_the_official_code(name):
    model, case, _ = load_case(name)
    assert sum(p.numel() for p in model.parameters()) == case["num_params"]


def test_both_file_layouts_are_read():
    layouts = {
        "optimizer" if b"optimizer" in (GOLDEN / n / "checkpoint_123").read_bytes()[:64] else "params" for n in CASES
    }
    assert layouts == {"optimizer", "params"}


def test_other_files_are_refused_with_their_name(tmp_path):
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="notes.txt: not a Flax msgpack checkpoint"):
        scenic.read_msgpack(tmp_path / "notes.txt")
