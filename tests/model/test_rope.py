"""Rotary positions and register tokens, against transformers' own functions and by identities."""

import copy

import pytest
import torch
from einops import rearrange
from transformers import DINOv3ViTConfig, VJEPA2Config
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding, apply_rotary_pos_emb
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2RopeAttention

import vivit
from vivit.config import ModelConfig, replace
from vivit.model.gradient_attention import gradient_attention_maps
from vivit.model.layers import Block
from vivit.model.rollout import attention_maps
from vivit.model.rope import Rope, build_rope
from vivit.model.token_reduction import reduce_tokens
from vivit.model.vivit import ViViT

from . import tiny

ROPES = ("rope_2d", "rope_3d")
WIDE = {"embed_dim": 64}  # heads of 16: rope_3d turns 3 x 4 of their features and leaves 4


@pytest.mark.parametrize("head_dim", [16, 64, 80])  # 64 in V-JEPA 2's L and g, 80 in H
def test_rope_3d_gives_the_scores_of_transformers(head_dim):
    theirs = VJEPA2RopeAttention(
        VJEPA2Config(patch_size=8, crop_size=24, frames_per_clip=8, tubelet_size=2), 2 * head_dim, 2
    )
    q, k = torch.randn(2, 2, 2, 36, head_dim, dtype=torch.float64)  # (B, a, n, k) on a grid of 4 x 3 x 3
    places = theirs.get_position_ids(q.transpose(1, 2).flatten(2))
    expected = theirs.apply_rotary_embeddings(q, places) @ theirs.apply_rotary_embeddings(k, places).mT
    rope = Rope("rope_3d", (4, 3, 3), head_dim, prefix=0).double()
    turned = (rope(rearrange(x, "B a n (pair two) -> B n a (two pair)", two=2)) for x in (q, k))
    torch.testing.assert_close(torch.einsum("Bnak,Bmak->Banm", *turned), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
def test_rope_2d_is_that_of_transformers_on_every_grid(height, width):
    config = DINOv3ViTConfig(patch_size=8, image_size=32, hidden_size=64, num_attention_heads=4)
    cos, sin = DINOv3ViTRopePositionEmbedding(config).eval()(torch.zeros(1, 3, 8 * height, 8 * width))
    q, k = torch.randn(2, 2, 4, 5 + height * width, 16)  # five tokens before the patches stay as they are
    rope = Rope("rope_2d", (1, height, width), 16, prefix=5)
    for ours, theirs in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin)):
        torch.testing.assert_close(rope(ours.transpose(1, 2)).transpose(1, 2), theirs)


def test_rope_2d_turns_by_the_difference_of_two_places_and_not_by_time():
    rope = Rope("rope_2d", (2, 3, 4), 16, prefix=1)
    q, k = torch.randn(2, 1, 1, 1, 16).expand(2, 1, 25, 1, 16)  # the same query and key everywhere
    scores = torch.einsum("Bnak,Bmak->nm", rope(q), rope(k))[1:, 1:].unflatten(0, (2, 3, 4)).unflatten(3, (2, 3, 4))
    torch.testing.assert_close(scores[0, 0, 0, 0, 1, 2], scores[1, 1, 1, 0, 2, 3])
    assert (scores[0, 0, 0, 0, 1, 2] - scores[0, 0, 0, 0, 2, 1]).abs() > 1e-3


@pytest.mark.parametrize("positions", ROPES)
@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_a_rotary_model_runs_trains_resizes_and_is_saved(encoder, positions, tmp_path):
    registers = 2 if encoder in ("spatiotemporal", "factorised_encoder") else 0
    model = tiny.model(encoder, positions=positions, num_registers=registers, **WIDE)
    video = tiny.video(model)
    with torch.no_grad():
        logits = model(video)
        torch.testing.assert_close(copy.deepcopy(model)(video), logits, atol=0, rtol=0)
        back = vivit.from_pretrained(model.save_pretrained(tmp_path))  # built on the meta device
        torch.testing.assert_close(back(video), logits, atol=0, rtol=0)
        larger = vivit.from_pretrained(tmp_path, num_frames=10, image_size=(32, 32))
        model.resize(num_frames=10, image_size=(32, 32))
        torch.testing.assert_close(model(tiny.video(model)).shape, logits.shape)
        video = tiny.video(model)
        torch.testing.assert_close(larger(video), model(video))
        model.resize(num_frames=2), larger.resize(num_frames=2)  # one temporal position
        torch.testing.assert_close(larger(video[:, :2]), model(video[:, :2]))
        assert model.resize(num_frames=6)(video[:, :6]).isfinite().all()
    model.train()(video[:, :6]).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("positions", ROPES)
@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_a_rotary_model_tells_places_and_moments_apart(encoder, positions):
    model = tiny.model(encoder, positions=positions, **WIDE)
    video = tiny.video(model, 1)
    with torch.no_grad():
        features = model.features(video)
        for moved in (video.roll(2, dims=1), video.roll(8, dims=3), video.roll(8, dims=4)):
            assert (model.features(moved) - features).abs().max() > 1e-3


def test_a_new_rope_2d_model_sees_a_still_clip_as_one_frame():
    torch.manual_seed(0)
    model = ViViT(tiny.config("spatiotemporal", positions="rope_2d", pool="mean", **WIDE)).eval()
    video = tiny.video(model, 1)[:, :2].repeat(1, 3, 1, 1, 1)
    with torch.no_grad():
        many = model.features(video)
        torch.testing.assert_close(model.resize(num_frames=2).features(video[:, :2]), many)


@pytest.mark.parametrize("positions", ROPES)
def test_a_block_with_few_queries_turns_them_as_the_first_of_all(positions):
    config = tiny.config("spatiotemporal", positions=positions, num_registers=2, **WIDE)
    block, x = Block(config, rope=build_rope(config, config.grid)), torch.randn(2, 3 + 18, 64)
    torch.testing.assert_close(block(x, num_queries=4), block(x)[:, :4], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("encoder", ["spatiotemporal", "factorised_encoder"])
def test_maps_leave_out_class_and_register_tokens(encoder):
    model = tiny.model(encoder, positions="rope_2d", num_registers=3, **WIDE)
    video = tiny.video(model, 1)
    for maps in (attention_maps(model, video), gradient_attention_maps(model, video, 1)):
        assert maps.space.shape == (3, 2, 3)
        assert maps.time.shape == (3,)


def test_registers_have_no_positions():
    """Without rotation, the order of two registers changes nothing."""
    model = tiny.model("spatiotemporal", num_registers=2)
    video = tiny.video(model)
    with torch.no_grad():
        features = model.features(video)
        model.encoder.register_tokens.copy_(model.encoder.register_tokens.flip(1))
        torch.testing.assert_close(model.features(video), features)


def test_merging_tokens_is_refused_where_positions_are_in_the_attention():
    model = tiny.model("spatiotemporal", positions="rope_3d", **WIDE)
    with pytest.raises(
        ValueError, match="need learned positions and no register tokens; this model has positions rope"
    ):
        reduce_tokens(model, merge_tokens=2)


@pytest.mark.parametrize(("depth", "norm"), [(0, True), (0, False), (2, True)])
def test_attentive_pooling_trains_and_is_explained(depth, norm):
    settings = {"pool_depth": depth, "pool_mlp_ratio": 2.0, "pool_norm_tokens": norm}
    model = tiny.model("spatiotemporal", pool="attentive", **settings)
    video = tiny.video(model, 1)
    assert attention_maps(model, video).space.shape == (3, 2, 3)
    if depth:
        with pytest.raises(ValueError, match="layers between encoder and query"):
            gradient_attention_maps(model, video, 0)
    else:
        assert gradient_attention_maps(model, video, 0).space.shape == (3, 2, 3)
    model.train()(video).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "rope"}, "did you mean 'rope_3d'"),
        ({"positions": "rope_2d", "num_heads": 8}, "rope_2d needs heads whose width 4 divides; embed_dim 16"),
        ({"positions": "rope_3d"}, "rope_3d needs heads whose width 2 divides, of 6 or more"),
        ({"num_registers": 1, "pool": "mean"}, "num_registers is 1 with pool='mean'"),
        ({"pool_depth": 1}, "pool_depth is 1 with pool='cls'"),
        ({"pool_mlp_ratio": 2.0}, "pool_mlp_ratio belongs to pool='attentive'"),
        ({"pool_norm_tokens": False}, "pool_norm_tokens=False belongs to pool='attentive'; pool is 'cls'"),
        ({"pool": "attentive", "attention_pool": True, "encoder": "spatiotemporal"}, "both pool"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ModelConfig(embed_dim=16, num_heads=4), **changes)
