"""Attention pooling and motion pooling."""

from __future__ import annotations

import pytest
import torch

from vivit import attention_maps
from vivit.config import EncoderName, ModelConfig, replace
from vivit.model.gradient_attention import gradient_attention_maps
from vivit.model.layers import AttentionPool
from vivit.model.motion import SMALLEST, MotionPool
from vivit.model.vivit import ViViT
from vivit.weights.inflate import CHANGE_GAIN, central_difference, central_frame

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


def test_attention_pooling_is_torchs_attention_of_one_query() -> None:
    """Against nn.MultiheadAttention with the same weights, whose query projection is the identity."""
    torch.manual_seed(0)
    pool = AttentionPool(CONFIG)
    torch.nn.init.normal_(pool.query)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((torch.eye(32), pool.kv.weight)))
        theirs.in_proj_bias.copy_(torch.cat((torch.zeros(32), pool.kv.bias)))
        theirs.out_proj.load_state_dict(pool.proj.state_dict())
    x = torch.randn(3, 5, 32)
    expected, weights = theirs(pool.query.expand(3, -1, -1), x, x)
    torch.testing.assert_close(pool(x), pool.norm(expected[:, 0]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pool.attention_weights(x), weights[:, 0], rtol=1e-5, atol=1e-6)


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
