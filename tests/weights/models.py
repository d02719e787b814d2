"""Small models of all four kinds."""

import torch

from vivit.config import ModelConfig, replace

BASE = ModelConfig(
    classes={"label": ("run", "jump", "sit")},
    tubelet_size=(2, 8, 8),
    num_frames=8,
    image_size=(32, 32),
    embed_dim=24,
    depth=2,
    temporal_depth=2,
    num_heads=4,
    mlp_ratio=2,
)

CONFIGS = {
    "model 1": replace(BASE, encoder="spatiotemporal"),
    "model 1, mean": replace(BASE, encoder="spatiotemporal", pool="mean"),
    "model 1, sampled frames": replace(
        BASE, encoder="spatiotemporal", tokenizer="uniform_frames", sampled_frames=3, tubelet_size=(1, 8, 8)
    ),
    "model 2": replace(BASE, encoder="factorised_encoder"),
    "model 2, mean": replace(BASE, encoder="factorised_encoder", pool="mean"),
    "model 2, average": replace(BASE, encoder="factorised_encoder", temporal_depth=0),
    "model 2, sampled frames": replace(
        BASE, encoder="factorised_encoder", tokenizer="uniform_frames", sampled_frames=4, tubelet_size=(1, 8, 8)
    ),
    "model 3": replace(BASE, encoder="factorised_self_attention", pool="mean"),
    "model 3, space first": replace(
        BASE, encoder="factorised_self_attention", pool="mean", attention_order="space_time"
    ),
    "model 4": replace(BASE, encoder="factorised_dot_product", pool="mean"),
}


def pixels(config, batch=2):
    return torch.randint(0, 256, (batch, config.num_frames, 3, *config.image_size), dtype=torch.uint8)
