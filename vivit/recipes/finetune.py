"""One's own videos, from fifty clips up."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from ..config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Preprocessing,
    replace,
)
from ..errors import VideoError
from ..presets import preset

if TYPE_CHECKING:
    from ..data.sample import Sample

CLIP = {"num_frames": 16, "frame_stride": 4}  # 2.7 seconds of 24 frames each
LOOKED_AT = 32  # videos whose length is looked up


def finetune(data: DataConfig = DataConfig(), init: str | None = None) -> Config:  # noqa: B008
    """Fine-tune on your own videos, from 50 clips up: heads on frozen features, then the encoder as the budget allows.

    vivit train finetune --data.root my_videos --init vit-base

    With `init` an image model, its layers become Model 2's layers over space. They run once over each training video;
    heads are fitted to the stored features and compared on held-out training videos; then the last layers, and the
    whole encoder, are trained as far as `budget` allows, and kept where they are better (vivit/engine/stages.py). The
    frame size follows the videos and the weights, the clip's length the videos, the epochs the number of clips.

    With `init` a video model, training starts from a linear probe on its features and keeps the better of the two.

    Without it, a ViViT-S FE on 16 frames spread over 2.7 seconds starts from random weights, which takes thousands of
    clips. What was measured is in docs/guides/finetune.md.
    """
    model = preset("ViViT-S/16x2 FE", num_frames=CLIP["num_frames"], drop_path=0.1)
    config = Config(
        model=replace(model, preprocessing=Preprocessing(frame_stride=CLIP["frame_stride"])),
        data=data,
        optim=OptimConfig(
            name="adamw", lr=1e-4, batch_size=16, epochs=30, warmup_epochs=2.5, weight_decay=0.05, label_smoothing=0.1
        ),
        eval=EvalConfig(temporal_views=4, spatial_views=3),
        run="runs/finetune",
    )
    return config if init is None else from_weights(config, init)


def from_weights(config: Config, init: str) -> Config:
    """`config` fitted to the weights that it starts from and to the training videos."""
    from ..data.splits import read_split  # here, so that the recipe and its help do not wait for PyTorch
    from ..weights.load import config_for_init, load_checkpoint

    data = config.data
    is_image = load_checkpoint(init).is_image
    samples = read_split(data, data.train_split)
    asked = schedule(len(samples))
    epochs = asked["epochs"]
    model = config_for_init(init, replace(config.model, temporal_skip=True))
    stride = fitting_stride(samples, model.num_frames)
    preprocessing = replace(model.preprocessing, frame_stride=stride)
    if is_image:
        size, crop_fraction = fitting_size(samples, model)
        model = replace(model, image_size=(size, size))
        preprocessing = replace(preprocessing, crop_fraction=crop_fraction)
    return replace(
        config,
        model=replace(model, preprocessing=preprocessing),
        augment=AugmentConfig(mixup=asked["mixup"]),
        optim=replace(
            config.optim,
            lr=0.2 / model.embed_dim,  # 5e-4 for a ViT-S; Adam moves a wide layer further at the same rate
            layer_decay=0.75,
            epochs=epochs,
            warmup_epochs=epochs / 10,
        ),
        init=init,
        budget="auto" if is_image else None,
        linear_probe=True,
        final_weights="best",
        eval_every=epochs / 10,
        save_every=epochs / 10,
    )


def schedule(clips: int) -> dict[str, float]:
    """Return the epochs and the mixup strength for a number of clips.

    Epochs: as many as show 12 000 clips, but 10 to 100. Mixup 0.2 from 3000 clips on; with fewer the run is too short
    to make up for what mixing takes from it. The start, the low rates of the lower layers and the choice of the best
    weights then have to prevent overfitting.
    """
    return {"epochs": float(min(max(round(12_000 / clips), 10), 100)), "mixup": 0.2 if clips >= 3000 else 0.0}


def fitting_stride(samples: Sequence[Sample], num_frames: int) -> int:
    """Return the frame stride, 1 to 4, at which a clip just fits into a video of median length."""
    lengths = [length for _, length in looked_at(samples)]
    return min(max(int(median(lengths or [0]) // num_frames), 1), CLIP["frame_stride"])


def fitting_size(samples: Sequence[Sample], model: ModelConfig) -> tuple[int, float]:
    """Return (frame size, crop fraction): the size of the weights, or the largest that videos of median size have."""
    patch = max(model.tubelet_size[1:])
    sides = [side for side, _ in looked_at(samples)]
    short = median(sides or [max(model.image_size)])
    size = min(max(int(short) // patch, 1) * patch, max(model.image_size))
    return size, min(max(size / short, model.preprocessing.crop_fraction), 1.0)


def looked_at(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Return (short side, frames of the segment) of up to LOOKED_AT samples, without those that fail to open."""
    from ..data.views import open_sample, segment_frames

    found = []
    for sample in samples[:: max(len(samples) // LOOKED_AT, 1)]:
        try:
            video = open_sample(sample)
            found.append((min(video.height, video.width), len(segment_frames(video, sample))))
        except VideoError:
            continue
    return found
