"""Layers with adapters, hooks, masks or offloaded weights are called, wherever the model would read their weights."""

import copy

import accelerate
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from vivit.inference.timeline import timeline

from ..data.videos import counter_frames, write_video
from . import tiny

every_encoder = pytest.mark.parametrize("encoder", tiny.NAMES)


def layers(model, *names):
    """Return the linear layers and convolutions by name, of these names or all."""
    kinds = (nn.Linear, nn.Conv3d)
    found = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    return {name: module for name, module in found.items() if not names or name.split(".")[-1] in names}


class Adapter(nn.Module):
    """What LoRA makes of a layer: base(x) + up(down(x)), for linear layers and convolutions."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base, is_linear = base, isinstance(base, nn.Linear)
        rows, columns, *kernel = base.weight.shape
        down = nn.Linear(columns, rank) if is_linear else nn.Conv3d(columns, rank, kernel, stride=kernel)
        up = nn.Linear(rank, rows) if is_linear else nn.Conv3d(rank, rows, 1)
        self.down, self.up = down.to(base.weight), up.to(base.weight)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.zeros_(layer.bias)
            layer.bias.requires_grad_(False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))

    def merged(self):
        layer = copy.deepcopy(self.base)
        layer.weight.data += (self.up.weight.flatten(1) @ self.down.weight.flatten(1)).view_as(layer.weight)
        return layer


def with_adapters(model):
    """Return the model with adapters at the tokenizer and all queries, keys and values, and with the same merged in."""
    adapted, merged = copy.deepcopy(model), copy.deepcopy(model)
    for name, layer in layers(model, "qkv", "proj").items():
        adapter = Adapter(layer)
        adapted.set_submodule(name, adapter)
        merged.set_submodule(name, adapter.merged())
    return adapted, merged


@every_encoder
def test_adapters_count_with_and_without_gradients_and_each_of_them_learns(encoder):
    adapted, merged = with_adapters(tiny.model(encoder).double())
    video = tiny.video(adapted)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(adapted(video), merged(video))
    adapted(video).square().sum().backward()
    adapters = [module for module in adapted.modules() if isinstance(module, Adapter)]
    assert all(one.down.weight.grad.any() and one.up.weight.grad.any() for one in adapters)


@every_encoder
def test_adapters_count_in_a_timeline(encoder, tmp_path):
    file = write_video(tmp_path / "a.mp4", counter_frames(12, height=24, width=32), fps=12)
    adapted, merged = with_adapters(tiny.model(encoder))
    got, expected = (timeline(model, file, hop=0.25).logits for model in (adapted, merged))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@every_encoder
@pytest.mark.parametrize("grad", [False, True])
def test_hooks_of_every_layer_are_called_once_and_change_what_they_return(encoder, grad):
    model = tiny.model(encoder)
    video, called = tiny.video(model, batch=1), []
    with torch.set_grad_enabled(grad):
        expected = model(video)
        for name, layer in layers(model).items():
            layer.register_forward_hook(lambda *_, name=name: called.append(name))
        model.tokenizer.register_forward_hook(lambda *_: called.append("tokenizer"))
        torch.testing.assert_close(model(video), expected, atol=1e-5, rtol=1e-5)
        several = 2 if encoder == "factorised_dot_product" else 1  # a call for the heads over time, one for the others
        assert {name: called.count(name) for name in set(called)} == {
            name: several if name.endswith("qkv") else 1 for name in [*layers(model), "tokenizer"]
        }
        model.tokenizer.proj.register_forward_hook(lambda module, inputs, output: output * 0)
        assert not torch.allclose(model(video), expected)


@every_encoder
def test_pruned_layers_train_and_are_what_they_become_when_the_masks_are_merged(encoder):
    model = tiny.model(encoder).double()
    for layer in layers(model).values():
        prune.l1_unstructured(layer, "weight", 0.3)
    video, optimizer = tiny.video(model), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(video), torch.tensor([0, 1])).backward()
        optimizer.step()
    with torch.no_grad():
        pruned = model(video)
        for layer in layers(model).values():
            prune.remove(layer, "weight")
            assert 0.25 < (layer.weight == 0).double().mean() < 0.35
        torch.testing.assert_close(model(video), pruned)


@every_encoder
def test_a_model_without_its_head_returns_features(encoder):
    model = tiny.model(encoder)
    video = tiny.video(model)
    expected = model.features(video)
    model.head = nn.Identity()
    assert model(video).equal(expected)


@every_encoder
def test_offloaded_weights_come_to_the_device_when_their_layer_is_called(encoder):
    model = tiny.model(encoder)
    video = tiny.video(model)
    with torch.no_grad():
        expected = model(video)
        offloaded = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        torch.testing.assert_close(offloaded(video), expected, atol=1e-5, rtol=1e-5)
