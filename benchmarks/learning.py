"""Train on the demo's videos for a given time, and report the accuracy at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vivit.config import Config, ModelConfig, replace
from vivit.data.tools.synthetic import write_dataset
from vivit.engine.train import train
from vivit.presets import SIZES
from vivit.recipes.demo import TEST_VIDEOS, TRAIN_VIDEOS, demo

PILOT_EPOCHS = 2.0  # whose speed says how many epochs the time is enough for
SHARE = 0.7  # of the time that remains after the pilot: the rest is for validations and the end


def learn(
    size: str,
    seconds: float,
    *,
    device: torch.device,
    videos: tuple[int, int] | None = None,
    workers: int | None = None,
    most_epochs: int = 60,
) -> Iterator[dict[str, Any]]:
    """Train the demo's model in another size ("S", or "demo" for its own) for about `seconds`.

    A pilot of two epochs comes first, whose row stays if the time runs out; on CUDA the rest is compiled. `videos`: to
    train and to validate on.
    """
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        count, tests = videos or (TRAIN_VIDEOS, TEST_VIDEOS)
        root = write_dataset(Path(folder) / "data", seed=0, train=count, val=tests)
        config = demo()
        config = replace(config, device=device.type, data=replace(config.data, root=str(root), workers=workers))
        if size != "demo":
            config = replace(config, model=enlarged(config.model, size))
            config = replace(config, optim=replace(config.optim, lr=5e-4, batch_size=64))
        pilot = learned(config, PILOT_EPOCHS, Path(folder) / "pilot")
        yield {"case": "learn", "name": f"{size}, pilot", **pilot}
        left = seconds - (time.monotonic() - began)
        epochs = min(SHARE * left * pilot["clips/s"] / count, most_epochs)
        if epochs > PILOT_EPOCHS:
            config = replace(config, parallel=replace(config.parallel, compile=device.type == "cuda"))
            yield {"case": "learn", "name": size, **learned(config, epochs, Path(folder) / "run")}


def enlarged(model: ModelConfig, size: str) -> ModelConfig:
    """Return the demo's model with the width, depth and heads of a ViT."""
    return replace(model, **SIZES[size], mlp_ratio=4.0, temporal_depth=4, drop_path=0.1)


def learned(config: Config, epochs: float, run: Path) -> dict[str, Any]:
    """Train, and return speed and accuracy as the run's own metrics have them."""
    optim = replace(config.optim, epochs=epochs, warmup_epochs=epochs / 10)
    config = replace(config, optim=optim, run=str(run), eval_every=epochs, save_every=epochs)
    train(config)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["clips_per_second"] for line in lines if "clips_per_second" in line]
    accuracy = {key.split("/")[1]: v for line in lines for key, v in line.items() if key.endswith("/top1")}
    return {
        "epochs": round(epochs, 1),
        "compiled": "yes" if config.parallel.compile else "no",
        "clips/s": round(max(speeds), 1),
        **{f"{label_set} top-1": round(share, 3) for label_set, share in accuracy.items()},
    }
