"""`vivit data`: check, prepare and show a dataset."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from tyro.conf import Positional

from .. import settings
from ..config import Config, ModelConfig, Preprocessing
from .parse import parse, pick_verb, refuse_unused, take_word, wants_help
from .recipe_config import recipe_config

USAGES = {
    "check": "vivit data check [DATASET] ROOT [options]",
    "prepare": "vivit data prepare [DATASET] ROOT DEST [options]",
    "show": "vivit data show RECIPE --data.root ROOT [options]",
}
SHOW_USES = (
    *("augment", "seed", "init", "run"),
    *(f"data.{name}" for name in ("root", "dataset", "labels", "manifest", "train_split")),
    *("data.video_timeout", "data.storage_timeout"),
    *(f"model.{name}" for name in ("num_frames", "image_size", "tubelet_size", "preprocessing", "classes")),
)
SHOW_USUAL = (
    *("output", "classes", "draws", "frames", "data.root", "data.labels", "augment.scale_jitter", "augment.flip"),
    *("model.num_frames", "model.image_size", "seed"),
)


def run(args: list[str]) -> None:
    """Run the verb that the first argument names."""
    verb, rest = pick_verb("data", args, {"check": check, "prepare": prepare, "show": show}, [*USAGES.values()])
    verb(rest)


@dataclass(frozen=True)
class Check:
    """Read every label and open every video of a dataset, list what is wrong, and write the manifest.

    Exits with code 1 if there are problems.
    """

    root: Positional[str]
    """The folder of the dataset, or a .csv or .jsonl file."""
    dataset: str = "folder"
    """Reader of the annotations; the word before ROOT names it as well."""
    splits: tuple[str, ...] = ("train", "val")
    """Splits to check."""
    labels: tuple[str, ...] = ()
    """Label columns of a table; by default the columns whose names say so."""
    thorough: bool = False
    """Decode every frame instead of the first and the last; finds damage in the middle."""
    workers: int | None = None
    """Processes that open videos; one per core by default."""
    manifest: str = ""
    """File to write the manifest to; by default next to the data."""
    num_frames: int = ModelConfig.num_frames
    """Frames of a clip; videos shorter than a clip are listed."""
    frame_stride: float = Preprocessing.frame_stride
    """Distance between two frames of a clip, in frames of the video."""

    def __post_init__(self) -> None:
        settings.positive(self, "workers", "num_frames", "frame_stride")


def check(args: list[str]) -> None:
    """Print what is wrong with a dataset."""
    asked = parse(Check, name_dataset(args, words=1), usage=USAGES["check"])

    from ..data.tools.check import check as check_dataset

    report = check_dataset(
        asked.root,
        dataset=asked.dataset,
        splits=asked.splits,
        labels=asked.labels,
        thorough=asked.thorough,
        workers=asked.workers,
        manifest=asked.manifest,
        num_frames=asked.num_frames,
        frame_stride=asked.frame_stride,
    )
    print(report)
    if report.problems:
        sys.exit(1)


@dataclass(frozen=True)
class Prepare:
    """Write the videos of a dataset to DEST in a form that loads faster, with labels.csv and a manifest.

    The same command resumes after an interruption. Exits with code 1 if there are problems.
    """

    root: Positional[str]
    """The folder of the dataset, or a .csv or .jsonl file."""
    dest: Positional[str]
    """Folder for the result."""
    dataset: str = "folder"
    """Reader of the annotations; the word before ROOT names it as well."""
    splits: tuple[str, ...] = ("train", "val")
    """Splits to prepare."""
    labels: tuple[str, ...] = ()
    """Label columns of a table; by default the columns whose names say so."""
    short_side: int = 320
    """Short side of the frames, in pixels; smaller videos keep their size."""
    max_fps: float = 30.0
    """Highest frame rate; a higher one is divided by a whole number."""
    crf: int = 20
    """Quality of H.264: lower is better and larger."""
    segments: bool = False
    """Write each labelled segment of a long video into its own file."""
    shard_mib: int = 0
    """Also pack the result into tar files of this many MiB, in DEST/shards; 0 for none."""
    workers: int | None = None
    """Processes; one per core by default."""

    def __post_init__(self) -> None:
        settings.positive(self, "workers")
        settings.check(self.shard_mib >= 0, f"shard_mib is {self.shard_mib}; it must be 0 (no shards) or above")


def prepare(args: list[str]) -> None:
    """Write videos that load faster, and print what was done."""
    asked = parse(Prepare, name_dataset(args, words=2), usage=USAGES["prepare"])

    from ..data.tools.prepare import EncodingOptions
    from ..data.tools.prepare import prepare as prepare_dataset

    done = prepare_dataset(
        asked.root,
        asked.dest,
        dataset=asked.dataset,
        splits=asked.splits,
        labels=asked.labels,
        encoding=EncodingOptions(short_side=asked.short_side, max_fps=asked.max_fps, crf=asked.crf),
        segments=asked.segments,
        shard_mib=asked.shard_mib,
        workers=asked.workers,
    )
    print(done)
    if done.bad or done.problems:
        sys.exit(1)


def name_dataset(args: Sequence[str], *, words: int) -> list[str]:
    """Turn `DATASET ROOT ...` into `ROOT ... --dataset DATASET`, where there is one more than `words` words."""
    given = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
    return [*args[1:given], "--dataset", args[0], *args[given:]] if given == words + 1 else [*args]


@dataclass(frozen=True)
class Show:
    """Draw training clips before and after augmentation, class by class, on one HTML page."""

    output: str = "clips.html"
    """The page to write."""
    classes: int = 8
    """Most classes to show, one video each."""
    draws: int = 2
    """Random augmentations of each clip."""
    frames: int = 4
    """Frames of each clip."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """Settings of the run."""


def show(args: list[str]) -> None:
    """Write the page of clips."""
    if args and wants_help(args[:1]):
        parse(Show, args, usage=USAGES["show"], usual=SHOW_USUAL, used=SHOW_USES)
    name, rest = take_word(args, USAGES["show"])
    refuse_unused(rest, SHOW_USES, "vivit data show")  # before the recipe reads data
    default = Show(config=recipe_config(name, rest))
    usage = USAGES["show"].replace("RECIPE", name)
    asked = parse(Show, rest, default=default, usage=usage, usual=SHOW_USUAL, used=SHOW_USES)

    from ..report.clips import show as write_page

    page = write_page(asked.config, output=asked.output, classes=asked.classes, draws=asked.draws, frames=asked.frames)
    print(f"open {page.resolve()}")
