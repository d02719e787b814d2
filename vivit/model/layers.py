"""Attention, MLP and the transformer block. Parameter names are timm's, so that an image ViT loads with a prefix.

Sequences are (B, n, D). Encoders that attend over space or time only keep the tokens of a clip in one sequence of
n = t·s, time first, and differ in the attention patterns of their blocks.

Dropout and stochastic depth are functions of an argument, `noise`: random integers of each row, drawn from the seed of
its clip. So a clip loses the same in whatever batch it is, on any number of devices, and when its activations are
computed again. Without noise (evaluation) nothing is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig
from .kernels import attention, linear_gelu

MASK = 2**32 - 1
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys, values and result are (B, n, a, k)


# config.activation → PyTorch's name: the official code's, and PyTorch image models'.
GELU = {"gelu_tanh": "tanh", "gelu": "none"}


def attend_all(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Every token sees every token of its sequence. `bias` (B, n) is added to what each key scores, at inference only:
    training never has a mask, because cuDNN's backward fails with some."""
    q, k, v = (rearrange(x, "B n a k -> B a n k") for x in (q, k, v))
    return rearrange(attention(q, k, v, bias), "B a n k -> B n a k")


def attend_space(q: Tensor, k: Tensor, v: Tensor, *, t: int) -> Tensor:
    """Every token sees the tokens of its own temporal position."""
    q, k, v = (rearrange(x, "B (t s) a k -> (B t) s a k", t=t) for x in (q, k, v))
    return rearrange(attend_all(q, k, v), "(B t) s a k -> B (t s) a k", t=t)


def attend_time(q: Tensor, k: Tensor, v: Tensor, *, t: int) -> Tensor:
    """Every token sees the tokens of its own spatial position.

    Positions and heads together are the heads of one attention over time: tokens that lie in memory as (B, t, s, a, k)
    then stay where they are. (With positions as a batch they would have to be transposed and back.)
    """
    heads = q.shape[2]
    q, k, v = (rearrange(x, "B (t s) a k -> B (s a) t k", t=t) for x in (q, k, v))
    return rearrange(attention(q, k, v), "B (s a) t k -> B (t s) a k", a=heads)


def draw(seeds: Tensor, *shape: int) -> Tensor:
    """Random integers below 2³², (B, *shape), from one seed a row (B,): a hash of seed and place, the same anywhere."""
    index = torch.arange(math.prod(shape), device=seeds.device).view(1, *shape)
    return _hash(_hash(seeds.view(-1, *(1 for _ in shape))) + index * 0x9E3779B9)


def _hash(x: Tensor) -> Tensor:
    """Mixes the lower 32 bits of int64 (xor-shift and multiply, two rounds)."""
    x = (x ^ ((x & MASK) >> 16)) * 0x7FEB352D & MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & MASK
    return x ^ (x >> 16)


def dropout(x: Tensor, rate: float, noise: Tensor | None) -> Tensor:
    """Zero elements of x (B, …) with probability `rate` and scale the rest, by one random integer a row (B,)."""
    if noise is None or rate == 0:
        return x
    return x * (draw(noise, *x.shape[1:]) >= rate * 2**32) / (1 - rate)


def drop_rows(x: Tensor, rate: float, noise: Tensor | None) -> Tensor:
    """Zero whole rows of x (B, …) with probability `rate` and scale the rest (stochastic depth, Huang et al., 2016)."""
    if noise is None or rate == 0:
        return x
    return x * (noise >= rate * 2**32).view(-1, *(1 for _ in x.shape[1:])) / (1 - rate)


class Attention(nn.Module):
    """Multi-head self-attention with one kernel for the projection to queries, keys and values.

    Several `patterns` share the heads evenly; the first has the first heads. With `apart`, and for several patterns,
    the parts of the kernel are applied one after the other, so that the queries, keys and values of a pattern each lie
    in one piece; `attend_time` needs no copies then.
    """

    def __init__(self, config: ModelConfig, *patterns: Attend, apart: bool = False):
        super().__init__()
        self.head_width = config.embed_dim // config.num_heads
        self.patterns = patterns
        self.apart = apart or len(patterns) > 1
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.dropout = config.dropout

    def heads(self, x: Tensor, first: int | None = None, pattern: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, D) → queries, keys, values of a pattern, each (B, n, a, k); queries of the `first` tokens, if said."""
        k = self.head_width
        if (first is None and not self.apart) or type(
            self.qkv
        ) is not nn.Linear:  # what wraps a layer wants to be called
            qkv = rearrange(self.qkv(x), "B n (three a k) -> three B n a k", three=3, k=k)
            q, keys, v = qkv.chunk(len(self.patterns), dim=3)[pattern]
            return q[:, :first], keys, v
        whole = self.qkv.weight, self.qkv.bias
        weights, biases = (p.unflatten(0, (3, len(self.patterns), -1))[:, pattern] for p in whole)
        parts = zip((x[:, :first], x, x), weights, biases)
        q, keys, v = (rearrange(F.linear(part, w, b), "B n (a k) -> B n a k", k=k) for part, w, b in parts)
        return q, keys, v

    def forward(self, x: Tensor, noise: Tensor | None = None, first: int | None = None) -> Tensor:  # noise (B,)
        x = as_autocast(x)  # once; each product would cast it again, and keep what it made
        seen = (attend(*self.heads(x, first, i)) for i, attend in enumerate(self.patterns))
        out = [rearrange(part, "B n a k -> B n (a k)") for part in seen]
        return dropout(self.proj(torch.cat(out, dim=2) if len(out) > 1 else out[0]), self.dropout, noise)


def as_autocast(x: Tensor) -> Tensor:
    """In the type in which autocast, where it is on, computes products."""
    on = not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)
    return x.to(torch.get_autocast_dtype(x.device.type)) if on else x


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden = round(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.gelu = GELU[config.activation]
        self.fc2 = nn.Linear(hidden, config.embed_dim)
        self.dropout = config.dropout

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:  # noise (B,)
        hidden = dropout(linear_gelu(x, self.fc1, self.gelu), self.dropout, noise)
        return dropout(self.fc2(hidden), self.dropout, None if noise is None else noise + 1)


class Block(nn.Module):
    """Pre-norm transformer block; `drop_path` is the probability that a sample skips a branch.

    Its heads attend by the `patterns`, in equal parts, by default all of them to all tokens.

    `first` says that only so many tokens of the result are wanted; they are the same, and the rest is not computed.
    """

    def __init__(self, config: ModelConfig, *patterns: Attend, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config, *patterns or (attend_all,))
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.drop_path = drop_path

    def forward(self, x: Tensor, noise: Tensor | None = None, first: int | None = None) -> Tensor:  # noise (B, 6)
        path, element = per_branch(noise)
        x = x[:, :first] + drop_rows(self.attn(self.norm1(x), element[0], first), self.drop_path, path[0])
        return x + drop_rows(self.mlp(self.norm2(x), element[1]), self.drop_path, path[1])


class TimeSpaceBlock(nn.Module):
    """Model 3's block: attention over time, attention over space, one MLP, each with its own residual.

    `norm1` and `attn` are the spatial ones, so that an image ViT's block fits; the temporal ones come on top.
    """

    def __init__(self, config: ModelConfig, *, t: int, drop_path: float = 0.0):
        super().__init__()
        self.norm_time = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn_time = Attention(config, partial(attend_time, t=t), apart=True)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config, partial(attend_space, t=t))
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.drop_path = drop_path
        steps = ["norm_time", "attn_time"], ["norm1", "attn"]
        self.steps = steps if config.attention_order == "time_space" else steps[::-1]

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:  # noise (B, 6)
        path, element = per_branch(noise)
        for i, (norm, attn) in enumerate(self.steps):
            out = self.get_submodule(attn)(self.get_submodule(norm)(x), element[i])
            x = x + drop_rows(out, self.drop_path, path[i])
        return x + drop_rows(self.mlp(self.norm2(x), element[2]), self.drop_path, path[2])


def per_branch(noise: Tensor | None) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """(B, 6) → what decides about each of up to three branches of a block, and about its elements; each (B,)."""
    return ([None] * 3, [None] * 3) if noise is None else (noise[:, :3].unbind(1), noise[:, 3:].unbind(1))
