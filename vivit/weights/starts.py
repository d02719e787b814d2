"""Known weights to start from, by short names: what they are, where they are, and what was published about them.

`--init`, `create(init=)` and `from_pretrained` take these names. Published numbers are top-1 accuracies in percent as
their sources state them; numbers that no source states are left out. This file imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROBE = "attentive probe on the frozen model"
JEPA_SOURCE = f"README of facebookresearch/vjepa2: {PROBE}"
PRISM_SOURCE = "README of google-deepmind/videoprism: attention pooling and a linear layer on the frozen model"
PRISM_LICENCE = "Apache-2.0 code, CC-BY rest"
DINO_LICENCE = "DINOv3 License"

# What models have in common, by size …
S = {"embed_dim": 384, "depth": 12, "num_heads": 6}
B = {"embed_dim": 768, "depth": 12, "num_heads": 12}
L = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
H = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
G = {"embed_dim": 1408, "depth": 40, "num_heads": 22, "mlp_ratio": 48 / 11}

# … and by family. An image model counts as Model 2 on 16 frames, as `vivit train finetune` takes it.
VIVIT = {"encoder": "spatiotemporal"}
MAE = {"encoder": "spatiotemporal", "pool": "mean", "activation": "gelu"}
PRISM = {"pool": "mean", "pool_space": False, "tubelet_size": (1, 18, 18), "attn_logit_cap": 50.0, "activation": "gelu"}
JEPA = MAE | {"positions": "rope_3d"}
JEPA_PROBE = JEPA | {"pool": "attentive", "pool_depth": 3}
VIT: dict[str, Any] = {}
DINO_3 = {"positions": "rope_2d", "num_registers": 4, "activation": "gelu"}
DINO_2 = {"tubelet_size": (2, 14, 14), "num_registers": 4, "activation": "gelu"}
SIGLIP = {"pool": "attentive"}
CLIP = {"norm_pre": True, "activation": "quick_gelu"}

FOLDER = "model.safetensors, config.json and preprocessor_config.json"
VIDEO_FOLDER = "model.safetensors, config.json and video_preprocessor_config.json"
PRISM_FILES = "model.safetensors and config.json, or the official .npz alone"


@dataclass(frozen=True)
class Start:
    """Weights that a model can start from."""

    hub: str
    """The hub id."""
    shape: dict[str, Any]
    """Fields of ModelConfig, without those of the clip."""
    clip: tuple[int, int]
    """Frames of a clip, and pixels of its height and width."""
    parameters: float
    """Millions of parameters of the model that starts from them, without a head."""
    multiply_adds: int
    """Billions of multiply-adds of one clip, as `vivit info` counts them."""
    licence: str = ""
    """As the source states it; empty: see the page of the weights."""
    frozen: dict[str, float] = field(default_factory=dict)
    """Published accuracy of a head on frozen features, by dataset."""
    tuned: dict[str, float] = field(default_factory=dict)
    """Published accuracy after fine-tuning, by dataset."""
    source: str = ""
    """Where the numbers are from, and how they were measured."""
    files: str = FOLDER
    """The files of the hub that are needed, where there is no network."""
    is_image: bool = False
    """Whether it is an image model, which becomes Model 2's layers over space."""

    @property
    def model(self) -> dict[str, Any]:
        """Fields of ModelConfig, for measuring with random weights."""
        frames, side = self.clip
        return {"num_frames": frames, "image_size": (side, side)} | self.shape


def image(hub: str, shape: dict[str, Any], parameters: float, multiply_adds: int, licence: str = "") -> Start:
    """Return a row for an image model."""
    return Start(hub, shape, (16, 224), parameters, multiply_adds, licence, is_image=True)


STARTS: dict[str, Start] = {
    "vivit-base": Start(
        *("google/vivit-b-16x2-kinetics400", VIVIT | B, (32, 224), 88.6, 452),
        tuned={"K400": 79.9},
        source="README of scenic's projects/vivit: 4 x 3 views",
    ),
    "videomae-base": Start("MCG-NJU/videomae-base", MAE | B, (16, 224), 87.4, 180),
    "videomae-large": Start("MCG-NJU/videomae-large", MAE | L, (16, 224), 305.5, 597),
    "videoprism-base": Start(
        *("google/videoprism-base-f16r288", PRISM | B, (16, 288), 114.4, 487, PRISM_LICENCE),
        frozen={"K400": 82.9, "SSv2": 62.2, "Diving48": 64.3},
        source=PRISM_SOURCE,
        files=PRISM_FILES,
    ),
    "videoprism-large": Start(
        *("google/videoprism-large-f8r288", PRISM | L, (8, 288), 354.0, 749, PRISM_LICENCE),
        frozen={"K400": 85.0, "SSv2": 64.6, "Diving48": 67.6},
        source=PRISM_SOURCE,
        files=PRISM_FILES,
    ),
    "vjepa2-large": Start(
        *("facebook/vjepa2-vitl-fpc64-256", JEPA | L, (64, 256), 303.9, 5785, "MIT"),
        frozen={"SSv2": 73.7, "Diving48": 89.0},
        source=JEPA_SOURCE,
        files=VIDEO_FOLDER,
    ),
    "vjepa2-large-ssv2": Start(
        *("facebook/vjepa2-vitl-fpc16-256-ssv2", JEPA_PROBE | L, (16, 256), 353.2, 935, "MIT"),
        frozen={"SSv2": 73.7},
        source=f"{JEPA_SOURCE}, which these weights include",
        files=VIDEO_FOLDER,
    ),
    "vjepa2-huge": Start(
        *("facebook/vjepa2-vith-fpc64-256", JEPA | H, (64, 256), 631.6, 10668, "MIT"), files=VIDEO_FOLDER
    ),
    "vjepa2-giant": Start(
        *("facebook/vjepa2-vitg-fpc64-256", JEPA | G, (64, 256), 1012.2, 15845, "MIT"), files=VIDEO_FOLDER
    ),
    "vjepa2-giant-384": Start(
        *("facebook/vjepa2-vitg-fpc64-384", JEPA | G, (64, 384), 1012.2, 56911, "MIT"),
        frozen={"SSv2": 77.3, "Diving48": 90.2},
        source=JEPA_SOURCE,
        files=VIDEO_FOLDER,
    ),
    "dinov3-small": image("facebook/dinov3-vits16-pretrain-lvd1689m", DINO_3 | S, 29.0, 38, DINO_LICENCE),
    "dinov3-base": image("facebook/dinov3-vitb16-pretrain-lvd1689m", DINO_3 | B, 114.6, 145, DINO_LICENCE),
    "dinov3-large": image("facebook/dinov3-vitl16-pretrain-lvd1689m", DINO_3 | L, 354.3, 504, DINO_LICENCE),
    "dinov2-base": image("facebook/dinov2-with-registers-base", DINO_2 | B, 114.5, 189),
    "siglip2-base": image("google/siglip2-base-patch16-224", SIGLIP | B, 121.2, 143, "Apache-2.0"),
    "clip-base": image("openai/clip-vit-base-patch16", CLIP | B, 114.8, 142),
    "vit-base": image("google/vit-base-patch16-224-in21k", VIT | B, 114.7, 142),
}


def hub_id(name: str) -> str:
    """Return the hub id of a short name; anything else is returned as it is."""
    return STARTS[name].hub if name in STARTS else name


def files_of(repo: str) -> str:
    """Return the files of a hub id that a model is read from."""
    return next((start.files for start in STARTS.values() if start.hub == repo), FOLDER)
