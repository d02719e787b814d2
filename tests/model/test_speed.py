"""What is done faster without gradients is what the plain forward pass does."""

import copy

import pytest
import torch

from vivit.model import layers
from vivit.model.layers import attend_all

from . import tiny


def plain(model, video):
    """With gradients nothing is left out, folded or overwritten; pixels are normalised beforehand."""
    with torch.enable_grad():
        return model(model.normalise(video)).detach()


def made(encoder, **changes):
    model = tiny.model(encoder, **changes).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_without_gradients_the_logits_are_those_of_the_plain_model(encoder, activation, monkeypatch):
    monkeypatch.setattr(layers, "LONG", 4)
    model = made(encoder, activation=activation)
    video = tiny.video(model)
    with torch.no_grad():
        torch.testing.assert_close(model(video), plain(model, video), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_bfloat16_is_off_by_no_more_than_bfloat16(encoder):
    model = made(encoder)
    video = tiny.video(model)
    exact = plain(copy.deepcopy(model).double(), video)
    half = copy.deepcopy(model).bfloat16()
    plain_error = (plain(half, video).double() - exact).abs().max()
    with torch.no_grad():
        error = (half(video).double() - exact).abs().max()
    scale = exact.abs().max()
    assert error < max(2 * plain_error, 2**-7 * scale), (error / scale, plain_error / scale)


def test_pixels_folded_into_the_kernel_give_the_tokens_of_normalised_pixels():
    model = made("spatiotemporal")
    model.pixel_scale.mul_(torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1))  # every channel its own
    model.pixel_shift.add_(torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1))
    video = tiny.video(model)
    before = video.clone()
    with torch.no_grad():
        torch.testing.assert_close(model.tokens(video), model.tokenizer(model.normalise(video)), atol=1e-5, rtol=1e-5)
    assert bool((video == before).all())


def test_a_block_computes_its_first_tokens_as_it_computes_all():
    block = layers.Block(tiny.config()).eval()
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(block(x, first=3), block(x)[:, :3], atol=1e-6, rtol=1e-5)
    noise = torch.randint(2**32, (2, 6))
    dropping = layers.Block(tiny.config(dropout=0.5), drop_path=0.3)
    torch.testing.assert_close(dropping(x, noise, first=1), dropping(x, noise)[:, :1], atol=1e-6, rtol=1e-5)


def test_activations_keep_their_input_while_gradients_are_wanted():
    x = torch.randn(7, requires_grad=True)
    for make in layers.ACTIVATIONS.values():
        kept = x.detach().clone()
        make()(x * 1).sum().backward()
        make()(kept)
        torch.testing.assert_close(kept, x.detach())


def test_copied_heads_attend_as_strided_ones_do(monkeypatch):
    q, k, v = torch.randn(2, 11, 3, 4, 8, dtype=torch.float64).unbind(2)
    strided = attend_all(q, k, v)
    monkeypatch.setattr(layers, "LONG", 4)
    torch.testing.assert_close(attend_all(q, k, v), strided)
