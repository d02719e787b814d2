"""Attention pooling and motion pooling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vivit
from vivit import attention_maps
from vivit.config import EncoderName, ModelConfig, replace
from vivit.model.gradient_attention import gradient_attention_maps
from vivit.model.layers import AttentionPool
from vivit.model.motion import SMALLEST, MotionPool
from vivit.model.vivit import ViViT
from vivit.weights.inflate import CHANGE_GAIN, central_difference, central_frame

from . import tiny

CONFIG = ModelConfig(
    classes={"label": ("a", "b", "c")},
    embed_dim=32,
    depth=2,
    temporal_depth=1,
    num_heads=4,
    tubelet_size=(2, 8, 8),
    image_size=(16, 24),
    num_frames=8,
)
VIDEO = torch.randint(0, 256, (2, 8, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("has_mlp", "has_norm"), [(False, True), (True, True), (True, False)])
def test_attention_pooling_is_torchs_attention_of_one_query(has_mlp: bool, has_norm: bool) -> None:
    """Against nn.MultiheadAttention with the same weights, whose query projection is the identity."""
    torch.manual_seed(0)
    config = replace(CONFIG, encoder="spatiotemporal", pool="attentive", pool_norm_tokens=has_norm)
    pool = AttentionPool(config, has_mlp=has_mlp)
    assert (pool.norm_kv is not None) == (has_mlp and has_norm)
    for parameter in (pool.query, *pool.norm.parameters(), *(pool.norm_kv.parameters() if pool.norm_kv else ())):
        torch.nn.init.normal_(parameter)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((torch.eye(32), pool.kv.weight)))
        theirs.in_proj_bias.copy_(torch.cat((torch.zeros(32), pool.kv.bias)))
        theirs.out_proj.load_state_dict(pool.proj.state_dict())
    x = torch.randn(3, 5, 32)
    seen = x if pool.norm_kv is None else pool.norm_kv(x)
    attended, weights = theirs(pool.query.expand(3, -1, -1), seen, seen)
    expected = pool.norm(attended[:, 0])
    if pool.mlp is not None:
        expected = attended[:, 0] + pool.mlp(expected)
    torch.testing.assert_close(pool(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pool.attention_weights(x), weights[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["attention", "attentive", "both"])
def test_models_that_an_earlier_version_saved_have_the_same_features(kind: str) -> None:
    old = Path(__file__).parents[1] / "golden" / "old_pooling"
    model = vivit.from_pretrained(old / kind)
    video = torch.arange(2 * 4 * 3 * 8 * 8).mul(7).remainder(256).to(torch.uint8).view(2, 4, 3, 8, 8)
    expected = torch.from_numpy(np.load(old / "features.npz")[kind])
    with torch.no_grad():
        torch.testing.assert_close(model.features(video), expected, rtol=1e-5, atol=1e-6)


def test_motion_is_the_log_of_the_mean_response_to_the_change() -> None:
    """Against a loop over frames, places and filters."""
    torch.manual_seed(0)
    motion = MotionPool(replace(CONFIG, embed_dim=4))
    video = torch.randn(1, 8, 3, 16, 24)
    mean = torch.zeros(4, 2, 3)
    for t in range(7):
        for y in range(2):
            for x in range(3):
                change = (video[0, t + 1] - video[0, t])[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                for d in range(4):
                    mean[d, y, x] += (motion.proj.weight[d] * change).sum().abs().item() / 7
    expected = (torch.cat((mean.mean(dim=(1, 2)), mean.amax(dim=(1, 2)))) + SMALLEST).log()
    torch.testing.assert_close(motion(video)[0], expected, rtol=1e-4, atol=1e-4)


def test_calibrated_motion_features_have_mean_0_and_deviation_1() -> None:
    motion = MotionPool(CONFIG)
    responses = motion.responses(torch.randn(16, 4, 3, 16, 24)).detach()
    motion.calibrate(responses)
    std, mean = torch.std_mean((responses - motion.center) * motion.scale, dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(64), rtol=0, atol=1e-4)
    torch.testing.assert_close(std, torch.ones(64), rtol=0, atol=1e-3)


def test_a_still_clip_has_no_motion_and_a_frame_alone_neither() -> None:
    motion = MotionPool(CONFIG)
    still = torch.randn(1, 1, 3, 16, 24).expand(-1, 8, -1, -1, -1)
    assert torch.equal(motion(still), motion(still[:, :1]))
    assert (motion(still) == torch.tensor(SMALLEST).log()).all()


def test_a_difference_kernel_sees_a_still_video_as_its_image_and_motion_besides() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(16, 3, 8, 8)
    plain, lifted = central_frame(kernel, 2), central_difference(kernel, 2)
    torch.testing.assert_close(lifted.sum(dim=2), plain.sum(dim=2), rtol=0, atol=1e-4)
    change = lifted[:, :, 1] - plain[:, :, 1]
    torch.testing.assert_close(lifted[:, :, 0], -change, rtol=0, atol=1e-5)
    assert change.std().item() == pytest.approx(CHANGE_GAIN * kernel.std().item(), rel=0.05)


@pytest.mark.parametrize(
    ("encoder", "pool"),
    [
        ("spatiotemporal", "cls"),
        ("spatiotemporal", "mean"),
        ("factorised_encoder", "cls"),
        ("factorised_self_attention", "mean"),
        ("factorised_dot_product", "mean"),
    ],
)
@pytest.mark.parametrize("temporal_depth", [0, 1])
def test_attention_pooling_trains_saves_and_has_maps(
    encoder: EncoderName, pool: str, temporal_depth: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(0)
    config = replace(
        CONFIG,
        encoder=encoder,
        pool=pool,
        temporal_depth=temporal_depth,
        attention_pool=True,
        motion_pool=True,
    )
    model = ViViT(config)
    torch.nn.init.normal_(model.head.weight)
    model(VIDEO).square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []
    maps = attention_maps(model.eval(), VIDEO[0])
    assert maps.time.sum().item() == pytest.approx(1, abs=1e-5)
    assert maps.space.sum(dim=(1, 2)).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    relevance = gradient_attention_maps(model, VIDEO[0], 1)
    assert relevance.time.isfinite().all()
    assert relevance.time.min() >= 0


def test_maps_of_attention_pooling_over_time_are_its_weights() -> None:
    torch.manual_seed(0)
    model = ViViT(replace(CONFIG, temporal_depth=0, attention_pool=True)).eval()
    pool = model.get_submodule("encoder.temporal")
    assert isinstance(pool, AttentionPool)
    torch.nn.init.normal_(pool.query, std=3.0)
    positions = model.encoder.encode_space(model.tokenize(VIDEO[:1]))  # type: ignore[operator]
    expected = pool.attention_weights(positions)[0]
    torch.testing.assert_close(attention_maps(model, VIDEO[0]).time, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


def test_temporal_skip_with_attention_pooling_starts_as_the_average() -> None:
    model = ViViT(replace(CONFIG, temporal_depth=0, attention_pool=True, temporal_skip=True)).eval()
    positions = model.encoder.encode_space(model.tokenize(VIDEO))  # type: ignore[operator]
    torch.testing.assert_close(model.features(VIDEO), positions.mean(dim=1))


KEPT = {"pool": "mean", "pool_space": False, "joint_depth": 2, "num_frames": 8, "attn_logit_cap": 2.0}


@pytest.mark.parametrize("pool", [{}, {"attention_pool": True, "attention_pool_ratio": 3.0, "unit_features": True}])
def test_without_pooling_space_time_runs_at_every_place_on_its_own(pool):
    model = tiny.model(**KEPT, **pool)
    tokens = model.tokenize(tiny.video(model)).double()
    encoder = model.encoder.double()
    with torch.no_grad():
        frames = [[encoder.spatial(frame[None])[0] for frame in clip] for clip in tokens]  # each (s, D)
        space = torch.stack([torch.stack(clip) for clip in frames])
        time = torch.empty_like(space)
        for clip in range(space.shape[0]):
            for place in range(space.shape[2]):
                x = space[clip, :, place] + encoder.temporal.pos_embed[0]
                for block in encoder.temporal.blocks:
                    x = block(x[None])[0]
                time[clip, :, place] = encoder.temporal.norm(x)
        x = time.flatten(1, 2)
        for block in encoder.temporal.joint:
            x = block(x)
        expected = encoder.temporal.attention_pool(x) if pool else x.mean(dim=1)
        torch.testing.assert_close(encoder(tokens), expected)
        assert not pool or torch.allclose(expected.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_without_pooling_space_dropout_depends_on_the_seed_of_the_clip_alone():
    model = tiny.model(**KEPT, dropout=0.2, drop_path=0.3).train()
    video, seeds = tiny.video(model), torch.tensor([3, 4])
    together = model.features(video, seeds)
    assert not torch.allclose(together, model.features(video, seeds + 9))
    for i in range(2):
        torch.testing.assert_close(model.features(video[i : i + 1], seeds[i : i + 1])[0], together[i])
    together.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("head."))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"joint_depth": 2}, "joint_depth"),
        ({"pool_space": False}, "pool='mean'"),
        ({"pool_space": False, "pool": "mean", "temporal_depth": 0}, "layers over time"),
        ({"pool_space": False, "pool": "mean", "encoder": "spatiotemporal"}, "factorised_encoder"),
        ({"pool_space": False, "pool": "mean", "joint_depth": -1}, "0 or more"),
        ({"unit_features": True}, "attention_pool"),
        ({"attention_pool_ratio": 2.0}, "attention_pool"),
        ({"attention_pool": True, "attention_pool_ratio": 0.3}, "equal number"),
        ({"attn_logit_cap": 0.0}, "attn_logit_cap"),
        ({"interpolation": "cubic"}, "interpolation"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        tiny.config(**wrong)
