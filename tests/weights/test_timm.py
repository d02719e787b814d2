"""Every structure of timm's vision transformers: equal to timm, or refused with a sentence that says what differs."""

import json
import re
import warnings

import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.errors import WeightsError
from vivit.weights import image_vit

from .random_weights import randomise
from .test_image_models import SMALL, assert_equal, save

MODULES = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos", "vision_transformer_hybrid")
MODULES += ("vision_transformer_sam",)
NARROW = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3, "pretrained": False}


def narrow(name):
    """A timm model with two narrow layers, on the meta device; None where timm cannot narrow it."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return timm.create_model(name, **NARROW)
        except (TypeError, AssertionError, RuntimeError, ValueError):
            return None


def structure(model):
    """What two models have in common that differ in their sizes only."""
    tensors = tuple((re.sub(r"\d+", "", name), x.ndim) for name, x in model.state_dict().items())
    modules = tuple(dict.fromkeys(type(module).__name__ for module in model.modules()))
    norms = tuple(dict.fromkeys(getattr(module, "eps", None) for module in model.modules()))
    options = tuple(str(getattr(model, name, None)) for name in ("global_pool", "no_embed_class"))
    return tensors, modules, norms, options


def structures():
    """One of timm's models of each structure, by its name."""
    names = [name for module in MODULES for name in timm.list_models(module=module)]
    models = {name: model for name in names if (model := narrow(name)) is not None}
    first = {structure(model): name for name, model in reversed(models.items())}
    return {name: models[name] for name in first.values()}


def load(model, name, folder):
    """(our model or the error) of a folder as timm writes it."""
    folder.mkdir(exist_ok=True)
    save(model, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": name, "global_pool": model.global_pool}))
    try:
        return vivit.from_pretrained(folder, num_heads=NARROW["num_heads"])
    except WeightsError as error:
        return error


def zeros(model):
    return model.to_empty(device="cpu").requires_grad_(False).apply(lambda m: [p.zero_() for p in m.parameters(False)])


def test_every_structure_of_timm_is_equal_or_refused_with_a_sentence(tmp_path):
    equal, refused = [], []
    for name, model in structures().items():
        ours = load(zeros(model), name, tmp_path / name)
        if isinstance(ours, WeightsError):
            assert str(ours).startswith(f"{tmp_path / name}: ")
            assert "Error" not in str(ours), (name, ours)
            refused.append(name)
            continue
        theirs = randomise(timm.create_model(name, **NARROW, img_size=2 * ours.config.tubelet_size[1]))
        ours = load(theirs, name, tmp_path / name)
        image = torch.randn(1, 3, *ours.config.image_size)
        with torch.no_grad():
            assert_equal(ours(image[:, None]), theirs(image))
        equal.append(name)
    assert {"deit3_base_patch16_224", "vit_base_patch16_224_miil"} <= set(equal)
    assert len(equal) >= 8
    assert len(refused) > 50


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vit_base_patch16_rope_224", "BEiT, EVA or DINOv3"),
        ("vit_relpos_base_patch16_224", "relative positions"),
        ("beit_base_patch16_224", "relative positions"),
        ("vit_small_plus_patch16_dinov3", "gated MLP"),
        ("vit_giant_patch14_dinov2", "gated MLP"),
        ("vit_base_patch16_clip_224", "a norm before the first block"),
        ("vit_base_patch16_siglip_224", "attention pooling"),
        ("vit_base_patch16_rpn_224", "norms after the branches"),
        ("samvit_base_patch16", "relative positions"),
        ("vit_base_r50_s16_224", "a convolutional stem"),
    ],
)
def test_what_a_model_has_that_a_vivit_lacks_is_said(name, what, tmp_path):
    model = narrow(name).to_empty(device="cpu")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w")  # without timm's config.json
    with pytest.raises(WeightsError, match=what):
        vivit.from_pretrained(tmp_path / "w", num_heads=2)
    with pytest.raises(WeightsError, match=what):
        vivit.create("ViViT-S/16x2", init=tmp_path / "w")


def test_a_mean_over_the_patches_next_to_a_class_token_is_refused(tmp_path):
    model = randomise(VisionTransformer(**SMALL, global_pool="avg", fc_norm=False))
    error = load(model, "vit_tiny_patch16_224", tmp_path)
    assert isinstance(error, WeightsError)
    assert "takes the mean of the patches and has a class token as well" in str(error)


def test_a_file_of_timm_without_qkv_biases_has_zeros_and_the_report_says_so(tmp_path):
    theirs = randomise(VisionTransformer(**SMALL, qkv_bias=False))
    ours = vivit.from_pretrained(save(theirs, tmp_path / "w"), num_heads=4)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours(image[:, None]), theirs(image))
    rows = {row.targets[0]: row for row in ours.load_report.rows if row.targets}
    assert rows["encoder.blocks.0.attn.qkv.bias"].reason == "no bias for q, k, v: zero"


def test_a_single_block_without_its_qkv_bias_is_a_damaged_file(tmp_path):
    state = randomise(VisionTransformer(**SMALL)).state_dict()
    del state["blocks.1.attn.qkv.bias"]
    safetensors.torch.save_file(state, tmp_path / "w")
    with pytest.raises(WeightsError, match="not every block has the same biases"):
        vivit.from_pretrained(tmp_path / "w", num_heads=4)


def test_positions_of_a_frame_that_is_not_square_are_read_by_timms_config(tmp_path):
    theirs = randomise(VisionTransformer(**SMALL | {"img_size": (24, 40)}))  # 3 x 5 patches and one more are 4 x 4
    save(theirs, tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"input_size": [3, 24, 40]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = vivit.from_pretrained(tmp_path, num_heads=4)
    assert ours.config.image_size == (24, 40)
    image = torch.randn(1, 3, 24, 40)
    with torch.no_grad():
        assert_equal(ours(image[:, None]), theirs(image))


def test_the_gelu_of_every_siglip_model_is_timms(tmp_path):
    checked = 0
    for name in timm.list_models("*siglip_gap*"):
        model = narrow(name)
        if (tanh := type(model.blocks[0].mlp.act).__name__ == "GELUTanh") or "large" in name:
            ours = load(zeros(model), name, tmp_path / name)
            assert ours.config.activation == ("gelu_tanh" if tanh else "gelu"), name
            checked += 1
    assert checked > 0, "timm lists no such model any more: choose others"


def test_pixels_are_normalised_as_timm_has_it_for_every_name(tmp_path):
    """Without pretrained_cfg, by the name in config.json or of the file."""
    plain = [VisionTransformer(**SMALL), VisionTransformer(**SMALL, init_values=0.1)]
    tensors = [{name: x.contiguous() for name, x in model.state_dict().items()} for model in plain]
    checked = 0
    models = {name for module in ("vision_transformer", "deit") for name in timm.list_models(module=module)}
    for name in [*models, *(name for name in timm.list_pretrained() if name.partition(".")[0] in models)]:
        if any(word in name for word in ("clip", "aimv2", "beit3", "xp_", "rpn", "_map_", "siglip_")):
            continue  # refused by their tensors
        expected = timm.get_pretrained_cfg(name)
        scaled = any(word in name for word in ("plus", "36x1", "dinov2"))
        found = image_vit.parse_image_vit(name, dict(tensors[scaled]), {"config.json": {"architecture": name}}).config
        pixels = found.get("preprocessing", {"mean": (0.5,) * 3, "std": (0.5,) * 3})
        assert pixels["mean"] == pytest.approx(expected.mean, abs=1e-6), name
        assert pixels["std"] == pytest.approx(expected.std, abs=1e-6), name
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("file", "mean"),
    [
        ("deit_tiny_patch16_224-a1311bcf.pth", 0.485),
        ("vit_tiny_patch16_224.safetensors", 0.5),
        ("mae_pretrain_vit_base.pth", 0.485),
    ],
)
def test_the_name_of_a_bare_file_says_which_pixels_it_takes(file, mean, tmp_path):
    path = save(VisionTransformer(**SMALL), tmp_path / file)
    assert vivit.from_pretrained(path, num_heads=4).config.preprocessing.mean[0] == mean
