"""The four encoders of the paper (section 3.3): tokens (B, t, s, D) → features (B, D)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ENCODERS, ModelConfig, replace
from .cpu_kernels import is_jit_tracing
from .layers import (
    MAX_BRANCHES,
    AttentionPool,
    Block,
    TimeSpaceBlock,
    dropout,
    pool_block_config,
    random_bits,
    spatial_attention,
    temporal_attention,
)
from .rope import build_rope

Pool = Literal["cls", "mean", "attention", "attentive", "none"]


class Transformer(nn.Module):
    """A ViT between patch embedding and head: class and register tokens, positions, blocks, norm, pooling.

    `grid` (t, h, w) is how the tokens of one sequence are arranged. `pool` is cls, mean, attention, attentive or none,
    which keeps all tokens; by default it is as the config says. Rotary positions are in the blocks. rope_2d has no
    time, so it comes with learned temporal positions, which start at zero.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        grid: tuple[int, int, int],
        blocks: list[nn.Module],
        pool: Pool | None = None,
    ):
        super().__init__()
        self.grid, self.positions = grid, config.positions
        self.interpolation: Literal["bicubic", "linear"] = config.interpolation
        self.num_prefix_tokens = config.num_prefix_tokens
        self.pool = pool or ("attention" if config.attention_pool else config.pool)
        has_cls = config.pool == "cls"
        tokens = grid[0] * grid[1] * grid[2] + has_cls
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if has_cls else None
        learned, only_time = config.positions == "learned", config.positions == "rope_2d" and grid[0] > 1
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.embed_dim)) if learned else None
        self.time_embed = nn.Parameter(torch.zeros(1, grid[0], config.embed_dim)) if only_time else None
        registers = config.num_registers
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, config.embed_dim)) if registers else None
        self.norm_pre = nn.LayerNorm(config.embed_dim, eps=config.norm_eps) if config.norm_pre else None
        self.dropout = config.dropout
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.pool_norm_eps or config.norm_eps)
        self.norm_after_pool = config.norm_after_pool
        self.pool_blocks = nn.ModuleList([Block(pool_block_config(config)) for _ in range(config.pool_depth)])
        has_query = self.pool in ("attention", "attentive")
        self.attention_pool = AttentionPool(config, has_mlp=self.pool == "attentive") if has_query else None

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map (B, …, D) to (B, D), or to (B, n, D) without pooling; dropout and stochastic depth need `seeds` (B,)."""
        bits: list[Tensor | None] = [None] * (len(self.blocks) + 1)  # one per block, and one for the tokens
        if seeds is not None:
            bits = [*random_bits(seeds, len(bits), 2 * MAX_BRANCHES).unbind(1)]
        x = dropout(self.add_positions(tokens), self.dropout, None if bits[-1] is None else bits[-1][:, 0])
        return self.forward_blocks(x, bits)

    def forward_blocks(self, x: Tensor, bits: Sequence[Tensor | None], first: int = 0) -> Tensor:
        """Apply the blocks from number `first` on, norm and pooling: (B, n, D) → (B, D). `bits` has one per block."""
        for block, block_bits in zip(self.blocks[first:-1], bits[first:]):
            x = block(x, block_bits)
        return self.pool_and_norm(self.forward_last_block(x, bits[len(self.blocks) - 1]))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Map (B, …, D) to the tokens (B, n, D) after blocks and norm, without class and register tokens; inference."""
        x = self.add_positions(tokens)
        for block in self.blocks:
            x = block(x, None)
        return self.norm(x[:, self.num_prefix_tokens :])

    def add_positions(self, tokens: Tensor) -> Tensor:
        """Prepend class and register tokens, if the model has any, and add the positions: (B, …, D) → (B, n, D)."""
        if self.time_embed is not None:
            tokens = tokens + self.time_embed[:, :, None]
        x = tokens.flatten(1, -2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if self.register_tokens is not None:  # they have no positions
            x = torch.cat((x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]), dim=1)
        return x if self.norm_pre is None else self.norm_pre(x)

    def forward_last_block(self, x: Tensor, bits: Tensor | None) -> Tensor:
        """Apply the last block; if pooling reads the class token, only to it: (B, n, D) → (B, 1, D)."""
        last = self.blocks[-1]
        return last(x, bits, num_queries=1) if self.pool == "cls" else last(x, bits)

    def pool_and_norm(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Map (B, n, D) to (B, D) as `pool` says, or to (B, n, D) for none; `weights` (B, n) weight the mean."""
        if not self.norm_after_pool:
            x = self.norm(x)
        if self.pool == "none":
            return x
        for block in self.pool_blocks:
            x = block(x)
        if self.attention_pool is not None:
            return self.attention_pool(x)
        x = x[:, 0] if self.pool == "cls" else mean_over_tokens(x, weights)
        return self.norm(x) if self.norm_after_pool else x

    def resize(self, grid: tuple[int, int, int]) -> None:
        """Interpolate learned positions to another grid (t, h, w); the position of the class token stays."""
        if self.pos_embed is not None:
            self.pos_embed = nn.Parameter(
                resize_positions(self.pos_embed.detach(), self.grid, grid, self.interpolation)
            )
        if self.positions == "rope_2d":
            over_time = self.norm.weight.new_zeros(1, 1, len(self.norm.weight))  # of a single temporal position
            over_time = over_time if self.time_embed is None else self.time_embed.detach()
            resized = resize_positions(over_time, (self.grid[0], 1, 1), (grid[0], 1, 1), self.interpolation)
            self.time_embed = nn.Parameter(resized) if grid[0] > 1 else None
        self.grid = grid


def mean_over_tokens(x: Tensor, weights: Tensor | None = None) -> Tensor:  # (B, n, D), (B, n) → (B, D)
    if weights is None:
        return x.mean(dim=1)
    return ((x * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)).to(x.dtype)


def spatiotemporal(config: ModelConfig) -> Transformer:
    """Build Model 1: every token attends to all tokens of the clip."""
    rope = build_rope(config, config.grid)
    blocks = [Block(config, drop_path=p, rope=rope) for p in drop_path_rates(config, config.depth)]
    return Transformer(config, grid=config.grid, blocks=[*blocks])


class FactorisedEncoder(nn.Module):
    """Model 2: a spatial transformer on each temporal position, then a temporal transformer on their features.

    Without gradients, temporal positions with equal tokens are encoded once per batch (`encode_unique`), unless
    `deduplicate` is False.

    With `temporal_depth=0` the features are averaged over time instead, the paper's baseline, or pooled by attention.
    With `temporal_skip` the average over time is added to the features, which start at zero without it (see
    `init_weights`). Without `pool_space`, frames keep their tokens: features of a frame are (s, D) instead of (D).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        t, h, w = config.grid
        self.deduplicate = True
        rope = build_rope(config, (1, h, w))
        spatial = [Block(config, drop_path=p, rope=rope) for p in drop_path_rates(config, config.depth)]
        pool = config.pool if config.pool_space else "none"
        self.spatial = Transformer(config, grid=(1, h, w), blocks=[*spatial], pool=pool)
        self.temporal: nn.Module = AttentionPool(config) if config.attention_pool else TemporalMeanPool()
        if config.temporal_depth:
            temporal = [Block(config, drop_path=p) for p in drop_path_rates(config, config.temporal_depth)]
            build = Transformer if config.pool_space else PerPositionTransformer
            self.temporal = build(temporal_config(config), grid=(t, 1, 1), blocks=[*temporal])
        self.skip = TemporalMeanPool() if config.temporal_skip else None

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map (B, t, s, D) to (B, D). With `seeds` (B,), dropout and stochastic depth are on."""
        return self.encode_time(self.encode_space(tokens, seeds), seeds)

    def encode_space(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Encode each temporal position on its own: (B, t, s, D) → (B, t, D), or (B, t, s, D) without `pool_space`."""
        t = tokens.shape[1]
        x = rearrange(tokens, "B t s D -> (B t) s D")
        if self.deduplicate and seeds is None:
            x = encode_unique(self.spatial, x)
        else:
            x = self.spatial(x, None if seeds is None else random_bits(seeds, t).flatten())
        return x.unflatten(0, (-1, t))

    def encode_time(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map the temporal positions of a clip, as `encode_space` returns them, to features (B, D)."""
        out = self.temporal(x, seeds)
        return out if self.skip is None else out + self.skip(x)

    def resize(self, grid: tuple[int, int, int]) -> None:
        """Interpolate the spatial and the temporal positions to another grid (t, h, w)."""
        t, h, w = grid
        self.spatial.resize((1, h, w))
        if isinstance(self.temporal, Transformer):
            self.temporal.resize((t, 1, 1))


def temporal_config(config: ModelConfig) -> ModelConfig:
    """Return the config of Model 2's transformer over time: registers, rotary positions and the like are for space."""
    pool = "cls" if config.pool == "cls" else "mean"
    over_space = {"pool_depth": 0, "pool_mlp_ratio": None, "pool_norm_tokens": True}
    return replace(config, positions="learned", num_registers=0, norm_pre=False, pool=pool, **over_space)


def encode_unique(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute encode(x), but encode rows of x that are bitwise equal only once. With gradients, encode every row.

    Rows repeat because test views overlap, short videos are looped to fill a clip, and converted videos repeat frames.
    """
    records_graph = torch.compiler.is_compiling() or is_jit_tracing()  # the graph has to hold for every input
    if records_graph or torch.is_grad_enabled() or x.device.type not in ("cpu", "cuda"):
        return encode(x)
    try:
        unique = unique_rows(x)
    except RuntimeError:  # torch.func.vmap has no operators with data-dependent shapes
        unique = None
    if unique is None:
        return encode(x)
    index, inverse = unique
    return encode(x[index])[inverse]


def unique_rows(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return (index, inverse) such that x[index] holds each distinct row once and x[index][inverse] equals x.

    Rows are grouped by a random linear hash of their bits, and the groups are then checked exactly. None if all rows
    differ or the check fails (a hash collision, or NaN).
    """
    rows = x.flatten(1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
    high, low = random_bits(torch.arange(2, device=x.device), rows.shape[1])
    factors = (high << 32) + low
    hashes = torch.cat([(chunk * factors).sum(dim=1) for chunk in rows.split(16)])
    distinct, inverse = hashes.unique(return_inverse=True)
    if len(distinct) == len(x):
        return None
    index = torch.empty_like(distinct).scatter_(0, inverse, torch.arange(len(x), device=x.device))
    return (index, inverse) if torch.equal(x[index][inverse], x) else None


class PerPositionTransformer(Transformer):
    """Transformer over time at every place of the frame on its own, and pooling of all tokens: VideoPrism's Model 2.

    With `joint_depth`, layers over all tokens of the clip come before the pooling.
    """

    def __init__(self, config: ModelConfig, *, grid: tuple[int, int, int], blocks: list[nn.Module]):
        super().__init__(config, grid=grid, blocks=blocks, pool="none")
        rates = drop_path_rates(config, config.joint_depth)
        self.joint = nn.ModuleList([Block(config, drop_path=p) for p in rates])
        self.attention_pool = AttentionPool(config) if config.attention_pool else None

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map (B, t, s, D) to (B, D). With `seeds` (B,), dropout and stochastic depth are on."""
        x = self.encode_tokens(tokens, seeds).flatten(1, 2)
        return x.mean(dim=1) if self.attention_pool is None else self.attention_pool(x)

    def encode_tokens(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map (B, t, s, D) to features of each token (B, t, s, D)."""
        t, s = tokens.shape[1:3]
        place_seeds = None if seeds is None else random_bits(seeds, s).flatten()
        x = super().forward(rearrange(tokens, "B t s D -> (B s) t D"), place_seeds)
        x = rearrange(x, "(B s) t D -> B (t s) D", s=s)
        bits: Sequence[Tensor | None] = [None] * len(self.joint)
        if seeds is not None:
            bits = random_bits(~seeds, len(self.joint), 2 * MAX_BRANCHES).unbind(1)
        for block, block_bits in zip(self.joint, bits):
            x = block(x, block_bits)
        return x.unflatten(1, (t, s))


class TemporalMeanPool(nn.Module):
    """Mean over time, called like the temporal transformer that it replaces."""

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, t, D) → (B, D)
        return x.mean(dim=1)


def factorised_self_attention(config: ModelConfig) -> Transformer:
    """Build Model 3: every block attends over time and over space."""
    t, rope = config.grid[0], build_rope(config, config.grid)
    blocks = [TimeSpaceBlock(config, t=t, drop_path=p, rope=rope) for p in drop_path_rates(config, config.depth)]
    return Transformer(config, grid=config.grid, blocks=[*blocks])


def factorised_dot_product(config: ModelConfig) -> Transformer:
    """Build Model 4: in every block, half of the heads attend over time and the other half over space."""
    over = {"t": config.grid[0], "logit_cap": config.attn_logit_cap}
    attention_fns = [partial(attend, **over) for attend in (temporal_attention, spatial_attention)]
    rope = build_rope(config, config.grid)
    blocks = [Block(config, *attention_fns, drop_path=p, rope=rope) for p in drop_path_rates(config, config.depth)]
    return Transformer(config, grid=config.grid, blocks=[*blocks])


# config.encoder → a function from the config to a module that maps tokens (B, t, s, D) to features (B, D), with the
# signature `forward(tokens, seeds=None)`. For `ViViT.resize` it needs a method `resize(grid)` too. Add your own with
# `ENCODERS["mine"] = build`, before you create a config that names it.
ENCODERS.update(
    {
        "spatiotemporal": spatiotemporal,
        "factorised_encoder": FactorisedEncoder,
        "factorised_self_attention": factorised_self_attention,
        "factorised_dot_product": factorised_dot_product,
    }
)


SPATIAL_MODES = {"bicubic": "bicubic", "linear": "bilinear"}  # config.interpolation → PyTorch's name


def drop_path_rates(config: ModelConfig, depth: int) -> list[float]:
    """Return the probability to skip each layer: rate · i / (L − 1) for layer i of L (paper, section 4.1)."""
    return [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]


def resize_positions(
    positions: Tensor,
    old: tuple[int, int, int],
    new: tuple[int, int, int],
    interpolation: Literal["bicubic", "linear"] = "bicubic",
) -> Tensor:
    """Interpolate positions (1, [1 +] t·h·w, D) from grid `old` to grid `new`: bicubic in (h, w), linear in t.

    With `interpolation` linear, linear in all three with antialiasing. A leading class-token position is kept. If the
    grids are equal, the result is an exact copy.
    """
    if old == new:
        return positions.clone()
    cls, patches = positions.split((positions.shape[1] - old[0] * old[1] * old[2], old[0] * old[1] * old[2]), dim=1)
    x = rearrange(patches, "1 (t h w) D -> t D h w", t=old[0], h=old[1])
    if old[1:] != new[1:]:
        x = F.interpolate(x.float(), size=new[1:], mode=SPATIAL_MODES[interpolation], antialias=True)
    if old[0] != new[0]:
        x = rearrange(x, "t D h w -> (h w) D t")
        if interpolation == "linear":  # PyTorch has antialiasing in two dimensions only
            size = (new[0], x.shape[1])
            x = F.interpolate(x.float().mT[:, None], size=size, mode="bilinear", antialias=True)[:, 0].mT
        else:
            x = F.interpolate(x.float(), size=new[0], mode="linear", align_corners=False)
        x = rearrange(x, "(h w) D t -> t D h w", h=new[1])
    return torch.cat((cls, rearrange(x, "t D h w -> 1 (t h w) D").to(positions.dtype)), dim=1)
