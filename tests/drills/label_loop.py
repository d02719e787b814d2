"""The label loop on real videos: `python -m tests.drills.label_loop --data TABLE --init WEIGHTS --labels NAME`.

* How many labels does `vivit labels next` need for what a random choice reaches? The training videos are the pool. As
  many as there are classes are labelled at random; then rounds of 20, the default of the command, are chosen by each
  strategy, and a linear head is fitted to the features of the frozen image model and tested on the split `test`.
* Where in the list of `vivit labels doubtful` are wrong labels? A twentieth of the training labels are made wrong.

Both with five seeds. With `--demo HOME` the videos are a cell of tests/drills/clips_grid.py (300 clips of 10 classes)
and its image model. Features are stored as by tests/drills/kernel_starts.py, and used again. A few minutes of one core.
Writes docs/results/label_loop.json and prints the tables of docs/guides/labels.md.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit.config import Config
from vivit.corpus.label_choice import STRATEGIES, choose_next, rank_doubtful, uncertainties
from vivit.engine.probe import LinearHead, fit_linear
from vivit.studies.statistics import over_seeds
from vivit.text import format_markdown

from .kernel_starts import DEMO, encode_splits, settings

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "label_loop.json"
SEEDS, ROUND = range(5), 20
PENALTY = 0.01  # of the linear heads, the same in all rounds: choosing one takes far longer than a round
WRONG = 0.05  # share of labels planted wrong
LEVELS = (1 / 4, 1 / 2, 3 / 4)  # of the pool: how many labels the random choice has


def logits(head: LinearHead, features: Tensor) -> Tensor:
    """Apply a linear head (N, K)."""
    return features.double() @ head.weight.T + head.bias


def label_rounds(pool: Tensor, labels: Tensor, test: tuple[Tensor, Tensor], strategy: str, seed: int) -> list[float]:
    """Label a pool round by round; return the accuracy on the test videos after each.

    pool (N, D), labels (N,), test ((M, D), (M,)).
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pool), generator=draw).tolist()
    count = len(labels.unique())
    known, found = order[:count], list[float]()
    while True:
        [head] = fit_linear(pool[known], labels[known, None], [count], penalties=(PENALTY,))
        found.append((logits(head, test[0]).argmax(dim=1) == test[1]).double().mean().item())
        rest = [i for i in order if i not in set(known)]
        if not rest:
            return found
        if strategy == "random":
            known = known + rest[:ROUND]
        else:
            unsure = uncertainties(logits(head, pool[rest]), [count])
            chosen = choose_next(pool[rest], unsure, ROUND, strategy=strategy, labelled=pool[known])
            known = known + [rest[i] for i in chosen]


def labels_needed(curve: list[float], sizes: list[int], accuracy: float) -> float:
    """Return after how many labels a curve first reaches an accuracy, between two rounds in proportion."""
    if curve[0] >= accuracy:
        return sizes[0]
    for i in range(1, len(curve)):
        if curve[i] >= accuracy:
            part = (accuracy - curve[i - 1]) / (curve[i] - curve[i - 1])
            return sizes[i - 1] + part * (sizes[i] - sizes[i - 1])
    return sizes[-1]


def planted_found(features: Tensor, labels: Tensor, seed: int) -> tuple[int, int]:
    """Plant wrong labels; return how many of them are in the first tenth of the list of doubtful ones, and how many."""
    draw, count = torch.Generator().manual_seed(seed), len(labels.unique())
    wrong = torch.randperm(len(labels), generator=draw)[: round(WRONG * len(labels))]
    given = labels.clone()
    given[wrong] = (given[wrong] + torch.randint(1, count, (len(wrong),), generator=draw)) % count
    order, _ = rank_doubtful(features, given[:, None], [count], torch.arange(len(labels)))
    return len(set(order[: len(labels) // 10].tolist()) & set(wrong.tolist())), len(wrong)


def measure(name: str, config: Config) -> dict[str, Any]:
    """Return the curves of all strategies and the planted labels found, on one set of videos; resumable."""
    _, data = encode_splits(config)
    (pool, labels), test = ((d.features.positions[:, 0].mean(dim=1), d.labels[:, 0]) for d in data.values())
    done = Path(config.run) / "label_loop.json"
    row = json.loads(done.read_text()) if done.is_file() else {"videos": name, "curves": {}}
    row["sizes"] = [*range(len(labels.unique()), len(pool), ROUND), len(pool)]
    for strategy in ("random", *STRATEGIES):
        if strategy not in row["curves"]:
            row["curves"][strategy] = [label_rounds(pool, labels, test, strategy, seed) for seed in SEEDS]
            done.write_text(json.dumps(row))
    return row | {"planted": [planted_found(pool, labels, seed) for seed in SEEDS]}


def table(row: dict[str, Any]) -> str:
    """Markdown: the labels that each strategy needs for the mean accuracy of a random choice, in percent of those.

    Single random choices are a column too: a curve that goes up and down reaches the mean early, by chance.
    """
    lines = [["a random choice, mean", "one random choice", *(f"`{strategy}`" for strategy in STRATEGIES)]]
    random = np.array(row["curves"]["random"]).mean(axis=0)
    for level in LEVELS:
        i = round(level * (len(random) - 1))
        cells = [f"{row['sizes'][i]} labels: {random[i]:.1%}"]
        for curves in row["curves"].values():
            share = [labels_needed(c, row["sizes"], random[i]) / row["sizes"][i] for c in curves]
            mean, half = np.mean(share), np.mean(share) - (over_seeds(share)["low"] or 0)
            cells.append(f"{100 * mean:.0f} ± {100 * half:.0f} %")
        lines.append(cells)
    found, planted = (sum(numbers) for numbers in zip(*row["planted"]))
    each = ", ".join(str(pair[0]) for pair in row["planted"])
    return (
        f"{row['videos']}\n{format_markdown(lines, align='<>>>>')}\n"
        f"{found} of {planted} wrong labels in the first tenth ({each} of {row['planted'][0][1]})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a table of videos with the splits train and test")
    parser.add_argument("--init", help="weights of an image ViT, for --data")
    parser.add_argument("--labels", default="label", help="the label column, for --data")
    parser.add_argument("--home", type=Path, default=Path("runs/kernel-starts"), help="where the features are stored")
    parser.add_argument(
        "--demo", type=Path, help="measure on videos of the demo's world as well, stored in this folder"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    configs = {}
    if args.data:
        configs[args.labels] = settings(args, args.labels, "central_frame", 0)
    if args.demo:
        configs[DEMO] = settings(args, DEMO, "central_frame", 0)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for name, config in configs.items():
        rows = [row for row in rows if row["videos"] != name] + [measure(name, config)]
    facts = {
        "command": "python -m tests.drills.label_loop",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    print(*map(table, rows), sep="\n\n")


if __name__ == "__main__":
    main()
