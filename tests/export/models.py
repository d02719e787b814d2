"""Tiny models of each kind, exported once per test session and format."""

from functools import partial

import torch

from ..model import tiny

MODELS = {
    "Model 1, class token": partial(tiny.model, "spatiotemporal", depth=1),
    "Model 1, mean": partial(tiny.model, "spatiotemporal", depth=1, pool="mean"),
    "Model 2, class token": partial(tiny.model, "factorised_encoder", depth=1),
    "Model 2, mean": partial(
        tiny.model,
        "factorised_encoder",
        depth=1,
        pool="mean",
        temporal_skip=True,
        tokenizer="uniform_frames",
        sampled_frames=3,
        tubelet_size=(1, 8, 8),
    ),
    "Model 3, mean": partial(tiny.model, "factorised_self_attention", depth=1),
    "Model 4, mean": partial(tiny.model, "factorised_dot_product", depth=1),
}


def weights(name, folder):
    """Save the model of this name with two label sets, and return the folder."""
    torch.manual_seed(0)
    model = MODELS[name](classes={"noun": ("a", "b", "c"), "verb": ("x", "y")})
    model.save_pretrained(folder)
    return folder
