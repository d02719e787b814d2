"""Folders of transformers whose config.json and tensors contradict each other are refused, whatever the model.

transformers itself would leave out tensors that it does not expect and initialise those that are missing.
"""

import json
import re

import pytest
import safetensors.torch
import torch
import transformers as T

import vivit
from vivit.errors import WeightsError
from vivit.weights.text_tower import load_text_tower

from .prism import NARROW, TEXT
from .random_weights import randomise
from .test_vjepa2 import TOLERANCE, relative

ONE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = ONE | {"image_size": 32, "patch_size": 8}
VIDEO = ONE | {"image_size": 32, "num_frames": 4, "num_labels": 3}
DINO = {name: value for name, value in IMAGE.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
JEPA = {"patch_size": 8, "crop_size": 32, "frames_per_clip": 4, "hidden_size": 32, "num_attention_heads": 2}
JEPA |= {"num_hidden_layers": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
JEPA |= {"num_labels": 3, "num_pooler_layers": 1}

MODELS = {
    "vit": lambda: T.ViTForImageClassification(T.ViTConfig(**IMAGE, num_labels=3)),
    "dinov2": lambda: T.Dinov2Model(T.Dinov2Config(**DINO)),
    "dinov2_with_registers": lambda: T.Dinov2WithRegistersModel(T.Dinov2WithRegistersConfig(**DINO)),
    "dinov3": lambda: T.DINOv3ViTModel(T.DINOv3ViTConfig(**IMAGE | {"hidden_size": 32, "num_register_tokens": 2})),
    "clip": lambda: T.CLIPVisionModel(T.CLIPVisionConfig(**IMAGE)),
    "siglip": lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**IMAGE)),
    "siglip without head": lambda: T.SiglipVisionModel(T.SiglipVisionConfig(**IMAGE, vision_use_head=False)),
    "vivit": lambda: T.VivitForVideoClassification(T.VivitConfig(**VIDEO, tubelet_size=[2, 8, 8])),
    "videomae": lambda: T.VideoMAEForVideoClassification(T.VideoMAEConfig(**VIDEO, patch_size=8)),
    "vjepa2": lambda: T.VJEPA2ForVideoClassification(T.VJEPA2Config(**JEPA)),
    "videoprism": lambda: T.VideoPrismVideoModel(T.VideoPrismVisionConfig(**NARROW)),
    "videoprism classifier": lambda: T.VideoPrismForVideoClassification(T.VideoPrismVisionConfig(**NARROW)),
}


def save(kind, folder, config=None, *, without="(?!)", extra=None):
    """Save a model of `kind`, then change its config.json, and remove and add tensors."""
    theirs = randomise(MODELS[kind]())
    theirs.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(values))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    left = {name: x for name, x in tensors.items() if not re.search(without, name)} | (extra or {})
    assert (len(left) < len(tensors)) == (without != "(?!)")
    safetensors.torch.save_file(left, folder / "model.safetensors")
    return theirs


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_folders_unchanged_are_read(kind, tmp_path):
    save(kind, tmp_path)
    assert vivit.from_pretrained(tmp_path).load_report.rows


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("vit", {"num_hidden_layers": 1}),
        ("vit", {"qkv_bias": False}),
        ("dinov2", {"num_hidden_layers": 1}),
        ("dinov2", {"qkv_bias": False}),
        ("dinov2", {"use_swiglu_ffn": True}),
        ("dinov2_with_registers", {"num_hidden_layers": 3}),
        ("dinov2_with_registers", {"num_register_tokens": 3}),
        ("dinov3", {"num_register_tokens": 0}),
        ("dinov3", {"query_bias": False}),
        ("dinov3", {"value_bias": False}),
        ("dinov3", {"proj_bias": False}),
        ("dinov3", {"mlp_bias": False}),
        ("dinov3", {"use_gated_mlp": True}),
        ("siglip", {"vision_use_head": False}),
        ("siglip without head", {"vision_use_head": True}),
        ("vivit", {"num_hidden_layers": 1}),
        ("vivit", {"qkv_bias": False}),
        ("videomae", {"num_hidden_layers": 1}),
        ("videomae", {"qv_bias": False}),
        ("videomae", {"qkv_bias": False}),
        ("videomae", {"use_mean_pooling": False}),
        ("vjepa2", {"qkv_bias": False}),
        ("videoprism", {"qkv_bias": False}),
    ],
)
def test_a_setting_that_the_tensors_contradict_is_refused_by_its_name(kind, config, tmp_path):
    save(kind, tmp_path, config)
    with pytest.raises(WeightsError, match=f"config.json: {next(iter(config))} is "):
        vivit.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "model_type", "message"),
    [
        ("dinov2", "vit", "the file has layer scales .*, which a vit has not"),
        ("dinov2_with_registers", "dinov2", "num_register_tokens is 0 for a dinov2; the file has 4"),
        ("vit", "dinov2", "the file lacks layer scales, which a dinov2 has"),
        ("vit", "deit", "the file lacks a distillation token, which a deit has"),
        ("clip", "siglip_vision_model", "which a siglip has not"),
    ],
)
def test_another_model_type_than_that_of_the_tensors_is_refused(kind, model_type, message, tmp_path):
    save(kind, tmp_path, {"model_type": model_type})
    with pytest.raises(WeightsError, match=message):
        vivit.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "without", "message"),
    [
        ("dinov2_with_registers", "register", "num_register_tokens is 4 .* the file has 0"),
        ("dinov3", "register", "num_register_tokens is 2 .* the file has 0"),
        ("dinov3", "cls_token", "lacks a class token"),
        ("dinov3", r"layer\.1\.layer_scale2", "3 layer scales in the file"),
        ("dinov2", r"layer\.1\.layer_scale1", "3 layer scales in the file"),
        ("dinov2", "layer_scale", "lacks layer scales"),
        ("clip", "pre_layrnorm", "lacks a norm before the first block"),
        ("siglip", "patch_embedding.bias", "lacks a bias of the patches"),
        ("vjepa2", "pooler", "no pooler"),
        ("vjepa2", "pooler|classifier", "no pooler"),
        ("videomae", "fc_norm", "no fc_norm"),
        ("videoprism", r"head\.|head_layernorm", "VideoPrismVideoModel, which has a pooling head"),
        ("videoprism", r"head\.|head_layernorm|auxiliary", "VideoPrismVideoModel, which has a pooling head"),
        ("videoprism classifier", r"head\.|head_layernorm", "ForVideoClassification, which has a pooling head"),
    ],
)
def test_a_missing_part_does_not_make_another_model(kind, without, message, tmp_path):
    save(kind, tmp_path, without=without)
    with pytest.raises(WeightsError, match=message):
        vivit.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("dinov3", "layer.0.attention.k_proj.bias"),
        ("videomae", "videomae.encoder.layer.0.attention.attention.key.bias"),
    ],
)
def test_biases_of_keys_that_transformers_leaves_out_are_refused(kind, name, tmp_path):
    save(kind, tmp_path, extra={name: torch.ones(32 if kind == "dinov3" else 24)})
    with pytest.raises(WeightsError, match=re.escape(name)):
        vivit.from_pretrained(tmp_path)


def test_a_video_prism_classifier_without_architectures_needs_its_pooling_head(tmp_path):
    save("videoprism classifier", tmp_path, {"architectures": None}, without=r"head\.|head_layernorm")
    with pytest.raises(WeightsError, match="a classifier without the pooling head"):
        vivit.from_pretrained(tmp_path)


def test_biases_of_the_text_tower_that_its_config_denies_are_refused(tmp_path):
    config = T.VideoPrismConfig(vision_config=NARROW, text_config=TEXT)
    randomise(T.VideoPrismClipModel(config)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_config"]["qkv_bias"] = False
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="qkv_bias is False; the file has text_model"):
        load_text_tower(tmp_path)


@pytest.mark.parametrize("other", [{"hidden_act": "gelu"}, {"layer_norm_eps": 0.1}, {"num_attention_heads": 2}])
def test_clips_older_settings_override_the_newer_as_in_transformers(other, tmp_path):
    text = ONE | {"num_hidden_layers": 1, "vocab_size": 9}
    config = T.CLIPConfig(vision_config=IMAGE, text_config=text, projection_dim=8)
    randomise(T.CLIPModel(config)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | {"vision_config_dict": IMAGE | other}
    (tmp_path / "config.json").write_text(json.dumps(values))
    theirs = T.CLIPModel.from_pretrained(tmp_path).vision_model.eval()
    assert next(iter(other.values())) == getattr(theirs.config, next(iter(other)))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = vivit.from_pretrained(tmp_path).features(image[:, None])
        assert relative(ours, theirs(image).pooler_output) < TOLERANCE


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
def test_without_a_config_the_epsilon_is_that_of_the_model_that_the_tensors_show(kind, tmp_path):
    theirs = save(kind, tmp_path)
    (tmp_path / "config.json").unlink()
    ours = vivit.from_pretrained(tmp_path, num_heads=4)
    assert ours.config.norm_eps == theirs.config.layer_norm_eps == 1e-6
    assert any(f"norm_eps 1e-06, which transformers assumes for {kind}" in note for note in ours.load_report.notes)


@pytest.mark.parametrize("name", ["best.safetensors", "vit.bin"])
def test_a_config_beside_weights_of_any_name_is_read(name, tmp_path):
    randomise(T.ViTModel(T.ViTConfig(**IMAGE, hidden_act="quick_gelu"))).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if name.endswith(".bin"):
        torch.save(safetensors.torch.load_file(path), tmp_path / name)
        path.unlink()
    else:
        path.rename(tmp_path / name)
    model = vivit.from_pretrained(tmp_path / name)
    assert (model.config.activation, model.config.num_heads) == ("quick_gelu", 4)
    (tmp_path / "config.json").write_text(json.dumps({"of": "something else"}))
    assert vivit.from_pretrained(tmp_path / name, num_heads=4).config.activation == "gelu"
