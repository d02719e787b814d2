"""Which fields of ModelConfig may differ from those of trained weights: every field, one by one."""

from dataclasses import fields

import pytest
import torch

import vivit
from vivit.config import ModelConfig, Preprocessing
from vivit.errors import WeightsError
from vivit.weights.load import config_for_init

from ..model import tiny
from .models import CONFIGS

UNIFORM = {"tokenizer": "uniform_frames", "sampled_frames": 3, "tubelet_size": (1, 8, 8)}
JOINT = {"pool": "mean", "pool_space": False}
# Field → (settings of the trained model, overrides that make another model of it). A new field needs a row.
REFUSED = {
    "encoder": ({}, {"encoder": "spatiotemporal"}),
    "tokenizer": ({**UNIFORM, "sampled_frames": 6}, {"tokenizer": "tubelet", "sampled_frames": None}),
    "tubelet_size": ({}, {"tubelet_size": (1, 8, 8)}),
    "embed_dim": ({}, {"embed_dim": 32}),
    "depth": ({}, {"depth": 1}),
    "temporal_depth": ({}, {"temporal_depth": 0}),
    "temporal_skip": ({}, {"temporal_skip": True}),
    "pool_space": ({"pool": "mean"}, {"pool_space": False}),
    "joint_depth": (JOINT, {"joint_depth": 1}),
    "attention_pool": ({}, {"attention_pool": True}),
    "attention_pool_ratio": ({"attention_pool": True}, {"attention_pool_ratio": 2.0}),
    "unit_features": ({"attention_pool": True}, {"unit_features": True}),
    "motion_pool": ({}, {"motion_pool": True}),
    "positions": ({}, {"positions": "rope_2d"}),
    "num_registers": ({}, {"num_registers": 1}),
    "norm_pre": ({}, {"norm_pre": True}),
    "num_heads": ({}, {"num_heads": 2}),
    "mlp_ratio": ({}, {"mlp_ratio": 2.0}),
    "pool": ({}, {"pool": "mean"}),
    "pool_depth": ({"pool": "attentive"}, {"pool_depth": 1}),
    "pool_mlp_ratio": ({"pool": "attentive"}, {"pool_mlp_ratio": 2.0}),
    "pool_norm_tokens": ({"pool": "attentive"}, {"pool_norm_tokens": False}),
    "norm_after_pool": ({"pool": "mean"}, {"norm_after_pool": True}),
    "pool_norm_eps": ({"pool": "mean", "norm_after_pool": True}, {"pool_norm_eps": 1e-3}),
    "attn_logit_cap": ({}, {"attn_logit_cap": 5.0}),
    "attention_order": ({"encoder": "factorised_self_attention"}, {"attention_order": "space_time"}),
    "activation": ({}, {"activation": "gelu"}),
    "norm_eps": ({}, {"norm_eps": 1e-3}),
}
FREE = {
    "classes": ({}, {"classes": {"label": ("c", "d")}}),
    "sampled_frames": (UNIFORM, {"sampled_frames": 2}),
    "num_frames": ({}, {"num_frames": 4}),
    "image_size": ({}, {"image_size": (24, 16)}),
    "interpolation": ({}, {"interpolation": "linear"}),
    "drop_path": ({}, {"drop_path": 0.1}),
    "dropout": ({}, {"dropout": 0.1}),
    "preprocessing": ({}, {"preprocessing": Preprocessing(frame_stride=4)}),
}
SAME_FUNCTION = ("interpolation", "drop_path", "dropout", "preprocessing")  # of pixels of the same size


def saved(settings, folder):
    torch.manual_seed(0)
    model = tiny.model(**settings)
    model.save_pretrained(folder)
    return model


def test_every_field_is_free_or_refused():
    assert {f.name for f in fields(ModelConfig)} == {*REFUSED, *FREE}
    assert not {*REFUSED} & {*FREE}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_would_make_another_function_of_trained_weights_is_refused_by_its_name(name, tmp_path):
    settings, changes = REFUSED[name]
    trained = saved(settings, tmp_path)
    before, after = getattr(trained.config, name), changes[name]
    with pytest.raises(WeightsError) as refused:
        vivit.from_pretrained(tmp_path, **changes)
    assert f"{name}={before!r}, not {after!r}" in str(refused.value)
    allowed = str(refused.value).partition("; of trained weights can change: ")[2].split(", ")
    assert sorted(allowed) == sorted(FREE)
    assert vivit.from_pretrained(tmp_path, **{name: before}).config == trained.config  # what it is, may be said
    if name == "unit_features":
        return
    with pytest.raises(WeightsError, match=f"{name}="):
        vivit.create(trained.config, init=tmp_path, **changes)


@pytest.mark.parametrize("name", FREE)
def test_a_free_field_takes_its_value_and_the_weights_stay(name, tmp_path):
    settings, changes = FREE[name]
    trained = saved(settings, tmp_path)
    for loaded in (
        vivit.from_pretrained(tmp_path, **changes),
        vivit.create(trained.config, init=tmp_path, **changes).eval(),
    ):
        assert loaded.config == vivit.config.replace(trained.config, **changes)
        if name in SAME_FUNCTION:
            video = tiny.video(trained)
            assert torch.equal(loaded(video), trained(video))
        theirs, ours = trained.encoder.state_dict(), loaded.encoder.state_dict()
        assert all(torch.equal(ours[key], x) for key, x in theirs.items() if "pos_embed" not in key)


def test_training_may_begin_with_features_of_another_length(tmp_path):
    trained = saved({"attention_pool": True, "unit_features": True}, tmp_path)
    free = vivit.create(trained.config, init=tmp_path, unit_features=False).eval()
    video = tiny.video(trained)
    with torch.no_grad():
        unit = torch.nn.functional.normalize(free.features(video), dim=1)
        torch.testing.assert_close(trained.features(video), unit)


def test_a_preset_may_have_fields_of_another_encoder(tmp_path):
    """A preset of Model 1 has layers over time, which it does not use."""
    trained = saved({"encoder": "spatiotemporal"}, tmp_path)
    model = vivit.create(trained.config, init=tmp_path, temporal_depth=3, attention_order="space_time").eval()
    video = tiny.video(trained)
    assert torch.equal(model(video), trained(video))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preprocessing": {"mean": (0.5, 0.5, 0.5)}}, "preprocessing is a dict; pass vivit.config.Preprocessing"),
        ({"image_size": "64"}, "image_size is '64'; it must be a list"),
        ({"image_size": (64, 64, 3)}, r"image_size is '\(64, 64, 3\)'; it must be a list of 2"),
        ({"num_frames": "8"}, "num_frames is '8'; it must be an integer"),
        ({"tubelet_size": 16}, "tubelet_size is '16'; it must be a list"),
    ],
)
def test_a_wrong_argument_is_no_fault_of_the_file(wrong, message, tmp_path):
    vivit.create(CONFIGS["model 2"]).save_pretrained(tmp_path)
    for call in (
        lambda: vivit.from_pretrained(tmp_path, **wrong),
        lambda: vivit.create(CONFIGS["model 2"], init=tmp_path, **wrong),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert not isinstance(caught.value, WeightsError)


def test_one_side_is_a_square_for_every_door(tmp_path):
    vivit.create(CONFIGS["model 2"], image_size=64).save_pretrained(tmp_path)
    assert vivit.from_pretrained(tmp_path).config.image_size == (64, 64)
    assert vivit.from_pretrained(tmp_path, image_size=32).resize(image_size=48).config.image_size == (48, 48)


@pytest.mark.parametrize(
    "source", [{"head.weight": torch.ones(400, 768)}, None, 3, b"weights"], ids=["state dict", "None", "3", "bytes"]
)
def test_a_source_that_is_no_path_is_named_by_its_type_and_not_printed(source):
    for call in (
        lambda: vivit.from_pretrained(source),
        lambda: vivit.zero_shot(source, ["a", "b"]),
        lambda: config_for_init(source, CONFIGS["model 2"]),
    ):
        with pytest.raises(
            ValueError, match=f"weights are given as a {type(source).__name__}; pass the path"
        ) as caught:
            call()
        assert len(str(caught.value)) < 200
