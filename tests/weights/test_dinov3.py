"""DINOv3 against transformers: as a model of one frame and as the start of all four models."""

import json

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

import vivit
from vivit.config import ModelConfig
from vivit.engine.feature_cache import encode, feature_shapes, image_filters
from vivit.errors import WeightsError
from vivit.weights.load import config_for_init

from .random_weights import randomise
from .test_image_models import assert_once, still
from .test_vjepa2 import TOLERANCE, relative

SMALL = {"patch_size": 8, "image_size": 32, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
SMALL |= {"num_hidden_layers": 2, "num_register_tokens": 4}


def their_dinov3(**changes):
    return randomise(DINOv3ViTModel(DINOv3ViTConfig(**SMALL | changes)))


def small_config(**changes):
    values = {"tubelet_size": (2, 8, 8), "num_frames": 6, "image_size": (32, 32), "embed_dim": 64, "depth": 2}
    values |= {"temporal_depth": 0, "num_heads": 4, "mlp_ratio": 1.5}
    return ModelConfig(**values | changes)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", [(32, 32), (24, 56)])
def test_dinov3_is_equal_as_a_model_of_one_frame(size, registers, tmp_path):
    theirs = their_dinov3(num_register_tokens=registers)
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path, image_size=size)
    assert_once(ours, [name.removeprefix("model.") for name in theirs.state_dict()])  # as the files have it
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert relative(ours.features(image[:, None]), theirs(image).pooler_output) < TOLERANCE


def test_model_2_averages_its_features_of_the_frames_of_any_video(tmp_path):
    theirs = their_dinov3()
    theirs.save_pretrained(tmp_path)
    model = vivit.create(small_config(encoder="factorised_encoder"), classes={}, init=tmp_path).eval()
    video = torch.randn(2, 6, 3, 32, 32)
    with torch.no_grad():
        expected = torch.stack([theirs(video[:, i]).pooler_output for i in (1, 3, 5)]).mean(dim=0)
        assert relative(model.features(video), expected) < TOLERANCE
        video = torch.randn(2, 6, 3, 48, 24)
        expected = torch.stack([theirs(video[:, i]).pooler_output for i in (1, 3, 5)]).mean(dim=0)
        assert relative(model.resize(image_size=(48, 24)).features(video), expected) < TOLERANCE
    assert (model.config.positions, model.config.num_registers) == ("rope_2d", 4)


def test_model_1_on_one_tubelet_is_dinov3_on_its_central_frame(tmp_path):
    theirs = their_dinov3()
    theirs.save_pretrained(tmp_path)
    model = vivit.create(small_config(encoder="spatiotemporal", num_frames=2), classes={}, init=tmp_path).eval()
    video = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        assert relative(model.features(video), theirs(video[:, 1]).pooler_output) < TOLERANCE


class PatchesOnly(DINOv3ViTModel):
    """DINOv3 without class and register tokens, which Models 3 and 4 do not have."""

    def forward(self, image):
        x = self.embeddings(image)[:, 1 + self.config.num_register_tokens :]
        return self.norm(self.model(x, position_embeddings=self.rope_embeddings(image)).last_hidden_state).mean(dim=1)


@pytest.mark.parametrize(
    ("encoder", "pool"),
    [("factorised_self_attention", "mean"), ("spatiotemporal", "mean"), ("factorised_encoder", "mean")],
)
def test_models_without_a_class_token_start_as_its_patches(encoder, pool, tmp_path):
    theirs = their_dinov3()
    theirs.save_pretrained(tmp_path)
    patches = PatchesOnly(theirs.config).eval()
    patches.load_state_dict(theirs.state_dict())
    model = vivit.create(small_config(encoder=encoder, pool=pool), classes={}, init=tmp_path).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative(model.features(still(image, 6)), patches(image)) < TOLERANCE
        if encoder == "factorised_self_attention":  # its temporal attention starts at zero, so any video will do
            video = torch.randn(2, 6, 3, 32, 32)
            expected = torch.stack([patches(video[:, i]) for i in (1, 3, 5)]).mean(dim=0)
            assert relative(model.features(video), expected) < TOLERANCE
    ignored = {s: row.reason for row in model.load_report.rows if row.status == "ignored" for s in row.sources}
    assert ignored["embeddings.register_tokens"] == "this model has no register tokens"


def test_model_4_starts_with_half_of_the_heads_on_the_token_itself(tmp_path):
    theirs = their_dinov3()
    theirs.config._attn_implementation = "eager"
    theirs.save_pretrained(tmp_path)
    model = vivit.create(small_config(encoder="factorised_dot_product", pool="mean"), classes={}, init=tmp_path).eval()
    image = torch.randn(2, 3, 32, 32)
    itself = torch.zeros(1, 4, 16, 16)
    itself[:, :2] = torch.full((16, 16), -torch.inf).fill_diagonal_(0)  # over time a still clip shows equal tokens
    with torch.no_grad():
        x = theirs.embeddings(image)[:, 5:]
        for layer in theirs.model.layer:
            x = layer(x, attention_mask=itself, position_embeddings=theirs.rope_embeddings(image))
        assert relative(model.features(still(image, 6)), theirs.norm(x).mean(dim=1)) < TOLERANCE


def released(theirs, *, head_dim=16):
    """The state dict of a transformers model with the names that Meta's files have."""
    old = theirs.state_dict()
    state = {"cls_token": old["embeddings.cls_token"], "storage_tokens": old["embeddings.register_tokens"]}
    state |= {"mask_token": old["embeddings.mask_token"][0]}
    periods = 100.0 ** (2 * torch.arange(head_dim // 4) / (head_dim // 2))
    state["rope_embed.periods"] = periods.bfloat16()
    for leaf in ("weight", "bias"):
        state[f"patch_embed.proj.{leaf}"] = old[f"embeddings.patch_embeddings.{leaf}"]
        state[f"norm.{leaf}"] = old[f"norm.{leaf}"]
    for i, layer in enumerate(theirs.model.layer):
        a, start = layer.attention, f"blocks.{i}."
        d = a.embed_dim
        state[f"{start}attn.qkv.weight"] = torch.cat((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight))
        state[f"{start}attn.qkv.bias"] = torch.cat((a.q_proj.bias, torch.randn(d), a.v_proj.bias))
        state[f"{start}attn.qkv.bias_mask"] = torch.cat((torch.ones(d), torch.zeros(d), torch.ones(d)))
        linears = {"attn.proj": a.o_proj, "mlp.fc1": layer.mlp.up_proj, "mlp.fc2": layer.mlp.down_proj}
        for name, module in (linears | {"norm1": layer.norm1, "norm2": layer.norm2}).items():
            state |= {f"{start}{name}.{leaf}": x for leaf, x in module.state_dict().items()}
        state |= {f"{start}ls{n}.gamma": getattr(layer, f"layer_scale{n}").lambda1 for n in (1, 2)}
    return {name: x.detach().clone() for name, x in state.items()}


def test_a_released_file_is_the_model_of_transformers(tmp_path):
    theirs = their_dinov3()
    torch.save(state := released(theirs), tmp_path / "dinov3_vits16.pth")
    ours = vivit.from_pretrained(tmp_path / "dinov3_vits16.pth", image_size=(32, 32))
    assert_once(ours, state)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative(ours.features(image[:, None]), theirs(image).pooler_output) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_embed.periods": 50.0 ** (torch.arange(4) / 4)}, "rope_embed.periods are"),
        ({"blocks.0.attn.qkv.bias_mask": torch.full((192,), torch.nan)}, "other values than 0 and 1"),
        ({"cls_norm.weight": torch.ones(64)}, "cls_norm.weight has no place in this model"),
        ({"blocks.0.mlp.w1.weight": torch.ones(96, 64)}, "gated MLP"),
    ],
)
def test_released_files_of_another_kind_are_refused(change, message, tmp_path):
    torch.save(released(their_dinov3()) | change, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        vivit.from_pretrained(tmp_path / "w.pth", image_size=(32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 10.0}, "rope_theta is 10.0"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3; the file has 2 blocks"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ],
)
def test_a_config_of_another_kind_is_refused(change, message, tmp_path):
    their_dinov3().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=message):
        vivit.from_pretrained(tmp_path)


def test_a_gated_mlp_is_refused(tmp_path):
    their_dinov3(use_gated_mlp=True).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="gated MLP"):
        vivit.from_pretrained(tmp_path)


def test_fine_tuning_caches_tokens_with_registers(tmp_path):
    """The config that `vivit train finetune` derives from the weights is that of the model that it builds."""
    their_dinov3().save_pretrained(tmp_path)
    config = config_for_init(tmp_path, small_config(encoder="factorised_encoder", num_heads=2, embed_dim=16))
    model = vivit.create(config, classes={}, init=tmp_path).eval()
    assert (config.positions, config.num_registers) == (model.config.positions, model.config.num_registers)
    views = torch.randint(0, 256, (3, 6, 3, 32, 32), dtype=torch.uint8)
    got = encode(model, image_filters(model), views, cut=1)
    shape, _ = feature_shapes(config, 1, 3, cut=1)["activations"]
    assert got["activations"].shape == shape[1:]
    with torch.no_grad():
        torch.testing.assert_close(got["positions"].mean(dim=1), model.features(views))
