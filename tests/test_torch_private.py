"""Each private name of PyTorch gives what its fallback gives, so that a release without it changes no result."""

import gc
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from vivit import torch_private
from vivit.config import replace
from vivit.engine.device import choose_attention
from vivit.engine.memory import kept_bytes, saved_bytes

from .engine.tiny import tiny_config


def remove(monkeypatch, owner, name):
    """Make `owner.name` raise AttributeError, as in a PyTorch that does not have it."""

    def missing(self):
        raise AttributeError(name)

    monkeypatch.setattr(owner, name, property(missing), raising=False)


def test_a_processor_that_cannot_be_asked_has_no_units(monkeypatch):
    for unit in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{unit}_supported")
        assert torch_private.cpu_supports(unit) is False


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@torch.no_grad()
def test_linear_and_gelu_are_computed_one_after_the_other_where_they_cannot_be_fused(approximate, monkeypatch):
    linear, x = torch.nn.Linear(8, 12).bfloat16(), torch.randn(3, 8).bfloat16()
    remove(monkeypatch, type(torch.ops.mkldnn), "_linear_pointwise")
    expected = F.gelu(F.linear(x, linear.weight, linear.bias), approximate=approximate)
    assert torch.equal(torch_private.linear_gelu_bf16(x, linear, approximate), expected)


def test_an_attention_kernel_without_a_name_is_unknown(monkeypatch):
    monkeypatch.delattr(torch, "_fused_sdp_choice")
    assert choose_attention(torch.device("cpu")) == "UNKNOWN"


@pytest.mark.parametrize("encoder", ["spatiotemporal", "factorised_encoder"])
def test_the_memory_of_a_model_is_the_same_measured_on_tensors_with_contents(encoder, monkeypatch):
    config = tiny_config("root", "run")
    config = replace(config, model=replace(config.model, encoder=encoder, classes={"label": ("a", "b")}))
    expected = saved_bytes(config, 2)
    monkeypatch.delattr("torch._subclasses.fake_tensor.FakeTensorMode")
    assert saved_bytes(config, 2) == expected > 0


def test_tensors_that_share_memory_are_counted_once_also_by_their_address(monkeypatch):
    linear, x = torch.nn.Linear(4, 4), torch.randn(5, 4)
    forward = partial(lambda x: linear(x).exp() * x.view(5, 4).detach().view(-1).view(5, 4), x)
    expected = kept_bytes(forward, linear.parameters())
    assert expected == 2 * x.nbytes  # the input, which two products keep, and the exponential
    remove(monkeypatch, torch.UntypedStorage, "_cdata")
    assert kept_bytes(forward, linear.parameters()) == expected
    with torch_private.tensors_without_contents():
        a, b = torch.empty(2), torch.empty(2)
        assert torch_private.storage_id(a) != torch_private.storage_id(b)


def test_nothing_stays_of_a_forward_pass_whose_memory_was_counted():
    linear, x = torch.nn.Linear(4, 4), torch.randn(5, 4)

    def forward():
        return linear(x).exp().sum()  # the backward pass of the exponential keeps its result

    assert kept_bytes(forward, linear.parameters()) == 2 * x.nbytes
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape == (5, 4)]
    assert [one for one in tensors if one.data_ptr() != x.data_ptr()] == []
