"""Choose the kernels of attention and MLP by device. All compute the same.

| device                              | attention                                        |
|-------------------------------------|--------------------------------------------------|
| CUDA                                | PyTorch's, see `engine.device.choose_attention`  |
| AMD's with bfloat16 units           | in bfloat16 without gradients: two matrix        |
|                                     | products and a softmax per chunk, because        |
|                                     | PyTorch's kernel is less than half as fast       |
| other CPUs                          | PyTorch's; heads of long sequences are first     |
|                                     | made contiguous                                  |
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..torch_private import cpu_supports, linear_gelu_bf16

COPY_ABOVE_TOKENS = 512  # in longer sequences, copying the heads costs less than the cache misses of strided rows
CHUNK_SCORES = 3 * 2**19  # 3 MiB in bfloat16, which stay in the caches from one product to the next


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(q kᵀ / √width + bias) v; q, k, v and the result are (B, a, n, width), bias of the keys (B, n)."""
    if use_bf16_cpu_kernel(q) and cpu_vendor() == "AuthenticAMD":
        return chunked_attention(q, k, v, bias)
    if q.device.type == "cpu" and k.shape[2] > COPY_ABOVE_TOKENS:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    mask = None if bias is None else bias[:, None, None].to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `attention` without gradients, a chunk of heads and queries at a time, as two matrix products.

    The scores of a chunk are rounded to the dtype of the inputs, as in every implementation that stores them.
    """
    (batch, heads, n, width), keys = q.shape, k.shape[2]
    q, k, v = (q * width**-0.5).contiguous(), k.contiguous(), v.contiguous()
    out = q.new_empty(batch, n, heads, v.shape[3])  # as the projection reads it
    chunk_heads = min(max(CHUNK_SCORES // (n * keys), 1), heads)
    chunk_queries = max(CHUNK_SCORES // (chunk_heads * keys), 1)
    for i in range(batch):
        for h in (slice(j, j + chunk_heads) for j in range(0, heads, chunk_heads)):
            for rows in (slice(j, j + chunk_queries) for j in range(0, n, chunk_queries)):
                scores = q[i, h, rows] @ k[i, h].mT
                if bias is not None:
                    scores += bias[i]
                out[i, rows, h] = (scores.softmax(dim=-1) @ v[i, h]).transpose(0, 1)
    return out.transpose(1, 2)


def linear_gelu(x: Tensor, linear: nn.Linear, approximate: str) -> Tensor:
    """Apply a linear layer and a GELU, exact ("none") or approximated by "tanh"; without gradients fused or in place.

    In place, because on a CPU allocating memory takes as long as filling it. Fused in bfloat16, because PyTorch's tanh
    takes a quarter of the time of the matrix product.
    """
    if torch.is_grad_enabled() or is_jit_tracing():
        return F.gelu(linear(x), approximate=approximate)
    if use_bf16_cpu_kernel(x) and type(linear) is nn.Linear and x.dtype == linear.weight.dtype:
        return linear_gelu_bf16(x, linear, approximate)
    return torch.ops.aten.gelu_(linear(x), approximate=approximate)


def use_bf16_cpu_kernel(x: Tensor) -> bool:
    """Tell whether the bfloat16 kernels of this module are faster for x: on such a CPU, eager, without gradients."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return False
    return not (torch.compiler.is_compiling() or is_jit_tracing()) and has_fast_bf16_products()


def is_jit_tracing() -> bool:
    """Tell whether torch.jit.trace is recording. Its graph must be the same with and without gradients."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  # public, but not re-exported


def has_fast_bf16_products() -> bool:
    """Tell whether this CPU has AVX-512 units for bfloat16 and no AMX, which PyTorch's own attention uses."""
    return cpu_supports("avx512_bf16") and not cpu_supports("amx_tile") and torch.backends.mkldnn.is_available()


@cache
def cpu_vendor() -> str:
    """Return the maker's name of itself, such as AuthenticAMD; "" where the system does not tell.

    Units of the same name differ: Intel's for bfloat16 without AMX multiply half as fast as its float32 ones, and there
    PyTorch's attention is the faster one.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
