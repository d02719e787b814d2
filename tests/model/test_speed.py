"""What is done faster without gradients is what the plain forward pass does."""

import copy

import pytest
import torch
from torch.nn import functional as F

from vivit.model import cpu_kernels as kernels
from vivit.model import layers
from vivit.model.cost import compute_all_tokens, count_cost
from vivit.torch_private import cpu_supports

from . import tiny


def plain(model, video):
    """Nothing left out; with gradients nothing is folded or overwritten; pixels are normalised beforehand."""
    model = copy.deepcopy(model)
    compute_all_tokens(model)
    with torch.enable_grad():
        return model(model.normalize(video))


def made(encoder, **changes):
    model = tiny.model(encoder, **changes).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_without_gradients_the_logits_are_those_of_the_plain_model(encoder, activation, monkeypatch):
    monkeypatch.setattr(kernels, "COPY_ABOVE_TOKENS", 4)
    model = made(encoder, activation=activation)
    video = tiny.video(model)
    with torch.no_grad():
        torch.testing.assert_close(model(video), plain(model, video).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_bfloat16_is_off_by_no_more_than_bfloat16(encoder, forced, monkeypatch):
    """`forced` takes the kernels for CPUs with bfloat16 units on any CPU."""
    monkeypatch.setattr(kernels, "has_fast_bf16_products", lambda: forced)
    monkeypatch.setattr(kernels, "cpu_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(kernels, "CHUNK_SCORES", 100)
    if forced and not cpu_supports("avx512_bf16"):
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", written_out)
    model = made(encoder)
    video = tiny.video(model, batch=32)
    exact = plain(copy.deepcopy(model).double(), video).detach()
    half = copy.deepcopy(model).bfloat16()
    plain_error = (plain(half, video).double() - exact).norm()
    with torch.no_grad():
        error = (half(video).double() - exact).norm()
    assert 0 < error < 2 * plain_error


def written_out(x, weight, bias, name, scalars, approximate):
    assert (name, scalars) == ("gelu", [])
    return F.gelu(F.linear(x, weight, bias), approximate=approximate)


@pytest.mark.parametrize("piece", [1, 7, 40, 100, 2**20])
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (1, 11), (16, 5)])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_chunked_attention_is_attention(queries, keys, biased, piece, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK_SCORES", piece)
    q, k, v = (torch.randn(2, n, 3, 8, dtype=torch.float64).transpose(1, 2) for n in (queries, keys, keys))
    bias = torch.randn(2, keys, dtype=torch.float64) if biased else None
    scores = q @ k.mT / 8**0.5 + (bias[:, None, None] if biased else 0)
    with torch.no_grad():
        torch.testing.assert_close(kernels.chunked_attention(q, k, v, bias), scores.softmax(dim=-1) @ v)


def test_attention_chunked_attention_is_off_by_what_rounded_scores_are(monkeypatch):
    """Large scores, at which rounding them counts most: as near to float64 as attention written out in bfloat16."""
    q, k, v = (3 * torch.randn(2, 300, 3, 64).bfloat16().transpose(1, 2) for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    with torch.no_grad():
        error = (kernels.chunked_attention(q, k, v).double() - exact).square().mean().sqrt()
        written = ((q @ k.mT * 64**-0.5).softmax(dim=-1) @ v).double()
    assert error < 1.1 * (written - exact).square().mean().sqrt()


def test_kernels_for_bfloat16_are_taken_only_where_they_are_faster(monkeypatch):
    monkeypatch.setattr(kernels, "has_fast_bf16_products", lambda: True)
    x = torch.zeros(2)
    with torch.no_grad():
        assert kernels.use_bf16_cpu_kernel(x.bfloat16())
        assert not kernels.use_bf16_cpu_kernel(x)
        assert not kernels.use_bf16_cpu_kernel(x.to("meta", torch.bfloat16))
    assert not kernels.use_bf16_cpu_kernel(x.bfloat16())  # with gradients


@pytest.mark.parametrize(("vendor", "chunks"), [("AuthenticAMD", 1), ("GenuineIntel", 0), ("", 0)])
def test_attention_of_our_own_is_for_amd_only(vendor, chunks, monkeypatch):
    calls = []
    monkeypatch.setattr(kernels, "has_fast_bf16_products", lambda: True)
    monkeypatch.setattr(kernels, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(kernels, "chunked_attention", lambda *args: calls.append(args))
    with torch.no_grad():
        kernels.attention(*(torch.randn(1, 2, 5, 8).bfloat16() for _ in range(3)))
    assert len(calls) == chunks


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_linear_layer_and_gelu_in_one_are_the_two_in_bfloat16(approximate):
    linear = torch.nn.Linear(48, 96).bfloat16()
    x = (2 * torch.randn(2, 5, 48)).bfloat16()
    kept = x.clone()
    exact = F.gelu(copy.deepcopy(linear).double()(x.double()), approximate=approximate)
    with torch.no_grad():
        out = kernels.linear_gelu(x, linear, approximate)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() < 2**-7 * exact.abs().max()
    assert bool((x == kept).all())


@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_leaving_out_what_nobody_reads_changes_no_gradient(encoder):
    """In training as well, with everything that is random: what is dropped is a function of clip and place."""
    model = made(encoder, dropout=0.3, drop_path=0.2).double().train()
    whole = copy.deepcopy(model)
    compute_all_tokens(whole)
    video, seeds = tiny.video(model, batch=3), torch.arange(3)
    for each in (model, whole):
        each(video, seeds).square().sum().backward()
    expected = dict(whole.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_pixels_folded_into_the_kernel_give_the_tokens_of_normalised_pixels():
    model = made("spatiotemporal")
    model.normalization.scale.mul_(torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1))  # every channel its own
    model.normalization.shift.add_(torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1))
    video = tiny.video(model)
    before = video.clone()
    with torch.no_grad():
        torch.testing.assert_close(model.tokenize(video), model.tokenizer(model.normalize(video)), atol=1e-5, rtol=1e-5)
    assert bool((video == before).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_another_precision_normalises_pixels_as_before(dtype):
    model = tiny.model()
    video = tiny.video(model)
    x = (video.double() / 255 - 0.5) / 0.5
    other = copy.deepcopy(model).to(dtype)
    torch.testing.assert_close(other.normalize(video), x.to(dtype), atol=1e-6, rtol=torch.finfo(dtype).eps)
    with torch.no_grad():
        exact = copy.deepcopy(other).double().tokenizer(x)
        folded = (other.tokenize(video).double() - exact).mean(dim=(0, 1, 2))  # rounding to one side would add up
        plain = (other.tokenizer(x.to(dtype)).double() - exact).mean(dim=(0, 1, 2))
    assert folded.norm() < 3 * plain.norm() + 1e-6


def test_a_block_computes_its_first_tokens_as_it_computes_all():
    block = layers.Block(tiny.config()).eval()
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(block(x, num_queries=3), block(x)[:, :3], atol=1e-6, rtol=1e-5)
    noise = torch.randint(2**32, (2, 6))
    dropping = layers.Block(tiny.config(dropout=0.5), drop_path=0.3)
    torch.testing.assert_close(dropping(x, noise, num_queries=1), dropping(x, noise)[:, :1], atol=1e-6, rtol=1e-5)


def test_gelu_keeps_its_input_while_gradients_are_wanted():
    linear = torch.nn.Linear(7, 9)
    x = torch.randn(3, 7, requires_grad=True)
    for approximate in layers.GELU_APPROXIMATION.values():
        h = linear(x)
        plain = F.silu(1.702 * h) / 1.702 if approximate == "quick" else F.gelu(h, approximate=approximate)
        out = kernels.linear_gelu(x, linear, approximate)
        for ours, theirs in zip(torch.autograd.grad(out.sum(), [x]), torch.autograd.grad(plain.sum(), [x])):
            torch.testing.assert_close(ours, theirs)
        with torch.no_grad():
            torch.testing.assert_close(kernels.linear_gelu(x, linear, approximate), plain)


def test_copied_heads_attend_as_strided_ones_do(monkeypatch):
    q, k, v = torch.randn(2, 11, 3, 4, 8, dtype=torch.float64).transpose(1, 3).unbind(2)
    strided = kernels.attention(q, k, v)
    monkeypatch.setattr(kernels, "COPY_ABOVE_TOKENS", 4)
    torch.testing.assert_close(kernels.attention(q, k, v), strided)


@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_what_is_left_out_is_counted_by_hand(encoder):
    """Of a block with n tokens of width D: one projection and one MLP of all but one, and one row of scores."""
    config = tiny.config(encoder)
    (t, h, w), d = config.grid, config.embed_dim

    def left_out(n):
        unread = (n - 1) * (d * d + d * d + 2 * d * 4 * d)  # queries, projection, MLP
        return unread + 2 * n * (n - 1) * d  # scores, and what they weigh

    expected = {
        "spatiotemporal": left_out(1 + t * h * w),
        "factorised_encoder": t * left_out(1 + h * w) + left_out(1 + t),
    }
    paper, here = (count_cost(config, as_computed=computed)[-1].multiply_adds for computed in (False, True))
    assert paper - here == expected.get(encoder, 0)
