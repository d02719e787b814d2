"""Files in half precision load as the same values in float32 do, bit for bit: no arithmetic in their dtype."""

import pytest
import safetensors.torch
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.config import ModelConfig, replace
from vivit.weights.load import config_for_init

from . import test_clip, test_dinov3, test_vjepa2
from .models import CONFIGS
from .prism import their_model
from .random_weights import randomise
from .test_image_models import HF, SMALL
from .test_vjepa2 import TOLERANCE, relative

DINO_2 = dict(HF, mlp_ratio=2, image_size=32)
FAMILIES = {
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINO_2)),
    "DINOv3": test_dinov3.their_dinov3,
    "CLIP": lambda: test_clip.their_tower("CLIP"),
    "SigLIP": lambda: test_clip.their_tower("Siglip"),
    "V-JEPA 2 and its probe": lambda: transformers.VJEPA2ForVideoClassification(
        transformers.VJEPA2Config(**test_vjepa2.SMALL)
    ),
    "VideoPrism": lambda: their_model("video-text"),
    "ViViT, ours": lambda: vivit.create(CONFIGS["model 2"]),
}


def save_twice(theirs, folder, dtype):
    """Write a file in `dtype` and one of the same values in float32; return their folders."""
    theirs.to(dtype).save_pretrained(folder / "half")
    theirs.float().save_pretrained(folder / "single")
    tensors = safetensors.torch.load_file(folder / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    return folder / "half", folder / "single"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dinov2_in_half_precision_has_the_features_of_transformers(dtype, tmp_path):
    theirs = randomise(FAMILIES["DINOv2"]())
    half, _ = save_twice(theirs, tmp_path, dtype)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative(vivit.from_pretrained(half).features(image[:, None]), theirs(image).pooler_output) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_computes_in_the_dtype_of_the_file(family, tmp_path):
    half, single = save_twice(randomise(FAMILIES[family]()), tmp_path, torch.bfloat16)
    a, b = vivit.from_pretrained(half), vivit.from_pretrained(single)
    size = {"image_size": tuple(2 * side for side in a.config.image_size)}
    pairs = [(a, b), (vivit.from_pretrained(half, **size), vivit.from_pretrained(single, **size))]
    if a.config.num_frames == 1:
        config = replace(config_for_init(half, ModelConfig(temporal_depth=1)), classes={"label": ("a",)}, num_frames=4)
        starts = [
            vivit.create(config, init=folder, kernel_init="arp", temporal_init="image") for folder in (half, single)
        ]
        pairs.append((starts[0], starts[1]))
    for ours, expected in pairs:
        random = () if ours.training is False else ("encoder.temporal.pos_embed", "encoder.temporal.cls_token")
        for name, tensor in ours.state_dict().items():
            assert name in random or torch.equal(tensor, expected.state_dict()[name]), name


def test_positions_of_registers_are_added_to_them_in_float32(tmp_path):
    theirs = randomise(VisionTransformer(**SMALL, reg_tokens=3)).bfloat16()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "w")
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        got = vivit.from_pretrained(tmp_path / "w", num_heads=4)(image[:, None])
        assert relative(got, theirs.float()(image)) < TOLERANCE
