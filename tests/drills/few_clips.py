"""Fine-tuning in stages on real videos: `python -m tests.drills.few_clips --data videos.csv --init vit.safetensors`.

The table needs the splits train and test; no choice is made on test. For each label set and seed it runs what a
person types, `vivit train finetune` with no other setting, and measures the result and the frozen baseline (a linear
head on the mean of frozen frames) on test. Nothing is downloaded. Writes docs/results/few_clips.json, a row at a time,
and prints the table of docs/guides/finetune.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

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
from vivit.studies.statistics import over_seeds
from vivit.text import format_markdown
from vivit.weights.load import create

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "few_clips.json"


def baseline(config: Config) -> ViViT:
    """Fit a linear head to the mean of frozen frames, on the cached views of the run."""
    split = load_split(config.data, "train", training=True)
    torch.manual_seed(config.seed)
    model = create(replace(config.model, classes=split.classes), init=config.init).requires_grad_(False).eval()
    depth = model.config.depth
    cache = cache_features(
        model,
        split.samples,
        split.labels,
        config=config,
        views=1,  # if there are none yet
        cut=depth - max(round(TUNED_LAYERS * depth), 1),
        name="train",
        world=World(0, 1, torch.device("cpu")),
        log=print,
    )
    views = tuple(range(cache.positions.shape[1]))
    data = LabelledFeatures(cache, split.labels, torch.arange(len(split.labels)), views)
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


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the guide: means over the seeds with their 95 % intervals."""
    lines = [["labels", "seeds", "frozen baseline", "stages", "difference", "minutes"]]
    for labels in dict.fromkeys(row["labels"] for row in rows):
        own = [row for row in rows if row["labels"] == labels]
        columns = [[row[name] for row in own] for name in ("frozen", "tuned")]
        cells = [in_percent(column) for column in (*columns, [b - a for a, b in zip(*columns)])]
        minutes = [row["seconds"] / 60 for row in own if row["seconds"]]  # None: in several calls
        span = f"{min(minutes):.1f} to {max(minutes):.1f}" if minutes else ""
        lines.append([labels, str(len(own)), *cells, span])
    return format_markdown(lines, align="<>>>>>")


def in_percent(values: list[float]) -> str:
    """Format a mean over seeds with its 95 % interval."""
    found = over_seeds(values)
    half = "" if found["low"] is None else f" ± {100 * ((found['mean'] or 0) - found['low']):.1f}"
    return f"{100 * (found['mean'] or 0):.1f}{half}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a table of videos with the splits train and test")
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
                "command": f"python -m tests.drills.few_clips --labels {' '.join(args.labels)}",
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
            print({name: rows[-1][name] for name in ("labels", "seed", "frozen", "tuned", "seconds")}, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
