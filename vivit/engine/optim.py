"""Optimizers, the learning-rate schedule, freezing, and the EMA of the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..config import OptimConfig

UNDECAYED = ("pos_embed", "time_embed", "cls_token", "register_tokens", "query")


def learning_rate(step: int, *, base: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from 0, then half a cosine to 0 (paper, section 4.1); equal to the official schedule."""
    if step < warmup_steps:
        return base * step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return base * 0.5 * (1 + math.cos(math.pi * progress))


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Freeze parameters whose names start with one of `prefixes`. Raises ValueError for a prefix that fits none."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(_begins(name, prefix) for name in names):
            tops = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ValueError(f"optim.freeze: no parameter begins with {prefix!r}; there are {', '.join(tops)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(_begins(name, prefix) for prefix in prefixes))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"optim.freeze {' '.join(prefixes)} leaves nothing to train; freeze less")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, fused where the device has it.

    Norms, biases, positions, class and register tokens are not decayed. Every group has an `lr_scale`: with
    `layer_decay` d, a layer l of L learns at d^(L − l) of the rate, the head and what is new (see `layer_numbers`) at
    the full one.
    """
    new_time = getattr(getattr(model, "config", None), "pool_space", True)
    layers = layer_numbers([name for name, _ in model.named_parameters()], new_time=new_time)
    top = max(layers.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith(UNDECAYED)
            layer = layers[name] if config.layer_decay < 1 else top
            groups.setdefault((layer, decayed), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_scale": config.layer_decay ** (top - layer),
        }
        for (layer, decayed), parameters in sorted(groups.items())
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    if config.name == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(settings, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)


NEW = ("encoder.temporal.attention_pool.", "encoder.attention_pool.", "encoder.pool_blocks.", "motion.", "head.")


def layer_numbers(names: list[str], *, new_time: bool = True) -> dict[str, int]:
    """Return the depth of each parameter, from names in the order of the forward pass.

    0 for tokens, positions and class tokens before the first block, n for the n-th block and what follows it, one more
    for the head and for pooling by attention. With `new_time`, Model 2's layers over time count as the head: an image
    model has no counterpart of them, so there is nothing that a low rate would protect. VideoPrism's
    (`pool_space=False`) are pretrained and count on from those over space. So would be those of another video model,
    but the config of a run, which must give the same numbers when it is resumed, does not say where it started.
    """
    numbers: dict[str, int] = {}
    blocks: list[str] = []
    for name in names:
        new = name.startswith((*NEW, "encoder.temporal.") if new_time else NEW)
        if not new and (match := re.match(r"(.*(?:blocks|joint)\.\d+)\.", name)) and match[1] not in blocks:
            blocks.append(match[1])
        numbers[name] = len(blocks) + new
    return numbers


class EMA:
    """Exponential moving average of a model's parameters; with shards, each process keeps its own part."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters = list(model.parameters())
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """average ← decay · average + (1 − decay) · parameters."""
        for value, parameter in zip(self.values, self.parameters):
            value.lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the parameters; twice gives back what was."""
        for parameter, value in zip(self.parameters, self.values):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averaged parameters."""
        self.swap()
        try:
            yield
        finally:
            self.swap()


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
