"""One's own videos, from fifty clips up."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..config import Config, DataConfig, EvalConfig, OptimConfig, Preprocessing, replace
from ..data.decode import Video, VideoError
from ..data.sample import Sample, read
from ..presets import preset
from ..weights.load import adopt

CLIP = {"num_frames": 16, "frame_stride": 4}  # 2.7 seconds of 24 frames each
LOOKED_AT = 32  # videos whose length is looked up


def finetune(data: DataConfig = DataConfig(), init: str | None = None) -> Config:  # noqa: B008
    """One's own videos, from 50 clips up: from an image model, and never worse than a linear head on it.

    vivit train finetune --data.root my_videos --init vit_small.safetensors

    With `init` the model takes over the architecture of the weights and starts as the average of the image model's
    frames, with the head that fits these features best; that frozen baseline is printed first, and again beside the
    result. The clip's length follows the videos', the number of epochs the number of clips (see `schedule`). The
    weights that are best in validation are kept, the baseline among them.

    Without it, a ViViT-S FE on 16 frames spread over 2.7 seconds starts from noise, which takes thousands of clips.

    Measured on made videos, three seeds, in docs/guides/finetune.md: above the frozen baseline and above training from
    scratch. Not yet run by us on real data.
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
    samples = read(config.data.dataset, config.data.root, config.data.train_split)
    architecture = adopt(init, replace(config.model, temporal_skip=True))
    stride = fitting_stride(samples, architecture.num_frames)
    pixels = replace(architecture.preprocessing, frame_stride=stride)
    return replace(
        config,
        model=replace(architecture, preprocessing=pixels),
        optim=replace(config.optim, **schedule(len(samples))),
        init=init,
        probe=True,
        result="best",
        **often(len(samples)),
    )


def schedule(clips: int) -> dict[str, Any]:
    """How long to train on so many clips: 6000 clips in all, in 12 to 60 epochs.

    The fewer there are, the more often each is seen, and the more its label is smoothed.
    """
    epochs = float(min(max(round(6000 / clips), 12), 60))
    return {
        "epochs": epochs,
        "warmup_epochs": epochs / 10,
        "lr": 5e-4,
        "layer_decay": 0.75,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
    }


def often(clips: int) -> dict[str, Any]:
    """Validate ten times on the way, and save as often."""
    every = schedule(clips)["epochs"] / 10
    return {"eval_every": every, "save_every": every}


def fitting_stride(samples: Sequence[Sample], num_frames: int) -> int:
    """The frame stride, 1 to 4, at which a clip just fits into the video of median length among some of them."""
    step = max(len(samples) // LOOKED_AT, 1)
    lengths = [length for sample in samples[::step] if (length := num_frames_of(sample))]
    return min(max(int(median(lengths or [0]) // num_frames), 1), CLIP["frame_stride"])


def num_frames_of(sample: Sample) -> int:
    """Frames of the sample's part of its video; 0 for one that cannot be read."""
    try:
        video = Video(sample.path)
    except VideoError:
        return 0
    end = video.duration if sample.end is None else min(sample.end, video.duration)
    return max(round((end - (sample.start or 0)) * video.fps), 0)
