"""Attention, MLP and the transformer blocks, with timm's parameter names: an image ViT loads with a prefix.

Sequences are (B, n, D). Encoders that attend over space or time only keep the tokens of a clip in one sequence of
n = t·s, time first, and differ in the attention patterns of their blocks.

Dropout and stochastic depth are functions of an argument, `bits`: random integers (B, 6) that follow from the seed of
each clip (`random_bits`), one per branch of a block for stochastic depth and one for dropout. They drop the same from a
clip in every batch, on any number of devices, and under activation checkpointing. Without bits (evaluation) nothing is
dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig
from .cpu_kernels import attention, linear_gelu

MASK = 2**32 - 1
BRANCHES = 3  # a block has up to so many residual branches: attention, a second attention, MLP
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys, values and result are (B, n, a, k)


# config.activation → PyTorch's name: the official code's, and PyTorch image models'.
GELU = {"gelu_tanh": "tanh", "gelu": "none"}


def attend_all(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend from every token to every token of its sequence.

    `bias` (B, n) is added to the scores of each key, at inference only: training never has a mask, because cuDNN's
    backward fails with some.
    """
    q, k, v = (rearrange(x, "B n a k -> B a n k") for x in (q, k, v))
    return rearrange(attention(q, k, v, bias), "B a n k -> B n a k")


def attend_space(q: Tensor, k: Tensor, v: Tensor, *, t: int) -> Tensor:
    """Attend from every token to the tokens of its own temporal position."""
    q, k, v = (rearrange(x, "B (t s) a k -> (B t) s a k", t=t) for x in (q, k, v))
    return rearrange(attend_all(q, k, v), "(B t) s a k -> B (t s) a k", t=t)


def attend_time(q: Tensor, k: Tensor, v: Tensor, *, t: int) -> Tensor:
    """Attend from every token to the tokens of its own spatial position.

    Positions and heads together are the heads of one attention over time, so that tokens stored as (B, t, s, a, k) need
    no copy. (With positions as a batch they would have to be transposed and back.)
    """
    heads = q.shape[2]
    q, k, v = (rearrange(x, "B (t s) a k -> B (s a) t k", t=t) for x in (q, k, v))
    return rearrange(attention(q, k, v), "B (s a) t k -> B (t s) a k", a=heads)


def random_bits(seeds: Tensor, *shape: int) -> Tensor:
    """Hash each seed (B,) and the index of each element to random integers below 2³², (B, *shape), on any device."""
    index = torch.arange(math.prod(shape), device=seeds.device).view(1, *shape)
    return _hash(_hash(seeds.view(-1, *(1 for _ in shape))) + index * 0x9E3779B9)


def _hash(x: Tensor) -> Tensor:
    """Mix the lower 32 bits of int64 (xor-shift and multiply, two rounds)."""
    x = (x ^ ((x & MASK) >> 16)) * 0x7FEB352D & MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & MASK
    return x ^ (x >> 16)


def dropout(x: Tensor, rate: float, bits: Tensor | None) -> Tensor:
    """Zero elements of x (B, …) with probability `rate` and scale the rest, by one random integer per row (B,)."""
    if bits is None or rate == 0:
        return x
    return x * (random_bits(bits, *x.shape[1:]) >= rate * 2**32) / (1 - rate)


def drop_path(x: Tensor, rate: float, bits: Tensor | None) -> Tensor:
    """Zero whole rows of x (B, …) with probability `rate` and scale the rest (stochastic depth, Huang et al., 2016)."""
    if bits is None or rate == 0:
        return x
    return x * (bits >= rate * 2**32).view(-1, *(1 for _ in x.shape[1:])) / (1 - rate)


def column(bits: Tensor | None, index: int) -> Tensor | None:  # (B, 6) → (B,)
    return None if bits is None else bits[:, index]


class DropPath(nn.Module):
    """`drop_path` of one branch of a block."""

    def __init__(self, rate: float, *, branch: int):
        super().__init__()
        self.rate, self.branch = rate, branch

    def forward(self, x: Tensor, bits: Tensor | None = None) -> Tensor:  # bits (B, 6)
        return drop_path(x, self.rate, column(bits, self.branch))


class Attention(nn.Module):
    """Multi-head self-attention with one kernel for the projection to queries, keys and values.

    Several `patterns` share the heads evenly, in their order. With `separate_qkv`, and for several patterns, the parts
    of the kernel are applied one after the other, so that the queries, keys and values of a pattern are contiguous;
    `attend_time` needs no copies then. `branch` is the place of this attention in its block.
    """

    def __init__(self, config: ModelConfig, *patterns: Attend, branch: int = 0, separate_qkv: bool = False):
        super().__init__()
        self.head_width = config.embed_dim // config.num_heads
        self.patterns = patterns
        self.separate_qkv = separate_qkv or len(patterns) > 1
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.dropout, self.branch = config.dropout, branch

    def heads(self, x: Tensor, num_queries: int | None = None, pattern: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, n, D) to the queries, keys and values of a pattern, each (B, n, a, k).

        Queries are those of the first `num_queries` tokens, by default of all.
        """
        k = self.head_width
        replaced = type(self.qkv) is not nn.Linear  # by a wrapper (LoRA, quantisation), which has to be called
        if replaced or not (self.separate_qkv or num_queries):
            qkv = rearrange(self.qkv(x), "B n (three a k) -> three B n a k", three=3, k=k)
            q, keys, v = qkv.chunk(len(self.patterns), dim=3)[pattern]
            return q[:, :num_queries], keys, v
        parameters = self.qkv.weight, self.qkv.bias
        weights, biases = (p.unflatten(0, (3, len(self.patterns), -1))[:, pattern] for p in parameters)
        inputs = zip((x[:, :num_queries], x, x), weights, biases)
        q, keys, v = (rearrange(F.linear(part, w, b), "B n (a k) -> B n a k", k=k) for part, w, b in inputs)
        return q, keys, v

    def forward(self, x: Tensor, bits: Tensor | None = None, num_queries: int | None = None) -> Tensor:
        x = as_autocast(x)  # once; each product would cast it again, and keep the result
        heads = (attend(*self.heads(x, num_queries, i)) for i, attend in enumerate(self.patterns))
        out = [rearrange(x, "B n a k -> B n (a k)") for x in heads]
        x = self.proj(torch.cat(out, dim=2) if len(out) > 1 else out[0])
        return dropout(x, self.dropout, column(bits, BRANCHES + self.branch))


def as_autocast(x: Tensor) -> Tensor:
    """Cast to the type in which autocast, if it is on, computes products."""
    on = not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)
    return x.to(torch.get_autocast_dtype(x.device.type)) if on else x


class Mlp(nn.Module):
    """Two linear layers with a GELU between them. `branch` is the place of the MLP in its block."""

    def __init__(self, config: ModelConfig, *, branch: int = 1):
        super().__init__()
        hidden = round(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.gelu = GELU[config.activation]
        self.fc2 = nn.Linear(hidden, config.embed_dim)
        self.dropout, self.branch = config.dropout, branch

    def forward(self, x: Tensor, bits: Tensor | None = None) -> Tensor:  # bits (B, 6)
        bits = column(bits, BRANCHES + self.branch)
        x = dropout(linear_gelu(x, self.fc1, self.gelu), self.dropout, bits)
        return dropout(self.fc2(x), self.dropout, None if bits is None else bits + 1)


class Block(nn.Module):
    """Pre-norm transformer block; `drop_path` is the probability that a clip skips a branch.

    Its heads attend by the `patterns`, in equal parts, by default all of them to all tokens.
    """

    def __init__(self, config: ModelConfig, *patterns: Attend, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config, *patterns or (attend_all,))
        self.drop_path1 = DropPath(drop_path, branch=0)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.drop_path2 = DropPath(drop_path, branch=1)

    def forward(self, x: Tensor, bits: Tensor | None = None, num_queries: int | None = None) -> Tensor:
        """Map (B, n, D) to (B, n, D), or to the first `num_queries` of the n tokens; bits (B, 6)."""
        x = x[:, :num_queries] + self.drop_path1(self.attn(self.norm1(x), bits, num_queries), bits)
        return x + self.drop_path2(self.mlp(self.norm2(x), bits), bits)


class TimeSpaceBlock(nn.Module):
    """Model 3's block: attention over time, attention over space, one MLP, each with its own residual.

    `norm1` and `attn` are the spatial ones, so that an image ViT's block fits; the temporal ones come on top.
    """

    def __init__(self, config: ModelConfig, *, t: int, drop_path: float = 0.0):
        super().__init__()
        self.time_first = config.attention_order == "time_space"
        time, space = (0, 1) if self.time_first else (1, 0)
        self.norm_time = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn_time = Attention(config, partial(attend_time, t=t), branch=time, separate_qkv=True)
        self.drop_path_time = DropPath(drop_path, branch=time)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config, partial(attend_space, t=t), branch=space)
        self.drop_path1 = DropPath(drop_path, branch=space)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config, branch=2)
        self.drop_path2 = DropPath(drop_path, branch=2)

    def forward(self, x: Tensor, bits: Tensor | None = None) -> Tensor:  # bits (B, 6)
        if self.time_first:
            x = self.over_time(x, bits)
        x = x + self.drop_path1(self.attn(self.norm1(x), bits), bits)
        if not self.time_first:
            x = self.over_time(x, bits)
        return x + self.drop_path2(self.mlp(self.norm2(x), bits), bits)

    def over_time(self, x: Tensor, bits: Tensor | None) -> Tensor:
        return x + self.drop_path_time(self.attn_time(self.norm_time(x), bits), bits)
