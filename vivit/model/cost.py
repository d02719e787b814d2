"""Parameters and multiply-adds of a model, part by part, without computing or allocating anything."""

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
class Part:
    """A module of the model: parameters, and multiply-adds in one view."""

    name: str
    parameters: int
    multiply_adds: int


def count(
    config: ModelConfig, build: Callable[[ModelConfig], nn.Module] = ViViT, *, as_computed: bool = False
) -> list[Part]:
    """Tokenizer, the parts of the encoder, head, and the total, as PyTorch counts them in a forward pass.

    As the paper counts, every block computes all of its tokens. `as_computed` leaves out what is not computed here,
    because nobody reads it: the last block's tokens but the class token. Of another model that `build` makes: its
    parts, and the total.
    """
    with torch.device("meta"):
        model = build(config).eval()
        if not as_computed:
            compute_all(model)
        video = torch.zeros(1, config.num_frames, 3, *config.image_size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(video)
    flops = counter.get_flop_counts()

    def part(name: str, module: nn.Module) -> Part:
        top = type(model).__name__
        path = f"{top}.{name}" if name else top  # a module without products, such as a mean, is not in `flops`
        parameters, operations = sum(p.numel() for p in module.parameters()), sum(flops.get(path, {}).values())
        return Part(name or "total", parameters, operations // 2)

    names = [name for name, _ in model.named_children()]
    if "encoder" in names:
        encoder = model.get_submodule("encoder")
        halves = [name for name, _ in encoder.named_children() if name in ("spatial", "temporal")]
        names = ["tokenizer", *([f"encoder.{half}" for half in halves] or ["encoder"]), "head"]
    return [part(name, model.get_submodule(name)) for name in [*names, ""]]


def compute_all(model: nn.Module) -> None:
    """Make every last block compute all of its tokens, also those that nobody reads."""

    def whole(
        forward: Callable[..., Tensor], x: Tensor, bits: Tensor | None = None, num_queries: int | None = None
    ) -> Tensor:
        return forward(x, bits)

    for transformer in (m for m in model.modules() if isinstance(m, Transformer)):
        last = transformer.blocks[-1]
        last.forward = partial(whole, last.forward)
