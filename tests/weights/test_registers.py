"""Register tokens of DINOv2 and timm are kept, with and without positions of their own."""

import pytest
import safetensors.torch
import timm
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.weights.convert import WRITERS

from .random_weights import randomise
from .test_image_models import HF, SMALL, assert_equal, save


@pytest.mark.parametrize("names", ["timm", "released"])
def test_dinov2_keeps_its_registers(names, tmp_path):
    theirs = randomise(timm.create_model("vit_small_patch14_reg4_dinov2", depth=2, img_size=56))
    path = save(theirs, tmp_path / "w")
    if names == "released":  # Meta's own files: another name, and positions that cover the class token
        state = theirs.state_dict()
        state["register_tokens"] = state.pop("reg_token")
        position = torch.randn_like(state["cls_token"])
        state["pos_embed"] = torch.cat((position, state["pos_embed"]), dim=1)
        safetensors.torch.save_file(state | {"mask_token": torch.randn(1, 384)}, path)
        with torch.no_grad():
            theirs.cls_token += position
    ours = vivit.from_pretrained(path, num_heads=6)
    model = vivit.create("ViViT-S/14x2", classes={}, depth=2, num_frames=2, image_size=(56, 56), init=path).eval()
    assert model.config.num_registers == 4
    video = torch.randn(2, 2, 3, 56, 56)
    with torch.no_grad():
        assert_equal(ours.features(video[:, 1:]), theirs.forward_features(video[:, 1])[:, 0])
        assert_equal(model.features(video), theirs.forward_features(video[:, 1])[:, 0])


def test_hugging_face_dinov2_keeps_its_registers(tmp_path):
    config = transformers.Dinov2WithRegistersConfig(**HF, mlp_ratio=2, image_size=32, num_register_tokens=3)
    theirs = randomise(transformers.Dinov2WithRegistersModel(config))
    theirs.save_pretrained(tmp_path)
    ours = vivit.from_pretrained(tmp_path)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours.features(image[:, None]), theirs(image).pooler_output)


def test_positions_of_registers_are_added_to_them(tmp_path):
    theirs = randomise(VisionTransformer(**SMALL, reg_tokens=3))
    assert theirs.pos_embed.shape[1] == 1 + 3 + 16
    ours = vivit.from_pretrained(save(theirs, tmp_path / "w"), num_heads=4)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(ours(image[:, None]), theirs(image))


@pytest.mark.parametrize("to", ["huggingface", "scenic"])
@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "rope_3d"},
        {"positions": "rope_2d"},
        {"num_registers": 2},
        {"norm_pre": True},
        {"pool": "attentive"},
    ],
    ids=str,
)
def test_formats_that_have_no_such_model_refuse_to_hold_it(changes, to, tmp_path):
    plain = {"activation": "gelu_tanh", "num_frames": 4, "image_size": (32, 32), "tubelet_size": (2, 8, 8)}
    plain |= {"embed_dim": 32, "depth": 1, "num_heads": 2, "classes": ["a"]}
    model = vivit.create("ViViT-B/16x2", **plain | changes)
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"no {name}={value!r}"):
        WRITERS[to](model, tmp_path / "out")


def test_registers_without_a_class_token_are_refused_in_plain_words(tmp_path):
    theirs = randomise(VisionTransformer(**SMALL, reg_tokens=3, class_token=False, global_pool="avg"))
    with pytest.raises(ValueError, match=r"this image ViT \(timm names\) is no ViViT: it has register tokens\. "):
        vivit.from_pretrained(save(theirs, tmp_path / "w"), num_heads=4)
