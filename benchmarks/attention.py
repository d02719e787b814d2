"""Time attention kernels at the sizes of the four models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit.config import ModelConfig
from vivit.model.cpu_kernels import attention

from .measure import Clock
from .models import Contender, Precision, config_of, measure

OURS = "ours"
KERNELS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "FlashAttention": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attentions(
    names: Sequence[str], *, precision: Precision, batch_size: int, clock: Clock, backward: Sequence[bool] = (False,)
) -> Iterator[dict[str, Any]]:
    """Each pattern of each preset, without gradients and with its backward pass as `backward` says."""
    for name in names:
        for what, shape in shapes(config_of(name), batch_size).items():
            for both in backward:
                label = f"{name}, {what}" + (", with backward pass" if both else "")
                yield from rows_of(label, shape, both, precision=precision, clock=clock)


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

    def repeatable(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        torch.use_deterministic_algorithms(True)
        try:
            return call(attend)
        finally:
            torch.use_deterministic_algorithms(False)

    def by(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return attend

    others: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"PyTorch's": F.scaled_dot_product_attention}
    if clock.device.type == "cuda":
        others = {name: by(backend) for name, backend in KERNELS.items()}
    if backward:
        others["deterministic"] = attention
    # Two products forward, five backward: the scores are computed again.
    operations = 4.0 * sequences * heads * tokens * tokens * width * (3.5 if backward else 1)
    contenders = {f"{label}: {OURS}": Contender(partial(call, attention), operations, sequences)}
    for name, attend in others.items():
        run = partial(repeatable if name == "deterministic" else call, attend)
        try:
            run()
        except RuntimeError:  # PyTorch's: no available kernel
            continue
        contenders[f"{label}: {name}"] = Contender(run, operations, sequences, f"{label}: {OURS}")
    rows = measure("attention", contenders, precision=precision, clock=clock, gradients=backward)
    return [{k: v for k, v in row.items() if k not in ("batch", "clips/s", "same top-1")} for row in rows]
