"""VideoPrism, in transformers' format and as released: equal to transformers' own models."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch

import vivit
from vivit.errors import WeightsError
from vivit.weights import verify

from .prism import KINDS, RELEASED, difference, official_arrays, save, their_model
from .test_image_models import assert_once

TOLERANCE = 1e-5


def load(theirs, tmp_path, format="Hugging Face", **changes):
    return vivit.from_pretrained(save(theirs, tmp_path, format), **changes)


def clip(frames=4, side=24, batch=2):
    return torch.rand(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("frames", "side"), [(4, 24), (3, 24), (7, 36), (2, 16)])
def test_transformers_folders_give_equal_numbers_at_every_size(kind, frames, side, tmp_path):
    theirs = their_model(kind)
    ours = load(theirs, tmp_path, num_frames=frames, image_size=(side, side))
    assert difference(theirs, ours, clip(frames, side)) < TOLERANCE
    assert_once(ours, safetensors.torch.load_file(tmp_path / "model.safetensors"))
    resized = load(theirs, tmp_path).resize(num_frames=frames, image_size=(side, side))
    assert difference(theirs, resized, clip(frames, side)) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_npz_gives_equal_numbers(kind, tmp_path):
    theirs = their_model(kind, attn_logit_softcapping=50.0)
    ours = load(theirs, tmp_path, "official .npz")
    assert difference(theirs, ours, clip()) < TOLERANCE
    assert_once(ours, official_arrays(theirs))
    folder = load(theirs, tmp_path / "folder")
    for name, value in ours.state_dict().items():
        assert torch.equal(value, folder.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_full_width_and_depth_give_equal_numbers(kind, tmp_path):
    """VideoPrism-B on a smaller clip than its own, for time; `python -m tests.weights.prism` has the whole."""
    theirs = their_model(kind, **RELEASED)
    ours = load(theirs, tmp_path, num_frames=2, image_size=(108, 108))
    assert (ours.config.embed_dim, ours.config.depth, ours.config.attn_logit_cap) == (768, 12, 50)
    assert difference(theirs, ours, clip(2, 108, batch=1)) < TOLERANCE


def test_the_cap_of_the_scores_has_an_effect_here(tmp_path):
    """Otherwise equal numbers say nothing about it."""
    theirs = their_model("vision")
    ours = load(theirs, tmp_path)
    theirs.config.attn_logit_softcapping = 50.0
    for module in theirs.modules():
        if hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = 50.0
    assert difference(theirs, ours, clip()) > 100 * TOLERANCE


def test_uint8_pixels_are_on_the_scale_0_to_1(tmp_path):
    theirs = their_model("classification")
    ours = load(theirs, tmp_path)
    video = torch.randint(0, 256, (1, 4, 3, 24, 24), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(video / 255).logits.squeeze(1)
        torch.testing.assert_close(ours(video), expected, rtol=1e-4, atol=1e-4)
    assert ours.config.preprocessing.crop_fraction == 1


def test_a_model_saved_in_our_format_is_the_same(tmp_path):
    ours = load(their_model("video-text"), tmp_path)
    again = vivit.from_pretrained(ours.save_pretrained(tmp_path / "own"))
    assert again.config == ours.config
    with torch.no_grad():
        assert torch.equal(again.features(clip()), ours.features(clip()))


def test_attention_pooling_is_new_on_a_vision_model_and_stated(tmp_path):
    theirs = their_model("vision")
    source = save(theirs, tmp_path, "Hugging Face")
    with pytest.raises(WeightsError, match="attention_pool=False, not True"):
        vivit.from_pretrained(source, attention_pool=True)
    ours = vivit.create(vivit.from_pretrained(source).config, init=source, attention_pool=True, classes=["run", "jump"])
    assert "encoder.temporal.attention_pool.query" in ours.load_report.names("initialised")
    with torch.no_grad():
        assert ours(clip()).shape == (2, 2)
    made = vivit.create(ours.config, init=source)
    assert made.config.interpolation == "linear"


BAD = {
    "hidden_act": "relu",
    "attn_logit_softcapping": 0.0,
    "num_channels": 1,
    "num_spatial_layers": 3,
    "num_temporal_layers": 1,
    "num_auxiliary_layers": 1,
    "hidden_size": 96,
    "intermediate_size": 48,
    "layer_norm_eps": "small",
    "image_size": "large",
    "apply_l2norm": "yes",
    "rope_theta": 100,
    "num_attention_heads": 5,
    "num_frames": 8,
}


@pytest.mark.parametrize("field", BAD)
def test_a_config_that_does_not_fit_is_refused(field, tmp_path):
    save(their_model("video-text"), tmp_path, "Hugging Face")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: BAD[field]}))
    with pytest.raises(WeightsError, match="patches|positions" if field == "num_frames" else field.split("_")[-1]):
        vivit.from_pretrained(tmp_path)


def test_missing_and_unknown_tensors_are_refused(tmp_path):
    theirs = their_model("classification")
    save(theirs, tmp_path, "Hugging Face")
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name in ("head.per_dim_scale", "head.k_proj.weight", "vision_model.spatial_layers.1.mlp.fc1.bias"):
        left = {k: v for k, v in state.items() if k != name}
        safetensors.torch.save_file(left, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match="not in the file"):
            vivit.from_pretrained(tmp_path)
    safetensors.torch.save_file(state | {"head.q_norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="q_norm"):
        vivit.from_pretrained(tmp_path)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        vivit.from_pretrained(tmp_path)


def test_unknown_arrays_of_an_npz_are_refused(tmp_path):
    arrays = official_arrays(their_model("vision", attn_logit_softcapping=50.0))
    np.savez(tmp_path / "flax.npz", **arrays, **{"params/spatial_encoder/extra/w": np.ones(3, "float32")})
    with pytest.raises(WeightsError, match="extra/w"):
        vivit.from_pretrained(tmp_path / "flax.npz")
    del arrays["params/spatial_pos_emb/emb_var"]
    np.savez(tmp_path / "flax.npz", **arrays)
    with pytest.raises(WeightsError):
        vivit.from_pretrained(tmp_path / "flax.npz")


@pytest.mark.parametrize(("kind", "of"), [("vision", "tokens"), ("video-text", "features")])
def test_verify_compares_the_published_values(kind, of, tmp_path, monkeypatch):
    theirs = their_model(kind)
    folder = save(theirs, tmp_path, "Hugging Face")
    np.save(tmp_path / "clip.npy", clip(batch=1)[0].movedim(1, -1).numpy())
    with torch.no_grad():
        out = theirs(clip(batch=1))
    values = out.last_hidden_state[0, :3, :3] if of == "tokens" else out.pooler_output[0].flatten()[:9]
    published = tuple(values.flatten().tolist())
    release = verify.Release("tiny", "factorised_encoder", 48, 2, 0, "nothing", published, of, clip=verify.DRUMMING)
    monkeypatch.setattr(verify, "RELEASES", (release,))
    assert f"{of.capitalize()}: equal." in verify.verify(folder, tmp_path / "clip.npy")
    assert "give 4 frames" in verify.verify(folder)
    wrong = dataclasses.replace(release, values=(*release.values[:8], 9.0))
    monkeypatch.setattr(verify, "RELEASES", (wrong,))
    with pytest.raises(ValueError, match=f"first {of} "):
        verify.verify(folder, tmp_path / "clip.npy")
