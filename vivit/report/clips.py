"""`vivit data show RECIPE`: a page of training clips, before and after augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import AugmentConfig, Config, differences, replace
from ..data.dataset import Item, TrainDataset
from ..data.splits import Split, load_split
from ..engine.interruption import skipped_files
from ..engine.mix import draw, mix_pair
from ..errors import DataError
from ..text import listing
from .html import enlarge, join_frames, jpeg, write_html

PLAIN = AugmentConfig(scale_jitter=(1.0, 1.0), flip=0.0)
MOST_TRIED = 5  # videos of a class, where the first ones cannot be read


@dataclass(frozen=True)
class Row:
    """A section of the page: labelled strips of frames, "" for a clip that cannot be read."""

    title: str
    strips: list[tuple[str, str]]
    note: str = ""


def show(config: Config, *, output: str = "clips.html", classes: int = 8, draws: int = 2, frames: int = 4) -> Path:
    """Write the page: a video of each of the first `classes` classes, unchanged and in `draws` draws; then mixed pairs.

    The unchanged clip has the same frames of the video as the first draw and shows their full short side. The draws
    are the clips that training with this config and seed gives the model in its first epochs. Raises DataError if no
    video can be read.
    """
    train = load_split(config.data, config.data.train_split, classes=config.model.classes or None, training=True)
    names = train.classes
    plain, augmented = datasets(config, train)
    problems = [f"{path}: {problem}" for path, problem in train.unreadable.items()]
    rows: list[Row] = []
    first_draws: list[Item] = []
    for index, before in readable_clips(plain, train, skipped_files(Path(config.run)), classes, problems):
        after = [augmented[epoch, index] for epoch in range(draws)]
        first_draws += after[:1]
        labels = ["as it is in the file", *(f"draw {i + 1}" for i in range(draws))]
        rows.append(
            Row(
                " · ".join(names[name][i] for name, i in zip(names, train.labels[index].tolist())),
                [(label, encode_strip(clip, frames)) for label, clip in zip(labels, (before, *after))],
                "not mirrored" if augmented.unflipped[index] else "",
            )
        )
    if not rows:
        raise DataError(listing("none of the videos can be read", problems))
    return write_html(
        Path(output),
        "clips.html",
        title="Training clips",
        summary=f"The clip as it is in the file, then {draws} draws of its augmentation.",
        when=f"{len(train.samples)} training videos of {config.data.root}, seed {config.seed}",
        settings=differences(AugmentConfig(), config.augment),
        problems=problems,
        rows=rows,
        pairs=list(mixed_pairs(first_draws, config, names, frames)) if config.augment.mixes else [],
    )


def datasets(config: Config, train: Split) -> tuple[TrainDataset, TrainDataset]:
    """Return the training clips of a run without augmentation and uncropped, and those that the config augments."""
    data = replace(config.data, workers=0)
    model = replace(config.model, classes=train.classes)
    uncropped = replace(model, preprocessing=replace(model.preprocessing, crop_fraction=1.0))
    return (
        TrainDataset(train.samples, train.labels, model=uncropped, augment=PLAIN, data=data, seed=config.seed),
        TrainDataset(train.samples, train.labels, model=model, augment=config.augment, data=data, seed=config.seed),
    )


def readable_clips(
    plain: TrainDataset, train: Split, skipped: Mapping[str, str], classes: int, problems: list[str]
) -> Iterator[tuple[int, Item]]:
    """Yield the row number and the clip of the first readable video of each class; add the others to `problems`.

    Files in `skipped` have crashed a worker and are not opened.
    """
    for label in train.labels[:, 0].unique()[:classes].tolist():
        for index in (train.labels[:, 0] == label).nonzero()[:MOST_TRIED, 0].tolist():
            path = train.samples[index].path
            if path in skipped:
                problems.append(f"{path}: {skipped[path]}")
                continue
            clip = plain[0, index]
            if clip.video is not None:
                yield index, clip
                break
            problems.append(clip.problem or "")


def encode_strip(clip: Item, frames: int) -> str:
    """Encode some frames of a clip, from first to last, as a data URL; "" for a clip that cannot be read."""
    return jpeg(frame_strip(clip.video, frames)) if clip.video is not None else ""


def frame_strip(video: Tensor, frames: int) -> Tensor:
    """Put at most `frames` frames of a clip (T, 3, H, W) uint8 into one row (3, h, n·w)."""
    chosen = torch.linspace(0, len(video) - 1, min(frames, len(video))).round().long()
    return join_frames(enlarge(video[chosen]))


def mixed_pairs(
    clips: Sequence[Item], config: Config, names: Mapping[str, tuple[str, ...]], frames: int
) -> Iterator[Row]:
    """Mix neighbours as in the first step; the titles give the weights of their labels."""
    first = next(iter(names.values()))
    for pair, (a, b) in enumerate(zip(clips[::2], clips[1::2])):
        if a.video is None or b.video is None:
            continue
        size = a.video.shape[-2], a.video.shape[-1]
        how = draw(config.augment, seed=config.seed, step=0, pair=pair, image_size=size)
        both = mix_pair(torch.stack([a.video, b.video]), how)
        one, other = (first[int(clip.labels[0])] for clip in (a, b))
        kind = "mixup" if how.box is None else "cutmix"
        labels = [f"{kind}: {how.lam:.0%} {a}, {1 - how.lam:.0%} {b}" for a, b in ((one, other), (other, one))]
        pictures = [jpeg(frame_strip(video, frames)) for video in both]
        yield Row(f"{one} and {other}", list(zip(labels, pictures)))
