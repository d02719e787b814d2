import pytest
import torch
from einops import rearrange

from vivit.config import ModelConfig
from vivit.model.encoders import FactorisedEncoder, Transformer
from vivit.model.gradient_attention import gradient_attention_maps
from vivit.model.layers import Attention, TimeSpaceBlock
from vivit.model.rollout import attention_maps, attention_weights, middle_frames, overlay
from vivit.model.vivit import ViViT

HEADS = 4
MODELS = [
    {"encoder": "spatiotemporal", "pool": "cls"},
    {"encoder": "spatiotemporal", "pool": "mean"},
    {"encoder": "factorised_encoder", "pool": "cls"},
    {"encoder": "factorised_encoder", "pool": "mean"},
    {"encoder": "factorised_encoder", "pool": "cls", "temporal_depth": 0},
    {"encoder": "factorised_encoder", "pool": "mean", "temporal_skip": True},
    {"encoder": "factorised_self_attention", "pool": "mean"},
    {"encoder": "factorised_self_attention", "pool": "mean", "attention_order": "space_time"},
    {"encoder": "factorised_dot_product", "pool": "mean"},
]
every_model = pytest.mark.parametrize("how", MODELS, ids=lambda how: "-".join(map(str, how.values())))


def build(**how) -> ViViT:
    """A grid of t, h, w = 3, 2, 4, and attention far from uniform."""
    small = {"num_frames": 6, "image_size": (16, 32), "tubelet_size": (2, 8, 8), "embed_dim": 16, "num_heads": HEADS}
    config = ModelConfig(classes={"what": ("a", "b")}, **{**small, "depth": 2, "temporal_depth": 2, **how})
    model = ViViT(config).eval()
    for module in model.modules():
        if isinstance(module, Attention):
            torch.nn.init.normal_(module.qkv.weight, std=0.5)
    torch.nn.init.normal_(model.head.weight)
    return model


def clip() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 16, 32), dtype=torch.uint8)


def attentions(model: ViViT) -> list[Attention]:
    return [m for m in model.modules() if isinstance(m, Attention)]


def sees(module: Attention, tokens: int, head: int) -> torch.Tensor:
    """(n, n): which token may look at which, read off the names of the module's pattern."""
    attend = module.attention_fns[head * len(module.attention_fns) // HEADS]
    pattern = getattr(attend, "func", attend).__name__
    if pattern == "full_attention":
        return torch.ones(tokens, tokens, dtype=torch.bool)
    t, s = (torch.arange(tokens) // (tokens // 3), torch.arange(tokens) % (tokens // 3))
    axis = t if pattern == "spatial_attention" else s
    return axis[:, None] == axis[None]


def naive_weights(module: Attention, x: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ / √k), one head at a time, with a mask."""
    width = x.shape[-1]
    queries, keys = module.qkv(x)[..., :width], module.qkv(x)[..., width : 2 * width]
    size, heads = width // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / size**0.5
        heads.append(scores.masked_fill(~sees(module, x.shape[1], head), -torch.inf).softmax(dim=-1))
    return torch.stack(heads, dim=1)


@every_model
@torch.no_grad()
def test_the_weights_are_the_softmax_of_queries_and_keys_and_give_the_modules_output(how):
    for module in attentions(build(**how)):
        tokens = 9 if how["encoder"] == "factorised_encoder" else 24
        x = torch.randn(2, tokens, 16)
        weights = attention_weights(module, x)
        torch.testing.assert_close(weights, naive_weights(module, x))
        values = rearrange(module.qkv(x)[..., 32:], "B n (a k) -> B a n k", a=4)
        output = module.proj(rearrange(weights @ values, "B a n k -> B n (a k)"))
        torch.testing.assert_close(output, module(x))


def test_every_temporal_position_has_its_map_also_where_frames_repeat():
    model = build(encoder="factorised_encoder", pool="cls")
    video = clip()
    video[2:4] = video[:2]
    maps = attention_maps(model, video)
    assert maps.space.shape == (3, 2, 4)
    torch.testing.assert_close(maps.space[0], maps.space[1])
    assert not torch.allclose(maps.space[0], maps.space[2])
    assert model.encoder.deduplicate


def naive_rollout(transformer: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """(B, n): the product of (1 + A) / 2 over the layers, its row of the class token or its mean row."""
    x = tokens.flatten(1, -2)
    if transformer.cls_token is not None:
        x = torch.cat((transformer.cls_token.expand(len(x), -1, -1), x), dim=1)
    x = x + transformer.pos_embed
    product = torch.eye(x.shape[1])
    for block in transformer.blocks:
        if isinstance(block, TimeSpaceBlock):
            steps = [(block.norm_time, block.attn_time), (block.norm1, block.attn)]
            if not block.time_first:
                steps.reverse()
        else:
            steps = [(block.norm1, block.attn)]
        for norm, attention in steps:
            weights = naive_weights(attention, norm(x)).mean(dim=1)
            product = (torch.eye(x.shape[1]) + weights) / 2 @ product
            x = x + attention(norm(x))
        x = x + block.mlp(block.norm2(x))
    return product.mean(dim=1) if transformer.cls_token is None else product[:, 0, 1:]


@every_model
@torch.no_grad()
def test_maps_equal_a_product_of_naive_attention_matrices_and_sum_to_one(how):
    model, video = build(**how), clip()
    maps = attention_maps(model, video)
    tokens = model.tokenizer(model.normalize(video[None]))
    if isinstance(model.encoder, FactorisedEncoder):
        space, time = naive_rollout(model.encoder.spatial, rearrange(tokens, "1 t s D -> t s D")), torch.ones(3)
        if model.config.temporal_depth:
            frames = model.encoder.spatial(rearrange(tokens, "1 t s D -> t s D"))
            time = naive_rollout(model.encoder.temporal, frames[None])[0]
        if model.config.temporal_skip:
            time = (time + torch.ones(3) / 3) / 2
    else:
        joint = naive_rollout(model.encoder, tokens).reshape(3, 8)
        space, time = joint, joint.sum(dim=1)
    space = space / space.sum(dim=1, keepdim=True)
    torch.testing.assert_close(maps.space, space.reshape(3, 2, 4))
    torch.testing.assert_close(maps.time, time / time.sum())
    torch.testing.assert_close(maps.space.sum(dim=(1, 2)), torch.ones(3))
    torch.testing.assert_close(maps.time.sum(), torch.tensor(1.0))


@every_model
@torch.no_grad()
def test_without_queries_the_model_looks_everywhere_alike(how):
    model = build(**how)
    for module in attentions(model):
        module.qkv.weight[:16] = 0
    maps = attention_maps(model, clip())
    torch.testing.assert_close(maps.space, torch.full((3, 2, 4), 1 / 8))
    torch.testing.assert_close(maps.time, torch.full((3,), 1 / 3))


def test_the_model_is_left_as_it_was():
    model, video = build(**MODELS[2]).train(), clip()
    before = model(video[None])
    attention_maps(model, video[None])
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(video[None]), before)


def test_more_than_one_clip_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"one clip, .* got \(2, 6, 3, 16, 32\)"):
        attention_maps(build(**MODELS[0]), clip().expand(2, -1, -1, -1, -1))


def test_positions_are_shown_by_the_frame_in_their_middle():
    assert middle_frames(build(**MODELS[0])) == [1, 3, 5]
    uniform = build(**MODELS[0], tokenizer="uniform_frames", sampled_frames=3, tubelet_size=(1, 8, 8))
    assert middle_frames(uniform) == uniform.tokenizer.frame_index


def test_heat_is_brightest_where_the_map_is_largest():
    frames, maps = torch.full((2, 3, 16, 32), 100, dtype=torch.uint8), torch.full((2, 2, 4), 0.1)
    maps[0, 0, 0] = maps[1, 1, 3] = 0.9
    light = overlay(frames, maps).sum(dim=1)
    assert light.shape == (2, 16, 32)
    assert light[0, :8, :8].float().mean() > 1.5 * light[0, 8:, 16:].float().mean()
    assert light[1, 8:, 24:].float().mean() > 1.5 * light[1, :8, :16].float().mean()


def test_a_model_that_keeps_the_tokens_of_frames_is_refused():
    model = build(encoder="factorised_encoder", pool="mean", pool_space=False)
    video = torch.zeros(6, 3, 16, 32, dtype=torch.uint8)
    for maps in (attention_maps, lambda model, video: gradient_attention_maps(model, video, 0)):
        with pytest.raises(ValueError, match="use occlusion"):
            maps(model, video)
