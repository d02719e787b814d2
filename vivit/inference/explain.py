"""Explain a prediction: which places and moments of a clip speak for a class."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig, suggestion
from ..data.dataset import eval_views
from ..data.sample import Sample, as_sample
from ..data.views import candidate_frames, candidate_times, clips_of, open_sample
from ..engine.device import in_precision, load_to_device
from ..engine.evaluate import SINGLE_VIEW
from ..engine.progress import progress_bar
from ..errors import WeightsError, as_video_error
from ..model.gradient_attention import gradient_attention_maps
from ..model.modes import copy_sharing_weights
from ..model.rollout import attention_maps, middle_frames
from ..model.vivit import ViViT
from .evidence import Evidence, measure_evidence
from .explain_config import DEFAULT, METHODS, ExplainConfig, Method
from .occlusion import Score, cell_grid, default_tile, spatial_drops, temporal_drops, tile_index


@dataclass(frozen=True)
class Clip:
    """The clip that is explained: the middle one of a video, its center crop."""

    path: str
    video: Tensor = field(repr=False)
    """(T, 3, H, W) uint8."""
    seconds: np.ndarray = field(repr=False)
    """(T,); when each frame appears in the video."""


@dataclass(frozen=True)
class Explanation:
    """The share of the evidence for a class that each place and moment of a clip gets; float32 on the CPU.

    Shares are of evidence that speaks for the class; where there is none, they are 0.
    """

    space: Tensor = field(repr=False)
    """(t, h, w), of occlusion (t, 2h, 2w); the shares within each temporal position sum to 1."""
    time: Tensor = field(repr=False)
    """(t,); the shares of the temporal positions sum to 1."""
    joint: Tensor = field(repr=False)
    """As `space`, but the shares of the whole clip sum to 1. Of gradient x attention and rollout space x time; of
    occlusion the drops themselves."""
    frames: list[int]
    """For each temporal position, the index of its middle frame in the clip."""
    method: Method
    label_set: str
    label: str
    """The name of the class."""
    score: float
    """The probability of the class for this clip."""
    evidence: Evidence | None = field(default=None, repr=False)
    """What deletion and insertion say about `joint`; None if it was not checked."""


def explain(
    model: ViViT | str | os.PathLike[str],
    path: str | os.PathLike[str] | Sample,
    *,
    method: Method = "gradient_attention",
    label_set: str | None = None,
    label: str | None = None,
    start: float | None = None,
    end: float | None = None,
    config: ExplainConfig = DEFAULT,
) -> Explanation:
    """Map which places and moments of a video speak for a class, and check the map against random orders.

    Explains the middle clip of the video, or of `start` to `end` seconds: its `label`, by default the predicted class
    of `label_set`, by default the first. Methods: gradient_attention, rollout, occlusion (docs/guides/explain.md).
    Raises VideoError, ValueError for unknown names, and WeightsError for logits that are not finite.
    """
    if isinstance(model, str | os.PathLike):
        model = load_to_device(model)
    clip = read_clip(path, model.config, start=start, end=end)
    return explain_clip(model, clip, method=method, label_set=label_set, label=label, config=config)


def read_clip(
    path: str | os.PathLike[str] | Sample,
    config: ModelConfig,
    *,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """Read the middle clip of a video, or of its segment, as the model gets it. Raises VideoError."""
    sample = as_sample(path, start=start, end=end)
    video = eval_views(sample, config, SINGLE_VIEW)[0]
    with as_video_error(sample.path):
        opened = open_sample(sample)
        frame_ids, frame_stride = candidate_frames(opened, sample, config)
        appears, _ = candidate_times(opened, sample, config, frame_ids)
        [seconds] = clips_of(appears, 1, config.num_frames, frame_stride)
        return Clip(sample.path, video, seconds)


@torch.no_grad()
def explain_clip(
    model: ViViT,
    clip: Clip,
    *,
    method: Method = "gradient_attention",
    label_set: str | None = None,
    label: str | None = None,
    config: ExplainConfig = DEFAULT,
    progress: bool = False,
) -> Explanation:
    """Explain a clip that has been read; see `explain`. `progress` shows a bar on a terminal."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}{suggestion(method, METHODS)}")
    model = copy_sharing_weights(model) if model.training else model
    logits_of = batched_logits(model, config)
    logits = logits_of(clip.video[None])[0]
    if not logits.isfinite().all():
        raise WeightsError(f"{clip.path}: nothing to explain, because logits are not finite; check the weights")
    label_set, classes = find_classes(model.config, label_set, label)
    names = model.config.classes[label_set]
    number = int(logits[classes].argmax()) if label is None else names.index(label)

    def probability(video: Tensor) -> Tensor:
        return logits_of(video)[:, classes].softmax(dim=1)[:, number]

    def logit(video: Tensor) -> Tensor:
        return logits_of(video)[:, classes.start + number]

    with progress_bar(method.replace("_", " "), count_clips(model.config, method, config), enabled=progress) as update:
        advance = counter(update)
        if method == "occlusion":
            score = logit if config.drop == "logit" else probability
            joint, time = occlusion_shares(score, clip.video, model.config, config, advance)
            space = normalize(joint, (1, 2))
        else:
            is_rollout, target = method == "rollout", classes.start + number
            maps = (
                attention_maps(model, clip.video) if is_rollout else gradient_attention_maps(model, clip.video, target)
            )
            space, time = maps.space, maps.time
            joint = normalize(space * time[:, None, None], (0, 1, 2))
        evidence = None
        if config.random_orders:
            evidence = measure_evidence(
                probability,
                clip.video,
                joint,
                model.config,
                fill=config.fill,
                steps=config.steps,
                random_orders=config.random_orders,
                seed=config.seed,
                batch_size=config.batch_size,
                advance=advance,
            )
    share = float(logits[classes].softmax(dim=0)[number])
    frames = middle_frames(model)
    return Explanation(space, time, joint, frames, method, label_set, names[number], share, evidence)


def batched_logits(model: ViViT, config: ExplainConfig) -> Score:
    """Return a function from clips (B, T, 3, H, W) uint8 on any device to logits (B, K) float32 on the CPU."""
    run, device = in_precision(model, config.precision), model.head.weight.device
    return lambda video: run(video.to(device)).float().cpu()


def find_classes(config: ModelConfig, label_set: str | None, label: str | None) -> tuple[str, slice]:
    """Return the label set that is explained and the slice of its logits. Raises ValueError for unknown names."""
    sets = config.classes
    if label_set is not None and label_set not in sets:
        raise ValueError(f"the weights have no label set {label_set!r}{suggestion(label_set, sets)}")
    if label_set is None:
        label_set = next((name for name, names in sets.items() if label in names), next(iter(sets)))
    if label is not None and label not in sets[label_set]:
        raise ValueError(f"label set {label_set!r} has no class {label!r}{suggestion(label, sets[label_set])}")
    start = sum(len(sets[name]) for name in list(sets)[: list(sets).index(label_set)])
    return label_set, slice(start, start + len(sets[label_set]))


def occlusion_shares(
    score: Score, video: Tensor, model: ModelConfig, config: ExplainConfig, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Return the shares of the drops of the score, where hiding lowers it: of cells (t, h, w) and of moments (t,)."""
    space = spatial_drops(
        score, video, model, fill=config.fill, tile=config.tile, batch_size=config.batch_size, advance=advance
    )
    time = temporal_drops(score, video, model, fill=config.time_fill, batch_size=config.batch_size, advance=advance)
    return normalize(space.clamp(min=0), (0, 1, 2)), normalize(time.clamp(min=0), (0,))


def normalize(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale numbers ≥ 0 to a sum of 1 over `dims`; zeros stay zeros."""
    return x / x.sum(dim=dims, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def count_clips(model: ModelConfig, method: Method, config: ExplainConfig) -> int:
    """Count the clips that a map and its check send through the model."""
    total = 2 + 2 * (config.steps - 1) * (config.random_orders + 1) if config.random_orders else 0
    if method == "occlusion":
        grid = cell_grid(model)
        total += int(tile_index(grid, config.tile or default_tile(grid)).max()) + 1 + (grid[0] if grid[0] > 1 else 0)
    return total


def counter(update: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that adds to a count and shows the sum."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        update(done)

    return advance
