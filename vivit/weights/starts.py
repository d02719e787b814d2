"""Known weights to start from, by short names: what they are, where they are, and what was published about them.

`--init`, `create(init=)` and `from_pretrained` take these names. Published numbers are top-1 accuracies in percent as
their sources state them; numbers that no source states are left out. This file imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROBE = "attentive probe on the frozen model"
SIZES = {
    "S": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "B": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "L": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "H": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "g": {"embed_dim": 1408, "depth": 40, "num_heads": 22, "mlp_ratio": 48 / 11},
}
JEPA = {"encoder": "spatiotemporal", "pool": "mean", "positions": "rope_3d", "activation": "gelu"}
FRAMES = {"encoder": "factorised_encoder", "num_frames": 16}  # an image model, as `vivit train finetune` takes it
DINO = FRAMES | {"positions": "rope_2d", "num_registers": 4, "activation": "gelu"}
MAE = {"encoder": "spatiotemporal", "pool": "mean", "activation": "gelu", "num_frames": 16}


@dataclass(frozen=True)
class Start:
    """Weights that a model can start from."""

    hub: str
    """The hub id."""
    parameters: float
    """Millions of parameters of the model that starts from them, without a head."""
    clip: tuple[int, int]
    """Frames of a clip, and pixels of its height and width."""
    licence: str = ""
    """As the source states it; empty: see the page of the weights."""
    frozen: dict[str, float] = field(default_factory=dict)
    """Published accuracy of a head on frozen features, by dataset."""
    tuned: dict[str, float] = field(default_factory=dict)
    """Published accuracy after fine-tuning, by dataset."""
    source: str = ""
    """Where the numbers are from, and how they were measured."""
    multiply_adds: int | None = None
    """Billions of multiply-adds of one clip, as `vivit info` counts them; None: not counted here."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig, for measuring with random weights; empty: the config is in the file only."""

    @property
    def is_image(self) -> bool:
        """Whether it is an image model, which becomes Model 2's layers over space."""
        return self.model.get("encoder") == "factorised_encoder"


def jepa(size: str, side: int, frames: int = 64) -> dict[str, Any]:
    """Return the fields of a V-JEPA 2 encoder."""
    return JEPA | SIZES[size] | {"num_frames": frames, "image_size": (side, side)}


JEPA_SOURCE = f"README of facebookresearch/vjepa2: {PROBE}"
PRISM_SOURCE = "README of google-deepmind/videoprism: attention pooling and a linear layer on the frozen model"
PRISM_LICENCE = "Apache-2.0 code, CC-BY rest"
STARTS: dict[str, Start] = {
    "vivit-base": Start(
        "google/vivit-b-16x2-kinetics400",
        88.6,
        (32, 224),
        tuned={"K400": 79.9},
        source="README of scenic's projects/vivit: 4 x 3 views",
        multiply_adds=452,
        model={"encoder": "spatiotemporal"} | SIZES["B"],
    ),
    "videomae-base": Start("MCG-NJU/videomae-base", 87.4, (16, 224), multiply_adds=180, model=MAE | SIZES["B"]),
    "videomae-large": Start("MCG-NJU/videomae-large", 305.5, (16, 224), multiply_adds=597, model=MAE | SIZES["L"]),
    "videoprism-base": Start(
        "google/videoprism-base-f16r288",
        114,
        (16, 288),
        PRISM_LICENCE,
        frozen={"K400": 82.9, "SSv2": 62.2, "Diving48": 64.3},
        source=PRISM_SOURCE,
    ),
    "videoprism-large": Start(
        "google/videoprism-large-f8r288",
        354,
        (8, 288),
        PRISM_LICENCE,
        frozen={"K400": 85.0, "SSv2": 64.6, "Diving48": 67.6},
        source=PRISM_SOURCE,
    ),
    "vjepa2-large": Start(
        "facebook/vjepa2-vitl-fpc64-256",
        303.9,
        (64, 256),
        "MIT",
        frozen={"SSv2": 73.7, "Diving48": 89.0},
        source=JEPA_SOURCE,
        multiply_adds=5785,
        model=jepa("L", 256),
    ),
    "vjepa2-large-ssv2": Start(
        "facebook/vjepa2-vitl-fpc16-256-ssv2",
        353.2,
        (16, 256),
        "MIT",
        frozen={"SSv2": 73.7},
        source=f"{JEPA_SOURCE}, which these weights include",
        multiply_adds=935,
        model=jepa("L", 256, 16) | {"pool": "attentive", "pool_depth": 3},
    ),
    "vjepa2-huge": Start(
        "facebook/vjepa2-vith-fpc64-256", 631.6, (64, 256), "MIT", multiply_adds=10668, model=jepa("H", 256)
    ),
    "vjepa2-giant": Start(
        "facebook/vjepa2-vitg-fpc64-256", 1012.2, (64, 256), "MIT", multiply_adds=15845, model=jepa("g", 256)
    ),
    "vjepa2-giant-384": Start(
        "facebook/vjepa2-vitg-fpc64-384",
        1012.2,
        (64, 384),
        "MIT",
        frozen={"SSv2": 77.3, "Diving48": 90.2},
        source=JEPA_SOURCE,
        multiply_adds=56911,
        model=jepa("g", 384),
    ),
    "dinov3-small": Start(
        "facebook/dinov3-vits16-pretrain-lvd1689m",
        29.0,
        (16, 224),
        "DINOv3 License",
        multiply_adds=38,
        model=DINO | SIZES["S"],
    ),
    "dinov3-base": Start(
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        114.6,
        (16, 224),
        "DINOv3 License",
        multiply_adds=145,
        model=DINO | SIZES["B"],
    ),
    "dinov3-large": Start(
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
        354.3,
        (16, 224),
        "DINOv3 License",
        multiply_adds=504,
        model=DINO | SIZES["L"],
    ),
    "dinov2-base": Start(
        "facebook/dinov2-with-registers-base",
        114.5,
        (16, 224),
        multiply_adds=189,
        model=FRAMES | SIZES["B"] | {"tubelet_size": (2, 14, 14), "num_registers": 4, "activation": "gelu"},
    ),
    "siglip2-base": Start(
        "google/siglip2-base-patch16-224",
        121.2,
        (16, 224),
        "Apache-2.0",
        multiply_adds=143,
        model=FRAMES | SIZES["B"] | {"pool": "attentive"},
    ),
    "clip-base": Start(
        "openai/clip-vit-base-patch16",
        114.8,
        (16, 224),
        multiply_adds=142,
        model=FRAMES | SIZES["B"] | {"norm_pre": True, "activation": "quick_gelu"},
    ),
    "vit-base": Start(
        "google/vit-base-patch16-224-in21k", 114.7, (16, 224), multiply_adds=142, model=FRAMES | SIZES["B"]
    ),
}


def hub_id(name: str) -> str:
    """Return the hub id of a short name; anything else is returned as it is."""
    return STARTS[name].hub if name in STARTS else name
