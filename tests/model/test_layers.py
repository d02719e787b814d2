"""Attention, blocks and stochastic depth against plain loops."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from vivit.config import replace
from vivit.model import cpu_kernels
from vivit.model.encoders import drop_path_rates
from vivit.model.layers import (
    Attention,
    Mlp,
    TimeSpaceBlock,
    drop_path,
    dropout,
    full_attention,
    random_bits,
    spatial_attention,
    temporal_attention,
)
from vivit.model.vivit import ViViT

from . import tiny

T_, S_ = 3, 5


def attend_with_loops(q, k, v, sees):
    """(B, n, a, k): token i attends, head by head, to every token j for which sees(i, j, head)."""
    out = torch.zeros_like(v)
    batch, n, heads, width = q.shape
    for b in range(batch):
        for a in range(heads):
            for i in range(n):
                seen = [j for j in range(n) if sees(i, j, a)]
                scores = [math.exp(q[b, i, a] @ k[b, j, a] / math.sqrt(width)) for j in seen]
                out[b, i, a] = sum(score / sum(scores) * v[b, j, a] for score, j in zip(scores, seen))
    return out


def attend_naively(q, k, v, bias, cap):
    """Capped attention of (B, a, n, k), from its formula."""
    scores = torch.einsum("Bank,Bamk->Banm", q, k) / math.sqrt(q.shape[3])
    scores = cap * torch.tanh(scores / cap) + (0 if bias is None else bias[:, None, None])
    return scores.exp() / scores.exp().sum(dim=3, keepdim=True) @ v


@pytest.mark.parametrize("shape", [(3, 4, 7, 6), (1, 2, 40, 8), (5, 1, 1, 4)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_capped_attention_is_its_formula_with_and_without_gradients_and_in_chunks(shape, has_bias, monkeypatch):
    q, k, v = (3 * torch.randn(shape, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(shape[0], shape[2], dtype=torch.float64) if has_bias else None
    expected = attend_naively(q, k, v, bias, 1.5)
    assert not torch.allclose(expected, attend_naively(q, k, v, bias, 1e6), atol=1e-2) or shape[2] == 1
    for chunk in (1, 50, 10**6):
        monkeypatch.setattr(cpu_kernels, "CHUNK_SCORES", chunk)
        with torch.no_grad():
            torch.testing.assert_close(cpu_kernels.attention(q, k, v, bias, 1.5), expected)
    torch.testing.assert_close(cpu_kernels.attention(q.requires_grad_(), k, v, bias, 1.5), expected)


@pytest.mark.filterwarnings("ignore")  # FlexAttention says that it is slow when not compiled
def test_the_soft_cap_for_flex_attention_is_the_same():
    """On CUDA, where it is compiled; here in eager mode, since no CUDA device was there."""
    q, k, v = (3 * torch.randn(2, 3, 70, 8) for _ in range(3))
    attend = cpu_kernels.flex_attention(compiled=False)
    found = attend(q, k, v, score_mod=cpu_kernels.soft_cap(1.5))
    torch.testing.assert_close(found, attend_naively(q, k, v, None, 1.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_every_encoder_has_the_cap(name):
    """At a cap near 0 every score is 0: attention is a mean of the values."""
    model = tiny.model(name)
    capped = ViViT(replace(model.config, attn_logit_cap=1e-9)).eval()
    capped.load_state_dict(model.state_dict())
    video = tiny.video(model)
    for attention in (m for m in model.modules() if isinstance(m, Attention)):
        queries, keys, _ = attention.qkv.weight.chunk(3)
        torch.nn.init.zeros_(attention.qkv.bias)
        torch.nn.init.zeros_(queries)
        torch.nn.init.zeros_(keys)
    with torch.no_grad():
        for attention in (m for m in capped.modules() if isinstance(m, Attention)):
            torch.nn.init.zeros_(attention.qkv.bias)
        torch.testing.assert_close(capped.features(video), model.features(video), rtol=1e-4, atol=1e-5)


def same_time(i, j, _=0):
    return i // S_ == j // S_


def same_place(i, j, _=0):
    return i % S_ == j % S_


CASES = {
    "all": (full_attention, lambda i, j, a: True),
    "space": (partial(spatial_attention, t=T_), same_time),
    "time": (partial(temporal_attention, t=T_), same_place),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_attention_sees_the_tokens_it_should(name):
    attend, sees = CASES[name]
    q, k, v = (torch.randn(2, T_ * S_, 4, 6, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(attend(q, k, v), attend_with_loops(q, k, v, sees))


def test_the_fused_projection_holds_queries_keys_and_values_head_by_head():
    ours = Attention(tiny.config(), full_attention).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("names", [("all",), ("time", "space"), ("space", "time"), ("all", "all")])
@torch.no_grad()
def test_patterns_share_the_heads_in_equal_parts_in_their_order(names):
    attention_fns, sees = zip(*(CASES[name] for name in names))
    attention = Attention(tiny.config(), *attention_fns, separate_qkv=True).double()
    x = torch.randn(2, T_ * S_, 16, dtype=torch.float64)
    q, k, v = attention.qkv(x).view(2, T_ * S_, 3, 4, 4).unbind(dim=2)
    seen = attend_with_loops(q, k, v, lambda i, j, a: sees[a * len(names) // 4](i, j, a))
    torch.testing.assert_close(attention(x), attention.proj(seen.flatten(2)))


class Wrapped(nn.Module):
    """As adapters wrap a layer: its weights are there to be seen, and what it computes is something else."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x):
        return self.layer(2 * x)


@torch.no_grad()
@pytest.mark.parametrize("names", [("all",), ("time", "space")])
@pytest.mark.parametrize("first", [None, 1])
def test_a_layer_that_is_wrapped_is_called(names, first):
    attention = Attention(tiny.config(), *(CASES[name][0] for name in names), separate_qkv=True).double()
    x = torch.randn(2, T_ * S_, 16, dtype=torch.float64)
    if first and len(names) > 1:
        pytest.skip("Models 3 and 4 read every token")
    expected = attention(2 * x, num_queries=first)
    attention.qkv = Wrapped(attention.qkv)
    torch.testing.assert_close(attention(x, num_queries=first), expected)
    mlp = Mlp(tiny.config()).bfloat16()
    expected = mlp(2 * x.bfloat16())
    mlp.fc1 = Wrapped(mlp.fc1)
    torch.testing.assert_close(mlp(x.bfloat16()), expected, atol=0.02, rtol=0.02)


def test_float64_stays_under_autocast_as_it_does_in_every_layer():
    attention = Attention(tiny.config(), full_attention).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(torch.randn(1, 3, 16, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("order", ["time_space", "space_time"])
def test_a_block_of_model_3_adds_time_space_and_mlp_in_its_order(order):
    block = TimeSpaceBlock(tiny.config("factorised_self_attention", attention_order=order), t=T_).eval()
    x = torch.randn(2, T_ * S_, 16)
    expected = x
    parts = [(block.norm_time, block.attn_time), (block.norm1, block.attn)]
    for norm, attn in parts if order == "time_space" else parts[::-1]:
        expected = expected + attn(norm(expected))
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x), expected)
    seen_from = {"attn_time": same_place, "attn": same_time}
    for name, sees in seen_from.items():
        y = torch.randn(1, T_ * S_, 16, requires_grad=True)
        getattr(block, name)(y)[0, 7].sum().backward()
        assert (y.grad[0].abs().sum(dim=1) > 0).tolist() == [sees(7, j) for j in range(T_ * S_)]


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.75])
def test_stochastic_depth_skips_whole_rows_and_keeps_the_mean(rate):
    noise = random_bits(torch.arange(20_000), 1)[:, 0]
    out = drop_path(torch.ones(20_000, 1, 3), rate, noise)
    kept = out[:, 0, 0] != 0
    assert bool(((out == 0).all(dim=(1, 2)) | ((out - 1 / (1 - rate)).abs() < 1e-5).all(dim=(1, 2))).all())
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.02)
    assert out.mean().item() == pytest.approx(1.0, abs=0.04)
    x = torch.randn(4, 2, 3)
    assert drop_path(x, rate, None) is x


def test_dropout_zeroes_elements_on_their_own_and_keeps_the_mean():
    out = dropout(torch.ones(4, 100, 100), 0.25, torch.arange(4))
    share = (out == 0).float()
    assert share.mean(dim=(1, 2)).tolist() == pytest.approx([0.25] * 4, abs=0.02)
    assert share.mean(dim=0).std().item() == pytest.approx((0.25 * 0.75 / 4) ** 0.5, rel=0.05)  # rows are independent
    assert out[share == 0].unique().tolist() == pytest.approx([1 / 0.75])


def test_drawn_numbers_are_uniform_independent_and_a_function_of_the_row_alone():
    drawn = random_bits(torch.arange(200), 10, 6)
    assert bool((random_bits(torch.tensor([7, 3]), 10, 6) == drawn[[7, 3]]).all())
    assert drawn.min() >= 0
    assert drawn.max() < 2**32
    assert drawn.unique().numel() == drawn.numel()
    counts = torch.histc(drawn.double(), bins=16, min=0, max=2**32)
    expected = drawn.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum().item() < 37.7  # chi-squared, 15 degrees of freedom, p = 0.001
    for bits in (drawn >> 31, drawn & 1):
        x = bits.double().flatten(1) - 0.5
        correlation = (x @ x.T / x.shape[1] * 4).fill_diagonal_(0)
        assert correlation.abs().max().item() < 0.7  # 60 signs of either row: six standard deviations are 0.77


def test_what_a_clip_loses_does_not_depend_on_the_batch_it_is_in():
    model = tiny.model(dropout=0.2, drop_path=0.5).train()
    video, seeds = tiny.video(model, 1).repeat(3, 1, 1, 1, 1), torch.tensor([5, 5, 6])
    with torch.no_grad():
        model.head.weight.normal_()
        together = model(video, seeds)
        alone = torch.cat([model(video[i : i + 1], seeds[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[0], together[2])


def test_drop_path_rates_grow_from_zero_to_the_rate_over_each_transformer():
    config = tiny.config(depth=5, temporal_depth=3, drop_path=0.4)
    assert drop_path_rates(config, 5) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert drop_path_rates(config, 1) == [0.0]
    encoder = ViViT(config).encoder
    for part, rates in ((encoder.spatial, [0, 0.1, 0.2, 0.3, 0.4]), (encoder.temporal, [0, 0.2, 0.4])):
        assert [block.drop_path1.rate for block in part.blocks] == pytest.approx(rates)


def test_dropout_acts_in_training_only():
    made = tiny.model(dropout=0.5)
    video = tiny.video(made)
    with torch.no_grad():
        plain = made(video)
        assert bool((plain == made(video)).all())
        made.train()
        assert not torch.allclose(made(video), made(video))
    expected = tiny.config(dropout=0.0)
    without = ViViT(expected).train()
    without.load_state_dict(made.state_dict())
    torch.testing.assert_close(without(video), plain, atol=1e-5, rtol=1e-5)
