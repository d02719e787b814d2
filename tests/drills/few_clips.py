"""Fine-tuning in stages on real videos: `python -m tests.drills.few_clips --data videos.csv --init vit.safetensors`.

The table needs the splits train, val and test; no choice is made on test. For each label set and seed it runs what a
person types, `vivit train finetune` with no other setting, and measures the result and the frozen baseline (a linear
head on the mean of frozen frames) on test. Nothing is downloaded. Writes docs/results/few_clips.json, a row at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivit.api import evaluate
from vivit.config import Config, DataConfig, replace
from vivit.data.splits import load_split
from vivit.engine.distributed import World
from vivit.engine.evaluate import SINGLE_VIEW
from vivit.engine.feature_cache import cache_features
from vivit.engine.heads import HEADS, LabelledFeatures, fit_head
from vivit.engine.stages import TUNED_LAYERS
from vivit.engine.train import train
from vivit.model.vivit import ViViT
from vivit.recipes.finetune import finetune
from vivit.weights.load import create

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "few_clips.json"


def baseline(config: Config) -> ViViT:
    """Fit a linear head to the mean of frozen frames, on the cached views of the run."""
    split = load_split(config.data, "train", training=True)
    torch.manual_seed(config.seed)
    model = create(replace(config.model, classes=split.classes), init=config.init).requires_grad_(False).eval()
    views = np.load(Path(config.run) / "features" / "train" / "positions.npy", mmap_mode="r").shape[1]
    depth = model.config.depth
    cache = cache_features(
        model,
        split.samples,
        split.labels,
        config=config,
        views=views,
        cut=depth - max(round(TUNED_LAYERS * depth), 1),
        name="train",
        world=World(0, 1, torch.device("cpu")),
        log=print,
    )
    data = LabelledFeatures(cache, split.labels, torch.arange(len(split.labels)), tuple(range(views)))
    return fit_head(model, HEADS[0], data, motion=False)


def measure(args: argparse.Namespace, labels: str, seed: int) -> dict[str, Any]:
    """Run one fine-tuning and return its row."""
    data = DataConfig(root=args.data, labels=(labels,))
    config = replace(finetune(data, args.init), run=str(args.home / f"{labels}-{seed}"), seed=seed)
    since = time.monotonic()
    run = train(config)
    seconds = time.monotonic() - since
    test = replace(data, eval_split="test")
    stages = json.loads((run / "stages.json").read_text())
    found = {"frozen": baseline(config), "tuned": str(run)}
    accuracy = {
        name: evaluate(model, test, protocol=SINGLE_VIEW).single_view_accuracy[labels]["top1"]
        for name, model in found.items()
    }
    return {"labels": labels, "seed": seed, "seconds": seconds, **accuracy, "stages": stages["stages"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a table of videos with the splits train, val and test")
    parser.add_argument("--init", required=True, help="weights of an image ViT")
    parser.add_argument("--labels", nargs="+", default=["label"], help="label columns, each a run of its own")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--home", type=Path, default=Path("runs/few-clips"))
    args = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for labels in args.labels:
        for seed in args.seeds:
            rows = [row for row in rows if (row["labels"], row["seed"]) != (labels, seed)]
            rows.append(measure(args, labels, seed))
            facts = {
                "command": f"python -m tests.drills.few_clips --labels {labels} --seeds {seed}",
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
            print({name: rows[-1][name] for name in ("labels", "seed", "frozen", "tuned", "seconds")}, flush=True)


if __name__ == "__main__":
    main()
