"""Names of models, as the paper writes them: "ViViT-B/16x2 FE" is a ModelConfig.

`ViViT-<size>/<patch>x<tubelet depth>[ <variant>]`, the sizes and variants being the two tables below.
"""

from __future__ import annotations

import re
from typing import Any

from .config import ModelConfig, replace, suggestion

SIZES: dict[str, dict[str, int]] = {
    "Ti": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "S": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "B": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "L": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "H": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}

VARIANTS: dict[str, dict[str, Any]] = {
    "": {"encoder": "spatiotemporal", "pool": "cls"},  # Model 1
    "FE": {"encoder": "factorised_encoder", "pool": "cls", "temporal_depth": 4},  # Model 2
    "FSA": {"encoder": "factorised_self_attention", "pool": "mean"},  # Model 3
    "FDP": {"encoder": "factorised_dot_product", "pool": "mean"},  # Model 4
}

PRESETS: tuple[str, ...] = tuple(
    f"ViViT-{size}/16x2 {variant}".strip() for size in SIZES for variant in VARIANTS
)  # the usual ones; any other patch size and tubelet depth is understood as well


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The ModelConfig of a name such as "ViViT-B/16x2 FE", at 32 frames of 224 x 224; `overrides` are its fields.

    Raises ValueError for a name that does not follow the pattern.
    """
    match = re.fullmatch(r"ViViT-(\w+)/(\d+)x(\d+)(?: (\w+))?", name.strip())
    if match is None or match[1] not in SIZES or (match[4] or "") not in VARIANTS:
        raise ValueError(
            f"unknown preset {name!r}{suggestion(name, PRESETS)}; the pattern is 'ViViT-<size>/<patch>x<depth> "
            f"[variant]' with size {', '.join(SIZES)} and variant {', '.join(filter(None, VARIANTS))} or none"
        )
    size, patch, depth, variant = match[1], int(match[2]), int(match[3]), match[4] or ""
    # A ViT-Ti has three heads; splitting them in halves (Model 4) takes an even number.
    heads = {"num_heads": 4} if variant == "FDP" and SIZES[size]["num_heads"] % 2 else {}
    values = SIZES[size] | VARIANTS[variant] | heads | {"tubelet_size": (depth, patch, patch)}
    return replace(ModelConfig(), **(values | overrides))
