"""Multi-view evaluation: logits averaged over temporal clips and spatial crops, then metrics (paper, section 4.1)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from ..config import Config, DataConfig, EvalConfig, from_dict
from ..data.dataset import EvalVideos
from ..data.epic_subsets import subsets
from ..data.loader import eval_clips
from ..data.sample import DataError, Sample, encode_labels, left_out, list_hash, listing
from ..data.splits import load_split
from ..files import atomic_write
from ..model.modes import restores_modes
from ..model.shorten import shorten
from ..model.vivit import ViViT
from ..weights.load import from_pretrained
from .device import autocast, choose_attention, uses_bfloat16
from .distributed import World, start
from .eval_tables import details, subset_line, table
from .metrics import (
    accuracies,
    class_accuracies,
    confusion,
    finite,
    numbers,
    right,
    split,
)
from .run import environment, write_json

SINGLE_VIEW = EvalConfig(temporal_views=1, spatial_views=1)
PREDICTIONS = "predictions.npz"


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
        """Multi view: {"verb": {"top1": …, "top5": …}, …}; "action" or "all": every label set right at once."""
        return accuracies(self.multi, self.labels, self.classes)

    @property
    def single_view_accuracy(self) -> dict[str, dict[str, float]]:
        return accuracies(self.single, self.labels, self.classes)

    @property
    def not_finite(self) -> list[Sample]:
        """The videos for which the model gave a logit that is NaN or infinite; wrong in every number, see `metrics`."""
        found = ~(finite(self.single) & finite(self.multi))
        return [self.samples[i] for i in found.nonzero()[:, 0].tolist()]

    @cached_property
    def numbers(self) -> dict[str, dict[str, dict[str, float]]]:
        """{"single_view": {"verb": {"top1": …, "mean_class": …}, …}, "multi_view": …}; see `metrics.numbers`."""
        views = {"single_view": self.single, "multi_view": self.multi}
        return {view: numbers(logits, self.labels, self.classes) for view, logits in views.items()}

    def confusion(self, label_set: str) -> Tensor:
        """(right, predicted) counts of one label set, multi view; videos without finite logits are in no cell."""
        i = list(self.classes).index(label_set)
        logits = split(self.multi, self.classes)[i]
        return confusion(logits, self.labels[:, i], logits.shape[1])

    def videos_of_classes(self, label_set: str) -> Tensor:
        """How many videos each class of a label set has."""
        i = list(self.classes).index(label_set)
        return self.labels[:, i].bincount(minlength=len(self.classes[label_set]))

    def results(self) -> dict[str, Any]:
        """Everything that makes the numbers comparable, ready for JSON: NaN is None."""
        per_class, matrices = {}, {}
        for name, names in self.classes.items():
            counts, videos = self.confusion(name), self.videos_of_classes(name)
            shares = zip(names, videos.tolist(), class_accuracies(counts, videos).tolist())
            per_class[name] = {one: {"videos": n, "accuracy": known(share)} for one, n, share in shares}
            matrices[name] = {"classes": list(names), "counts": counts.tolist()}
        return {
            "protocol": asdict(self.protocol),
            "videos": len(self.samples),
            "missing": len(self.missing),
            "missing_videos": list(self.missing.values()),
            "not_finite": len(self.not_finite),
            "not_finite_videos": [sample.path for sample in self.not_finite],
            "list_hash": self.list_hash,
            **{
                view: {name: {k: known(x) for k, x in found.items()} for name, found in numbers.items()}
                for view, numbers in self.numbers.items()
            },
            "per_class": per_class,
            "confusion": matrices,
        }

    def save(self, path: Path) -> None:
        """Write all of it as arrays that numpy reads without pickle, so that it can be compared; `load_evaluation`."""
        arrays = {
            "path": [s.path for s in self.samples],
            "start": [math.nan if s.start is None else s.start for s in self.samples],
            "end": [math.nan if s.end is None else s.end for s in self.samples],
            "labels": self.labels.numpy(),
            "single_view": self.single.numpy(),
            "multi_view": self.multi.numpy(),
            "missing": [*self.missing],
            "missing_why": [*self.missing.values()],
            "list_hash": self.list_hash,
            "protocol": json.dumps(asdict(self.protocol)),
            **{f"classes/{name}": names for name, names in self.classes.items()},
        }
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})


def load_evaluation(path: Path) -> Evaluation:
    """What `Evaluation.save` wrote. Raises ValueError for any other file."""
    try:
        with path.open("rb") as file:  # numpy leaves a path open where the file is broken
            arrays = dict(np.load(file, allow_pickle=False))
        classes = {k.removeprefix("classes/"): tuple(v.tolist()) for k, v in arrays.items() if k.startswith("classes/")}
        labels = torch.from_numpy(arrays["labels"])
        rows = zip(arrays["path"].tolist(), arrays["start"].tolist(), arrays["end"].tolist(), labels.tolist())
        return Evaluation(
            protocol=from_dict(EvalConfig, json.loads(str(arrays["protocol"]))),
            classes=classes,
            samples=[
                Sample(video, {name: names[i] for (name, names), i in zip(classes.items(), row)}, known(t0), known(t1))
                for video, t0, t1, row in rows
            ],
            labels=labels,
            single=torch.from_numpy(arrays["single_view"]),
            multi=torch.from_numpy(arrays["multi_view"]),
            missing=dict(zip(arrays["missing"].tolist(), arrays["missing_why"].tolist())),
            list_hash=str(arrays["list_hash"]),
        )
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} holds no predictions of vivit eval ({error}); write them again with vivit eval"
        ) from error


def known(number: float) -> float | None:
    return number if math.isfinite(number) else None


@torch.no_grad()
@restores_modes
def evaluate(
    model: ViViT,
    samples: Sequence[Sample],
    *,
    protocol: EvalConfig,
    workers: int | None = 0,
    precision: str = "auto",
    world: World | None = None,
    progress: Callable[[int], None] = lambda done: None,
    skipped: dict[str, str] | None = None,
) -> Evaluation:
    """Run the model over every view of every sample; of several processes each takes its share, all get the result.

    Raises DataError if a label is outside the model's classes. A video that cannot be read counts as missing.
    `progress` is called with the number of videos done by this process, equally often in all of them; what it raises
    ends the evaluation. Paths in `skipped` are not opened; files whose worker process is killed are added to it.
    """
    run = shorten(model, merge_tokens=protocol.merge_tokens, drop_static=protocol.drop_static)
    world = world or World(0, 1, model.head.weight.device)
    labels = encode_labels(samples, model.config.classes)
    mine = list(range(world.rank, len(samples), world.size))
    videos = EvalVideos(samples[world.rank :: world.size], labels[mine], model=model.config, protocol=protocol)
    model.eval()

    # Every process makes the same number of equal forward passes, as divided models need; missing videos are black.
    num_views = protocol.temporal_views * protocol.spatial_views
    num_views += num_views > 1
    group = max(protocol.batch_views // num_views, 1)
    black = torch.zeros(num_views, model.config.num_frames, 3, *model.config.image_size, dtype=torch.uint8)
    logits: dict[int, tuple[Tensor, Tensor]] = {}
    missing: dict[int, str] = {}
    with eval_clips(videos, workers=workers, skipped=skipped) as clips:
        for _ in range(0, math.ceil(len(samples) / world.size), group):
            batch = list(islice(clips, group))
            views = torch.cat([black if c.video is None else c.video for c in batch] + [black] * (group - len(batch)))
            with autocast(world.device, precision):
                parts = [run(part.to(world.device)).float().cpu() for part in views.split(protocol.batch_views)]
            for clip, out in zip(batch, torch.cat(parts).split(num_views)):
                if clip.problem is None:
                    logits[mine[clip.index]] = out[0], (out[1:] if num_views > 1 else out).mean(dim=0)
                else:
                    missing[mine[clip.index]] = clip.problem
            progress(len(logits) + len(missing))

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


def load_weights(source: str, *, preprocessing: Mapping[str, Any] | None = None, **changes: Any) -> ViViT:
    """The model of a run folder, a weights folder, a file or a hub id, ready to evaluate.

    `changes` are settings of ModelConfig for `from_pretrained`, `preprocessing` fields of Preprocessing, which replace
    those of the weights; the others stay. A frame stride replaces a clip length in seconds as well.
    """
    model = from_pretrained(source, **changes)
    if preprocessing:
        stride = {"clip_seconds": None} if "frame_stride" in preprocessing else {}
        pixels = replace(model.config.preprocessing, **{**stride, **preprocessing})
        model = from_pretrained(source, **changes, preprocessing=pixels)
    return model


def describe_changes(model: ViViT, changes: Mapping[str, Any]) -> str:
    """What `load_weights` changed in a model, in words: the settings, and the positions that were interpolated."""
    settings = {**changes, **{f"preprocessing.{name}": x for name, x in changes.get("preprocessing", {}).items()}}
    settings.pop("preprocessing", None)
    rows = [row for row in (model.load_report.rows if model.load_report else ()) if row.status == "interpolated"]
    resized = [f"{', '.join(row.targets)} ({row.reason})" for row in rows]
    said = "not as trained: " + ", ".join(f"model.{name} {value}" for name, value in settings.items())
    return said + (f"; positions interpolated: {', '.join(resized)}" if resized else "")


def evaluate_weights(
    source: str, config: Config, *, changes: Mapping[str, Any] | None = None, folder: str | Path | None = None
) -> Evaluation:
    """`vivit eval`: evaluate weights on `config.data` by `config.eval`, print tables, write results.json and
    predictions.npz.

    The model is that of the weights, with the `changes` of `load_weights`; `config.model` is not used. Files go into
    `folder`, by default into the folder `source` if it is one, else into `config.run` or the current folder. If they
    cannot be written, the tables are printed all the same, and then OSError is raised.
    """
    changes = {name: value for name, value in (changes or {}).items() if value not in (None, {})}
    model = load_weights(source, **changes)  # first: a wrong source is said before anything about the data
    samples = load_split(config.data, config.data.eval_split, classes=model.config.classes).samples
    with start(config.device) as world, Progress(transient=True, disable=not world.is_first) as bar:
        model = model.to(world.device)
        choose_attention(world.device)
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
        precision = "bfloat16" if uses_bfloat16(world.device, config.precision) else "float32"
        print(f"computed in {precision} on {world.device.type}")
        if changes:
            print(describe_changes(model, changes))
        official = official_subsets(result, config.data)
        print("\n".join([table(result), *map(subset_line, official.items())]))
        if errors := details(result):
            print(f"\n{errors}")
        folder = Path(folder or (source if Path(source).is_dir() else config.run or "."))
        of = config.data
        gone = [] if of.dataset == "shards" else left_out(of.dataset, of.root, of.eval_split)  # `read` has said so
        facts = {"weights": source, "data": asdict(of), **result.results(), "not_there": len(gone)}
        facts |= {"videos_not_there": gone, "subsets": official, "environment": environment()}
        facts |= {"precision": precision, "clip": clip_settings(model), "changes": dict(changes)}
        try:
            result.save(folder / PREDICTIONS)
            write_json(folder / "results.json", facts)
        except OSError as error:
            raise type(error)(
                f"results.json and {PREDICTIONS} are not written: {error}; the tables above are complete. Give another "
                "folder with --run"
            ) from error
        print(f"\nwritten to {folder / 'results.json'} and, for vivit compare, {folder / PREDICTIONS}")
    return result


def clip_settings(model: ViViT) -> dict[str, Any]:
    """The clips that the model was given: their length, frame size and preprocessing."""
    c = model.config
    return {"num_frames": c.num_frames, "image_size": c.image_size, "preprocessing": asdict(c.preprocessing)}


def official_subsets(result: Evaluation, data: DataConfig) -> dict[str, dict[str, dict[str, float | None]]]:
    """Top-1 in the subsets that a data set's own evaluation reports: those of EPIC-Kitchens, else {}."""
    if data.dataset != "epic_kitchens" or {*result.classes} != {"verb", "noun"}:
        return {}
    views = {"single_view": result.single, "multi_view": result.multi}
    hits = {view: right(logits, result.labels, result.classes) for view, logits in views.items()}
    return {
        subset: {
            name: {
                "videos": int(mask.sum()),
                **{view: known(hits[view][name][mask].float().mean().item()) for view in hits},
            }
            for name, mask in masks.items()
        }
        for subset, masks in subsets(Path(data.root), result.samples).items()
    }
