"""Multi-view evaluation: logits averaged over temporal clips and spatial crops, then metrics (paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from ..config import Config, EvalConfig
from ..data.dataset import EvalVideos
from ..data.loader import eval_loader
from ..data.sample import DataError, Sample, encode_labels, list_hash, listing, read
from ..model.vivit import ViViT
from ..weights.load import from_pretrained
from .device import autocast
from .distributed import World, start
from .metrics import accuracies, confusion
from .run import environment, write_json

SINGLE_VIEW = EvalConfig(temporal_views=1, spatial_views=1)


@dataclass(frozen=True)
class Evaluation:
    """Logits of every readable video, single view and multi view, and what follows from them."""

    protocol: EvalConfig
    classes: dict[str, tuple[str, ...]]
    samples: list[Sample]
    """The videos that could be read, in the order of the list."""
    labels: Tensor
    """(N, L)."""
    single: Tensor
    """(N, K): logits of the middle clip's centre crop."""
    multi: Tensor
    """(N, K): logits averaged over all views."""
    missing: dict[int, str]
    """Videos that could not be read, by their place in the list, and why. In no accuracy and replaced by nothing."""
    list_hash: str = field(default="")

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Multi view: {"verb": {"top1": …, "top5": …}, …}; "all" means every label set right at once."""
        return accuracies(self.multi, self.labels, self.classes)

    @property
    def single_view_accuracy(self) -> dict[str, dict[str, float]]:
        return accuracies(self.single, self.labels, self.classes)

    def confusion(self, label_set: str) -> Tensor:
        """(right, predicted) counts of one label set, multi view."""
        names = list(self.classes)
        i, sizes = names.index(label_set), [len(v) for v in self.classes.values()]
        return confusion(self.multi.split(sizes, dim=1)[i], self.labels[:, i], sizes[i])

    def results(self) -> dict[str, Any]:
        """Everything that makes the numbers comparable, ready for JSON."""
        return {
            "protocol": asdict(self.protocol),
            "videos": len(self.samples),
            "missing": len(self.missing),
            "missing_videos": list(self.missing.values()),
            "list_hash": self.list_hash,
            "single_view": self.single_view_accuracy,
            "multi_view": self.accuracy,
            "confusion": {
                name: {"classes": list(names), "counts": self.confusion(name).tolist()}
                for name, names in self.classes.items()
            },
        }


@torch.no_grad()
def evaluate(
    model: ViViT,
    samples: Sequence[Sample],
    *,
    protocol: EvalConfig,
    workers: int = 0,
    precision: str = "auto",
    world: World | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run the model over every view of every sample; of several processes each takes its share, all get the result.

    Raises DataError if a label is outside the model's classes. A video that cannot be read counts as missing.
    `progress` is called with the number of videos done by this process.
    """
    world = world or World(0, 1, model.head.weight.device)
    labels = encode_labels(samples, model.config.classes)
    mine = list(range(world.rank, len(samples), world.size))
    videos = EvalVideos([samples[i] for i in mine], labels[mine], model=model.config, protocol=protocol)
    was_training = model.training
    model.eval()

    # Every process makes the same number of equal forward passes, as divided models need; missing videos are black.
    num_views = protocol.temporal_views * protocol.spatial_views
    num_views += num_views > 1
    group = max(protocol.batch_views // num_views, 1)
    black = torch.zeros(num_views, model.config.num_frames, 3, *model.config.image_size, dtype=torch.uint8)
    clips = iter(eval_loader(videos, workers=workers))
    logits: dict[int, tuple[Tensor, Tensor]] = {}
    missing: dict[int, str] = {}
    for _ in range(0, math.ceil(len(samples) / world.size), group):
        batch = list(islice(clips, group))
        views = torch.cat([black if c.video is None else c.video for c in batch] + [black] * (group - len(batch)))
        with autocast(world.device, precision):
            parts = [model(part.to(world.device)).float().cpu() for part in views.split(protocol.batch_views)]
        for clip, out in zip(batch, torch.cat(parts).split(num_views)):
            if clip.problem is None:
                logits[mine[clip.index]] = out[0], (out[1:] if num_views > 1 else out).mean(dim=0)
            else:
                missing[mine[clip.index]] = clip.problem
        progress(len(logits) + len(missing))

    model.train(was_training)
    shares = world.gather((logits, missing))
    logits = {i: pair for share, _ in shares for i, pair in share.items()}
    kept = sorted(logits)
    empty = torch.empty(0, model.config.num_classes)
    return Evaluation(
        protocol=protocol,
        classes=dict(model.config.classes),
        samples=[samples[i] for i in kept],
        labels=labels[kept],
        single=torch.stack([logits[i][0] for i in kept]) if kept else empty,
        multi=torch.stack([logits[i][1] for i in kept]) if kept else empty,
        missing=dict(sorted(pair for _, share in shares for pair in share.items())),
        list_hash=list_hash(samples),
    )


def load_weights(source: str) -> ViViT:
    """The model of a run folder, a weights folder, a file or a hub id, ready to evaluate."""
    weights = Path(source) / "weights"
    if (Path(source) / "environment.json").is_file() and not weights.is_dir():
        raise FileNotFoundError(f"{source} is a run that has not finished: no {weights}; go on with its vivit train")
    return from_pretrained(weights if weights.is_dir() else source).eval()


def evaluate_weights(source: str, config: Config) -> Evaluation:
    """`vivit eval`: evaluate weights on `config.data` by `config.eval`, print a table, write results.json.

    The results go into the run folder if `source` is one, else into `config.run` or the current folder.
    """
    model = load_weights(source)  # first: a wrong source is said before anything about the data
    samples = read(config.data.dataset, config.data.root, config.data.eval_split)
    with start(config.device) as world, Progress(transient=True, disable=not world.is_first) as bar:
        model = model.to(world.device)
        task = bar.add_task("evaluating", total=math.ceil(len(samples) / world.size))
        result = evaluate(
            model,
            samples,
            protocol=config.eval,
            workers=config.data.workers,
            precision=config.precision,
            world=world,
            progress=lambda done: bar.update(task, completed=done),
        )
    if not result.samples:
        raise DataError(listing("none of the videos can be read", list(result.missing.values())))
    if world.is_first:
        print(table(result))
        path = (Path(source) if Path(source).is_dir() else Path(config.run or ".")) / "results.json"
        facts = {"weights": source, "data": asdict(config.data), **result.results(), "environment": environment()}
        write_json(path, facts)
        print(f"\nwritten to {path}")
    return result


def table(result: Evaluation) -> str:
    """Single view and multi view side by side, and what they were measured on."""
    p = result.protocol
    views = f"{p.temporal_views} x {p.spatial_views} views" + (", frames shuffled" if p.shuffle_frames else "")
    lines = [f"{len(result.samples)} videos, {len(result.missing)} missing, list {result.list_hash}; {views}"]
    lines.append(f"{'':12}{'single view':>20}{'multi view':>20}")
    lines.append(f"{'':12}" + f"{'top-1':>10}{'top-5':>10}" * 2)
    for name, multi in result.accuracy.items():
        single = result.single_view_accuracy[name]
        cells = (single["top1"], single["top5"], multi["top1"], multi["top5"])
        lines.append(f"{name:12}" + "".join(f"{cell:>10.1%}" for cell in cells))
    lines += [f"missing: {problem}" for problem in result.missing.values()]
    return "\n".join(lines)
