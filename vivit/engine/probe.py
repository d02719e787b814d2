"""The linear probe: fit the head to the features of a frozen model.

It is the baseline that fine-tuning must beat. For a model that was inflated from an image model with `temporal_skip`,
the features are those of the image model, averaged over the frames of the clip. Training starts from the fitted head
(Kumar et al., 2022: a random head distorts the features before it has learned anything).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import EvalConfig
from ..data.dataset import EvalDataset
from ..data.frame_cache import FrameCache
from ..data.loader import eval_clips
from ..data.sample import Sample
from ..errors import DataError
from ..model.modes import preserve_training_mode
from ..model.vivit import ViViT
from ..text import listing
from .device import autocast
from .distributed import World
from .losses import cross_entropy
from .progress import progress_bar

FEW_VIDEOS, MOST_VIDEOS = 2000, 20_000  # up to FEW_VIDEOS give five clips each, more give one; MOST_VIDEOS are used
FOLDS = 4
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)  # weights of the squared norm, the strongest first
RISES = 2  # try no weaker penalty once this many have not been better than the best
TOLERANCE = 1e-7  # end a fit once the loss changes by less in an iteration


class Rows(NamedTuple):
    """Features of clips, and the video of each clip."""

    features: Tensor
    """(R, D) float32."""
    videos: Tensor
    """(R,) int64: the index of the video of each clip."""
    missing: dict[int, str]
    """Videos that could not be read, and why."""


class LinearHead(NamedTuple):
    """A head in float64: features · weightᵀ + bias."""

    weight: Tensor
    """(K, D)."""
    bias: Tensor
    """(K,)."""


def fit_linear_probe(
    model: ViViT,
    samples: Sequence[Sample],
    labels: Tensor,
    *,
    world: World,
    workers: int | None = 0,
    precision: str = "auto",
    log: Callable[[str], None] = print,
    skipped: dict[str, str] | None = None,
    frame_cache: FrameCache | None = None,
) -> None:
    """Fit the head of the model to its features of the training videos; nothing else of the model changes.

    labels (N, L). The strength of the L2 penalty is chosen by cross-validation among the training videos. Each of
    several processes reads its share of the videos; the head is the same in all of them. Paths in `skipped` are not
    opened; files whose worker process is killed are added to it. Raises DataError if no video can be read.
    """
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), MOST_VIDEOS)).round().astype(int).tolist()
    views = EvalConfig(temporal_views=4 if len(chosen) <= FEW_VIDEOS else 1, spatial_views=1)
    clips = len(chosen) * (views.temporal_views + 1 if views.temporal_views > 1 else 1)
    log(f"frozen baseline: linear probe on the features of {clips} clips of {len(chosen)} training videos")
    rows = clip_features(
        model,
        [samples[i] for i in chosen],
        protocol=views,
        workers=workers,
        precision=precision,
        world=world,
        skipped=skipped,
        frame_cache=frame_cache,
    )
    if not len(rows.videos):
        raise DataError(listing("none of the training videos can be read", list(rows.missing.values())))
    head = None
    if world.is_main:
        sizes = model.config.class_counts
        targets = labels[chosen][rows.videos]
        penalty, loss = choose_penalty(rows.features, targets, rows.videos, sizes)
        [head] = fit_linear(rows.features, targets, sizes, penalties=(penalty,))
        log(f"frozen baseline: L2 penalty {penalty:g}, loss {loss:.3f} on held-out training videos")
    world.barrier()  # fitting may take longer than a collective waits
    head = world.gather(head)[0]
    assert head is not None
    with torch.no_grad():
        model.head.weight.copy_(head.weight)
        model.head.bias.copy_(head.bias)


@torch.no_grad()
@preserve_training_mode
def clip_features(
    model: ViViT,
    samples: Sequence[Sample],
    *,
    protocol: EvalConfig,
    workers: int | None,
    precision: str,
    world: World,
    skipped: dict[str, str] | None = None,
    frame_cache: FrameCache | None = None,
    title: str = "features for the linear probe",
) -> Rows:
    """Compute the features of every test view of every sample, in the order of the list, from all processes."""
    mine = list(range(world.rank, len(samples), world.size))
    no_labels = torch.zeros(len(mine), 0, dtype=torch.int64)
    chosen = [samples[i] for i in mine]
    videos = EvalDataset(chosen, no_labels, model=model.config, protocol=protocol, frame_cache=frame_cache)
    model.eval()
    found: dict[int, Tensor] = {}
    missing: dict[int, str] = {}
    with (
        progress_bar(title, len(mine), enabled=world.is_main) as update,
        eval_clips(videos, workers=workers, skipped=skipped) as clips,
    ):
        for done, clip in enumerate(clips, start=1):
            update(done)
            if clip.video is None:
                missing[mine[clip.index]] = clip.problem or ""
                continue
            with autocast(world.device, precision):
                found[mine[clip.index]] = model.features(clip.video.to(world.device)).float().cpu()
    world.barrier()  # a share may take much longer than another
    shares = world.gather((found, missing))
    found = dict(sorted(pair for share, _ in shares for pair in share.items()))
    missing = dict(sorted(pair for _, share in shares for pair in share.items()))
    counts = torch.tensor([len(features) for features in found.values()], dtype=torch.int64)
    features = torch.cat([*found.values()]) if found else torch.zeros(0, model.config.num_features)
    return Rows(features, torch.tensor([*found], dtype=torch.int64).repeat_interleave(counts), missing)


def choose_penalty(features: Tensor, labels: Tensor, videos: Tensor, sizes: Sequence[int]) -> tuple[float, float]:
    """Return (L2 penalty with the lowest loss on held-out videos, that loss), by cross-validation over videos.

    features (R, D), labels (R, L), videos (R,): clips of one video stay together.
    """
    parts = folds(labels, videos)
    if len(parts.unique()) < 2:
        return PENALTIES[0], 0.0
    penalty, loss, _ = cross_validate_penalties(leave_folds_out(features, labels, parts, sizes), sizes)
    return penalty, loss


class Fold(NamedTuple):
    """Heads that are fitted without some rows, one for each of PENALTIES, and those rows to test them on."""

    heads: Iterator[LinearHead]
    inputs: Tensor
    """(R, D)."""
    labels: Tensor
    """(R, L)."""


def leave_folds_out(features: Tensor, labels: Tensor, parts: Tensor, sizes: Sequence[int]) -> list[Fold]:
    """Return the folds `parts` (R,) of some rows, in the order of their numbers; features (R, D), labels (R, L)."""
    return [
        Fold(fit_linear(features[~held], labels[~held], sizes), features[held], labels[held])
        for held in (parts == fold for fold in parts.unique())
    ]


def cross_validate_penalties(
    tests: Sequence[Fold],
    sizes: Sequence[int],
    *,
    seconds: float = math.inf,
    update: Callable[[int], None] = lambda done: None,
) -> tuple[float, float, list[Tensor]]:
    """Return (L2 penalty with the lowest mean loss on the rows of all folds, that loss, its logits of each fold).

    The strongest penalty is tried first. No weaker one is tried after `seconds`, or after RISES penalties since the
    best. `update` takes the number of heads that are fitted.
    """
    since, labels = time.monotonic(), torch.cat([test.labels for test in tests])
    inputs = [test.inputs.double() for test in tests]
    best, chosen = (PENALTIES[0], math.inf, list[Tensor]()), 0
    for i, penalty in enumerate(PENALTIES):
        if i and (time.monotonic() - since > seconds or i - chosen > RISES):
            break
        logits = []
        for test, x in zip(tests, inputs):
            head = next(test.heads)
            logits.append(x @ head.weight.T + head.bias)
            update(i * len(tests) + len(logits))
        loss = cross_entropy(torch.cat(logits), labels, sizes).mean().item()
        if loss < best[1] or not best[2]:
            best, chosen = (penalty, loss, logits), i
    return best


def folds(labels: Tensor, videos: Tensor) -> Tensor:
    """Return the fold (R,) of each clip; the videos of each class are distributed evenly over the folds."""
    first = {video: row for row, video in reversed(list(enumerate(videos.tolist())))}  # a row of each video
    ordered = sorted(first, key=lambda video: (labels[first[video]].tolist(), video))
    fold = {video: place % FOLDS for place, video in enumerate(ordered)}
    return torch.tensor([fold[video] for video in videos.tolist()])


def fit_linear(
    features: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    *,
    penalties: Sequence[float] | None = None,
    weights: Tensor | None = None,
) -> Iterator[LinearHead]:
    """Fit a head for each penalty λ: minimize mean cross-entropy + λ/2 · the squared norm of its weights.

    `weights` (R,) of the rows, of mean 1, weigh the cross-entropy. The penalties are PENALTIES if None are given.

    The norm is that of the weights of standardised features, so that λ means the same for any model. The problem is
    convex, so the result does not depend on the start; each fit starts from the previous one, the strongest λ first.
    """
    x = features.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-12), std, torch.inf)  # ignore constant features
    x = (x - mean) / std
    weight = torch.zeros(sum(sizes), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(sum(sizes), dtype=torch.float64, requires_grad=True)
    for penalty in PENALTIES if penalties is None else penalties:
        optimizer = torch.optim.LBFGS(
            (weight, bias), max_iter=100, tolerance_change=TOLERANCE, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure(penalty: float = penalty, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            losses = cross_entropy(x @ weight.T + bias, labels, sizes)
            loss = (losses if weights is None else losses * weights).mean() + penalty / 2 * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        scaled = weight.detach() / std
        yield LinearHead(scaled, bias.detach() - scaled @ mean)
