"""Choose the kernels of attention and MLP by device. All compute the same.

| device                              | attention                                        |
|-------------------------------------|--------------------------------------------------|
| CUDA                                | PyTorch's, see `engine.device.choose_attention`  |
| AMD's with bfloat16 units           | in bfloat16 without gradients: two matrix        |
|                                     | products and a softmax per chunk, because        |
|                                     | PyTorch's kernel is less than half as fast       |
| other CPUs                          | PyTorch's; heads of long sequences are first     |
|                                     | made contiguous                                  |

Scores with a soft cap, for which PyTorch has no ready kernel, are in memory a chunk at a time on a CPU without
gradients, and not at all on CUDA (FlexAttention, for sequences longer than FLEX_ABOVE_TOKENS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..torch_private import cpu_supports, is_plain, linear_gelu_bf16

FLEX_ABOVE_TOKENS = 64  # FlexAttention computes blocks of 128 x 128 scores
COPY_ABOVE_TOKENS = 512  # in longer sequences, copying the heads costs less than the cache misses of strided rows
CHUNK_SCORES = 3 * 2**19  # 3 MiB in bfloat16, which stay in the caches from one product to the next


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, logit_cap: float | None = None) -> Tensor:
    """Compute softmax(q kᵀ / √width + bias) v; q, k, v and the result are (B, a, n, width), bias of the keys (B, n).

    With a `logit_cap` c, q kᵀ / √width becomes c · tanh(q kᵀ / √width / c) first.
    """
    if logit_cap is not None:
        return capped_attention(q, k, v, bias, logit_cap)
    if use_bf16_cpu_kernel(q) and cpu_vendor() == "AuthenticAMD":
        return chunked_attention(q, k, v, bias)
    if q.device.type == "cpu" and k.shape[2] > COPY_ABOVE_TOKENS:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    mask = None if bias is None else bias[:, None, None].to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_chunks(batch: int, heads: int, n: int, keys: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield (sequence, heads, queries) of chunks that have about CHUNK_SCORES scores."""
    chunk_heads = min(max(CHUNK_SCORES // (n * keys), 1), heads)
    chunk_queries = max(CHUNK_SCORES // (chunk_heads * keys), 1)
    for i in range(batch):
        for h in range(0, heads, chunk_heads):
            for j in range(0, n, chunk_queries):
                yield i, slice(h, h + chunk_heads), slice(j, j + chunk_queries)


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `attention` without gradients, a chunk of heads and queries at a time, as two matrix products.

    The scores of a chunk are rounded to the dtype of the inputs, as in every implementation that stores them.
    """
    (batch, heads, n, width), keys = q.shape, k.shape[2]
    q, k, v = (q * width**-0.5).contiguous(), k.contiguous(), v.contiguous()
    out = q.new_empty(batch, n, heads, v.shape[3])  # as the projection reads it
    for i, h, rows in attention_chunks(batch, heads, n, keys):
        scores = q[i, h, rows] @ k[i, h].mT
        if bias is not None:
            scores += bias[i]
        out[i, rows, h] = (scores.softmax(dim=-1) @ v[i, h]).transpose(0, 1)
    return out.transpose(1, 2)


def capped_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, logit_cap: float) -> Tensor:
    """Compute `attention` with a soft cap of the scores."""
    records_graph = torch.compiler.is_compiling() or is_jit_tracing()
    same = v.shape[3] == q.shape[3]  # not so in attention rollout, whose values are as wide as the sequence is long
    if q.device.type == "cuda" and k.shape[2] > FLEX_ABOVE_TOKENS and bias is None and not is_jit_tracing() and same:
        return flex_attention(compiled=not records_graph)(q, k, v, score_mod=soft_cap(logit_cap))
    if q.device.type == "cpu" and not (torch.is_grad_enabled() or records_graph):
        return chunked_capped_attention(q, k, v, bias, logit_cap)
    scores = torch.tanh(q @ k.mT * (q.shape[3] ** -0.5 / logit_cap)) * logit_cap
    if bias is not None:
        scores = scores + bias[:, None, None].to(scores.dtype)
    return scores.softmax(dim=-1) @ v


def soft_cap(logit_cap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the soft cap of scores as FlexAttention takes it."""
    return lambda score, batch, head, query, key: logit_cap * torch.tanh(score / logit_cap)


@cache
def flex_attention(*, compiled: bool) -> Callable[..., Tensor]:
    """Return FlexAttention; `compiled` to one kernel, when it is first called with a shape."""
    from torch.nn.attention import flex_attention as flex  # here, because it imports PyTorch's compiler for seconds

    return torch.compile(flex.flex_attention) if compiled else flex.flex_attention


def chunked_capped_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, logit_cap: float) -> Tensor:
    """Compute `capped_attention` without gradients, a chunk of heads and queries at a time, and copy no input."""
    (batch, heads, n, width), keys = q.shape, k.shape[2]
    out, ignored = q.new_empty(batch, n, heads, v.shape[3]), q.new_zeros(1)
    for i, h, rows in attention_chunks(batch, heads, n, keys):
        scaled = torch.baddbmm(ignored, q[i, h, rows], k[i, h].mT, beta=0, alpha=width**-0.5 / logit_cap)
        scores = scaled.tanh_().mul_(logit_cap)
        if bias is not None:
            scores += bias[i]
        out[i, rows, h] = (scores.softmax(dim=-1) @ v[i, h]).transpose(0, 1)
    return out.transpose(1, 2)


def linear_gelu(x: Tensor, linear: nn.Linear, approximate: str) -> Tensor:
    """Apply a linear layer and a GELU, exact ("none") or approximated by "tanh"; without gradients fused or in place.

    With "quick", the approximation x · sigmoid(1.702 x).

    In place, because on a CPU allocating memory takes as long as filling it. Fused in bfloat16, because PyTorch's tanh
    takes a quarter of the time of the matrix product.
    """
    if approximate == "quick":
        x = linear(x)
        return x * torch.sigmoid(1.702 * x)
    if torch.is_grad_enabled() or is_jit_tracing():
        return F.gelu(linear(x), approximate=approximate)
    if use_bf16_cpu_kernel(x) and is_plain(linear, nn.Linear) and x.dtype == linear.weight.dtype:
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
