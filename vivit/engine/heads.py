"""Fit heads to cached features of the frozen encoder, and compare them by cross-validation on the training videos.

A head here is all of Model 2 after the layers over space: the pooling over time, and the linear layer. The table
`HEADS` has each head with its settings of ModelConfig. `train_tail` can also train the last layers over space, on
cached activations of the layer below them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig, OptimConfig
from ..errors import DataError
from ..model.encoders import FactorisedEncoder
from ..model.layers import random_bits
from ..model.vivit import ViViT
from .feature_cache import Features
from .losses import cross_entropy
from .metrics import Score, score_logits
from .optim import build_optimizer, learning_rate
from .probe import FOLDS, PENALTIES, Fold, choose_penalty, cross_validate_penalties, fit_linear, folds
from .progress import progress_bar

DROPOUT = 0.5  # of the features that the linear layer reads
LEARNING_RATE, BATCH, BATCH_OF_LAYERS = 1e-3, 64, 16
STEPS, EPOCHS, MOST_STEPS = 300, 10, 3000  # a head trains EPOCHS epochs, but STEPS to MOST_STEPS steps
FEWEST_STEPS = 100  # leave a head out if the time allows fewer steps
MOST_ROWS = 20_000  # rows that a linear head is fitted to; of more, evenly spaced ones are used


@dataclass(frozen=True)
class Head:
    """One kind of head."""

    name: str
    settings: dict[str, object]
    """Fields of ModelConfig."""


HEADS = (
    Head("linear", {"temporal_depth": 0, "temporal_skip": False, "attention_pool": False}),
    Head("attention pooling", {"temporal_depth": 0, "temporal_skip": False, "attention_pool": True}),
    Head("transformer over time", {"temporal_depth": 1, "temporal_skip": False, "attention_pool": False}),
)


@dataclass(frozen=True)
class LabelledFeatures:
    """Cached features of labelled videos."""

    features: Features
    labels: Tensor
    """(N, L) int64."""
    groups: Tensor
    """(N,) int64: videos of one recording have the same number and stay in one fold."""
    views: tuple[int, ...]
    """The views to train on; the first is the one to test on."""
    balanced: bool = False
    """Whether every class counts equally in training, however many videos it has."""

    def rows(self, keep: Tensor | None = None) -> Tensor:
        """Return the numbers of the readable videos, of all or of those of the mask `keep` (N,)."""
        readable = self.features.readable
        return torch.nonzero(readable if keep is None else keep & readable).flatten()

    def folds(self) -> Tensor:
        """Return the fold (N,) of each video; recordings stay together where that leaves several folds.

        Raises DataError if fewer than two videos can be read.
        """
        for groups in (self.groups, torch.arange(len(self.labels))):
            found = folds(self.labels, groups)
            if len(found[self.features.readable].unique()) > 1:
                return found
        raise DataError("fewer than two training videos can be read; heads need some to test on as well")

    def without_mirrored(self) -> LabelledFeatures:
        """Leave out the mirrored views: the third, the fifth, …"""
        return replace(self, views=tuple(v for v in self.views if v == 0 or v % 2 == 1))

    def weights(self, rows: Tensor) -> Tensor:
        """Return the weights (R,) of some videos in training, of mean 1: equal or, if `balanced`, by class."""
        weights = torch.ones(len(rows), dtype=torch.float64)
        if self.balanced:
            for labels in self.labels[rows].unbind(1):
                weights /= labels.bincount()[labels]
        return (weights / weights.mean()).float()

    def batch(self, tail: Tail) -> int:
        """Return the clips of a training step: fewer where layers over space are trained, on many more tokens."""
        return min(BATCH if tail.from_time else BATCH_OF_LAYERS, len(self.labels))


@dataclass(frozen=True)
class CrossValidation:
    """The result of a head on the training videos, each predicted by a fit without the fold of that video."""

    score: Score
    logits: Tensor
    """(N, K)."""
    setting: float
    """The L2 penalty of a linear head, the training steps of another; for `fit_head`."""


def linear_inputs(features: Features, rows: Tensor, view: int, *, motion: bool) -> Tensor:
    """Return the inputs (R, D or 3 D) of a linear head: the mean position of a view and, with `motion`, the motion."""
    x = features.positions[rows, view].mean(dim=1)
    if not motion:
        return x
    center, scale = motion_statistics(features)
    return torch.cat((x, (features.motion[rows, view] - center) * scale), dim=1)


def motion_statistics(features: Features) -> tuple[Tensor, Tensor]:
    """Return (center, scale) of the motion features, as `MotionPool.calibrate` computes them."""
    std, mean = torch.std_mean(features.motion[features.readable].flatten(0, 1), dim=0, correction=0)
    return mean, 1 / std.clamp_min(1e-3)


def linear_rows(data: LabelledFeatures, keep: Tensor | None, *, motion: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (inputs, labels, groups) of a linear head, of every view of the videos of the mask `keep`."""
    rows = linear_videos(data, keep)
    x = torch.cat([linear_inputs(data.features, rows, view, motion=motion) for view in data.views])
    return x, data.labels[rows].repeat(len(data.views), 1), data.groups[rows].repeat(len(data.views))


def linear_videos(data: LabelledFeatures, keep: Tensor | None) -> Tensor:
    """Return the videos of the mask `keep` that a linear head is fitted to: all, unless they have too many views."""
    rows = data.rows(keep)
    most = MOST_ROWS // len(data.views)
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def cross_validate_linear(
    data: LabelledFeatures, sizes: Sequence[int], parts: Tensor, *, motion: bool, seconds: float
) -> tuple[Tensor, float]:
    """Return the logits (N, K) of every video by a linear head fitted without its fold, and the best L2 penalty.

    After `seconds` no weaker penalty is tried.
    """
    tests, held_out = list[Fold](), list[Tensor]()
    for held in (parts == fold for fold in parts.unique()):
        x, labels, _ = linear_rows(data, ~held, motion=motion)
        weights = data.weights(linear_videos(data, ~held)).repeat(len(data.views))
        rows = data.rows(held)
        inputs = linear_inputs(data.features, rows, data.views[0], motion=motion)
        tests.append(Fold(fit_linear(x, labels, sizes, weights=weights), inputs, data.labels[rows]))
        held_out.append(rows)
    share = seconds * len(tests) / (len(tests) + 1)  # the rest is for the fit to all videos
    with progress_bar("linear head", len(tests) * len(PENALTIES)) as update:
        penalty, _, found = cross_validate_penalties(tests, sizes, seconds=share, update=update)
    logits = torch.zeros(len(data.labels), sum(sizes))
    logits[torch.cat(held_out)] = torch.cat(found).float()
    return logits, penalty


class Tail(nn.Module):
    """The part of a model after the cached features: the blocks over space from `cut` on, and everything over time.

    If `cut` is the depth, there are no blocks over space.
    """

    def __init__(self, model: ViViT, cut: int):
        super().__init__()
        self.model, self.cut = model, cut
        self.from_time = cut == model.config.depth

    def forward(self, x: Tensor, motion: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map positions (B, t, D) or activations (B, t, n, D), and motion (B, 2 D), to features."""
        encoder = self.model.encoder
        assert isinstance(encoder, FactorisedEncoder)
        if x.ndim == 4:
            t, space = x.shape[1], encoder.spatial
            bits: Sequence[Tensor | None] = [None] * len(space.blocks)
            if seeds is not None:
                bits = random_bits(random_bits(seeds, t).flatten(), len(space.blocks), 6).unbind(1)
            x = rearrange(
                space.forward_blocks(rearrange(x, "B t n D -> (B t) n D"), bits, self.cut), "(B t) D -> B t D", t=t
            )
        features = encoder.encode_time(x, seeds)
        pool = self.model.motion
        return features if pool is None else torch.cat((features, (motion - pool.center) * pool.scale), dim=1)


def train_tail(
    tail: Tail,
    data: LabelledFeatures,
    keep: Tensor | None = None,
    *,
    steps: int,
    rate: float,
    layer_decay: float = 1.0,
    seed: int = 0,
    seconds: float = math.inf,
) -> Iterator[int]:
    """Train the trainable parameters of a tail on the videos of the mask `keep`, by AdamW with a cosine schedule.

    Yields the number of steps done. If they do not fit into `seconds`, which include the time of the caller between
    them, some are skipped, so that the schedule still comes to its end.
    """
    model, sizes = tail.model, tail.model.config.class_counts
    optimizer = build_optimizer(model, OptimConfig(name="adamw", weight_decay=0.05, layer_decay=layer_decay))
    rows, draw = data.rows(keep), torch.Generator().manual_seed(seed)
    weights = torch.zeros(len(data.labels))
    weights[rows] = data.weights(rows)
    views, device, order = torch.tensor(data.views), model.head.weight.device, rows[:0]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.manual_seed(seed)  # for dropout
    step, taken, since = 0, 0, time.monotonic()
    while step < steps:
        if not model.training:
            model.train()
        for group in optimizer.param_groups:
            lr = learning_rate(step, base=rate, warmup_steps=max(steps // 10, 1), total_steps=steps)
            group["lr"] = lr * group["lr_scale"]
        while len(order) < data.batch(tail):
            order = torch.cat((order, rows[torch.randperm(len(rows), generator=draw)]))
        chosen, order = order[: data.batch(tail)], order[data.batch(tail) :]
        view = views[torch.randint(len(views), (len(chosen),), generator=draw)]
        seeds = torch.randint(2**32, (len(chosen),), generator=draw)
        inputs = tail_inputs(data, tail, chosen, view, device)
        logits = model.head(F.dropout(tail(*inputs, seeds.to(device)), DROPOUT))
        losses = cross_entropy(logits, data.labels[chosen].to(device), sizes, label_smoothing=0.1)
        loss = (losses * weights[chosen].to(device)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        used, taken = max(time.monotonic() - since, 1e-9), taken + 1
        step += max(math.ceil((steps - step) / max((seconds - used) * taken / used, 1)), 1)
        yield min(step, steps)


def tail_inputs(
    data: LabelledFeatures, tail: Tail, rows: Tensor, view: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the inputs of a tail for one view of each of some videos."""
    table = data.features.positions if tail.from_time else data.features.activations
    assert table is not None
    return table[rows, view].float().to(device), data.features.motion[rows, view].to(device)


@torch.no_grad()
def tail_logits(tail: Tail, data: LabelledFeatures, rows: Tensor) -> Tensor:
    """Compute the logits (R, K) of the test view of some videos; leaves the model in evaluation mode."""
    tail.model.eval()
    device, out = tail.model.head.weight.device, list[Tensor]()
    for chunk in rows.split(BATCH if tail.from_time else BATCH_OF_LAYERS):
        view = torch.full_like(chunk, data.views[0])
        out.append(tail.model.head(tail(*tail_inputs(data, tail, chunk, view, device))).float().cpu())
    return torch.cat(out)


def with_head(model: ViViT, config: ModelConfig, *, seed: int) -> ViViT:
    """Build a model of another head on the frozen parts of `model`, which the two share."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = ViViT(config).to(model.head.weight.device)
    for part in ("tokenizer", "encoder.spatial"):
        parent, _, name = part.rpartition(".")
        setattr(new.get_submodule(parent), name, model.get_submodule(part))
    if new.motion is not None:
        new.motion.proj.weight.data.copy_(model.tokenizer.proj.weight.detach().sum(dim=2))
    new.normalization = model.normalization
    return new


def fit_head(
    model: ViViT,
    head: Head,
    data: LabelledFeatures,
    keep: Tensor | None = None,
    *,
    motion: bool,
    seed: int = 0,
    setting: float | None = None,
    title: str = "",
) -> ViViT:
    """Return a model with this head, fitted to the videos of the mask `keep`; it shares frozen parts with `model`.

    `setting` is the L2 penalty of a linear head, by default the best on folds, and the training steps of another one.
    `title` names the progress bar.
    """
    new = new_head(model, head, data, motion=motion, seed=seed)
    if head.name == "linear":
        x, labels, groups = linear_rows(data, keep, motion=motion)
        sizes, weights = new.config.class_counts, data.weights(linear_videos(data, keep)).repeat(len(data.views))
        penalty = choose_penalty(x, labels, groups, sizes)[0] if setting is None else setting
        [fitted] = fit_linear(x, labels, sizes, penalties=(penalty,), weights=weights)
        new.head.weight.data.copy_(fitted.weight)
        new.head.bias.data.copy_(fitted.bias)
        return new.eval()
    steps = usual_steps(data, keep) if setting is None else int(setting)
    with progress_bar(title or head.name, steps) as update:
        for step in train_tail(Tail(new, new.config.depth), data, keep, steps=steps, rate=LEARNING_RATE, seed=seed):
            update(step)
    return new.eval()


def new_head(model: ViViT, head: Head, data: LabelledFeatures, *, motion: bool, seed: int) -> ViViT:
    """Build a model with this head, not yet fitted, on the frozen parts of `model`; only the head is trainable."""
    new = with_head(model, replace(model.config, **head.settings, motion_pool=motion), seed=seed)
    if new.motion is not None:
        center, scale = motion_statistics(data.features)
        new.motion.center.data.copy_(center)
        new.motion.scale.data.copy_(scale)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(name.startswith(("encoder.temporal.", "head.")))
    return new


def usual_steps(data: LabelledFeatures, keep: Tensor | None = None) -> int:
    """Return the training steps of a head that is not linear, if there is time for them."""
    return min(max(STEPS, EPOCHS * len(data.rows(keep)) // BATCH), MOST_STEPS)


def measure_step(tail: Tail, data: LabelledFeatures) -> float:
    """Return the seconds of a training step, on a copy of the tail."""
    since, seconds = time.monotonic(), 1.0
    for _ in train_tail(copy.deepcopy(tail), data, steps=3, rate=0.0):
        since, seconds = time.monotonic(), time.monotonic() - since
    return seconds


def cross_validate(
    model: ViViT, head: Head, data: LabelledFeatures, *, motion: bool, seed: int = 0, seconds: float = math.inf
) -> CrossValidation | None:
    """Test a head on every training video, fitted without the video's fold.

    The time of all folds and of a last fit to all videos stays within `seconds`, by fewer penalties or steps. Returns
    None if it allows fewer than FEWEST_STEPS.
    """
    parts = data.folds()
    sizes = model.config.class_counts
    rows = data.rows()
    if head.name == "linear":
        logits, setting = cross_validate_linear(data, sizes, parts, motion=motion, seconds=seconds)
        return CrossValidation(score_logits(logits[rows], data.labels[rows], sizes), logits, setting)
    tail = Tail(new_head(model, head, data, motion=motion, seed=seed), model.config.depth)
    fits = (FOLDS + 1) * measure_step(tail, data)
    steps = int(min(usual_steps(data), seconds / fits))
    if steps < FEWEST_STEPS:
        return None
    logits = torch.zeros(len(data.labels), sum(sizes))
    for done, fold in enumerate(numbers := parts.unique(), start=1):
        held = parts == fold
        title = f"{head.name}, fold {done} of {len(numbers)}"
        fitted = fit_head(model, head, data, ~held, motion=motion, seed=seed, setting=steps, title=title)
        if len(held_out := data.rows(held)):
            logits[held_out] = tail_logits(Tail(fitted, fitted.config.depth), data, held_out)
    return CrossValidation(score_logits(logits[rows], data.labels[rows], sizes), logits, steps)


def score_on(model: ViViT, data: LabelledFeatures, cut: int | None = None) -> Score:
    """Score a model on the test view of the cached videos, from the activations before block `cut` or from time on."""
    rows = data.rows()
    logits = tail_logits(Tail(model, model.config.depth if cut is None else cut), data, rows)
    return score_logits(logits, data.labels[rows], model.config.class_counts)
