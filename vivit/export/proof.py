"""Prove that an exported model computes what the weights compute, and measure both beside each other."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import EvalConfig, ModelConfig
from ..data.clips import clip_span
from ..data.sample import Sample
from ..data.tools.synthetic import render, write_video
from ..data.views import eval_views
from ..errors import DataError, VideoError
from ..inference.exported import ExportedModel, Runner
from ..inference.prediction import split_label_sets
from ..model.vivit import ViViT
from ..text import listing

MAX_DIFFERENCE = 1e-4
MAX_CLIPS = 32  # of a float32 proof, evenly spaced in the list of videos
MADE_CLIPS = 4
ROUNDS = 3


@dataclass(frozen=True)
class Agreement:
    """How the logits of two models agree on some clips."""

    clips: int
    difference: float
    """The largest |a − b| of a clip over its largest |a|; the maximum over the clips."""
    same_top1: int
    """Clips on which the best class of every label set is the same."""


def read_clips(videos: Iterable[str], config: ModelConfig, problems: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the path and the middle clip (1, T, C, H, W) of each video; those that cannot be read go to `problems`."""
    protocol = EvalConfig(temporal_views=1, spatial_views=1)
    for path in videos:
        try:
            yield path, eval_views(Sample(path), config, protocol)
        except VideoError as error:
            problems.append(str(error))


def proof_clips(videos: Sequence[str], config: ModelConfig) -> tuple[list[np.ndarray], str]:
    """Return the clips of a proof and what they are. Without videos, synthetic ones are written, read and removed.

    Raises DataError if none can be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = evenly_spaced(videos, MAX_CLIPS) if videos else write_synthetic(Path(folder), config)
        problems: list[str] = []
        clips = [clip for _, clip in read_clips(chosen, config, problems)]
    if not clips:
        raise DataError(listing("no clip for the proof: none of the videos can be read", problems))
    what = f"{len(clips)} of {len(videos)} videos" if videos else f"{len(clips)} synthetic videos; --videos takes yours"
    return clips, what + (f"; {len(problems)} cannot be read" if problems else "")


def evenly_spaced(items: Sequence[str], most: int) -> list[str]:
    """Return at most `most` items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[int(i)] for i in places]


def write_synthetic(folder: Path, config: ModelConfig) -> list[str]:
    """Write a few synthetic videos, a little longer than a clip and larger than its frames; return their paths."""
    stride = config.preprocessing.frame_stride
    size = tuple(2 * round(side * 0.6) for side in config.image_size)  # even, as the codec needs
    paths = [folder / f"{i}.mp4" for i in range(MADE_CLIPS)]
    for i, path in enumerate(paths):
        frames, _ = render(0, "val", 9 * i, num_frames=clip_span(config.num_frames, stride) + 4, size=size)  # type: ignore[arg-type]
        write_video(path, frames)
    return [str(path) for path in paths]


def compare_logits(
    config: ModelConfig,
    reference: Runner,
    candidate: Runner,
    clips: Sequence[np.ndarray],
    progress: Callable[[int], None] = lambda done: None,
) -> Agreement:
    """Compare the logits of two models on clips (1, T, C, H, W): one by one, and of the candidate also two together."""
    difference, same, answers = 0.0, 0, []
    for number, clip in enumerate(clips, start=1):
        expected, found = reference(clip), candidate(clip)
        difference = max(difference, relative_difference(expected, found))
        same += top1(config, expected) == top1(config, found)
        answers.append(expected)
        progress(number)
    pair = candidate(np.concatenate([clips[0], clips[-1]]))
    both = (relative_difference(a, b[None]) for a, b in zip((answers[0], answers[-1]), pair))
    return Agreement(len(clips), max(difference, *both), same)


def relative_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Return max |a − b| / max |a|: 0 for equal arrays, infinity for one that is not finite."""
    error = float(np.abs(expected - found).max())
    if error == 0:
        return 0.0
    scale = float(np.abs(expected).max())
    return error / scale if np.isfinite(error) and scale > 0 else float("inf")


def top1(config: ModelConfig, logits: np.ndarray) -> list[int]:
    """Return the best class of every label set of logits (1, K)."""
    return [int(scores[0].argmax()) for _, scores in split_label_sets(config.classes, logits).values()]


def eager(model: ViViT) -> Runner:
    """Return the model itself as a function of arrays."""

    @torch.inference_mode()
    def run(x: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(x)).numpy()

    return run


def in_parts(model: ExportedModel, frame_index: slice | list[int]) -> Runner:
    """Return the two graphs of a Model 2 as one function of clips; `frame_index` says which frames become tokens."""
    assert model.encode is not None
    assert model.classify is not None
    encode, classify, t = model.encode, model.classify, model.config.grid[0]

    def run(x: np.ndarray) -> np.ndarray:
        positions = x[:, frame_index].reshape(len(x) * t, -1, *x.shape[2:])
        features = encode(positions)  # of a position (D), or (s, D) without pool_space
        return classify(features.reshape(len(x), t, *features.shape[1:]))

    return run


def time_runners(
    runners: Mapping[str, Runner],
    clip: np.ndarray,
    progress: Callable[[int], None] = lambda done: None,
    *,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of a clip, in rounds of all of them, so that other load affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(ROUNDS + 1):  # the first one warms up
        for name, run in runners.items():
            started = now()
            run(clip)
            seconds[name].append(now() - started)
        progress(number + 1)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def peak_memory(source: str | Path) -> float | None:
    """Return the most MB that a new process has in use to load `source` and classify a clip; None where unknown."""
    child = subprocess.run(
        [sys.executable, "-m", "vivit.export.peak_memory", str(source)], capture_output=True, text=True, check=False
    )
    try:
        return float(child.stdout)
    except ValueError:
        return None
