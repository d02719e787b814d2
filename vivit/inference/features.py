"""Compute the features of a video over time: of clips, of temporal positions, or of tokens.

The windows are those of `sliding`, decoded once and in order. Here the first window begins with the video and the last
one reaches its end, so that row i is about the time (i · feat_stride + num_frames / 2) / fps, as ActionFormer and
OpenTAD count; `seconds` has the true times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..data.sample import Sample, as_sample
from ..data.views import candidate_frames, open_sample, segment_frames
from ..engine.device import load_to_device
from ..errors import as_video_error
from ..model.encoders import Transformer
from ..model.token_reduction import TokenReducedViViT
from ..model.vivit import ViViT
from .sliding import Readout, Windows, make_windows, shares_positions
from .timeline import HOP, Plan, check_numbers, compute_rows, make_plan, windows_for

Level = Literal["clip", "position", "token"]
READOUTS: dict[str, Readout] = {"clip": "features", "position": "positions", "token": "tokens"}


@dataclass(frozen=True)
class Features:
    """The features of a video, one row per window or position."""

    path: str
    level: Level
    values: np.ndarray
    """(n, D), or (n, s, D) for tokens, float32."""
    seconds: np.ndarray
    """(n,) float64: the middle of the time that each row is about."""
    start: np.ndarray
    """(n,) float64 seconds: the first frame of each row appears."""
    end: np.ndarray
    """(n,) float64 seconds: the last frame of each row ends."""
    padded: np.ndarray
    """(n,) bool: the row reaches beyond the video and repeats its last frame."""
    fps: float
    """Mean frames per second of the video."""
    feat_stride: float
    """Frames of the video from one row to the next."""
    num_frames: float
    """Frames of the video from the start of a row to the start of what follows it."""
    duration: float
    """Seconds at which the video ends."""

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"Features({self.path!r}: {shape} ({self.level}), one every {self.feat_stride / self.fps:.3g} s)"


def features(
    model: ViViT | TokenReducedViViT | str | os.PathLike[str],
    path: str | os.PathLike[str] | Sample,
    *,
    level: Level = "clip",
    hop: float | None = None,
    start: float | None = None,
    end: float | None = None,
    precision: str = "auto",
    batch: int | None = None,
) -> Features:
    """Compute the features of the video at `path`, or of its part from `start` to `end` seconds.

    | level    | values    | a row is                                                                              |
    |----------|-----------|---------------------------------------------------------------------------------------|
    | clip     | (n, D)    | a window of the model's clip length, every `hop` seconds (None: 0.5): what the head gets |
    | position | (t, D)    | a temporal position after the spatial encoder; Model 2                                |
    | token    | (t, s, D) | the s spatial tokens of a temporal position, after the last block and the norm         |

    `hop` is rounded to whole positions. Model 2 encodes each position exactly once, on its own. Tokens of Models 1, 3
    and 4 come from consecutive clips that do not overlap. The center crop of each frame is used, as in `predict`.

    `batch`, `model` and `precision` are those of `timeline`. Raises VideoError for an unreadable file, WeightsError for
    numbers that are not finite, and ValueError for a level that the model does not have.
    """
    if isinstance(model, str | os.PathLike):
        model = load_to_device(model)
    plan = plan_features(model, as_sample(path, start=start, end=end), level=level, hop=hop)
    windows = [values for _, values in compute_features(model, plan, precision=precision, batch=batch)]
    return plan.features(np.concatenate(windows))


@dataclass(frozen=True)
class FeaturePlan:
    """Which windows of a video become which rows."""

    level: Level
    plan: Plan
    until: float
    """Seconds at which the video or its segment ends."""
    rows_per_window: int
    """1, or the positions of a clip whose tokens are rows."""
    feat_stride: float
    num_frames: float
    shape: tuple[int, ...]
    """Of a row: (D,) or (s, D)."""

    def __len__(self) -> int:
        if self.rows_per_window == 1:
            return len(self.plan.rows)
        return -(-len(self.plan.sampled) // self.plan.windows.depth)

    def features(self, values: np.ndarray) -> Features:
        """Return the features of these values, those of all windows; rows that are only padding are left out."""
        w, n = self.plan.windows, np.arange(len(self))
        first = n * (w.hop * w.depth // self.rows_per_window)
        last = first + w.span * w.depth // self.rows_per_window - 1
        stop = np.minimum(last, len(self.plan.sampled) - 1)
        begin, follows = self.plan.shown_from[first], np.append(self.plan.shown_from[1:], self.until)[stop]
        return Features(
            path=self.plan.video.path,
            level=self.level,
            values=values[: len(self)],
            seconds=(begin + follows) / 2,
            start=begin,
            end=self.plan.shown_until[stop],
            padded=last > stop,
            fps=float(self.plan.video.fps),
            feat_stride=self.feat_stride,
            num_frames=self.num_frames,
            duration=float(self.plan.video.duration),
        )


def plan_features(
    model: ViViT | TokenReducedViViT, sample: Sample, *, level: Level = "clip", hop: float | None = None
) -> FeaturePlan:
    """Open the video of a sample and choose the windows of its segment; see `features`."""
    check_level(model, level, hop)
    hop = HOP if hop is None else hop
    check_numbers(hop, crops=1)
    config = model.config
    with as_video_error(sample.path):
        video = open_sample(sample)
        frames = segment_frames(video, sample)
        candidates, stride = candidate_frames(video, sample, config)
    windows, _ = windows_for(model, stride=stride, fps=video.fps, hop=hop)
    windows = replace(windows, centered=False)
    rows_per_window = count_rows_per_window(model, level)
    if level != "clip" and shares_positions(model, READOUTS[level]):
        windows = Windows(windows.depth, span=1, offsets=(0,), hop=1, centered=False)
    elif level == "token":
        windows = replace(windows, hop=windows.span)
    frames_per_window = windows.hop * windows.depth * stride
    return FeaturePlan(
        level,
        make_plan(
            config, video, windows, sample, candidates=candidates, stride=stride, hop=frames_per_window / video.fps
        ),
        until=float(np.append(video.times, video.duration)[frames[-1] + 1]),
        rows_per_window=rows_per_window,
        feat_stride=frames_per_window / rows_per_window,
        num_frames=windows.span * windows.depth * stride / rows_per_window,
        shape=row_shape(model, level),
    )


def check_level(model: ViViT | TokenReducedViViT, level: str, hop: float | None) -> None:
    """Raise ValueError for a level that the model does not have, and for a hop of a level whose rows are positions."""
    if level not in READOUTS:
        raise ValueError(f"level is {level!r}; allowed are {', '.join(READOUTS)}")
    if level == "clip":
        return
    name = model.config.encoder if isinstance(model, ViViT) else type(model).__name__
    if hop is not None:
        raise ValueError(f"hop is {hop}, but level {level} has a row for each temporal position; leave the hop out")
    if shares_positions(model, READOUTS[level]):
        return
    if level == "position":
        raise ValueError(
            f"level position needs Model 2 (factorised_encoder), which encodes each temporal position on its own; this "
            f"model is {name}: take level clip, or level token where it has tokens"
        )
    if not (isinstance(model, ViViT) and isinstance(model.encoder, Transformer)):
        raise ValueError(f"level token needs a transformer with all its tokens; this model is {name}: take level clip")
    if model.config.tokenizer == "uniform_frames":
        raise ValueError(
            f"level token of {name} needs the tokenizer tubelet, because uniform_frames skips frames; take level clip"
        )


def count_rows_per_window(model: ViViT | TokenReducedViViT, level: str) -> int:
    """Return how many rows a window gives: 1, or the positions of a clip whose tokens are the rows."""
    if level != "token" or shares_positions(model, "tokens"):
        return 1
    return make_windows(model, hop=1).span


def row_shape(model: ViViT | TokenReducedViViT, level: str) -> tuple[int, ...]:
    """Return the shape of a row: (D,), or (s, D) for tokens."""
    _, height, width = model.config.grid
    if level == "clip":
        return ((model.model if isinstance(model, TokenReducedViViT) else model).head.in_features,)
    return (height * width, model.config.embed_dim) if level == "token" else (model.config.embed_dim,)


def compute_features(
    model: ViViT | TokenReducedViViT,
    plan: FeaturePlan,
    *,
    first: int = 0,
    precision: str = "auto",
    batch: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the video once, in order, and yield (window, its rows (rows_per_window, …)) from window `first` on."""
    rows = plan.plan.rows[first:]
    readout = READOUTS[plan.level]
    for window, values in compute_rows(model, plan.plan, rows=rows, precision=precision, batch=batch, readout=readout):
        yield window, values.numpy().reshape(plan.rows_per_window, *plan.shape)
