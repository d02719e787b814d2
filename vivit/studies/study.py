"""`vivit study`: run every row of a study from several seeds, compare them on the same videos, write it down."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import Config, differences, replace, suggestion
from ..data.sample_table import list_hash
from ..data.splits import load_split
from ..engine.evaluate import PREDICTIONS
from ..engine.evaluation import Evaluation, load_evaluation
from ..engine.run import environment, write_json
from ..model.cnn_baselines import CNN_BASELINES
from ..model.cost import count_cost
from ..model.vivit import ViViT
from ..report.study import write_page
from ..text import printable
from .definitions import STUDIES, Row, Study, shorter, with_classes
from .jobs import CURVE, ERROR, Job, run_all, speed, threads, whole
from .statistics import compare, main_label_set, over_seeds

SPEED = "speed.json"
QUICK_SEEDS = 1


def study(
    kind: str,
    config: Config,
    *,
    recipe: str = "",
    seeds: int = 5,
    quick: bool = False,
    num_jobs: int = 1,
    cnn_epochs: float | None = None,
) -> dict[str, Any]:
    """Run the study `kind` on the recipe's `config` and return what results.json holds.

    Every row is trained from the seeds config.seed, config.seed + 1, … in `config.run`/row/seed-N; what is whole there
    is not done again. A row that fails keeps its error, and the rest goes on. Writes results.json and report.html, and
    prints the table. Raises ValueError or DataError if the data or the folder do not fit, Stopped after a signal.
    """
    if kind not in STUDIES:
        raise ValueError(f"unknown study {kind!r}{suggestion(kind, STUDIES)}")
    if seeds < 1 or num_jobs < 1:
        raise ValueError(f"seeds is {seeds} and jobs is {num_jobs}; both are 1 or more")
    config = with_data_classes(config)
    config = shorter(config) if quick else config
    plan = STUDIES[kind](config, quick=quick, cnn_epochs=cnn_epochs)
    chosen = range(config.seed, config.seed + (min(seeds, QUICK_SEEDS) if quick else seeds))
    # Seed by seed, so that what an interruption leaves can be compared.
    jobs = {(row.name, seed): job(plan, row, seed, config.run) for seed in chosen for row in plan.rows if row.config}

    left = [one for one in jobs.values() if not whole(one)]
    print(f"{plan.title}: {len(plan.rows)} rows, {len(chosen)} seeds; {len(left)} of {len(jobs)} runs to do")
    errors = run_all(left, num_jobs=num_jobs)
    print("measuring times, one row after the other")
    speeds = {row.name: timed(row, Path(config.run), num_jobs) for row in plan.rows}

    results = {
        "study": kind,
        "recipe": recipe,
        "title": plan.title,
        "paper": plan.paper,
        "quick": quick,
        "seeds": [*chosen],
        "steps": plan.steps,
        **gather(plan, jobs, speeds, config),
        "data": data_facts(config),
        "init": config.init,
        "protocol": f"{config.eval.temporal_views} x {config.eval.spatial_views}",
        "environment": environment() | {"command": ["vivit", *sys.argv[1:]]},
        "failed": len(errors),
    }
    write_json(Path(config.run) / "results.json", results)
    page = write_page(Path(config.run) / "report.html", results)
    print(f"\n{table(results)}\n\nwritten to {Path(config.run) / 'results.json'} and {page}")
    return results


def with_data_classes(config: Config) -> Config:
    """The config with the classes of its data, all of whose labels are looked at before the first run."""
    train = load_split(config.data, config.data.train_split, classes=config.model.classes or None, training=True)
    load_split(config.data, config.data.eval_split, classes=train.classes)
    return with_classes(config, train.classes)


def data_facts(config: Config) -> dict[str, Any]:
    """The videos that the runs train on and are tested on, by split."""
    sets, classes = {}, config.model.classes
    for split, training in ((config.data.train_split, True), (config.data.eval_split, False)):
        samples = load_split(config.data, split, classes=classes, training=training).samples
        sets[split] = {"videos": len(samples), "list_hash": list_hash(samples)}
    return {"root": config.data.root, "dataset": config.data.dataset, "splits": sets}


def job(plan: Study, row: Row, seed: int, folder: str) -> Job:
    assert row.config is not None
    config = replace(row.config, seed=seed, run=str(Path(folder) / row.name / f"seed-{seed}"))
    return Job(f"{row.title}, seed {seed}", config, row.network, plan.views if row.view_curve else ())


def timed(row: Row, folder: Path, num_jobs: int) -> dict[str, Any] | None:
    """The row's speed, measured once and kept; None where that fails, as training did."""
    path = folder / row.name / SPEED
    if row.config is None:
        return None
    if not path.is_file():
        before = torch.get_num_threads()
        torch.set_num_threads(threads(num_jobs))
        try:
            write_json(path, speed(row.config, row.network))
        except (ValueError, RuntimeError):
            return None
        finally:
            torch.set_num_threads(before)
    return json.loads(path.read_text())


def gather(
    plan: Study, jobs: Mapping[tuple[str, int], Job], speeds: Mapping[str, dict[str, Any] | None], config: Config
) -> dict[str, Any]:
    """All rows with their numbers, and the curves."""
    tests: dict[str, dict[int, Evaluation]] = {row.name: {} for row in plan.rows}
    problems: dict[str, dict[int, str]] = {row.name: {} for row in plan.rows}
    for (name, seed), one in jobs.items():
        if (one.folder / ERROR).is_file():
            problems[name][seed] = (one.folder / ERROR).read_text().strip()
        elif (one.folder / PREDICTIONS).is_file():
            tests[name][seed] = load_evaluation(one.folder / PREDICTIONS)
    label_set = next((main_label_set(e) for found in tests.values() for e in found.values()), "")
    reference = next((row.name for row in plan.rows if tests[row.name]), None)
    rows, before = [], None
    for row in plan.rows:
        found = tests[row.name]
        facts = {
            "name": row.name,
            "title": row.title,
            "paper": row.paper,
            "why_not": row.why_not,
            "problems": problems[row.name],
            **cost(row, plan, config),
            "speed": speeds[row.name],
            "accuracy": {seed: e.accuracy for seed, e in found.items()},
            "single_view": {seed: e.single_view_accuracy for seed, e in found.items()},
            "missing": {seed: len(e.missing) for seed, e in found.items()},
            "top1": {
                name: over_seeds([e.accuracy[name]["top1"] for e in found.values()])
                for name in next(iter(found.values())).accuracy
            }
            if found
            else {},
        }
        if found and reference and row.name != reference:
            facts["to_first"] = compare(tests[reference], found, label_set)
        if found and plan.steps and before:
            facts["to_previous"] = compare(tests[before], found, label_set)
        before = row.name if found else before
        rows.append(facts)
    return {"label_set": label_set, "reference": reference, "rows": rows, "curves": curves(plan, rows, jobs, label_set)}


def cost(row: Row, plan: Study, config: Config) -> dict[str, Any]:
    """Parameters, multiply-adds of one view, epochs, and the settings in which the row differs from the recipe's."""
    if row.config is None:
        return {}
    total = count_cost(row.config.model, CNN_BASELINES.get(row.network, ViViT))[-1]
    return {
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "epochs": row.config.optim.epochs,
        "settings": [] if row.network else differences(config, row.config),
    }


def curves(
    plan: Study, rows: Sequence[Mapping[str, Any]], jobs: Mapping[tuple[str, int], Job], label_set: str
) -> dict[str, Any]:
    """Accuracy against temporal depth and against the number of views, where the study has them."""
    found: dict[str, Any] = {}
    depths = {row.temporal_depth: facts for row, facts in zip(plan.rows, rows) if row.temporal_depth is not None}
    points = [[depth, depths[depth]["top1"][label_set]] for depth in sorted(depths) if depths[depth]["top1"]]
    if points:
        found["temporal_depth"] = {"Model 2": points}
    of_views: dict[str, list[Any]] = {}
    for crops in (1, 3):
        for views in plan.views:
            files = [one.folder / CURVE / f"{views}x{crops}.npz" for one in jobs.values() if one.views]
            values = [load_evaluation(path).accuracy[label_set]["top1"] for path in files if path.is_file()]
            if values:
                name = f"{crops} crop" + "s" * (crops > 1)
                of_views.setdefault(name, []).append([views, over_seeds(values)])
    return found | ({"views": of_views} if of_views else {})


def table(results: Mapping[str, Any]) -> str:
    """The rows for the terminal: top-1 per label set and cost; then differences in points with 95 % intervals."""
    main = results["label_set"]
    sets = list(dict.fromkeys([main, *(name for row in results["rows"] for name in row["top1"])]))
    costs = ["M params", "G mult-adds", "ms/clip training", "test", "epochs", "paper"]
    first = [["", *(f"{name} top-1" for name in sets), *costs]]
    second = [["difference in points", "to", "mean", "95 % over seeds", "over videos"]]
    notes = []
    for row in results["rows"]:
        first.append([row["title"], *(share(row["top1"].get(name)) for name in sets), *cost_cells(row)])
        for against, found in (("the first", row.get("to_first")), ("the one above", row.get("to_previous"))):
            if found:
                second.append([row["title"], against, *points(found)])
        notes += [f"{row['title']}: left out, {row['why_not']}"] if row["why_not"] else []
        notes += [f"{row['title']}, seed {seed} FAILED: {problem}" for seed, problem in row["problems"].items()]
    splits = ", ".join(f"{name} {facts['videos']}" for name, facts in results["data"]["splits"].items())
    seeds = ", ".join(map(str, results["seeds"]))
    about = f"{results['title']}: seeds {seeds}; videos: {splits}; {results['protocol']} views"
    blocks = [about, aligned(first), aligned(second) if len(second) > 1 else "", "\n".join(map(printable, notes))]
    return "\n\n".join(filter(None, blocks))


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, the first to the left, the others to the right."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}" for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def cost_cells(row: Mapping[str, Any]) -> list[str]:
    """Size, work and time of a row, as far as known."""
    took, paper = row["speed"], f"{row['paper']:.1f}" if row["paper"] else "-"
    size = [f"{row['parameters'] / 1e6:.2f}", f"{row['multiply_adds'] / 1e9:.3g}"] if "epochs" in row else ["-", "-"]
    times = [f"{1e3 * took[name]:.3g}" if took else "-" for name in ("train_seconds", "test_seconds")]
    return [*size, *times, f"{row['epochs']:.3g}" if "epochs" in row else "-", paper]


def share(found: Mapping[str, float | None] | None) -> str:
    """A mean with its interval, in percent."""
    if found is None or found["mean"] is None:
        return "-"
    half = "" if found["low"] is None else f" ±{100 * (found['mean'] - found['low']):.1f}"
    return f"{100 * found['mean']:.1f}{half}"


def points(difference: Mapping[str, Any]) -> list[str]:
    """A difference and its two intervals, in points."""
    return [
        f"{100 * difference['mean']:+.1f}",
        interval(difference["low"], difference["high"]),
        interval(difference["videos_low"], difference["videos_high"]),
    ]


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]"
