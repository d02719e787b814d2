"""Measure seconds per clip of a row, without reading videos."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from ..config import Config, ModelConfig
from ..engine.device import autocast, pick_device
from ..engine.losses import cross_entropy
from ..engine.timing import time_call
from ..model.cnn_baselines import CNN_BASELINES
from ..model.vivit import ViViT


def speed(config: Config, network: str = "", *, clips: int = 4, seconds: float = 1.5) -> dict[str, Any]:
    """Measure seconds per clip of training (forward and backward pass) and of testing, without reading videos.

    Each is the median of at least two steps of `clips` clips, repeated for `seconds` after one step to warm up.
    `config.model` must have its classes.
    """
    device = pick_device(config.device)
    build: Callable[[ModelConfig], Any] = CNN_BASELINES.get(network, ViViT)
    model = build(config.model).to(device)
    video = torch.randint(256, (clips, config.model.num_frames, 3, *config.model.image_size), dtype=torch.uint8)
    video, sizes = video.to(device), config.model.class_counts
    labels = torch.zeros(clips, len(sizes), dtype=torch.int64, device=device)

    def train_step() -> None:
        model.train()
        model.zero_grad()
        with autocast(device, config.precision):
            logits = model(video)
        cross_entropy(logits, labels, sizes).sum().backward()

    @torch.no_grad()
    def test_step() -> None:
        model.eval()
        with autocast(device, config.precision):
            model(video)

    found = {"train": median_time(train_step, device, seconds), "test": median_time(test_step, device, seconds)}
    return {
        **{f"{name}_seconds": took / clips for name, took in found.items()},
        "clips": clips,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def median_time(step: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Return the median seconds of a step, after one to warm up."""
    step()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 50):
        times.append(time_call(step, device))
    return statistics.median(times)
