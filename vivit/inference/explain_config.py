"""Settings of explanations. Imports nothing heavy, for the help of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import check, one_of, positive

Method = Literal["gradient_attention", "rollout", "occlusion"]
METHODS: tuple[Method, ...] = ("gradient_attention", "rollout", "occlusion")


@dataclass(frozen=True)
class ExplainConfig:
    """How maps are computed and checked. The defaults suit a clip of any size."""

    fill: Literal["median", "mean", "blur"] = "median"
    """What hides a tile, in occlusion and in the check: each frame's median or mean color, or the frame blurred."""
    time_fill: Literal["frozen", "neighbors"] = "frozen"
    """What hides a temporal position in occlusion: the frame before it, or the mean of both neighbors."""
    tile: tuple[int, int, int] | None = None
    """Time, height and width of a tile of occlusion, in cells: a position, half a patch. None: at most 512 tiles."""
    drop: Literal["logit", "probability"] = "logit"
    """What drops in occlusion: the logit or the probability of the class."""
    steps: int = 8
    """Steps of a deletion or insertion curve."""
    random_orders: int = 19
    """Random orders that a map has to beat; 0 leaves out the check."""
    seed: int = 0
    """Seed of the random orders."""
    batch_size: int = 16
    """Clips in one forward pass; changes memory and speed, not the result."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it; gradients are in the model's own."""

    def __post_init__(self):
        one_of(self, "fill", "time_fill", "drop", "precision")
        positive(self, "batch_size")
        check(self.steps >= 2, f"steps is {self.steps}; a curve has 2 or more steps")
        check(self.random_orders >= 0, f"random_orders is {self.random_orders}; it is 0 (no check) or more")
        check(self.tile is None or min(self.tile) > 0, f"tile is {self.tile}; each side is 1 or more cells")


DEFAULT = ExplainConfig()
