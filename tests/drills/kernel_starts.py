"""Starts of the tubelets' kernel: `python -m tests.drills.kernel_starts --data TABLE --init WEIGHTS --labels NAME ...`.

The table needs the splits train and test. The image model is frozen with its kernel, so each start runs once over the
middle clip of each video, and heads are fitted to the stored features, as `vivit train finetune` does. Kernels that are
drawn at random are drawn again with every seed; of the others only the start of the head differs. With `--demo HOME`
the videos are a cell of tests/drills/clips_grid.py (300 clips of 10 classes) and its image model. Resumable; a few
minutes of one core for the demo, half an hour for 400 videos of 128 pixels and a ViT-S. Writes
docs/results/kernel_starts.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit.config import Config, DataConfig, replace
from vivit.data.groups import source_groups
from vivit.data.splits import load_split
from vivit.engine.compare import difference
from vivit.engine.distributed import World
from vivit.engine.feature_cache import cache_features
from vivit.engine.heads import HEADS, LabelledFeatures, Tail, fit_head, tail_logits
from vivit.engine.stages import TUNED_LAYERS
from vivit.model.vivit import ViViT
from vivit.recipes.finetune import finetune
from vivit.studies.statistics import RESAMPLES, over_seeds
from vivit.text import format_markdown
from vivit.weights.load import create

from . import clips_grid

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "kernel_starts.json"
KERNELS = ("random", "filter_inflation", "central_frame", "central_difference")
DEMO = "demo"
DRAWN = ("random", "central_difference")  # by chance, so that another seed is another kernel


def settings(args: argparse.Namespace, labels: str, kernel: str, seed: int) -> Config:
    """Return the settings of `vivit train finetune` with this start; its run folder has the features."""
    drawn = seed if kernel in DRAWN else 0
    if labels == DEMO:
        run = args.demo / f"{kernel}-{drawn}"
        config = clips_grid.settings(*clips_grid.largest_cell(args.demo), drawn, run)
    else:
        config = finetune(DataConfig(root=args.data, labels=(labels,)), args.init)
        config = replace(config, seed=drawn, run=str(args.home / f"{kernel}-{drawn}"))
    return replace(config, kernel_init=kernel)


def encode_splits(config: Config) -> tuple[ViViT, dict[str, LabelledFeatures]]:
    """Return the frozen start, and the features of the middle clip of the videos of train and test."""
    splits = {"train": load_split(config.data, "train", training=True)}
    classes = splits["train"].classes
    splits["test"] = load_split(config.data, "test", classes=classes)
    torch.manual_seed(config.seed)
    model = create(replace(config.model, classes=classes), init=config.init, kernel_init=config.kernel_init)
    model.requires_grad_(False).eval()
    depth, found = model.config.depth, dict[str, LabelledFeatures]()
    for name, split in splits.items():
        features = cache_features(
            model,
            split.samples,
            split.labels,
            config=config,
            views=1,
            # As in the stages, whose stored features are used if there are any.
            cut=depth - max(round(TUNED_LAYERS * depth), 1),
            name=name,
            world=World(0, 1, torch.device("cpu")),
            log=print,
        )
        found[name] = LabelledFeatures(features, split.labels, torch.from_numpy(source_groups(split.samples)), (0,))
    return model, found


def right_answers(model: ViViT, head: int, data: dict[str, LabelledFeatures], seed: int) -> Tensor:
    """Fit a head of HEADS to the training videos and tell which test videos it names correctly (N,)."""
    fitted = fit_head(model, HEADS[head], data["train"], motion=False, seed=seed)
    rows = data["test"].rows(torch.ones(len(data["test"].labels), dtype=torch.bool))
    logits = tail_logits(Tail(fitted, model.config.depth), data["test"], rows)
    return logits.argmax(dim=1) == data["test"].labels[rows, 0]


def measure(args: argparse.Namespace, kernel: str, labels: str, seed: int) -> list[dict[str, Any]]:
    """Return a row for each head of one start."""
    model, data = encode_splits(settings(args, labels, kernel, seed))
    rows = []
    for head in args.heads:
        right = right_answers(model, head, data, seed)
        row = {"kernel": kernel, "labels": labels, "seed": seed, "head": HEADS[head].name}
        rows.append({**row, "top1": right.double().mean().item(), "right": "".join(map(str, right.int().tolist()))})
    return rows


def compare(rows: list[dict[str, Any]], a: str, b: str) -> str:
    """Describe b - a of one head and label set in points: the mean, and 95 % over seeds and over test videos."""
    sides = [{row["seed"]: row for row in rows if row["kernel"] == kernel} for kernel in (a, b)]
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    right = [np.array([[c == "1" for c in side[seed]["right"]] for seed in seeds]) for side in sides]
    found = over_seeds((right[1].mean(axis=1) - right[0].mean(axis=1)).tolist())
    videos = np.tile(np.arange(right[0].shape[1]), len(seeds))
    drawn = difference(right[0].ravel(), right[1].ravel(), videos, resamples=RESAMPLES, rng=np.random.default_rng(0))
    over = "" if found["low"] is None else f" [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    return f"{100 * found['mean']:+.1f}{over}, [{100 * drawn.low:+.1f}, {100 * drawn.high:+.1f}]"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the seeds, and the difference to the start above."""
    lines = [["labels", "head", "kernel", "top-1", "to the row above [over seeds], [over videos]"]]
    for labels, head in dict.fromkeys((row["labels"], row["head"]) for row in rows):
        own = [row for row in rows if (row["labels"], row["head"]) == (labels, head)]
        kernels = [kernel for kernel in KERNELS if any(row["kernel"] == kernel for row in own)]
        for above, kernel in zip(("", *kernels), kernels):
            found = over_seeds([row["top1"] for row in own if row["kernel"] == kernel])
            half = "" if found["low"] is None else f" ± {100 * (found['mean'] - found['low']):.1f}"
            cells = [f"{100 * found['mean']:.1f}{half}", compare(own, above, kernel) if above else ""]
            lines.append([labels, head, kernel, *cells])
    return format_markdown(lines, align="<<<><")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a table of videos with the splits train and test")
    parser.add_argument("--init", help="weights of an image ViT, for --data")
    parser.add_argument(
        "--labels", nargs="+", default=["label"], help="label columns of --data, each a table of its own"
    )
    parser.add_argument(
        "--demo", type=Path, help="measure on videos of the demo's world as well, stored in this folder"
    )
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--heads", nargs="+", type=int, choices=range(len(HEADS)), default=[0, 2], help="of HEADS")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--home", type=Path, default=Path("runs/kernel-starts"), help="resumes where it stopped")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.home.mkdir(parents=True, exist_ok=True)
    sets = args.labels * bool(args.data) + [DEMO] * bool(args.demo)
    for seed, kernel, labels in product(args.seeds, args.kernels, sets):
        done = args.home / f"{kernel}-{labels}-{seed}.json"
        if not done.exists():
            done.write_text(json.dumps(measure(args, kernel, labels, seed)))
    rows = [row for path in sorted(args.home.glob("*-*-?.json")) for row in json.loads(path.read_text())]
    clips_grid.write_results(RESULTS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
