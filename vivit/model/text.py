"""The text tower of VideoPrism's video-text models: tokens of a text to a vector beside the features of videos.

Zhao et al. 2024, arXiv 2402.13217; its layers are those of CoCa's text encoder (Yu et al. 2022, arXiv 2205.01917).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class TextConfig:
    """The architecture of a text tower."""

    vocabulary: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden: int
    """Width of the hidden layer of each MLP."""
    max_tokens: int = 64
    norm_eps: float = 1e-6
    attn_logit_cap: float = 50.0
    """Soft cap c of the attention scores, c · tanh(score / c)."""
    unit_length: bool = True
    """Divide the result by its length."""


class TextTower(nn.Module):
    """Causal transformer whose class token comes last: token ids (B, n) → (B, D)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.token_embed = nn.Embedding(config.vocabulary, config.embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(config.max_tokens, config.embed_dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.blocks = nn.ModuleList([TextBlock(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def forward(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Map token ids (B, n) to vectors (B, D); `is_token` (B, n) bool is False for padding, never for the first."""
        scale = math.sqrt(self.config.embed_dim)
        x = self.token_embed(ids) * scale + self.pos_embed[: ids.shape[1]]
        x = torch.cat((x, (self.cls_token * scale).expand(len(x), -1, -1)), dim=1)
        sees = F.pad(is_token, (0, 1), value=True)[:, None, None] & ids.new_ones(x.shape[1], x.shape[1]).tril().bool()
        for block in self.blocks:
            x = block(x, sees)
        x = self.norm(x[:, -1])
        return F.normalize(x, dim=1) if self.config.unit_length else x


class TextBlock(nn.Module):
    """Pre-norm transformer block with a ReLU, with timm's parameter names."""

    def __init__(self, config: TextConfig):
        super().__init__()
        width = config.embed_dim
        self.num_heads, self.logit_cap = config.num_heads, config.attn_logit_cap
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=config.norm_eps) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, config.hidden), "fc2": nn.Linear(config.hidden, width)})

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        """Map (B, n, D) to (B, n, D); `sees` (B, 1, n, n) says which token (last) each token (before it) attends to."""
        qkv = self.attn["qkv"](self.norm1(x))
        q, k, v = rearrange(qkv, "B n (three a k) -> three B a n k", three=3, a=self.num_heads)
        scores = self.logit_cap * torch.tanh(q @ k.mT / math.sqrt(q.shape[-1]) / self.logit_cap)
        out = scores.masked_fill(~sees, -math.inf).softmax(dim=-1) @ v
        x = x + self.attn["proj"](rearrange(out, "B a n k -> B n (a k)"))
        return x + self.mlp["fc2"](F.relu(self.mlp["fc1"](self.norm2(x))))
