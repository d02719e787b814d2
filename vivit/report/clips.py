"""`vivit data show RECIPE`: what the model is fed, before and after augmentation, as one HTML page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

import torch
from torch import Tensor

from ..config import AugmentConfig, Config, differences, replace
from ..data.dataset import Clip, TrainDataset
from ..data.splits import load_split
from ..engine.interruption import skipped_files
from ..engine.mix import draw, mix_pair
from ..errors import DataError
from ..files import atomic_write
from ..text import listing
from .html import enlarge, escape, jpeg

PLAIN = AugmentConfig(scale_jitter=(1.0, 1.0), flip=0.0)
MOST_TRIED = 5  # videos of a class, where the first ones cannot be read


def show(config: Config, *, output: str = "clips.html", classes: int = 8, draws: int = 2, frames: int = 4) -> Path:
    """Write the page: a video of each of the first `classes` classes, unchanged and in `draws` draws; then mixed pairs.

    The unchanged clip has the same frames of the video as the first draw and shows their whole short side. The draws
    are the clips that training with this config and seed shows the model in its first epochs. Raises DataError if no
    video can be read.
    """
    train = load_split(config.data, config.data.train_split, classes=config.model.classes or None, training=True)
    samples, labels, names = train.samples, train.labels, train.classes
    model = replace(config.model, classes=names)
    whole = replace(model, preprocessing=replace(model.preprocessing, crop_fraction=1.0))
    how = {"data": replace(config.data, workers=0), "seed": config.seed}
    not_opened = skipped_files(Path(config.run))
    plain = TrainDataset(samples, labels, model=whole, augment=PLAIN, **how)
    augmented = TrainDataset(samples, labels, model=model, augment=config.augment, **how)

    rows, fed = "", []
    problems = [f"{path}: {problem}" for path, problem in train.unreadable.items()]
    for label in labels[:, 0].unique()[:classes].tolist():
        for index in (labels[:, 0] == label).nonzero()[:MOST_TRIED, 0].tolist():
            path = samples[index].path
            skipped = Clip(index, None, labels[index], f"{path}: {not_opened.get(path)}")
            before = skipped if path in not_opened else plain[0, index]
            if before.video is not None:
                break
            problems.append(before.problem or "")
        else:
            continue
        after = [augmented[epoch, index] for epoch in range(draws)]
        fed += after[:1]
        title = " · ".join(names[name][i] for name, i in zip(names, labels[index].tolist()))
        note = ", not mirrored" if augmented.unflipped[index] else ""
        strips = "".join(strip(clip, frames) for clip in (before, *after))
        rows += f"<section><h2>{escape(title)}<small>{note}</small></h2>{strips}</section>"
    if not fed:
        raise DataError(listing("none of the videos can be read", problems))
    pairs = mixed_rows(fed, config, names, frames) if config.augment.mixes else ""
    settings = differences(AugmentConfig(), config.augment) or ["the defaults"]
    page = PAGE.substitute(
        what=escape(f"{len(samples)} training videos of {config.data.root}, seed {config.seed}"),
        settings="".join(f"<li><code>augment.{escape(line)}</code></li>" for line in settings),
        problems="".join(f"<p>left out: {escape(line)}</p>" for line in problems),
        draws=draws,
        rows=rows,
        pairs=pairs and f"<h1>Mixed pairs</h1>{pairs}",
    )
    path = Path(output)
    with atomic_write(path) as file:
        file.write(page)
    return path


def strip(clip: Clip, frames: int) -> str:
    """Some frames of a clip, side by side, from its first to its last."""
    return (
        f'<img alt="clip" src="{jpeg(clip_figure(clip, frames))}">' if clip.video is not None else "<i>unreadable</i>"
    )


def clip_figure(clip: Clip, frames: int) -> Tensor:
    """(3, H, n·W) uint8."""
    assert clip.video is not None
    chosen = torch.linspace(0, len(clip.video) - 1, min(frames, len(clip.video))).round().long()
    return torch.cat([*enlarge(clip.video[chosen])], dim=-1)


def mixed_rows(clips: Sequence[Clip], config: Config, names: dict[str, tuple[str, ...]], frames: int) -> str:
    """Neighbours mixed as in the first step, with the shares of their labels."""
    rows, (first, *_) = "", names.values()
    for pair, (a, b) in enumerate(zip(clips[::2], clips[1::2])):
        if a.video is None or b.video is None:
            continue
        size = a.video.shape[-2], a.video.shape[-1]
        how = draw(config.augment, seed=config.seed, step=0, pair=pair, image_size=size)
        both = mix_pair(torch.stack([a.video, b.video]), how)
        one, other = (first[int(clip.labels[0])] for clip in (a, b))
        kind = "mixup" if how.box is None else "cutmix"
        title = f"{kind}: {how.lam:.0%} {one}, {1 - how.lam:.0%} {other}; and the other way round"
        strips = "".join(strip(Clip(0, video, a.labels), frames) for video in both)
        rows += f"<section><h2>{escape(title)}</h2>{strips}</section>"
    return rows


PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>What the model is fed</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 96em; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em; margin: 1.5em 0 .5em } h2 { font-size: 1em; margin: 1.2em 0 .3em } small { color: #a40 }
section { break-inside: avoid } img { height: 112px; margin: 0 14px 6px 0; vertical-align: top }
ul { columns: 22em; padding-left: 1.2em }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } small { color: #f95 } }
</style>
<h1>What the model is fed</h1>
<p>$what. Each row: the clip as it is in the file, then $draws draws of its augmentation, which differ from the
defaults in:</p>
<ul>$settings</ul>
$problems
$rows
$pairs
</html>
""")
