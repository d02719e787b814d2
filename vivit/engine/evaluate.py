"""Evaluate with several views: average the logits, then compute metrics (paper, 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice, starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config, DataConfig, EvalConfig
from ..data.dataset import EvalDataset
from ..data.datasets.epic_subsets import subsets
from ..data.datasets.registry import left_out
from ..data.frame_cache import FrameCache
from ..data.loader import eval_clips
from ..data.sample import Sample
from ..data.sample_table import encode_labels, list_hash
from ..data.splits import load_split
from ..errors import DataError
from ..files import write_json
from ..model.modes import preserve_training_mode
from ..model.token_reduction import TokenReducedViViT, reduce_tokens
from ..model.vivit import ViViT
from ..text import listing
from ..weights.load import from_pretrained
from .device import autocast, choose_attention, uses_bfloat16
from .distributed import World, init_distributed
from .eval_tables import format_errors, format_evaluation, format_subset
from .evaluation import Evaluation, nan_to_none
from .metrics import correct
from .progress import progress_bar
from .run import environment

SINGLE_VIEW = EvalConfig(temporal_views=1, spatial_views=1)
PREDICTIONS = "predictions.npz"


@torch.no_grad()
@preserve_training_mode
def evaluate(
    model: ViViT | TokenReducedViViT,
    samples: Sequence[Sample],
    *,
    protocol: EvalConfig,
    workers: int | None = 0,
    precision: str = "auto",
    world: World | None = None,
    progress: Callable[[int], None] = lambda done: None,
    skipped: dict[str, str] | None = None,
    frame_cache: FrameCache | None = None,
) -> Evaluation:
    """Run the model over every view of every sample; of several processes each takes its share, all get the result.

    Raises DataError if a label is outside the model's classes. A video that cannot be read counts as missing.
    `progress` is called with the number of videos done by this process, equally often in all of them; what it raises
    ends the evaluation. Paths in `skipped` are not opened; files whose worker process is killed are added to it.
    """
    run = reduce_tokens(model, merge_tokens=protocol.merge_tokens, drop_static=protocol.drop_static)
    world = world or World(0, 1, next(model.parameters()).device)
    labels = encode_labels(samples, model.config.classes)
    mine = list(range(world.rank, len(samples), world.size))
    videos = EvalDataset(
        samples[world.rank :: world.size],
        labels[mine],
        model=model.config,
        protocol=protocol,
        frame_cache=frame_cache,
    )
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

    world.barrier()  # a share may take much longer than another
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
    """Load the model of a run folder, a weights folder, a file or a hub id, ready to evaluate.

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
    """Describe what `load_weights` changed in a model: the settings, and the positions that were interpolated."""
    settings = {**changes, **{f"preprocessing.{name}": x for name, x in changes.get("preprocessing", {}).items()}}
    settings.pop("preprocessing", None)
    rows = [row for row in (model.load_report.rows if model.load_report else ()) if row.status == "interpolated"]
    resized = [f"{', '.join(row.targets)} ({row.reason})" for row in rows]
    said = "not as trained: " + ", ".join(f"model.{name} {value}" for name, value in settings.items())
    return said + (f"; positions interpolated: {', '.join(resized)}" if resized else "")


def evaluate_weights(
    source: str,
    config: Config,
    *,
    changes: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    exported: nn.Module | None = None,
) -> Evaluation:
    """`vivit eval`: evaluate weights on `config.data` by `config.eval`, print tables, write results.json and
    predictions.npz.

    The model is that of the weights, with the `changes` of `load_weights`, or `exported`, which computes on the CPU in
    the precision that it names; `config.model` is not used. Files go into `folder`, by default into the folder `source`
    if it is one, else into `config.run` or the current folder. If they cannot be written, the tables are printed all
    the same, and then OSError is raised.
    """
    changes = {name: value for name, value in (changes or {}).items() if value not in (None, {})}
    model: Any = exported or load_weights(source, **changes)  # before the data, so that a wrong source fails first
    samples = load_split(config.data, config.data.eval_split, classes=model.config.classes).samples
    result, world = evaluate_in_world(model, samples, config, device=config.device if exported is None else "cpu")
    if world.is_main:
        precision = "bfloat16" if uses_bfloat16(world.device, config.precision) else "float32"
        precision = precision if exported is None else exported.precision
        print(f"computed in {precision} on {world.device.type}")
        if changes:
            print(describe_changes(model, changes))
        official = official_subsets(result, config.data)
        print("\n".join([format_evaluation(result), *starmap(format_subset, official.items())]))
        if errors := format_errors(result):
            print(f"\n{errors}")
        folder = Path(folder or (source if Path(source).is_dir() else config.run or "."))
        data = config.data
        absent = [] if data.dataset == "shards" else left_out(data.dataset, data.root, data.eval_split)
        facts = {"weights": source, "data": asdict(data), **result.results(), "not_there": len(absent)}
        facts |= {"videos_not_there": absent, "subsets": official, "environment": environment()}
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


def evaluate_in_world(
    model: Any, samples: Sequence[Sample], config: Config, *, device: str
) -> tuple[Evaluation, World]:
    """Evaluate by `config.eval` in the processes that torchrun started, or in this one, with a progress bar.

    Raises DataError if none of the videos can be read.
    """
    with init_distributed(device) as world:
        choose_attention(world.device)
        with progress_bar("evaluating", math.ceil(len(samples) / world.size), enabled=world.is_main) as update:
            result = evaluate(
                model.to(world.device),
                samples,
                protocol=config.eval,
                workers=config.data.workers,
                precision=config.precision,
                world=world,
                progress=update,
            )
    if not result.samples:
        raise DataError(listing("none of the videos can be read", list(result.missing.values())))
    return result, world


def clip_settings(model: ViViT) -> dict[str, Any]:
    """Describe the clips that the model saw: their length, frame size and preprocessing."""
    c = model.config
    return {"num_frames": c.num_frames, "image_size": c.image_size, "preprocessing": asdict(c.preprocessing)}


def official_subsets(result: Evaluation, data: DataConfig) -> dict[str, dict[str, dict[str, float | None]]]:
    """Top-1 in the subsets that a dataset's own evaluation reports: those of EPIC-Kitchens, else {}."""
    if data.dataset != "epic_kitchens" or {*result.classes} != {"verb", "noun"}:
        return {}
    views = {"single_view": result.single, "multi_view": result.multi}
    hits = {view: correct(logits, result.labels, result.classes) for view, logits in views.items()}
    return {
        subset: {
            name: {
                "videos": int(mask.sum()),
                **{view: nan_to_none(hits[view][name][mask].float().mean().item()) for view in hits},
            }
            for name, mask in masks.items()
        }
        for subset, masks in subsets(Path(data.root), result.samples).items()
    }
