"""Classify a video over time: scores of the classes every few tenths of a second."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..config import ModelConfig
from ..data.clips import frame_range
from ..data.sample import Sample, as_sample
from ..data.transforms import center_box, crop, eval_boxes, resize_for_eval
from ..data.video.decoder import Video
from ..data.video.frame_folder import FrameFolder
from ..data.views import candidate_frames, candidate_times, open_sample, segment_frames
from ..errors import DataError, as_video_error
from ..files import atomic_write
from .exported import ExportedModel, is_exported, open_exported
from .prediction import softmax, split_label_sets
from .sliding import Readout, SlidingModel, Windows, batch_end, choose_batch, make_windows, restart

if TYPE_CHECKING:
    from ..model.vivit import ViViT
    from .sliding import AnyModel

HOP = 0.5  # seconds, if no other is asked for
CROPS = (1, 3)
ARRAYS = ("start", "end", "center", "padded", "logits")


@dataclass(frozen=True)
class Timeline:
    """The logits of a video over time, one row per window."""

    path: str
    classes: dict[str, list[str]]
    """Class names by label set."""
    start: np.ndarray
    """(n,) float64 seconds: the first frame of each window appears."""
    end: np.ndarray
    """(n,) float64 seconds: the last frame of each window ends; the video, where the window reaches beyond it."""
    center: np.ndarray
    """(n,) float64 seconds: the time that the scores of the row stand for."""
    padded: np.ndarray
    """(n,) bool: the window reaches beyond the video and repeats its first or last frame."""
    logits: np.ndarray
    """(n, K) float32, the label sets one after the other."""
    hop: float
    """Mean seconds between two rows."""
    reaches_end: bool = True
    """Whether the last row is the last of the video."""

    def probabilities(self, label_set: str) -> np.ndarray:
        """Return the softmax of the logits of a label set, (n, k) float64. Raises KeyError for an unknown one."""
        return softmax(split_label_sets(self.classes, self.logits)[label_set][1])

    def save(self, path: str | os.PathLike[str], made_from: str = "") -> None:
        """Write an .npz file, all or nothing. Raises OSError.

        `made_from` says what the timeline was computed from; see `vivit.inference.resume`.
        """
        with atomic_write(path, "wb") as file:
            self.write(file, made_from)

    def write(self, file: IO[bytes], made_from: str = "") -> None:
        """Write the arrays in numpy's format, and `about`, a JSON text of the rest."""
        about = {"path": self.path, "classes": self.classes, "hop": self.hop, "made_from": made_from}
        about["reaches_end"] = self.reaches_end
        np.savez(file, about=np.array(json.dumps(about)), **{name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Timeline:
        """Read what `save` wrote. Raises DataError for another file, OSError for none."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
                about = json.loads(str(found["about"]))
                arrays = {name: found[name] for name in ARRAYS}
            about = {name: about[name] for name in ("path", "classes", "hop", "reaches_end") if name in about}
            return cls(**about, **arrays)
        except OSError:
            raise
        except Exception as error:  # numpy raises what its parsers raise
            raise DataError(f"{path} is not a timeline ({type(error).__name__}: {error})") from error

    def __len__(self) -> int:
        return len(self.center)

    def __repr__(self) -> str:
        return f"Timeline({self.path!r}: {len(self)} rows, one every {self.hop:.3g} s, {self.logits.shape[1]} classes)"


def timeline(
    model: AnyModel | str | os.PathLike[str],
    path: str | os.PathLike[str] | Sample,
    *,
    hop: float = HOP,
    start: float | None = None,
    end: float | None = None,
    crops: int = 1,
    precision: str = "auto",
    batch: int | None = None,
) -> Timeline:
    """Classify the video at `path` every `hop` seconds, rounded to whole temporal positions of the model.

    A row is the window of the model's clip length around its time `center`, sampled as `predict` samples a clip. At
    both ends of the video the window repeats the first or the last frame. `start` and `end` choose the rows by
    their centers, in seconds; their windows still see the frames around. `crops` is 1 (center) or 3 along the longer
    side, whose logits are averaged. With Model 2 each temporal position goes through the spatial encoder once.

    `batch` is how many positions go through the encoder together; None: 4 on a CPU, 128 elsewhere. The same batch
    gives the same bits. `model` and `precision` are those of `predict`. Raises VideoError for an
    unreadable file and WeightsError for logits that are not finite.
    """
    if isinstance(model, str | os.PathLike):
        model = open_model(model)
    plan = plan_timeline(model, path, hop=hop, start=start, end=end, crops=crops)
    logits = [np.asarray(row) for _, row in compute_rows(model, plan, precision=precision, batch=batch)]
    return plan.timeline(np.stack(logits))


def open_model(source: str | os.PathLike[str]) -> ViViT | ExportedModel:
    """Load an exported model, or weights to the best device. Only weights need PyTorch."""
    if is_exported(source):
        return open_exported(source)
    from ..engine.device import load_to_device

    return load_to_device(source)


@dataclass(frozen=True)
class Plan:
    """Which frames make the windows of a video, and when each window is."""

    video: Video | FrameFolder
    config: ModelConfig
    windows: Windows
    crops: int
    sampled: np.ndarray
    """(G,) the frame number of every sampled frame, ascending."""
    rows: range
    """The windows asked for."""
    hop: float
    """Mean seconds between two windows."""
    shown_from: np.ndarray
    """(G,) float64 seconds at which each sampled frame appears."""
    shown_until: np.ndarray
    """(G,) float64 seconds at which each sampled frame ends."""

    def samples(self, position: int) -> np.ndarray:
        """Return the numbers (depth,) of the sampled frames of a position, which may lie beyond the video."""
        first = (position - self.windows.lead) * self.windows.depth
        return np.clip(np.arange(first, first + self.windows.depth), 0, len(self.sampled) - 1)

    def frame_ids(self, position: int) -> tuple[int, ...]:
        """Return the frame numbers of a position; a position beyond the video repeats the first or last frame."""
        return tuple(self.sampled[self.samples(position)].tolist())

    def timeline(self, logits: np.ndarray, rows: range | None = None) -> Timeline:
        """Return the timeline of these logits (n, K), of the first n of the rows asked for."""
        rows = (self.rows if rows is None else rows)[: len(logits)]
        first, last = self._ends(rows)
        begin, stop = np.clip(first, 0, None), np.clip(last, None, len(self.sampled) - 1)
        return Timeline(
            path=self.video.path,
            classes={name: list(names) for name, names in self.config.classes.items()},
            start=self.shown_from[begin],
            end=np.where(last < len(self.sampled), self.shown_until[stop], self.video.duration),
            center=self.centers(rows),
            padded=(first < 0) | (last >= len(self.sampled)),
            logits=np.asarray(logits, dtype=np.float32),
            hop=self.hop,
            reaches_end=rows.stop == self.windows.number(-(-len(self.sampled) // self.windows.depth)),
        )

    def centers(self, rows: range) -> np.ndarray:
        """Return the seconds (n,) in the middle of the windows: always a moment of the video."""
        first, last = self._ends(rows)
        middle = np.clip((first + last + 1) // 2, 0, len(self.sampled) - 1)
        if (first + last)[:1] % 2:
            return self.shown_from[middle]
        return (self.shown_from[middle] + self.shown_until[middle]) / 2

    def _ends(self, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers (n,) of the first and last sampled frame of windows, which may lie beyond the video."""
        w = self.windows
        first = (np.arange(rows.start, rows.stop) * w.hop - w.lead) * w.depth
        return first, first + w.span * w.depth - 1


def plan_timeline(
    model: AnyModel,
    path: str | os.PathLike[str] | Sample,
    *,
    hop: float = HOP,
    start: float | None = None,
    end: float | None = None,
    crops: int = 1,
) -> Plan:
    """Open a video and choose its windows; see `timeline`. A Sample has its own `start` and `end`.

    Raises VideoError, and ValueError for a wrong number.
    """
    check_numbers(hop, crops)
    segment = as_sample(path, start=start, end=end)
    sample, start, end = replace(segment, start=None, end=None), segment.start, segment.end
    with as_video_error(sample.path):
        video = open_sample(sample)
        segment_frames(video, segment)  # raises if there are none
        candidates, stride = candidate_frames(video, sample, model.config)
    windows, hop = windows_for(model, stride=stride, fps=video.fps, hop=hop)
    plan = make_plan(model.config, video, windows, sample, candidates=candidates, stride=stride, hop=hop, crops=crops)
    rows = frame_range(plan.centers(plan.rows), video.duration, start, end)
    return replace(plan, rows=rows or plan.rows[:1])  # a segment may end before the first center


def make_plan(
    config: ModelConfig,
    video: Video | FrameFolder,
    windows: Windows,
    sample: Sample,
    *,
    candidates: np.ndarray,
    stride: float,
    hop: float,
    crops: int = 1,
) -> Plan:
    """Choose the frames of all windows of a sample's video from its candidates; see `candidate_frames`."""
    number = int(np.ceil(len(candidates) / stride)) + 1
    steps = np.floor(np.arange(number) * stride).astype(np.int64)
    steps = steps[steps < len(candidates)]
    shown_from, shown_until = candidate_times(video, sample, config, candidates)
    sampled = candidates[steps]
    return Plan(
        video=video,
        config=config,
        windows=windows,
        crops=crops,
        sampled=sampled,
        rows=range(windows.number(-(-len(sampled) // windows.depth))),
        hop=hop,
        shown_from=shown_from[steps],
        shown_until=shown_until[steps],
    )


def check_numbers(hop: float, crops: int) -> None:
    """Raise ValueError for a hop or a number of crops that cannot be."""
    if not 0 < hop < float("inf"):
        raise ValueError(f"hop is {hop}; it takes seconds above 0")
    if crops not in CROPS:
        raise ValueError(f"crops is {crops}; it is 1 (center) or 3 along the longer side")


def windows_for(model: AnyModel, *, stride: float, fps: float, hop: float) -> tuple[Windows, float]:
    """Return the windows for a hop in seconds, rounded to positions, at least one; and the hop that this gives."""
    seconds = make_windows(model, hop=1).depth * stride / fps  # of a position
    positions = max(round(hop / seconds), 1)
    return make_windows(model, hop=positions), positions * seconds


def describe_hop(windows: Windows, hop: float) -> str:
    """Describe the hop for the log: "hop 0.64 s: 4 positions of 0.16 s, windows of 2.56 s"."""
    seconds = hop / windows.hop
    positions = "1 position" if windows.hop == 1 else f"{windows.hop} positions"
    return f"hop {hop:.3g} s: {positions} of {seconds:.3g} s; windows of {windows.span * seconds:.3g} s"


def compute_rows(
    model: AnyModel,
    plan: Plan,
    *,
    rows: range | None = None,
    precision: str = "auto",
    batch: int | None = None,
    readout: Readout = "logits",
) -> Iterator[tuple[int, Any]]:
    """Decode the video once, in order, and yield (window, readout) of the plan's rows, or of these of them.

    The readout is a tensor, or of an exported model an array.
    """
    rows = plan.rows if rows is None else rows
    if not rows:
        return
    batch = choose_batch(model, batch, readout)
    first = restart(plan.windows, rows.start, batch=batch, key=plan.frame_ids)
    sliding = SlidingModel(
        model, plan.windows, precision=precision, batch=batch, first=first, first_window=rows.start, readout=readout
    )
    stop = (rows.stop - 1) * plan.windows.hop + plan.windows.span
    total = plan.windows.total(-(-len(plan.sampled) // plan.windows.depth))
    stop = batch_end(plan.windows, stop, batch=batch, total=total)  # the last rows are from a whole batch too
    for ids, frames in read_positions(plan, range(first, stop), numpy_only=isinstance(model, ExportedModel)):
        yield from (row for row in sliding.push(ids, frames) if row[0] < rows.stop)
    yield from (row for row in sliding.flush() if row[0] < rows.stop)


def read_positions(plan: Plan, positions: range, *, numpy_only: bool = False) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield the frame numbers and the frames (crops, depth, C, H, W) of positions, decoding each frame once.

    Those that no window reads are None.
    """
    ids = [plan.frame_ids(position) for position in positions if plan.windows.is_read(position)]
    images = plan.video.images(np.unique(np.array(ids)))
    video = plan.video
    prepare = frame_preparation(plan.config, video.height, video.width, crops=plan.crops, numpy_only=numpy_only)
    number, frame = -1, None
    for position in positions:
        wanted = plan.frame_ids(position)
        if not plan.windows.is_read(position):
            yield wanted, None
            continue
        frames = []
        with as_video_error(plan.video.path):
            for one in wanted:
                if one != number:
                    number, image = next(images)
                    frame = prepare(image)
                frames.append(frame)
        yield wanted, np.stack(frames, 1)


def frame_preparation(
    config: ModelConfig, height: int, width: int, *, crops: int, numpy_only: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that resizes and crops a frame (height, width, 3) as `predict` does: → (crops, C, H, W).

    It resizes with PyTorch, or with numpy to the same pixels where PyTorch may not be installed.
    """
    box = center_box(height, width, image_size=config.image_size)
    resize = partial(resize_for_eval, image_size=config.image_size, crop_fraction=config.preprocessing.crop_fraction)

    def prepare(image: np.ndarray) -> np.ndarray:
        pixels: Any = crop(np.ascontiguousarray(image).transpose(2, 0, 1)[None], box)
        if not numpy_only:
            import torch

            pixels = torch.from_numpy(pixels)
        resized = np.asarray(resize(pixels)[0])
        boxes = eval_boxes(*resized.shape[-2:], image_size=config.image_size, views=crops)
        return np.stack([crop(resized, view) for view in boxes])

    return prepare
