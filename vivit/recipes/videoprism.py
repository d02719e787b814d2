"""One's own videos from VideoPrism: its attention pooling on frozen features, or all of it."""

from __future__ import annotations

from ..config import AugmentConfig, Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, Preprocessing, replace

BASE = ModelConfig(
    tubelet_size=(1, 18, 18),
    num_frames=16,
    image_size=(288, 288),
    pool="mean",
    pool_space=False,
    attention_pool=True,
    activation="gelu",
    attn_logit_cap=50.0,
    interpolation="linear",
    preprocessing=Preprocessing(frame_stride=4, crop_fraction=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
)
ENCODER = ("tokenizer", "encoder.spatial", *(f"encoder.temporal.{part}" for part in ("pos_embed", "blocks", "norm")))


def probe(data: DataConfig = DataConfig(), init: str | None = None) -> Config:  # noqa: B008
    """Train attention pooling and a classifier on a frozen VideoPrism.

    vivit train videoprism-probe --data.root my_videos --init google/videoprism-base-f16r288

    The authors report, so trained, 82.9 (B) and 85.0 (L) top-1 on Kinetics-400 and 62.2 and 64.6 on
    Something-Something v2, with settings of their own; those here are ours and were not run on either.
    """
    return Config(
        model=start(init),
        data=data,
        augment=AugmentConfig(),
        optim=OptimConfig(
            name="adamw",
            lr=1e-3,
            batch_size=32,
            epochs=20,
            warmup_epochs=2,
            weight_decay=0.05,
            label_smoothing=0.1,
            freeze=ENCODER,
        ),
        eval=EvalConfig(temporal_views=4, spatial_views=1),
        init=init,
        run="runs/videoprism-probe",
    )


def finetune(data: DataConfig = DataConfig(), init: str | None = None) -> Config:  # noqa: B008
    """Train a VideoPrism and a new classifier on your own videos, lower layers at lower rates.

    vivit train videoprism-finetune --data.root my_videos --init google/videoprism-base-f16r288

    Not run by us on any public dataset.
    """
    config = probe(data, init)
    model = replace(config.model, drop_path=0.1)
    optim = replace(config.optim, freeze=(), lr=5e-5, batch_size=16, layer_decay=0.75)
    return replace(config, model=model, optim=optim, run="runs/videoprism-finetune")


def start(init: str | None) -> ModelConfig:
    """Return the model of the weights `init` with attention pooling, which a vision model gets anew; else BASE."""
    if init is None:
        return BASE
    from ..weights.load import config_for_init  # here, so that the recipe and its help do not wait for PyTorch

    return replace(config_for_init(init, BASE), attention_pool=True, unit_features=False)
