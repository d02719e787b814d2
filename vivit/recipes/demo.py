"""The demo: synthetic videos, a small model, one CPU."""

from __future__ import annotations

from ..config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Preprocessing,
)

TRAIN_VIDEOS, TEST_VIDEOS = 1440, 160


def demo() -> Config:
    """Train a small factorised encoder (Model 2) on synthetic videos, as `vivit demo` does.

    vivit train demo --data.root demo/data/labels.csv
    """
    return Config(
        model=ModelConfig(
            encoder="factorised_encoder",
            tubelet_size=(2, 12, 12),
            num_frames=16,
            image_size=(48, 48),
            embed_dim=96,
            depth=2,
            temporal_depth=1,
            num_heads=4,
            mlp_ratio=2.0,
            pool="mean",
            preprocessing=Preprocessing(
                frame_stride=2, crop_fraction=48 / 56, mean=(0.25, 0.25, 0.25), std=(0.25, 0.25, 0.25)
            ),
        ),
        data=DataConfig(root="demo/data/labels.csv"),
        augment=AugmentConfig(scale_jitter=(1.0, 1.0), flip=0.0),  # a flip would turn "left" into "right"
        optim=OptimConfig(name="adamw", lr=1.5e-3, batch_size=16, epochs=10, warmup_epochs=0.7, weight_decay=0.05),
        eval=EvalConfig(temporal_views=4, spatial_views=3, batch_views=48),
        kernel_init="central_difference",  # of --init: motion shows between neighbouring frames only
        run="demo/run",
        eval_every=2.5,
        save_every=5,
        log_every=30,
    )
