"""Choose test clips to show, and draw them with the model's attention."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..data.dataset import eval_views
from ..data.sample import Sample
from ..engine.evaluate import SINGLE_VIEW
from ..engine.evaluation import Evaluation
from ..engine.metrics import predicted, split_logits
from ..errors import VideoError
from ..model.rollout import attention_maps, overlay
from ..model.vivit import ViViT
from .html import enlarge, join_frames, jpeg

EXAMPLES, COLUMNS, PLAYED = 8, 8, 16  # clips shown, frames of a strip, frames of a playing clip
BAR_HEIGHT = 36  # pixels
ATTENTION_SECONDS = 60.0  # for the maps of all clips of a page; one map of a large model takes minutes on a CPU
NO_ANSWER = "no answer: the logits are not finite"


@dataclass(frozen=True)
class Answer:
    """The answer to a video in one label set."""

    label_set: str
    true: str
    answer: str
    """NO_ANSWER where the logits are not finite."""
    probability: float
    """Of the answer; NaN where there is none."""


@dataclass(frozen=True)
class Column:
    """A frame of a strip. `heat` is the same frame under its attention, "" without a map; `share` is the time's."""

    number: int
    frame: str
    heat: str
    share: float
    bar: int


@dataclass(frozen=True)
class ClipFigure:
    """The pictures of a clip as data URLs: a sheet of frames that plays, and a strip; or the problem with the file."""

    sheet: str = ""
    sheet_frames: int = 0
    aspect: float = 1.0
    columns: tuple[Column, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Example:
    """A test video with its answers."""

    path: str
    badges: list[Answer]
    clip: ClipFigure


def answers(evaluation: Evaluation) -> list[list[Answer]]:
    """Return the answers to every test video from all its views, one per label set."""
    found: list[list[Answer]] = [[] for _ in evaluation.samples]
    parts = split_logits(evaluation.multi, evaluation.classes)
    for (label_set, names), logits, labels in zip(evaluation.classes.items(), parts, evaluation.labels.unbind(dim=1)):
        probabilities = logits.softmax(dim=1).amax(dim=1).tolist()
        for row, label, p, i in zip(found, labels.tolist(), probabilities, predicted(logits).tolist()):
            row.append(Answer(label_set, names[label], names[i] if i >= 0 else NO_ANSWER, p))
    return found


def is_wrong(row: Sequence[Answer]) -> bool:
    """Tell whether the answer in any label set is wrong."""
    return any(one.true != one.answer for one in row)


def confidence(row: Sequence[Answer]) -> float:
    """Return the highest probability of a wrong answer; 0 if all are right, infinity without an answer, to show it."""
    wrong = [one.probability for one in row if one.true != one.answer]
    return max((math.inf if math.isnan(p) else p for p in wrong), default=0.0)


def choose_examples(evaluation: Evaluation, count: int = EXAMPLES, seed: int = 0) -> list[int]:
    """Choose `count` test videos: the most confident errors, at most half where the rest suffices; then new classes.

    Returns row numbers. The correct ones are drawn with `seed`, those of classes shown least often first.
    """
    order = random.Random(seed).sample(range(len(evaluation.samples)), len(evaluation.samples))
    rows = answers(evaluation)
    wrong = sorted((i for i in order if is_wrong(rows[i])), key=lambda i: -confidence(rows[i]))
    rest = [i for i in order if not is_wrong(rows[i])]
    chosen = wrong[: max(count // 2, count - len(rest))]
    shown: Counter[tuple[str, str]] = Counter()
    while rest and len(chosen) < count:
        chosen.append(min(rest, key=lambda i: sum(shown[label] for label in evaluation.samples[i].labels.items())))
        rest.remove(chosen[-1])
        shown.update(evaluation.samples[chosen[-1]].labels.items())
    return chosen


def draw_examples(model: nn.Module, evaluation: Evaluation, count: int) -> list[Example]:
    """Read the chosen videos again and draw them, with attention maps as far as ATTENTION_SECONDS suffice."""
    rows, deadline = answers(evaluation), time.monotonic() + ATTENTION_SECONDS
    return [
        Example(
            evaluation.samples[i].path,
            rows[i],
            clip_figure(model, evaluation.samples[i], attention=time.monotonic() < deadline),
        )
        for i in choose_examples(evaluation, count)
    ]


def clip_figure(model: nn.Module, sample: Sample, *, attention: bool = True) -> ClipFigure:
    """Draw the middle clip of a video: playing, and frame by frame with attention over space and over time.

    A model that is no ViViT has no attention maps; nor has any with `attention=False`.
    """
    try:
        video = eval_views(sample, model.config, SINGLE_VIEW)[0]  # type: ignore[arg-type]
    except VideoError as error:  # the file may be gone since the test
        return ClipFigure(problem=str(error))
    columns = attention_columns(model, video) if attention and isinstance(model, ViViT) else plain_columns(video)
    n = min(len(video), PLAYED)
    sheet = enlarge(video[torch.linspace(0, len(video) - 1, n).round().long()])
    return ClipFigure(jpeg(join_frames(sheet)), n, sheet.shape[-1] / sheet.shape[-2], tuple(columns))


def plain_columns(video: Tensor) -> list[Column]:
    """Draw evenly spaced frames of a clip (T, 3, H, W), without attention."""
    frames = torch.linspace(0, len(video) - 1, min(len(video), COLUMNS)).round().long().tolist()
    return [Column(i + 1, jpeg(frame), "", 0.0, 0) for i, frame in zip(frames, enlarge(video[frames]))]


def attention_columns(model: ViViT, video: Tensor) -> list[Column]:
    """Draw a frame of each moment of a clip (T, 3, H, W) with the attention in it, and the moment's share of attention.

    Where the model has more temporal positions than COLUMNS, neighbours share a column.
    """
    maps = attention_maps(model, video)
    maps = replace(maps, space=maps.space.nan_to_num(0), time=maps.time.nan_to_num(0))  # of weights that are not finite
    return map_columns(video, maps.space * maps.time[:, None, None], maps.time, maps.frames)


def map_columns(video: Tensor, joint: Tensor, time: Tensor, middle: Sequence[int]) -> list[Column]:
    """Draw a frame of each moment of a clip (T, 3, H, W) with its map, joint (t, h, w), and its share, time (t,)."""
    frames, space, shares = [], [], []
    for group in torch.arange(len(time)).tensor_split(min(len(time), COLUMNS)):
        frames.append(middle[int(group[len(group) // 2])])
        space.append(joint[group].sum(dim=0))
        shares.append(time[group].sum().item())
    plain = enlarge(video[frames])
    pictures = zip(frames, plain, overlay(plain, torch.stack(space)), shares)
    largest = max(shares) or 1
    return [
        Column(number + 1, jpeg(frame), jpeg(heat), share, round(BAR_HEIGHT * share / largest))
        for number, frame, heat, share in pictures
    ]


def true_labels(evaluation: Evaluation, path: str) -> Mapping[str, str]:
    """Return the labels of the test video `path`, {} if it is none."""
    return next((sample.labels for sample in evaluation.samples if sample.path == path), {})
