"""Rotary positions: rotate queries and keys by angles that depend on the place of a token (Su et al., 2021).

Feature i of a head is paired with feature i + k / 2. Both are rotated, so the attention of two tokens depends on where
they are. There are no parameters, so other grids need no interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ..config import ModelConfig

Grid = tuple[int, int, int]


def angles_3d(grid: Grid, head_dim: int) -> Tensor:
    """Return angles (t·h·w, k) of V-JEPA 2: a third of the features for time, height and width each, the rest 0.

    Places are integers. In a third of p pairs, feature j turns by place · 10000^(−(j mod p) / p). So the two features
    of a pair have different angles, which is not quite a rotation; the released weights were trained with that. There
    a pair is (2i, 2i + 1); here it is (i, i + k / 2), and loading permutes the features of queries and keys.
    """
    pairs = head_dim // 6
    frequencies = 10_000.0 ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid))
    angles = (places[:, :, None] * frequencies.repeat(2)).flatten(1)
    return rearrange(F.pad(angles, (0, head_dim - angles.shape[1])), "n (pair two) -> n (two pair)", two=2)


def angles_2d(grid: Grid, head_dim: int) -> Tensor:
    """Return angles (t·h·w, k) of DINOv3: half of the features for height and half for width; time has no angle.

    Places are the centres of patches on a scale from −1 to 1, whatever the size of the frame. Frequencies are
    2π · 100^(−4 j / k).
    """
    t, h, w = grid
    frequencies = 2 * math.pi * 100.0 ** -(torch.arange(head_dim // 4, dtype=torch.float64) * 4 / head_dim)
    centres = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (h, w))
    angles = (torch.cartesian_prod(*centres)[:, :, None] * frequencies).flatten(1)
    return repeat(angles, "s half -> (t s) (two half)", t=t, two=2)


# config.positions → angles (t·h·w, k) of a token grid (t, h, w) for heads of k features. "learned" has none.
ANGLES: dict[str, Callable[[Grid, int], Tensor]] = {"rope_3d": angles_3d, "rope_2d": angles_2d}


class Rope(nn.Module):
    """Rotate the queries or keys of the first m tokens of a sequence, (B, m, a, k).

    The first `prefix` tokens, class and register tokens, have no place and stay. The tables are not saved. A model that
    was built on the meta device gets them by `fill_tables`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, kind: str, grid: Grid, head_dim: int, *, prefix: int):
        super().__init__()
        self.kind, self.grid, self.head_dim, self.prefix = kind, grid, head_dim, prefix
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(prefix + math.prod(grid), head_dim), persistent=False)
        if not self.cos.is_meta:
            self.fill(self.cos.device)

    def fill(self, device: torch.device | None = None) -> None:
        """Compute the tables, on the CPU and in double precision, and move them to `device`."""
        with torch.device("cpu"):
            angles = F.pad(ANGLES[self.kind](self.grid, self.head_dim), (0, 0, self.prefix, 0))
        self.cos, self.sin = (table.float().to(device) for table in (angles.cos(), angles.sin()))

    def forward(self, x: Tensor) -> Tensor:  # (B, m, a, k)
        cos, sin = (table[: x.shape[1], None].to(x.dtype) for table in (self.cos, self.sin))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin


def build_rope(config: ModelConfig, grid: Grid) -> Rope | None:
    """Build the rotation for sequences of the token grid (t, h, w), None where positions are learned."""
    if config.positions == "learned":
        return None
    return Rope(config.positions, grid, config.embed_dim // config.num_heads, prefix=config.num_prefix_tokens)


def fill_tables(model: nn.Module, device: torch.device | None = None) -> None:
    """Compute the tables of all rotations of a model that was built on the meta device."""
    for rope in (module for module in model.modules() if isinstance(module, Rope)):
        rope.fill(device)
