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
LONGEST = 3600.0  # seconds; the shares of a longer or unlimited budget are shares of this
FEATURES, HEAD_FITS, LAST_LAYERS = 0.45, 0.25, 0.35  # shares of the budget that the stages plan with
MOST_FEATURES = 0.6  # share of the budget after which the features of no further video are computed
VALIDATION = 0.2  # share of the time for features that the validation videos get
VIEWS = (1, 6)  # fewest and most views of a training video
FEWEST_EPOCHS = 3  # train the whole encoder only if this many epochs fit
FORWARD_PASSES = 3  # a training step takes as long as this many forward passes
MEASURED_VIDEOS = 6


@dataclass
class Budget:
    """A budget of time, which starts now, and the time that one clip takes."""

    seconds: float
    per_clip: float = 0.0
    """Seconds to decode a clip and compute its forward pass, divided by the number of processes."""
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def share(self, part: float) -> float:
        """Return the seconds of a share of the budget."""
        return part * min(self.seconds, LONGEST)

    def stages(self, share: float, *, count: int) -> Iterator[float]:
        """Yield the seconds of each of `count` stages: together a share of the budget, at most half of what is left.

        The time that one stage does not use goes to the later ones.
        """
        end = time.monotonic() + min(self.share(share), self.left() / 2)
        for remaining in range(count, 0, -1):
            yield max(end - time.monotonic(), 0.0) / remaining


def parse_budget(budget: str, device: torch.device) -> float:
    """Parse a budget such as 90s, 15m, 3h or unlimited into seconds; auto is 15m on a CPU and unlimited elsewhere."""
    if budget == "auto":
        return CPU_BUDGET if device.type == "cpu" else math.inf
    if budget == "unlimited":
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", budget)
    if match is None:
        raise ValueError(
            f"budget is {budget!r}; give a time such as 90s, 15m or 3h, auto, unlimited, or None, "
            "which leaves the stages out"
        )
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


@torch.no_grad()
def seconds_per_clip(model: ViViT, config: Config, videos: Data) -> float:
    """Measure the seconds to decode a clip and compute its forward pass; returns their median over some videos."""
    indices = torch.linspace(0, len(videos.train) - 1, MEASURED_VIDEOS).round().int().unique().tolist()
    clips = TrainViews(
        [videos.train[i] for i in indices],
        videos.labels[indices],
        model=model.config,
        data=config.data,
        augment=config.augment,
        seed=config.seed,
        count=2,
        numbers=indices,
        frame_cache=videos.frame_cache,
    )
    times = []
    for i in range(len(indices)):
        since = time.monotonic()
        video = clips[i].video
        if video is not None:
            model.features(video.to(model.head.weight.device)).sum().item()
            times.append((time.monotonic() - since) / len(video))
    return median(times[1:] or times or [0.1])  # the first one includes starting up


def number_of_views(budget: Budget, videos: Data) -> int:
    """Return how many views of each training video fit into the share of the features."""
    room = budget.share(FEATURES) / budget.per_clip - len(videos.val)
    return int(min(max(room / len(videos.train), VIEWS[0]), VIEWS[1]))


def validation_clips(config: Config, videos: Data) -> float:
    """Return how many clips the validations of the whole model read: a shorter schedule has as many of them."""
    return (config.optim.epochs / config.eval_every + 1) * len(videos.val)


def whole_seconds(budget: Budget, config: Config, videos: Data) -> float:
    """Return the seconds of all epochs of the whole model, with its validations."""
    clips = FORWARD_PASSES * config.optim.epochs * len(videos.train)
    return budget.per_clip * (clips + validation_clips(config, videos))


def fitting_epochs(budget: Budget, config: Config, videos: Data) -> float:
    """Return how many epochs of the whole model fit into the rest of the budget; 0 if fewer than FEWEST_EPOCHS do."""
    clips = 0.9 * budget.left() / budget.per_clip - validation_clips(config, videos)
    fits = clips / (FORWARD_PASSES * len(videos.train))
    return float(min(config.optim.epochs, fits)) if fits >= min(FEWEST_EPOCHS, config.optim.epochs) else 0.0


def estimate(budget: Budget, config: Config, videos: Data, views: int) -> str:
    """Describe how long each stage takes, and what the budget leaves out."""
    features = budget.per_clip * (views * len(videos.train) + len(videos.val))
    whole = whole_seconds(budget, config, videos)
    most = MOST_FEATURES * budget.seconds
    first = f"features about {short_time(min(features, most))}"
    if features > most:
        first += f" for {most / features:.0%} of the videos (all: {short_time(features)})"
    heads, layers = (short_time(budget.share(part)) for part in (HEAD_FITS, LAST_LAYERS))
    lines = f"{first}, heads at most {heads}, last layers at most {layers}"
    if math.isinf(budget.seconds):
        return f"no budget: {lines}, the whole encoder about {short_time(whole)}"
    if budget.seconds - features >= whole:
        return f"budget {short_time(budget.seconds)}: {lines}, the whole encoder about {short_time(whole)}"
    needed = math.ceil((1.5 * features + whole / 0.9) / 360) / 10
    return (
        f"budget {short_time(budget.seconds)}: {lines}; the whole encoder would take {short_time(whole)}, "
        f"--budget {needed:g}h includes it"
    )


def short_time(seconds: float) -> str:
    """Return a duration such as 40 s, 3 min or 2.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
