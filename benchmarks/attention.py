"""Time attention kernels at the sizes of the four models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit.config import ModelConfig
from vivit.model.cpu_kernels import attention
from vivit.presets import preset

from .measure import Clock
from .models import CLASSES, Contender, Precision, measure

OURS = "ours"
KERNELS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "FlashAttention": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attentions(names: Sequence[str], *, precision: Precision, batch_size: int, clock: Clock) -> list[dict[str, Any]]:
    """Each pattern of each preset without gradients; on CUDA with its backward pass as well."""
    rows = []
    for name in names:
        for what, shape in shapes(preset(name, classes=CLASSES), batch_size).items():
            for backward in (False, True) if clock.device.type == "cuda" else (False,):
                label = f"{name}, {what}" + (", with backward pass" if backward else "")
                rows += rows_of(label, shape, backward, precision=precision, clock=clock)
    return rows


def shapes(config: ModelConfig, batch_size: int) -> dict[str, tuple[int, int, int, int]]:
    """{pattern: (sequences, tokens, heads, width)} of the attentions of a model."""
    (t, h, w), heads, cls = config.grid, config.num_heads, config.pool == "cls"
    width = config.embed_dim // heads
    if config.encoder == "spatiotemporal":
        return {"all": (batch_size, t * h * w + cls, heads, width)}
    if config.encoder == "factorised_encoder":
        return {"space": (batch_size * t, h * w + cls, heads, width)}
    heads = heads // 2 if config.encoder == "factorised_dot_product" else heads
    return {"space": (batch_size * t, h * w, heads, width), "time": (batch_size, t, h * w * heads, width)}


def rows_of(
    label: str, shape: tuple[int, int, int, int], backward: bool, *, precision: Precision, clock: Clock
) -> list[dict[str, Any]]:
    """Time the chosen kernel and the others that PyTorch has for this device, on tensors with the layout of a layer."""
    sequences, tokens, heads, width = shape
    # Queries, keys and values of all tokens of a sequence: a view of one tensor, as a fused projection gives them.
    x = torch.randn(sequences, tokens, 3, heads, width, device=clock.device, dtype=getattr(torch, precision))
    wanted = torch.randn(sequences, heads, tokens, width, device=x.device, dtype=x.dtype)

    def call(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        qkv = x.detach().requires_grad_(backward)
        out = attend(*qkv.transpose(1, 3).unbind(2))
        return torch.autograd.grad(out, qkv, wanted)[0] if backward else out

    def by(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return attend

    others = {"PyTorch's": F.scaled_dot_product_attention}
    if clock.device.type == "cuda":
        others = {name: by(backend) for name, backend in KERNELS.items()}
    # Two products forward, five backward: the scores are computed again.
    operations = 4.0 * sequences * heads * tokens * tokens * width * (3.5 if backward else 1)
    contenders = {f"{label}: {OURS}": Contender(partial(call, attention), operations, sequences)}
    for name, attend in others.items():
        try:
            call(attend)
        except RuntimeError:  # PyTorch's: no available kernel
            continue
        contenders[f"{label}: {name}"] = Contender(partial(call, attend), operations, sequences, f"{label}: {OURS}")
    rows = measure("attention", contenders, precision=precision, clock=clock, gradients=backward)
    return [{k: v for k, v in row.items() if k not in ("batch", "clips/s", "same top-1")} for row in rows]
