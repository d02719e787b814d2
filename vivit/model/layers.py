"""Attention, MLP and transformer blocks, with timm's parameter names.

Sequences are (B, n, D): B clips, n tokens, D = embed_dim. Queries, keys and values are (B, n, a, k): a heads of k
features. Where attention is over space or time, one sequence holds all n = t·s tokens of a clip, time first: t temporal
and s = h·w spatial positions. The encoders differ in the attention functions of their blocks.

Dropout and stochastic depth depend on an argument, `bits`: random integers (B, 6) computed from the seed of each clip
(`random_bits`). Each block gets its own: columns 0-2 are for stochastic depth in its residual branches, columns 3-5 for
dropout in them. What is dropped from a clip therefore depends only on its seed, not on the batch, the number of devices
or activation checkpointing. Without bits (evaluation) nothing is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig, replace
from ..torch_private import is_plain
from .cpu_kernels import attention, linear_gelu
from .rope import Rope

UINT32_MAX = 2**32 - 1
MAX_BRANCHES = 3  # residual branches of a block: attention, in Model 3 a second attention, MLP
AttentionFn = Callable[..., Tensor]  # of queries, keys and values; these and the result are (B, n, a, k)

# config.activation → the argument `approximate` of PyTorch's GELU. The official code has tanh, timm has none.
# `linear_gelu` adds "quick", the x · sigmoid(1.702 x) of CLIP.
GELU_APPROXIMATION = {"gelu_tanh": "tanh", "gelu": "none", "quick_gelu": "quick"}


def full_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, logit_cap: float | None = None
) -> Tensor:
    """Attend from every token to every token of its sequence.

    `bias` (B, n) is added to the scores of each key. It is for inference only: cuDNN's backward pass fails with some
    masks. Scores have the soft cap `logit_cap`, as in the other attention functions.
    """
    q, k, v = (rearrange(x, "B n a k -> B a n k") for x in (q, k, v))
    return rearrange(attention(q, k, v, bias, logit_cap), "B a n k -> B n a k")


def spatial_attention(q: Tensor, k: Tensor, v: Tensor, *, t: int, logit_cap: float | None = None) -> Tensor:
    """Attend from every token to the tokens of its own temporal position."""
    q, k, v = (rearrange(x, "B (t s) a k -> (B t) s a k", t=t) for x in (q, k, v))
    return rearrange(full_attention(q, k, v, logit_cap=logit_cap), "(B t) s a k -> B (t s) a k", t=t)


def temporal_attention(q: Tensor, k: Tensor, v: Tensor, *, t: int, logit_cap: float | None = None) -> Tensor:
    """Attend from every token to the tokens of its own spatial position.

    Spatial positions are merged into the heads, not into the batch: from contiguous (B, t, s, a, k) to (B, s·a, t, k)
    is a view, while (B·s, a, t, k) would need a copy on the way in and another on the way out.
    """
    heads = q.shape[2]
    q, k, v = (rearrange(x, "B (t s) a k -> B (s a) t k", t=t) for x in (q, k, v))
    return rearrange(attention(q, k, v, None, logit_cap), "B (s a) t k -> B (t s) a k", a=heads)


def random_bits(seeds: Tensor, *shape: int) -> Tensor:
    """Return (B, *shape) integers below 2³², hashes of seed (B,) and element index; the same on every device."""
    index = torch.arange(math.prod(shape), device=seeds.device).view(1, *shape)
    return _hash(_hash(seeds.view(-1, *(1 for _ in shape))) + index * 0x9E3779B9)


def _hash(x: Tensor) -> Tensor:
    """Mix the lower 32 bits of int64 (xor-shift and multiply, two rounds)."""
    x = (x ^ ((x & UINT32_MAX) >> 16)) * 0x7FEB352D & UINT32_MAX
    x = (x ^ (x >> 15)) * 0x846CA68B & UINT32_MAX
    return x ^ (x >> 16)


def dropout(x: Tensor, rate: float, bits: Tensor | None) -> Tensor:
    """Zero elements of x (B, …) with probability `rate` and scale the rest; `bits` (B,) has one integer per row."""
    if bits is None or rate == 0:
        return x
    return x * (random_bits(bits, *x.shape[1:]) >= rate * 2**32) / (1 - rate)


def drop_path(x: Tensor, rate: float, bits: Tensor | None) -> Tensor:
    """Zero rows of x (B, …) with probability `rate` and scale the rest (stochastic depth, Huang et al., 2016)."""
    if bits is None or rate == 0:
        return x
    return x * (bits >= rate * 2**32).view(-1, *(1 for _ in x.shape[1:])) / (1 - rate)


def select_bits(bits: Tensor | None, index: int) -> Tensor | None:  # (B, 6) → (B,)
    return None if bits is None else bits[:, index]


class DropPath(nn.Module):
    """Stochastic depth for the branch of a block with the index `branch`."""

    def __init__(self, rate: float, *, branch: int):
        super().__init__()
        self.rate, self.branch = rate, branch

    def forward(self, x: Tensor, bits: Tensor | None = None) -> Tensor:  # bits (B, 6)
        return drop_path(x, self.rate, select_bits(bits, self.branch))


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer `qkv`, as in timm.

    Each of the `attention_fns` gets an equal share of the heads, in order. With `separate_qkv`, several functions or
    `num_queries`, slices of the weight of `qkv` are applied one by one, so that queries, keys and values are each
    contiguous (`temporal_attention` then copies nothing). A `qkv` that is wrapped or has hooks is called as a whole.
    `rope` rotates queries and keys. `branch` is the index of this attention among the residual branches of its block.
    """

    def __init__(
        self,
        config: ModelConfig,
        *attention_fns: AttentionFn,
        branch: int = 0,
        separate_qkv: bool = False,
        rope: Rope | None = None,
    ):
        super().__init__()
        self.head_dim = config.embed_dim // config.num_heads
        self.attention_fns = attention_fns
        self.separate_qkv = separate_qkv or len(attention_fns) > 1
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.rope = rope
        self.dropout, self.branch = config.dropout, branch

    def project_qkv(self, x: Tensor, num_queries: int | None = None, index: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, n, D) to the queries, keys and values of the attention function `index`, each (B, n, a, k).

        Only the first `num_queries` tokens get queries; None means all.
        """
        q, keys, v = self._project(x, num_queries, index)
        return (q, keys, v) if self.rope is None else (self.rope(q), self.rope(keys), v)

    def _project(self, x: Tensor, num_queries: int | None, index: int) -> tuple[Tensor, Tensor, Tensor]:
        k = self.head_dim
        if not ((self.separate_qkv or num_queries) and is_plain(self.qkv, nn.Linear)):
            qkv = rearrange(self.qkv(x), "B n (three a k) -> three B n a k", three=3, k=k)
            q, keys, v = qkv.chunk(len(self.attention_fns), dim=3)[index]
            return q[:, :num_queries], keys, v
        parameters = self.qkv.weight, self.qkv.bias
        weights, biases = (p.unflatten(0, (3, len(self.attention_fns), -1))[:, index] for p in parameters)
        inputs = zip((x[:, :num_queries], x, x), weights, biases)
        q, keys, v = (rearrange(F.linear(tokens, w, b), "B n (a k) -> B n a k", k=k) for tokens, w, b in inputs)
        return q, keys, v

    def forward(self, x: Tensor, bits: Tensor | None = None, num_queries: int | None = None) -> Tensor:
        """Map (B, n, D) to (B, n, D), or to the first `num_queries` of the n tokens; bits (B, 6)."""
        x = cast_for_autocast(x)  # here, because every product would cast it again and keep the copy
        results = (attend(*self.project_qkv(x, num_queries, i)) for i, attend in enumerate(self.attention_fns))
        out = [rearrange(result, "B n a k -> B n (a k)") for result in results]
        x = self.proj(torch.cat(out, dim=2) if len(out) > 1 else out[0])
        return dropout(x, self.dropout, select_bits(bits, MAX_BRANCHES + self.branch))


def cast_for_autocast(x: Tensor) -> Tensor:
    """Cast x to the dtype in which autocast computes matrix products, if autocast is on."""
    casts = not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)
    return x.to(torch.get_autocast_dtype(x.device.type)) if casts else x


class Mlp(nn.Module):
    """Two linear layers with a GELU between them. `branch` is the index of the MLP in its block."""

    def __init__(self, config: ModelConfig, *, branch: int = 1):
        super().__init__()
        hidden = round(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.gelu_approximation = GELU_APPROXIMATION[config.activation]
        self.fc2 = nn.Linear(hidden, config.embed_dim)
        self.dropout, self.branch = config.dropout, branch

    def forward(self, x: Tensor, bits: Tensor | None = None) -> Tensor:  # bits (B, 6)
        bits = select_bits(bits, MAX_BRANCHES + self.branch)
        x = dropout(linear_gelu(x, self.fc1, self.gelu_approximation), self.dropout, bits)
        return dropout(self.fc2(x), self.dropout, None if bits is None else bits + 1)


class Block(nn.Module):
    """Pre-norm transformer block; `drop_path` is the probability that a clip skips a residual branch.

    The heads are divided equally among the `attention_fns`; by default every head has full attention.
    """

    def __init__(
        self, config: ModelConfig, *attention_fns: AttentionFn, drop_path: float = 0.0, rope: Rope | None = None
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(
            config, *attention_fns or (partial(full_attention, logit_cap=config.attn_logit_cap),), rope=rope
        )
        self.drop_path1 = DropPath(drop_path, branch=0)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.drop_path2 = DropPath(drop_path, branch=1)

    def forward(self, x: Tensor, bits: Tensor | None = None, num_queries: int | None = None) -> Tensor:
        """Map (B, n, D) to (B, n, D), or to the first `num_queries` of the n tokens; bits (B, 6)."""
        x = x[:, :num_queries] + self.drop_path1(self.attn(self.norm1(x), bits, num_queries), bits)
        return x + self.drop_path2(self.mlp(self.norm2(x), bits), bits)


class TimeSpaceBlock(nn.Module):
    """Block of Model 3: attention over time, attention over space and an MLP, each with its own residual.

    `norm1` and `attn` are the spatial ones, so that the block of an image ViT loads into them.
    """

    def __init__(self, config: ModelConfig, *, t: int, drop_path: float = 0.0, rope: Rope | None = None):
        super().__init__()
        self.time_first = config.attention_order == "time_space"
        time, space = (0, 1) if self.time_first else (1, 0)
        over = {"t": t, "logit_cap": config.attn_logit_cap}
        self.norm_time = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        over_time, over_space = (partial(attend, **over) for attend in (temporal_attention, spatial_attention))
        self.attn_time = Attention(config, over_time, branch=time, separate_qkv=True, rope=rope)
        self.drop_path_time = DropPath(drop_path, branch=time)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config, over_space, branch=space, rope=rope)
        self.drop_path1 = DropPath(drop_path, branch=space)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config, branch=2)
        self.drop_path2 = DropPath(drop_path, branch=2)

    def forward(self, x: Tensor, bits: Tensor | None = None) -> Tensor:  # bits (B, 6)
        if self.time_first:
            x = self.add_temporal_attention(x, bits)
        x = x + self.drop_path1(self.attn(self.norm1(x), bits), bits)
        if not self.time_first:
            x = self.add_temporal_attention(x, bits)
        return x + self.drop_path2(self.mlp(self.norm2(x), bits), bits)

    def add_temporal_attention(self, x: Tensor, bits: Tensor | None) -> Tensor:
        return x + self.drop_path_time(self.attn_time(self.norm_time(x), bits), bits)


class AttentionPool(nn.Module):
    """Attention of one learned query to all tokens: (B, n, D) → (B, D).

    Without an MLP, a norm follows: the pooling head of VideoPrism. With one, the MLP has a residual: the pooling head
    of SigLIP and, with a norm of the tokens before it (`pool_norm_tokens`), the cross-attention of V-JEPA 2's attentive
    probe, whose own residual is the bias of `proj` here, since the query is always the same. The query is projected and
    scaled already, and its scores have no cap.
    """

    def __init__(self, config: ModelConfig, *, has_mlp: bool = False):
        super().__init__()
        self.num_heads = config.num_heads
        width = round(config.embed_dim * config.attention_pool_ratio)
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.kv = nn.Linear(config.embed_dim, 2 * width)
        self.proj = nn.Linear(width, config.embed_dim)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        has_norm = has_mlp and config.pool_norm_tokens
        self.norm_kv = nn.LayerNorm(config.embed_dim, eps=config.norm_eps) if has_norm else None
        self.mlp = Mlp(pool_block_config(config)) if has_mlp else None
        self.unit_length = config.unit_features

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, n, D) → (B, D); it drops nothing
        q, k, v = self.project_qkv(x)
        pooled = self.proj(full_attention(q, k, v).flatten(2)).squeeze(1)
        if self.mlp is not None:
            return pooled + self.mlp(self.norm(pooled))
        pooled = self.norm(pooled)
        return F.normalize(pooled, dim=1) if self.unit_length else pooled

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query (B, 1, a, k), and the keys and values (B, n, a, k) of the tokens."""
        x = x if self.norm_kv is None else self.norm_kv(x)
        k, v = rearrange(self.kv(x), "B n (two a k) -> two B n a k", two=2, a=self.num_heads)
        q = rearrange(self.query, "1 n (a k) -> 1 n a k", a=self.num_heads).expand(x.shape[0], -1, -1, -1)
        return q, k, v

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the share of attention that each token gets, averaged over heads: (B, n, D) → (B, n)."""
        q, k, _ = self.project_qkv(x)
        scores = torch.einsum("Bqak,Bnak->Ban", q, k) / math.sqrt(q.shape[-1])
        return scores.softmax(dim=2).mean(dim=1)


def pool_block_config(config: ModelConfig) -> ModelConfig:
    """Return the config of the layers and of the MLP of attentive pooling, which may have another width."""
    return replace(config, mlp_ratio=config.pool_mlp_ratio or config.mlp_ratio)
