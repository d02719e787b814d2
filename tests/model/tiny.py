"""The smallest models of each kind."""

import torch

from vivit.config import ModelConfig
from vivit.model.encoders import ENCODERS
from vivit.model.vivit import ViViT

NAMES = list(ENCODERS)


def config(encoder: str = "factorised_encoder", **changes) -> ModelConfig:
    pool = "mean" if encoder in ("factorised_self_attention", "factorised_dot_product") else "cls"
    values = {
        "classes": {"label": ("a", "b", "c")},
        "pool": pool,
        "tubelet_size": (2, 8, 8),
        "num_frames": 6,
        "image_size": (16, 24),
        "embed_dim": 16,
        "depth": 2,
        "temporal_depth": 1,
        "num_heads": 4,
    }
    return ModelConfig(encoder=encoder, **values | changes)


def model(encoder: str = "factorised_encoder", **changes) -> ViViT:
    """A model in which no parameter is zero, so that a mistake in any of them shows."""
    made = ViViT(config(encoder, **changes)).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def video(made: ViViT, batch: int = 2) -> torch.Tensor:
    c = made.config
    return torch.randint(0, 256, (batch, c.num_frames, 3, *c.image_size), dtype=torch.uint8)
