"""Models by the names of the paper: "ViViT-B/16x2 FE" is a ModelConfig.

A name is `ViViT-<size>/<patch>x<tubelet depth>[ <variant>]`. The tables below hold the sizes and the variants.
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
)  # the usual ones; other patch sizes and tubelet depths work too


def preset(name: str, **overrides: Any) -> ModelConfig:
    """Return the ModelConfig of a name such as "ViViT-B/16x2 FE": 32 frames of 224 x 224, with `overrides` applied.

    Raises ValueError for a name that does not follow the pattern and for an unknown or invalid field.
    """
    match = re.fullmatch(r"ViViT-(\w+)/(\d+)x(\d+)(?: (\w+))?", name.strip())
    if match is None or match[1] not in SIZES or (match[4] or "") not in VARIANTS:
        raise ValueError(
            f"unknown preset {name!r}{suggestion(name, PRESETS)}; the pattern is 'ViViT-<size>/<patch>x<depth> "
            f"[variant]' with size {', '.join(SIZES)} and variant {', '.join(filter(None, VARIANTS))} or none"
        )
    size, patch, depth, variant = match[1], int(match[2]), int(match[3]), match[4] or ""
    # ViT-Ti has three heads; Model 4 splits them in halves and needs an even number.
    heads = {"num_heads": 4} if variant == "FDP" and SIZES[size]["num_heads"] % 2 else {}
    values = SIZES[size] | VARIANTS[variant] | heads | {"tubelet_size": (depth, patch, patch)}
    return replace(ModelConfig(), **(values | overrides))
