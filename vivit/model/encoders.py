"""The four encoders of the paper (section 3.3), one under the other: tokens (B, t, s, D) → features (B, D)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig
from .cpu_kernels import is_traced
from .layers import (
    BRANCHES,
    Block,
    TimeSpaceBlock,
    attend_space,
    attend_time,
    dropout,
    random_bits,
)


class Transformer(nn.Module):
    """Class token, learned positions, blocks, norm, pooling: a ViT behind its patch embedding.

    `grid` (t, h, w) is the arrangement of the tokens of one sequence, needed only to resize the positions.
    """

    def __init__(self, config: ModelConfig, *, grid: tuple[int, int, int], blocks: list[nn.Module]):
        super().__init__()
        self.grid = grid
        has_cls = config.pool == "cls"
        tokens = grid[0] * grid[1] * grid[2] + has_cls
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if has_cls else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.embed_dim))
        self.dropout = config.dropout
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.norm_after_pool = config.norm_after_pool

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, …, D) → (B, D); seeds (B,)
        bits: list[Tensor | None] = [None] * (len(self.blocks) + 1)  # of each block, and of the tokens
        if seeds is not None:
            bits = [*random_bits(seeds, len(bits), 2 * BRANCHES).unbind(1)]
        x = dropout(self.add_positions(tokens), self.dropout, None if bits[-1] is None else bits[-1][:, 0])
        for block, block_bits in zip(self.blocks[:-1], bits):
            x = block(x, block_bits)
        return self.pool_and_norm(self.last_block(x, bits[-2]))

    def add_positions(self, tokens: Tensor) -> Tensor:
        """Put the class token, if there is one, before the tokens and add the positions: (B, …, D) → (B, n, D)."""
        x = tokens.flatten(1, -2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x + self.pos_embed

    def last_block(self, x: Tensor, bits: Tensor | None) -> Tensor:
        """Compute the tokens that pooling reads: with a class token only that one, (B, n, D) → (B, 1, D)."""
        last = self.blocks[-1]
        return last(x, bits) if self.cls_token is None else last(x, bits, num_queries=1)

    def pool_and_norm(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, n, D) → (B, D): the class token, or the mean of the tokens, weighted by `weights` (B, n)."""
        if not self.norm_after_pool:
            x = self.norm(x)
        x = x[:, 0] if self.cls_token is not None else mean_over_tokens(x, weights)
        return self.norm(x) if self.norm_after_pool else x

    def resize(self, grid: tuple[int, int, int]) -> None:
        """Interpolate the positions to another grid (t, h, w); the class token's position stays."""
        self.pos_embed = nn.Parameter(resize_positions(self.pos_embed.detach(), self.grid, grid))
        self.grid = grid


def mean_over_tokens(x: Tensor, weights: Tensor | None = None) -> Tensor:  # (B, n, D), (B, n) → (B, D)
    if weights is None:
        return x.mean(dim=1)
    return ((x * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)).to(x.dtype)


def spatiotemporal(config: ModelConfig) -> Transformer:
    """Model 1: every token sees every token, of all frames."""
    blocks = [Block(config, drop_path=p) for p in drop_path_rates(config, config.depth)]
    return Transformer(config, grid=config.grid, blocks=[*blocks])


class FactorisedEncoder(nn.Module):
    """Model 2: a transformer over space for each temporal position, then one over time on their features.

    Without gradients, equal temporal positions of all clips of a batch go through the first one once (see `once`),
    unless `share` is off.

    With `temporal_depth=0` the features are averaged over time instead, the paper's baseline. With `temporal_skip` that
    average is added to what the transformer over time gives, which starts at zero (see init_weights).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        t, h, w = config.grid
        self.share = True
        spatial = [Block(config, drop_path=p) for p in drop_path_rates(config, config.depth)]
        self.spatial = Transformer(config, grid=(1, h, w), blocks=[*spatial])
        self.temporal: nn.Module = MeanOverTime()
        if config.temporal_depth:
            temporal = [Block(config, drop_path=p) for p in drop_path_rates(config, config.temporal_depth)]
            self.temporal = Transformer(config, grid=(t, 1, 1), blocks=[*temporal])
        self.skip = MeanOverTime() if config.temporal_skip else None

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, t, s, D) → (B, D); seeds (B,)
        t = tokens.shape[1]
        frames = rearrange(tokens, "B t s D -> (B t) s D")
        if self.share and seeds is None:
            frames = encode_unique(self.spatial, frames)
        else:
            frames = self.spatial(frames, None if seeds is None else random_bits(seeds, t).flatten())
        frames = rearrange(frames, "(B t) D -> B t D", t=t)
        out = self.temporal(frames, seeds)
        return out if self.skip is None else out + self.skip(frames)

    def resize(self, grid: tuple[int, int, int]) -> None:
        """Interpolate the spatial and the temporal positions to another grid (t, h, w)."""
        t, h, w = grid
        self.spatial.resize((1, h, w))
        if isinstance(self.temporal, Transformer):
            self.temporal.resize((t, 1, 1))


def encode_unique(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """encode(x) row by row, where rows that are equal to the bit are encoded once; with gradients all are.

    Test views overlap, a short video is repeated to fill a clip, and converted videos hold frames twice.
    """
    fixed = torch.compiler.is_compiling() or is_traced()  # a graph for any input keeps every row
    if fixed or torch.is_grad_enabled() or x.device.type not in ("cpu", "cuda"):
        return encode(x)
    try:
        found = unique_rows(x)
    except RuntimeError:  # torch.func.vmap has no operators whose result has as many rows as the data say
        found = None
    if found is None:
        return encode(x)
    place, which = found
    return encode(x[place])[which]


def unique_rows(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """(one index of each distinct row, for every row which of these it equals); None where no row repeats.

    Candidates share a random linear hash of their bits; then they are compared exactly.
    """
    rows = x.flatten(1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
    high, low = random_bits(torch.arange(2, device=x.device), rows.shape[1])
    factors = (high << 32) + low
    sums = torch.cat([(some * factors).sum(dim=1) for some in rows.split(16)])
    found, which = sums.unique(return_inverse=True)
    if len(found) == len(x):
        return None
    place = torch.empty_like(found).scatter_(0, which, torch.arange(len(x), device=x.device))
    return (place, which) if torch.equal(x[place][which], x) else None


class MeanOverTime(nn.Module):
    def forward(self, frames: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, t, D) → (B, D)
        return frames.mean(dim=1)


def factorised_self_attention(config: ModelConfig) -> Transformer:
    """Model 3: attention over time and attention over space in every block."""
    blocks = [TimeSpaceBlock(config, t=config.grid[0], drop_path=p) for p in drop_path_rates(config, config.depth)]
    return Transformer(config, grid=config.grid, blocks=[*blocks])


def factorised_dot_product(config: ModelConfig) -> Transformer:
    """Model 4: the first half of the heads of every attention sees time, the second space."""
    patterns = [partial(attend, t=config.grid[0]) for attend in (attend_time, attend_space)]
    blocks = [Block(config, *patterns, drop_path=p) for p in drop_path_rates(config, config.depth)]
    return Transformer(config, grid=config.grid, blocks=[*blocks])


ENCODERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "spatiotemporal": spatiotemporal,
    "factorised_encoder": FactorisedEncoder,
    "factorised_self_attention": factorised_self_attention,
    "factorised_dot_product": factorised_dot_product,
}


def drop_path_rates(config: ModelConfig, depth: int) -> list[float]:
    """Layer i of L is skipped with probability rate · i / (L − 1) (paper, section 4.1; Huang et al., 2016)."""
    return [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]


def resize_positions(positions: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """Learned positions (1, [1 +] t·h·w, D) of grid `old` for the grid `new`: bicubic in (h, w), linear in t.

    A leading class-token position is kept. The same grid gives the same positions, to the bit.
    """
    if old == new:
        return positions.clone()
    cls, patches = positions.split((positions.shape[1] - old[0] * old[1] * old[2], old[0] * old[1] * old[2]), dim=1)
    x = rearrange(patches, "1 (t h w) D -> t D h w", t=old[0], h=old[1])
    if old[1:] != new[1:]:
        x = F.interpolate(x.float(), size=new[1:], mode="bicubic", antialias=True)
    if old[0] != new[0]:
        x = rearrange(x, "t D h w -> (h w) D t")
        x = F.interpolate(x.float(), size=new[0], mode="linear", align_corners=False)
        x = rearrange(x, "(h w) D t -> t D h w", h=new[1])
    return torch.cat((cls, rearrange(x, "t D h w -> 1 (t h w) D").to(positions.dtype)), dim=1)
