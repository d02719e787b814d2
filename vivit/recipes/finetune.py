"""One's own videos."""

from __future__ import annotations

from ..config import Config, EvalConfig, ModelConfig, OptimConfig, Preprocessing, replace
from ..presets import preset


def finetune() -> Config:
    """A ViViT-S FE on 16 frames spread over 2.7 seconds, for a folder of videos or a table of labels.

    vivit train finetune --data.root my_videos [--init vit_small.safetensors]

    Without --init the model starts from noise, which takes thousands of clips. Not yet run by us on real data.
    """
    model: ModelConfig = preset("ViViT-S/16x2 FE", num_frames=16, drop_path=0.1)
    return Config(
        model=replace(model, preprocessing=Preprocessing(frame_stride=4)),
        optim=OptimConfig(
            name="adamw", lr=1e-4, batch_size=16, epochs=30, warmup_epochs=2.5, weight_decay=0.05, label_smoothing=0.1
        ),
        eval=EvalConfig(temporal_views=4, spatial_views=3),
        run="runs/finetune",
    )
