"""Count the parameters and multiply-adds of each module, without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..config import ModelConfig
from .encoders import Transformer
from .vivit import ViViT


@dataclass(frozen=True)
class ModuleCost:
    """Parameters of a module, and its multiply-adds for one view."""

    name: str
    parameters: int
    multiply_adds: int


def count_cost(
    config: ModelConfig, build: Callable[[ModelConfig], nn.Module] = ViViT, *, as_computed: bool = False
) -> list[ModuleCost]:
    """Count the tokenizer, the parts of the encoder, the head and the total, as PyTorch counts a forward pass.

    The paper counts all tokens of every block, and so does this. `as_computed` counts what this code computes: only the
    class token of a last block. Of other models, which `build` returns, it counts each child module and the total.
    """
    with torch.device("meta"):
        model = build(config).eval()
        if not as_computed:
            compute_all_tokens(model)
        video = torch.zeros(1, config.num_frames, 3, *config.image_size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(video)
    flops = counter.get_flop_counts()

    def module_cost(name: str, module: nn.Module) -> ModuleCost:
        top = type(model).__name__
        path = f"{top}.{name}" if name else top  # a module without matrix products, such as a mean, is not in `flops`
        parameters, operations = sum(p.numel() for p in module.parameters()), sum(flops.get(path, {}).values())
        return ModuleCost(name or "total", parameters, operations // 2)

    names = [name for name, _ in model.named_children()]
    if "encoder" in names:
        encoder = model.get_submodule("encoder")
        halves = [name for name, _ in encoder.named_children() if name in ("spatial", "temporal")]
        names = ["tokenizer", *([f"encoder.{half}" for half in halves] or ["encoder"]), "head"]
    return [module_cost(name, model.get_submodule(name)) for name in [*names, ""]]


def compute_all_tokens(model: nn.Module) -> None:
    """Make the last block of every transformer compute all of its tokens, also those that pooling does not read."""

    def forward_all(
        forward: Callable[..., Tensor], x: Tensor, bits: Tensor | None = None, num_queries: int | None = None
    ) -> Tensor:
        return forward(x, bits)

    for transformer in (m for m in model.modules() if isinstance(m, Transformer)):
        last = transformer.blocks[-1]
        last.forward = partial(forward_all, last.forward)
