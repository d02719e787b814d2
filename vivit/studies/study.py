"""Run a study from several seeds and compare its rows on the same videos."""

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
from ..engine.run import environment
from ..files import write_json
from ..model.cnn_baselines import CNN_BASELINES
from ..model.cost import count_cost
from ..model.vivit import ViViT
from ..report.study import write_page
from .definitions import STUDIES, Row, Study, shorter, with_classes
from .runner import CURVE_FOLDER, ERROR, StudyRun, is_complete, run_all, threads_per_run
from .speed import speed
from .statistics import compare, main_label_set, over_seeds
from .table import format_results

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

    A `budget` of the config is left out: each row trains its complete model, equally long on any machine.

    Every row is trained from the seeds config.seed, config.seed + 1, … in `config.run`/row/seed-N; complete runs are
    skipped. If a row fails, its error is kept and the others still run. Writes results.json and report.html, and
    prints the table. Raises ValueError or DataError if the data or the folder do not fit, Stopped after a signal.
    """
    if kind not in STUDIES:
        raise ValueError(f"unknown study {kind!r}{suggestion(kind, STUDIES)}")
    if seeds < 1 or num_jobs < 1:
        raise ValueError(f"seeds is {seeds} and jobs is {num_jobs}; both are 1 or more")
    config = with_data_classes(config)
    if config.budget:
        print("study: budget is left out; each row trains its complete model for as long as the others")
        config = replace(config, budget=None)
    config = shorter(config) if quick else config
    plan = STUDIES[kind](config, quick=quick, cnn_epochs=cnn_epochs)
    chosen = range(config.seed, config.seed + (min(seeds, QUICK_SEEDS) if quick else seeds))
    # Seed by seed, so that rows can be compared after an interruption.
    runs = {
        (row.name, seed): study_run(plan, row, seed, config.run) for seed in chosen for row in plan.rows if row.config
    }
    left = [run for run in runs.values() if not is_complete(run)]
    print(f"{plan.title}: {len(plan.rows)} rows, {len(chosen)} seeds; {len(left)} of {len(runs)} runs to do")
    errors = run_all(left, num_jobs=num_jobs)
    print("measuring times, one row after the other")
    speeds = {row.name: measure_speed(row, Path(config.run), num_jobs) for row in plan.rows}

    results = {
        "study": kind,
        "recipe": recipe,
        "title": plan.title,
        "paper": plan.paper,
        "quick": quick,
        "seeds": [*chosen],
        "steps": plan.steps,
        **collect(plan, runs, speeds, config),
        "data": data_facts(config),
        "init": config.init,
        "protocol": f"{config.eval.temporal_views} x {config.eval.spatial_views}",
        "environment": environment() | {"command": ["vivit", *sys.argv[1:]]},
        "failed": len(errors),
    }
    write_json(Path(config.run) / "results.json", results)
    page = write_page(Path(config.run) / "report.html", results)
    print(f"\n{format_results(results)}\n\nwritten to {Path(config.run) / 'results.json'} and {page}")
    return results


def with_data_classes(config: Config) -> Config:
    """Return the config with the classes of its data; checks every label of both splits."""
    train = load_split(config.data, config.data.train_split, classes=config.model.classes or None, training=True)
    load_split(config.data, config.data.eval_split, classes=train.classes)
    return with_classes(config, train.classes)


def data_facts(config: Config) -> dict[str, Any]:
    """Count the videos that the runs train on and are tested on, by split."""
    sets, classes = {}, config.model.classes
    for split, training in ((config.data.train_split, True), (config.data.eval_split, False)):
        samples = load_split(config.data, split, classes=classes, training=training).samples
        sets[split] = {"videos": len(samples), "list_hash": list_hash(samples)}
    return {"root": config.data.root, "dataset": config.data.dataset, "splits": sets}


def study_run(plan: Study, row: Row, seed: int, folder: str) -> StudyRun:
    """Return the run of a row from a seed; the row must have a config."""
    assert row.config is not None
    config = replace(row.config, seed=seed, run=str(Path(folder) / row.name / f"seed-{seed}"))
    return StudyRun(f"{row.title}, seed {seed}", config, row.network, plan.views if row.view_curve else ())


def measure_speed(row: Row, folder: Path, num_jobs: int) -> dict[str, Any] | None:
    """Return the row's speed, measured once and kept in speed.json; None where that fails as training did."""
    path = folder / row.name / SPEED
    if row.config is None:
        return None
    if not path.is_file():
        before = torch.get_num_threads()
        torch.set_num_threads(threads_per_run(num_jobs))
        try:
            write_json(path, speed(row.config, row.network))
        except (ValueError, RuntimeError):
            return None
        finally:
            torch.set_num_threads(before)
    return json.loads(path.read_text())


def collect(
    plan: Study, runs: Mapping[tuple[str, int], StudyRun], speeds: Mapping[str, dict[str, Any] | None], config: Config
) -> dict[str, Any]:
    """Read the evaluations of all runs; return the rows with their numbers, and the curves."""
    tests: dict[str, dict[int, Evaluation]] = {row.name: {} for row in plan.rows}
    problems: dict[str, dict[int, str]] = {row.name: {} for row in plan.rows}
    for (name, seed), run in runs.items():
        if (run.folder / ERROR).is_file():
            problems[name][seed] = (run.folder / ERROR).read_text().strip()
        elif (run.folder / PREDICTIONS).is_file():
            tests[name][seed] = load_evaluation(run.folder / PREDICTIONS)
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
            "not_compared": {},
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
        to = {"to_first": reference if row.name != reference else None, "to_previous": before if plan.steps else None}
        for against, other in to.items():
            if found and other:
                try:
                    facts[against] = compare(tests[other], found, label_set)
                except ValueError as error:
                    facts["not_compared"][against] = str(error)
        before = row.name if found else before
        rows.append(facts)
    return {
        "label_set": label_set,
        "reference": reference,
        "rows": rows,
        "curves": curves(plan, rows, [*runs.values()], label_set),
    }


def cost(row: Row, plan: Study, config: Config) -> dict[str, Any]:
    """Count parameters, multiply-adds of one view and epochs; list the settings that differ from the recipe's."""
    if row.config is None:
        return {}
    total = count_cost(row.config.model, CNN_BASELINES.get(row.network, ViViT))[-1]
    return {
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "epochs": row.config.optim.epochs,
        "settings": [] if row.network else differences(config, row.config),
    }


def curves(plan: Study, rows: Sequence[Mapping[str, Any]], runs: Sequence[StudyRun], label_set: str) -> dict[str, Any]:
    """Return top-1 against temporal depth and against the number of views, where the study has them."""
    found: dict[str, Any] = {}
    depths = {row.temporal_depth: facts for row, facts in zip(plan.rows, rows) if row.temporal_depth is not None}
    points = [[depth, depths[depth]["top1"][label_set]] for depth in sorted(depths) if depths[depth]["top1"]]
    if points:
        found["temporal_depth"] = {"Model 2": points}
    of_views: dict[str, list[Any]] = {}
    for crops in (1, 3):
        for views in plan.views:
            files = [run.folder / CURVE_FOLDER / f"{views}x{crops}.npz" for run in runs if run.views]
            values = [load_evaluation(path).accuracy[label_set]["top1"] for path in files if path.is_file()]
            if values:
                name = f"{crops} crop" + "s" * (crops > 1)
                of_views.setdefault(name, []).append([views, over_seeds(values)])
    return found | ({"views": of_views} if of_views else {})
