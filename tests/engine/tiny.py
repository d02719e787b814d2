"""Videos that tell their classes by one glance, the smallest run on them, and what to compare of two runs."""

import json
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from vivit.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Preprocessing,
    replace,
)
from vivit.data.dataset import TrainDataset
from vivit.engine import train as train_module
from vivit.engine.distributed import World
from vivit.engine.optim import learning_rate
from vivit.engine.train import train_in
from vivit.errors import Stopped

from ..data.videos import write_video

ALONE = World(0, 1, torch.device("cpu"))
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 40)}
LIGHTS = {"bright": 50, "dark": -20}
BAD = "train3.mp4"  # see clip_that
CLASSES = {"colour": ("green", "red"), "light": ("bright", "dark")}


def write_table(folder: Path, *, train: int = 8, val: int = 4, broken: int = 0, label_sets: int = 2) -> Path:
    """labels.csv over videos of 8 noisy frames, every combination of colour and light in turn.

    Each split has `broken` rows more, whose files are no videos.
    """
    (folder / "videos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["split,path,colour" + ",light" * (label_sets - 1)]
    for split, number in (("train", train), ("val", val)):
        for i in range(number + broken):
            colour, light = list(COLOURS)[i // 2 % 2], list(LIGHTS)[i % 2]
            path = folder / "videos" / (f"{split}{i}.mp4" if i < number else f"broken-{split}{i - number}.mp4")
            frames = np.array(COLOURS[colour]) + LIGHTS[light] + rng.integers(0, 6, (8, 32, 32, 3))
            if i < number:
                write_video(path, frames.astype(np.uint8))
            else:
                path.write_bytes(b"not a video")
            rows.append(f"{split},videos/{path.name},{colour}" + f",{light}" * (label_sets - 1))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def tiny_config(root: Path | str, run: Path | str, **changes) -> Config:
    """A few epochs with everything on that must survive: average, weight decay, layer decay, clipping."""
    config = Config(
        model=ModelConfig(
            num_frames=4,
            image_size=(16, 16),
            tubelet_size=(2, 8, 8),
            embed_dim=16,
            depth=2,
            temporal_depth=1,
            num_heads=2,
            drop_path=0.2,
            dropout=0.1,
            preprocessing=Preprocessing(frame_stride=1),
        ),
        data=DataConfig(root=str(root), workers=0),
        optim=OptimConfig(
            name="adamw", lr=3e-3, batch_size=8, epochs=3, warmup_epochs=1, ema=0.8, layer_decay=0.8, weight_decay=0.05
        ),
        eval=EvalConfig(temporal_views=2, spatial_views=3),
        run=str(run),
        log_every=1,
        save_every=0.6,
        device="cpu",
    )
    return replace(config, **changes)


def mixed_config(config: Config) -> Config:
    """The same run with every augmentation on, each video twice in a batch of 8, and clips mixed in pairs."""
    augment = AugmentConfig(
        color_jitter=0.8, grayscale=0.1, rand_augment_layers=2, random_erasing=0.25, mixup=0.3, cutmix=1.0, repeats=2
    )
    optim = replace(config.optim, epochs=1.2, warmup_epochs=0.5, label_smoothing=0.1)
    return replace(config, augment=augment, optim=optim)


def quick(config: Config, **optim) -> Config:
    """The same run, a little longer than one epoch, validated and saved at its end only."""
    optim = {"epochs": 1.2, "warmup_epochs": 0.5} | optim
    return replace(config, optim=replace(config.optim, **optim), eval_every=100, save_every=100)


def with_data(config: Config, **changes) -> Config:
    return replace(config, data=replace(config.data, **changes))


def train_and_stop(config: Config, step: int, number: int = signal.SIGTERM, world: World = ALONE) -> None:
    """Train, and be told to stop by a signal during step `step`, which is the last one."""

    def rate_and_signal(at, **how):
        if at == step - 1 and world.is_main:
            os.kill(os.getpid(), number)
        return learning_rate(at, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "learning_rate", rate_and_signal)
        with pytest.raises(Stopped) as stopped:
            train_in(world, config)
    if world.is_main:
        assert stopped.value.number == number


TIMING = {"clips_per_second", "tflops", "data_wait", "memory_mib"}


def metrics(run: Path | str) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock; anything that is not JSON is an error."""
    text = (Path(run) / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def losses(run: Path | str) -> list[float]:
    return [line["loss"] for line in metrics(run) if "loss" in line]


def last_checkpoint(run: Path | str) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, by its path in the state."""
    path = max((Path(run) / "checkpoints").glob("step-*"))
    with tempfile.TemporaryDirectory() as folder:
        dcp_to_torch_save(path, Path(folder) / "flat.pt")
        return dict(_flatten(torch.load(Path(folder) / "flat.pt", weights_only=False)))


def _flatten(tree, prefix=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flatten(value, f"{prefix}{key}/")
    elif isinstance(tree, torch.Tensor):
        yield prefix, tree


def assert_equal_runs(a: Path | str, b: Path | str) -> None:
    """Bit for bit: readings, weights, and all that a checkpoint holds."""
    assert metrics(a) == metrics(b)
    files = ("weights/model.safetensors", "best/model.safetensors")
    for x, y in [(load_file(Path(a) / f), load_file(Path(b) / f)) for f in files] + [
        (last_checkpoint(a), last_checkpoint(b))
    ]:
        assert x.keys() == y.keys()
        assert all(torch.equal(x[key], y[key]) for key in x)
    for kind in ("model/", "exp_avg_sq", "average/"):
        assert any(kind in key for key in x)


def clip_that(act):
    """TrainDataset.clip, except that reading BAD does `act`."""
    original = TrainDataset.clip

    def clip(self, index, rng):
        if self.samples[index].path.endswith(BAD):
            act()
        return original(self, index, rng)

    return clip
