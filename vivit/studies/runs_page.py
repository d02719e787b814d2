"""Write one page about many runs: groups of seeds, curves, paired differences, and videos whose answer flips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from ..data.reading import show_reading
from ..engine.evaluate import PREDICTIONS
from ..engine.evaluation import load_evaluation
from ..engine.runs import RunSummary, differing, find_runs, read_metrics, shown, summarise
from ..report.charts import Interval, interval_chart, thin_out
from ..report.html import escape, plural, write_html
from .statistics import correct_videos, main_label_set, over_seeds

COLUMNS = 60  # parts of a curve, each drawn by its lowest and highest value
SIGN_FLIPS = 10_000
MOST_FLIPPED = 12  # videos of a difference on the page
Answers = dict[tuple[str, float | None, float | None], bool]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    title: str
    runs: list[RunSummary]
    answers: list[Answers]
    """Whether each test video (path, start, end) is right, for every run that was tested."""
    label_set: str
    """Of the answers."""


def write_runs_page(folder: str | Path, page: Path) -> Path:
    """Write the page of all runs below `folder`. Raises ValueError if there are none, OSError for a full disk.

    Runs with equal settings but for the seed are one group. Top-1 is the test's (all views) where every run of a group
    has predictions.npz of `vivit eval`, else the best validation.
    """
    found = list(show_reading((summarise(path) for path in find_runs(Path(folder))), "runs"))
    readable = [run for run in found if run.config]
    if not readable:
        raise ValueError(f"{folder}: no run with a readable config.json here or below; name the folder of your runs")
    groups = group_runs(readable)
    differences = compare_groups(groups)
    settings = [name for name in differing([run.config for run in readable if run.config]) if name != "seed"]
    return write_html(
        page,
        "runs.html",
        title=f"Runs of {Path(folder).resolve().name}",
        summary=f"{plural(len(found), 'run')} in {plural(len(groups), 'group')}",
        when=f"{len(found) - len(readable)} with an unreadable config left out" if len(readable) < len(found) else "",
        chart=chart(groups),
        head=[*settings, "runs", "top-1", "95 % over seeds", "from"],
        rows=[row(group, settings) for group in groups],
        curves=[{"title": group.title, "svg": curves(group.runs)} for group in groups],
        reference=groups[0].title,
        difference_head=["points", "p", "p, Holm", "difference"],
        differences=[shown_difference(one, page) for one in differences],
    )


def group_runs(runs: Sequence[RunSummary]) -> list[Group]:
    """Return the groups in the order of their first run, with a title of the settings in which they differ."""
    settings = [name for name in differing([run.config for run in runs if run.config]) if name != "seed"]
    by_key: dict[str, list[RunSummary]] = {}
    for run in runs:
        assert run.config
        by_key.setdefault(repr(replace(run.config, seed=0, run="")), []).append(run)
    groups = []
    for several in by_key.values():
        title = ", ".join(f"{name} {shown(several[0].config, name)}" for name in settings)
        answers, label_set = [], ""
        for run in several:
            if (run.folder / PREDICTIONS).is_file():
                evaluation = load_evaluation(run.folder / PREDICTIONS)
                label_set = main_label_set(evaluation)
                answers.append(correct_videos(evaluation, label_set))
        groups.append(Group(title or several[0].folder.name, several, answers, label_set))
    return groups


def top1(group: Group) -> tuple[list[float], str]:
    """Return the top-1 of each run of a group and where it is from: the test, else the best validation."""
    if group.answers and len(group.answers) == len(group.runs):
        return [float(np.mean([*one.values()])) for one in group.answers], f"test {group.label_set}"
    values = [(run.best, next(iter(run.best))) for run in group.runs if run.best]
    return [best[name] for best, name in values], f"validation {values[0][1]}" if values else ""


def chart(groups: Sequence[Group]) -> Markup | str:
    """Draw the mean of each group with its interval over seeds; "" if no run has a result."""
    rows = []
    for group in groups:
        values, _ = top1(group)
        if values:
            stats = over_seeds(values)
            names = [run.folder.name for run in group.runs]
            assert stats["mean"] is not None
            rows.append(Interval(group.title, stats["mean"], stats["low"], stats["high"], dict(zip(names, values))))
    return interval_chart("Top-1, mean and 95 % interval over seeds", rows) if rows else ""


def row(group: Group, settings: Sequence[str]) -> dict[str, Any]:
    """Return a row of the table of groups."""
    values, source = top1(group)
    stats = over_seeds(values) if values else {"mean": None, "low": None, "high": None}
    interval = "" if stats["low"] is None else f"{stats['low']:.1%} to {stats['high']:.1%}"
    mean = "" if stats["mean"] is None else f"{stats['mean']:.1%}"
    cells = [shown(group.runs[0].config, name) for name in settings]
    return {"cells": [*cells, len(group.runs), mean, interval, source], "names": [r.folder.name for r in group.runs]}


def curves(runs: Sequence[RunSummary]) -> Markup:
    """Draw the training loss of every run of a group over the steps, on one scale."""
    lines = []
    for run in runs:
        logged = read_metrics(run.folder / "metrics.jsonl")
        points = [(line["step"], line["loss"]) for line in logged if line.get("loss") is not None]
        if points:
            steps, losses = np.array(points, float).T
            lines.append(thin_out(steps, losses, COLUMNS))
    if not lines:
        return Markup("")
    last = max(float(steps[-1]) for steps, _ in lines)
    low, high = (fit(float(fit(values)) for _, values in lines) for fit in (min, max))
    paths = ""
    for steps, values in lines:
        x, y = 300 * steps / max(last, 1), 60 - 56 * (values - low) / max(high - low, 1e-9)
        d = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y))
        paths += f'<path class="line" d="M{d}"/>'
    label = escape(f"training loss from {low:.3g} to {high:.3g} over {last:.0f} steps")
    return Markup(f'<svg viewBox="0 0 300 64" role="img" aria-label="{label}"><g class="s0">{paths}</g></svg>')


@dataclass(frozen=True)
class PairedDifference:
    """A group against the first one, on the test videos that all their runs have."""

    title: str
    points: float
    """Difference of the mean top-1, as a share of 1."""
    p: float
    """Two-sided sign-flip test over files."""
    adjusted: float
    """p after Holm's correction for all differences of the page."""
    better: list[str]
    """Files of which most seeds of this group are right and most of the first one wrong."""
    worse: list[str]


def compare_groups(groups: Sequence[Group]) -> list[PairedDifference]:
    """Compare each tested group with the first one, if that was tested."""
    first, *others = groups
    found = []
    for group in others:
        every = [*first.answers, *group.answers]
        if not first.answers or not group.answers:
            continue
        videos = [video for video in every[0] if all(video in one for one in every)]
        if not videos:
            continue
        sides = [np.array([[one[v] for v in videos] for one in g.answers], float).mean(axis=0) for g in (first, group)]
        change = sides[1] - sides[0]
        files, which = np.unique([path for path, _, _ in videos], return_inverse=True)
        p = sign_flip_p(np.bincount(which, weights=change, minlength=len(files)))
        flips = [[v[0] for v, a, b in zip(videos, *pair) if a < 0.5 < b] for pair in (sides, sides[::-1])]
        found.append(PairedDifference(group.title, float(change.mean()), p, p, *flips))
    return [replace(one, adjusted=p) for one, p in zip(found, holm([one.p for one in found]))]


def sign_flip_p(changes: np.ndarray) -> float:
    """Return how likely random signs of the changes (n,) give a sum at least as far from 0; two-sided, seeded."""
    rng = np.random.default_rng(0)
    observed, reached = abs(changes.sum()), 0
    for _ in range(SIGN_FLIPS // 1000):
        signs = rng.integers(0, 2, (1000, len(changes)), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ changes) >= observed - 1e-9).sum())
    return (1 + reached) / (1 + SIGN_FLIPS)


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for the number of tests (Holm, 1979)."""
    adjusted, highest = [0.0] * len(values), 0.0
    for place, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - place) * values[i]))
        adjusted[i] = highest
    return adjusted


def shown_difference(one: PairedDifference, page: Path) -> dict[str, Any]:
    """Return a difference for the template, with addresses of the videos relative to the page."""
    sides = {"right here, wrong there": one.better, "wrong here, right there": one.worse}
    flips = {
        name: [{"path": path, "src": address(path, page)} for path in dict.fromkeys(paths)][:MOST_FLIPPED]
        for name, paths in sides.items()
    }
    counts = {name: len(paths) for name, paths in sides.items()}
    verdict = "clear" if one.adjusted < 0.05 else "undecided"
    cells = [f"{100 * one.points:+.1f}", f"{one.p:.4f}", f"{one.adjusted:.4f}", verdict]
    return {"title": one.title, "cells": cells, "flips": flips, "counts": counts}


def address(path: str, page: Path) -> str:
    """Return the address of a video relative to the page."""
    return quote(os.fsencode(Path(os.path.relpath(path, page.parent)).as_posix()))
