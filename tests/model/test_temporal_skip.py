"""A skip connection around Model 2's layers over time: the video model starts as the average of an image model."""

import pytest
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.config import ModelConfig, replace
from vivit.weights.convert import convert
from vivit.weights.load import config_for_init

from ..weights.random_weights import randomise

KINDS = {
    "class token": {},
    "mean": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "norm after the mean": {"global_pool": "avg", "class_token": False, "fc_norm": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_average_of_timms_features_of_every_second_frame(kind, tmp_path):
    vit = randomise(VisionTransformer(img_size=24, patch_size=8, embed_dim=64, depth=2, num_heads=1, **KINDS[kind]))
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    config = ModelConfig(num_frames=6, embed_dim=384, num_heads=6, temporal_depth=2, temporal_skip=True)
    config = config_for_init(tmp_path / "vit.safetensors", config)
    model = vivit.create(config, classes={}, init=tmp_path / "vit.safetensors").eval()
    video = torch.randint(0, 256, (2, 6, 3, 24, 24), dtype=torch.uint8)
    with torch.no_grad():
        images = video[:, 1::2].flatten(0, 1).float() / 127.5 - 1  # the frame that a tubelet of two takes: t // 2
        expected = vit.eval().forward_head(vit.forward_features(images), pre_logits=True).view(2, 3, 64).mean(1)
        torch.testing.assert_close(model.features(video), expected, atol=1e-4, rtol=1e-4)


def test_the_layers_over_time_learn_from_the_first_steps_on():
    torch.manual_seed(0)
    config = ModelConfig(
        {"x": ("a", "b")}, num_frames=4, image_size=(16, 16), tubelet_size=(2, 8, 8), embed_dim=16, depth=1,
        temporal_depth=1, num_heads=2, temporal_skip=True,
    )  # fmt: skip
    model = vivit.create(config)
    torch.nn.init.normal_(model.head.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    video, before = (
        torch.randn(2, 4, 3, 16, 16),
        model.get_parameter("encoder.temporal.blocks.0.attn.qkv.weight").clone(),
    )
    for _ in range(2):
        torch.nn.functional.cross_entropy(model(video), torch.tensor([0, 1])).backward()
        optimizer.step()
    assert not torch.equal(model.get_parameter("encoder.temporal.blocks.0.attn.qkv.weight"), before)
    assert model.get_parameter("encoder.temporal.norm.weight").abs().max() > 0


def test_it_is_saved_and_not_given_to_formats_that_have_none(tmp_path):
    config = ModelConfig(
        num_frames=4, image_size=(16, 16), tubelet_size=(2, 8, 8), embed_dim=16, depth=1, temporal_depth=1,
        num_heads=2, temporal_skip=True,
    )  # fmt: skip
    model = vivit.create(config, classes={})
    model.save_pretrained(tmp_path / "ours")
    again = vivit.from_pretrained(tmp_path / "ours")
    assert again.config == config
    video = torch.randn(1, 4, 3, 16, 16)
    assert torch.equal(model.eval().features(video), again.eval().features(video))
    with pytest.raises(ValueError, match="scenic's ViViT has no .*temporal_skip=True"):
        convert(tmp_path / "ours", tmp_path / "scenic", to="scenic")
    with pytest.raises(ValueError, match="temporal_skip=True, not False"):
        vivit.create(replace(config, temporal_skip=False), classes={}, init=tmp_path / "ours")


@pytest.mark.parametrize("changes", [{"temporal_depth": 0}, {"encoder": "spatiotemporal"}])
def test_there_must_be_layers_to_go_around(changes):
    with pytest.raises(ValueError, match="temporal_skip bypasses the layers over time"):
        ModelConfig(temporal_skip=True, **changes)
