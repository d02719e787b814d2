"""The time that fine-tuning may take, and what fits into it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import torch

from ..config import Config
from ..data.dataset import TrainViews
from ..model.vivit import ViViT
from .setup import Data

CPU_BUDGET = 15 * 60.0
LONGEST = 3600.0  # the budget of which the shares below are taken, if it is longer or unlimited
FEATURES, HEAD_FITS, LAST_LAYERS = 0.45, 0.25, 0.35  # shares
MOST_FEATURES, VALIDATION = 0.6, 0.2  # share after which features of no further video begin; of it, for validation
VIEWS = (1, 6)  # fewest and most views of a training video
FEWEST_EPOCHS = 3  # of the whole encoder that are worth a start
BACKWARD = 3  # a training step takes this many forward passes
MEASURED = 6  # videos


@dataclass
class Clock:
    """A budget in seconds, and what one clip costs."""

    budget: float
    per_clip: float = 0.0
    """Seconds of one clip, decoding and the forward pass, divided by the number of processes."""
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.budget - (time.monotonic() - self.started)

    def share(self, part: float) -> float:
        """Return the seconds of a share of the budget."""
        return part * min(self.budget, LONGEST)

    def parts(self, share: float, *, count: int) -> Iterator[float]:
        """Yield the seconds of each of `count` stages, which have a share of the budget and leave half of the rest.

        What one stage does not use, the next ones have.
        """
        end = time.monotonic() + min(self.share(share), self.left() / 2)
        for stages in range(count, 0, -1):
            yield max(end - time.monotonic(), 0.0) / stages


def seconds_of(budget: str, device: torch.device) -> float:
    """Return the seconds of a budget: 90s, 15m, 3h or none; auto is 15 minutes on a CPU and none elsewhere."""
    if budget == "auto":
        return CPU_BUDGET if device.type == "cpu" else math.inf
    if budget == "none":
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", budget)
    if match is None:
        raise ValueError(f"budget is {budget!r}; give a time such as 90s, 15m or 3h, or none or auto")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


@torch.no_grad()
def measure_clip(model: ViViT, config: Config, videos: Data) -> float:
    """Return the seconds that one clip takes: decoding and the forward pass."""
    indices = torch.linspace(0, len(videos.train) - 1, MEASURED).round().int().unique().tolist()
    clips = TrainViews(
        [videos.train[i] for i in indices],
        videos.labels[indices],
        model=model.config,
        data=config.data,
        augment=config.augment,
        seed=config.seed,
        count=2,
        numbers=indices,
    )
    times = []
    for i in range(len(indices)):
        since = time.monotonic()
        video = clips[i].video
        if video is not None:
            model.features(video.to(model.head.weight.device)).sum().item()
            times.append((time.monotonic() - since) / len(video))
    return median(times[1:] or times or [0.1])  # the first one includes starting up


def number_of_views(clock: Clock, videos: Data) -> int:
    """Return how many views of each training video fit into the share of the features."""
    room = clock.share(FEATURES) / clock.per_clip - len(videos.val)
    return int(min(max(room / len(videos.train), VIEWS[0]), VIEWS[1]))


def epoch_seconds(clock: Clock, videos: Data) -> float:
    """Return the seconds of an epoch of the whole model, with its share of ten validations in twenty epochs."""
    return clock.per_clip * (BACKWARD * len(videos.train) + 0.5 * len(videos.val))


def fitting_epochs(clock: Clock, config: Config, videos: Data) -> float:
    """Return the epochs of the whole model that fit into the rest of the budget: 0 if too few to be worth a start."""
    fits = 0.9 * clock.left() / epoch_seconds(clock, videos)
    return float(min(config.optim.epochs, fits)) if fits >= min(FEWEST_EPOCHS, config.optim.epochs) else 0.0


def estimate(clock: Clock, config: Config, videos: Data, views: int) -> str:
    """Say how long each stage takes, and what the budget leaves out."""
    features = clock.per_clip * (views * len(videos.train) + len(videos.val))
    whole = epoch_seconds(clock, videos) * config.optim.epochs
    most = MOST_FEATURES * clock.budget
    first = f"features about {short_time(min(features, most))}"
    if features > most:
        first += f" for {most / features:.0%} of the videos (all: {short_time(features)})"
    heads, layers = (short_time(clock.share(part)) for part in (HEAD_FITS, LAST_LAYERS))
    lines = f"{first}, heads at most {heads}, last layers at most {layers}"
    if math.isinf(clock.budget):
        return f"no budget: {lines}, the whole encoder about {short_time(whole)}"
    if clock.budget - features >= whole:
        return f"budget {short_time(clock.budget)}: {lines}, the whole encoder about {short_time(whole)}"
    needed = math.ceil((1.5 * features + whole / 0.9) / 360) / 10
    return (
        f"budget {short_time(clock.budget)}: {lines}; the whole encoder would take {short_time(whole)}, "
        f"--budget {needed:g}h includes it"
    )


def short_time(seconds: float) -> str:
    """Return a duration such as 40 s, 3 min or 2.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
