"""Few clips of few or many classes: `python -m tests.drills.clips_grid`, about 30 minutes of one core, resumable.

Each cell has 50, 100 or 300 training clips of 2, 10 or 50 classes of the demo's world (shape, way to move, colour), a
quarter as many validation clips, and 240 test clips that no choice is made on. `vivit train finetune` runs its stages
up to the last layers, without the whole encoder (`--budget unlimited --optim.epochs 0`: the result does not depend on
the speed of the machine); what it chooses is compared on the test clips with the frozen linear baseline. The image
model is that of tests/drills/studies.py: HOME/image.safetensors if it is there, else trained first (a minute). Writes
docs/results/clips_grid.json, a run at a time, and prints the table of docs/guides/finetune.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import statistics
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivit.api import evaluate
from vivit.config import Config, DataConfig, replace
from vivit.data.tools.synthetic import HUES, NOUNS, VERBS, render, scene, write_video
from vivit.engine.evaluate import SINGLE_VIEW
from vivit.engine.metrics import correct
from vivit.engine.train import train
from vivit.recipes.finetune import finetune
from vivit.text import format_markdown

from .few_clips import baseline
from .studies import IMAGE, train_image_model

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "clips_grid.json"
CLIPS, CLASSES, TEST = (50, 100, 300), (2, 10, 50), 240
COLORS = ("green", "purple")  # halves of the colour wheel
COMBINATIONS = tuple(product(NOUNS, VERBS, COLORS))
FRAMES = 40
SPLITS = {"train": "train", "val": "val", "test": "val"}  # splits of the world: test and val share no colour with train


def videos_of(seed: int, split: str, combination: tuple[str, str, str]) -> Iterator[int]:
    """Yield the numbers of the videos of a class, without end."""
    noun, verb, color = combination
    first, period = NOUNS.index(noun) * len(VERBS) + VERBS.index(verb), len(NOUNS) * len(VERBS)
    index = first
    while True:
        hue = scene(seed, split, index, num_frames=FRAMES)["hue"]
        if COLORS[2 * hue // HUES] == color:
            yield index
        index += period


def write_cell(home: Path, clips: int, classes: int, seed: int) -> Path:
    """Write the table of a cell, and those of its videos that are not there yet."""
    chosen = np.random.default_rng((seed, classes)).permutation(len(COMBINATIONS))[:classes]
    counts = {"train": clips, "test": TEST, "val": clips // 4}
    rows = []
    for place, combination in enumerate(COMBINATIONS[i] for i in chosen):
        sources = {split: videos_of(seed, split, combination) for split in set(SPLITS.values())}
        for split, world in SPLITS.items():
            for index in islice(sources[world], len(range(place, counts[split], classes))):
                rows.append((world, index, " ".join(combination), split))
    (home / "videos").mkdir(parents=True, exist_ok=True)
    table = home / f"{clips}-{classes}-{seed}.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for world, index, label, split in rows:
            path = Path("videos") / f"{seed}-{world}-{index}.mp4"
            if not (home / path).exists():
                write_video(home / path, render(seed, world, index, num_frames=FRAMES)[0])
            writer.writerow((path, label, split))
    return table


def largest_cell(home: Path) -> tuple[Path, Path]:
    """Return (table, image model) of 300 clips of 10 classes, written and trained if they are not there yet."""
    home.mkdir(parents=True, exist_ok=True)
    if not (image := home / "image.safetensors").exists():
        train_image_model(image)
    return write_cell(home, 300, 10, 0), image


def settings(table: Path, init: Path, seed: int, run: Path) -> Config:
    """Return the settings of `vivit train finetune`, with the heads and the pixel range of the image model."""
    config = finetune(DataConfig(root=str(table), workers=0), str(init))
    preprocessing = replace(config.model.preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = replace(config.model, num_heads=int(IMAGE["num_heads"]), preprocessing=preprocessing)
    optim = replace(config.optim, epochs=0, warmup_epochs=0)
    return replace(config, model=model, optim=optim, budget="unlimited", seed=seed, run=str(run))


def measure(home: Path, clips: int, classes: int, seed: int) -> dict[str, Any]:
    """Run one fine-tuning and compare it with the frozen baseline on the test clips."""
    table = write_cell(home, clips, classes, seed)
    config = settings(table, home / "image.safetensors", seed, home / f"{clips}-{classes}-{seed}")
    run = train(config)
    found = {}
    for name, model in (("frozen", baseline(config)), ("tuned", run)):
        tested = evaluate(model, replace(config.data, eval_split="test"), protocol=SINGLE_VIEW)
        found[name] = correct(tested.single, tested.labels, tested.classes)["label"].numpy()
    stages = json.loads((run / "stages.json").read_text())
    return {
        "clips": clips,
        "classes": classes,
        "seed": seed,
        "test_clips": len(found["tuned"]),
        **{name: float(right.mean()) for name, right in found.items()},
        "only_frozen": int((found["frozen"] & ~found["tuned"]).sum()),
        "only_tuned": int((found["tuned"] & ~found["frozen"]).sum()),
        "stages": [{k: row.get(k) for k in ("on", "stage", "accuracy", "kept")} for row in stages["stages"]],
    }


def difference(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the mean difference to the frozen baseline over all test clips of some runs, and its standard error."""
    n = sum(row["test_clips"] for row in rows)
    better, worse = (sum(row[name] for row in rows) / n for name in ("only_tuned", "only_frozen"))
    mean = better - worse
    return mean, math.sqrt((better + worse - mean**2) / n)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the guide: a row per cell, means over the seeds."""
    lines = [["training clips", "classes", "seeds", "frozen baseline", "stages", "difference ± standard error"]]
    for clips, classes in product(CLIPS, CLASSES):
        own = [row for row in rows if (row["clips"], row["classes"]) == (clips, classes)]
        if own:
            mean, error = difference(own)
            frozen, tuned = (statistics.mean(row[k] for row in own) for k in ("frozen", "tuned"))
            points = f"{100 * mean:+.1f} ± {100 * error:.1f}"
            lines.append([str(clips), str(classes), str(len(own)), f"{frozen:.1%}", f"{tuned:.1%}", points])
    return format_markdown(lines, align=">>>>>>")


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of the drill whose name the file has, with its command and the machine."""
    facts = {
        "command": f"python -m tests.drills.{path.stem}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
        "rows": rows,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("runs/clips-grid"), help="resumes where it stopped")
    parser.add_argument("--clips", nargs="+", type=int, default=CLIPS)
    parser.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.home.mkdir(parents=True, exist_ok=True)
    if not (args.home / "image.safetensors").exists():
        train_image_model(args.home / "image.safetensors")
    for seed, clips, classes in product(args.seeds, args.clips, args.classes):
        done = args.home / f"{clips}-{classes}-{seed}.json"
        if not done.exists():
            done.write_text(json.dumps(measure(args.home, clips, classes, seed)))
    rows = [json.loads(path.read_text()) for path in sorted(args.home.glob("*-*-*.json"))]
    write_results(RESULTS, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
