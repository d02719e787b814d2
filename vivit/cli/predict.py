"""`vivit predict`: class names and probabilities of videos and of folders of videos."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from ..errors import DataError, VivitError, WeightsError
from ..text import listing
from .parse import WithAnyWeights, parse
from .terminal import print_error

if TYPE_CHECKING:
    from ..inference.exported import ExportedModel
    from ..inference.prediction import Prediction
    from ..model.token_reduction import TokenReducedViViT
    from ..model.vivit import ViViT

USAGE = "vivit predict WEIGHTS VIDEO [VIDEO ...] [options]"
USUAL = (
    "classes",
    "json",
    "csv",
    "threshold",
    "start",
    "end",
    "temporal_views",
    "spatial_views",
    "top_k",
    "device",
    "precision",
)


@dataclass(frozen=True)
class Predict(WithAnyWeights):
    """Print class names and probabilities of videos.

    Exits with code 1 if a video could not be read.
    """

    videos: Positional[tuple[str, ...]] = ()
    """Video files, folders of images, or folders that are searched for both."""
    classes: tuple[str, ...] = ()
    """Classes in words, for weights with a text tower (VideoPrism's video-text models); nothing is trained."""
    json: bool = False
    """Print one JSON object per line."""
    csv: str | None = None
    """Write a table to this file: path, then class and probability per label set, then the error."""
    threshold: float = 0.0
    """Call a video "unsure" where the best class has a lower probability than this."""
    start: float | None = None
    """Start of the segment to classify, in seconds."""
    end: float | None = None
    """End of the segment to classify, in seconds."""
    temporal_views: int = 4
    """Evenly spaced clips of a video."""
    spatial_views: int = 3
    """1 center crop, or 3 crops along the longer side."""
    top_k: int = 5
    """Classes to show."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""
    merge_tokens: int = 0
    """Model 1 only, faster at a small loss: number of tokens that each layer merges into similar ones."""
    drop_static: float | None = None
    """Model 1 only, faster at a small loss: drop tubelets that differ from the previous one by at most this on
    average, on the scale 0..1."""

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be in [0, 1]")
        if self.start is not None and not self.start >= 0:
            raise ValueError(f"start is {self.start}; it is 0 or more seconds")
        if self.end is not None and not self.end > (self.start or 0):
            raise ValueError(f"end is {self.end}; it must be after start={self.start or 0}, in seconds")


def run(args: list[str]) -> None:
    """Predict the videos that the arguments name; exit with code 1 if one could not be read."""
    asked = parse(Predict, args, usage=USAGE, usual=USUAL)
    if not asked.videos:
        raise ValueError(f"no video to predict; usage: {USAGE}")
    videos = find_inputs(asked.videos)
    if asked.csv:
        refuse_unwritable(Path(asked.csv))
    model = load_any(asked)
    failed = 0
    with ExitStack() as stack:
        table = (
            stack.enter_context(Table(asked.csv, list(model.config.classes), asked.threshold)) if asked.csv else None
        )
        for path, result in predict_all(model, videos, asked):
            if table:
                table.write(path, result)
            if isinstance(result, VivitError):
                failed += 1
                is_of_weights = isinstance(result, WeightsError)
                print_error(f"{result} (weights: {asked.weights})" if is_of_weights else str(result))
            elif asked.json:
                print(json.dumps(result.to_dict(asked.threshold)))
            elif not table:
                print(result.to_text(asked.threshold))
    if asked.csv:
        print(f"{len(videos) - failed} of {len(videos)} videos written to {asked.csv}", file=sys.stderr)
    if failed:
        sys.exit(1)


def find_inputs(paths: Sequence[str]) -> list[str]:
    """Return the videos that the paths name; of a folder those below it, or the folder itself if it holds images.

    Raises DataError for paths that do not exist and for folders without a video.
    """
    from ..data.datasets.find_videos import VIDEO_SUFFIXES, find_videos, has_images

    videos, problems = [], []
    for path in paths:
        if not os.path.isdir(path):
            videos.append(path)
            problems += [] if os.path.exists(path) else [f"{path}: does not exist"]
        elif found := find_videos(path, thorough=True):
            videos += [os.path.join(path, name) for name in found]
        elif has_images(path):
            videos.append(path)
        else:
            problems.append(f"{path}: no video in this folder ({', '.join(VIDEO_SUFFIXES[:3])} ..., folders of images)")
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError(listing("videos that cannot be predicted", problems))
    first: dict[str, str] = {}
    for path in videos:
        first.setdefault(os.path.abspath(path), path)
    return list(first.values())


def refuse_unwritable(path: Path, option: str = "--csv") -> None:
    """Raise an OSError for a file of `option` that cannot be written, before the work of prediction."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; {option} takes the name of a file")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.absolute().parent} does not exist; {option} takes a file in an existing folder")


def load_any(asked: Predict) -> ViViT | TokenReducedViViT | ExportedModel:
    """Load weights, or an exported model without PyTorch, if the name is that of one."""
    from ..inference.exported import is_exported, open_exported

    if not is_exported(asked.weights):
        return load_model(asked)
    refused = {"device": asked.device not in ("auto", "cpu"), "precision": asked.precision == "bfloat16"}
    refused |= {"merge-tokens": asked.merge_tokens > 0, "drop-static": asked.drop_static is not None}
    refuse_for_exported(asked.weights, [name for name, is_given in refused.items() if is_given])
    return open_exported(asked.weights)


def refuse_for_exported(file: str, names: Sequence[str]) -> None:
    """Raise ValueError for options that an exported model cannot follow."""
    if names:
        raise ValueError(
            f"{file} is an exported model, which computes on the CPU as it was exported; leave out "
            f"{', '.join(f'--{name}' for name in names)} or give the weights"
        )


def load_model(asked: Predict) -> ViViT | TokenReducedViViT:
    """Load the weights onto the device, and print what the user should know about them to stderr."""
    from ..engine.device import choose_attention, pick_device, uses_bfloat16
    from ..engine.evaluate import load_weights
    from ..model.token_reduction import reduce_tokens
    from ..weights.text_tower import zero_shot

    device = pick_device(asked.device)
    choose_attention(device)
    model = (zero_shot(asked.weights, asked.classes) if asked.classes else load_weights(asked.weights)).to(device)
    if is_demo(model.config.classes):
        print("note: these are the classes of the demo's synthetic videos, not of your own videos", file=sys.stderr)
    if uses_bfloat16(device, asked.precision):
        print(f"computing in bfloat16 on {device.type}; --precision float32 is exact", file=sys.stderr)
    return reduce_tokens(model, merge_tokens=asked.merge_tokens, drop_static=asked.drop_static)


def is_demo(classes: dict[str, tuple[str, ...]]) -> bool:
    """Say whether these are the classes of the synthetic videos of `vivit demo`."""
    from ..data.tools.synthetic import NOUNS, VERBS

    return {name: set(names) for name, names in classes.items()} == {"noun": set(NOUNS), "verb": set(VERBS)}


def predict_all(
    model: ViViT | TokenReducedViViT | ExportedModel, videos: Sequence[str], asked: Predict
) -> Iterator[tuple[str, Prediction | VivitError]]:
    """Yield every path with its prediction or its error; of several videos, a terminal shows a bar with time left."""
    from rich.console import Console
    from rich.progress import Progress

    classify = predict_function(model, asked)
    on_screen = sys.stdout.isatty()  # then the bar stays below the results; else it goes to stderr
    console = Console(stderr=not on_screen)
    wraps_lines = on_screen and asked.json  # the bar would wrap long lines
    with Progress(
        console=console,
        transient=True,
        disable=len(videos) < 2 or wraps_lines or not console.is_terminal,
        redirect_stdout=on_screen,
        redirect_stderr=True,
    ) as bar:
        for path in bar.track(videos, description="predicting"):
            try:
                yield path, classify(path)
            except VivitError as error:  # also of the weights: logits of this video that are not finite
                yield path, error


def predict_function(model: ViViT | TokenReducedViViT | ExportedModel, asked: Predict) -> Callable[[str], Prediction]:
    """Return a function from the path of a video to its prediction."""
    from ..data.sample import Sample
    from ..inference.exported import ExportedModel, predict_exported

    how: dict[str, Any] = {
        "temporal_views": asked.temporal_views,
        "spatial_views": asked.spatial_views,
        "top_k": asked.top_k,
    }
    if isinstance(model, ExportedModel):
        return lambda path: predict_exported(model, Sample(path, start=asked.start, end=asked.end), **how)
    from ..inference.predict import predict

    return partial(predict, model, precision=asked.precision, start=asked.start, end=asked.end, **how)


class Table:
    """A CSV file with one row per video, written row by row so that an interruption loses none."""

    def __init__(self, path: str, label_sets: Sequence[str], threshold: float):
        self.path, self.label_sets, self.threshold = path, label_sets, threshold

    def __enter__(self) -> Table:
        self.file = open(self.path, "w", newline="", buffering=1, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        self.writer = csv.writer(self.file)
        columns = [column for name in self.label_sets for column in (name, f"{name}_probability")]
        self.writer.writerow(["path", *columns, "error"])
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, path: str, result: Prediction | VivitError) -> None:
        """Write the best class of each label set, "unsure" below the threshold, or the error."""
        if isinstance(result, VivitError):
            self.writer.writerow([path, *[""] * (2 * len(self.label_sets)), str(result)])
            return
        unsure = result.unsure(self.threshold)
        cells: list[Any] = []
        for name, [(best, probability), *_] in result.classes.items():
            cells += ["unsure" if name in unsure else best, f"{probability:.6f}"]
        self.writer.writerow([path, *cells, ""])
