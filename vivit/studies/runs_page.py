"""Write one page about many runs: groups of seeds, curves, paired differences, and videos whose answer flips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from ..data.reading import show_reading
from ..engine.eval_tables import describe_protocol
from ..engine.evaluate import PREDICTIONS
from ..engine.evaluation import load_evaluation
from ..engine.runs import RunSummary, differing, find_runs, read_metrics, show_settings, summarise
from ..model_config import joint_name
from ..report.charts import Interval, interval_chart, thin_out
from ..report.html import escape, plural, write_html
from ..text import shorten_list
from .statistics import Answers, align, answers, main_label_set, over_seeds

COLUMNS = 60  # parts of a curve, each drawn by its lowest and highest value
SIGN_FLIPS = 10_000
MOST_FLIPPED = 12  # videos of a difference on the page


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    settings: dict[str, str]
    """Those in which groups differ, as they are shown."""
    runs: list[RunSummary]
    answers: list[Answers]
    """For every run that was tested."""
    measures: list[str]
    """The label set and the views of these answers; more than one if the runs were tested in different ways."""

    @property
    def title(self) -> str:
        """Return the settings in words."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items()) or self.runs[0].folder.name


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
    differences, not_compared = compare_groups(groups)
    notes = [f"{len(found) - len(readable)} with an unreadable config left out"] if len(readable) < len(found) else []
    notes += [f"not compared: {note}" for note in shorten_list(not_compared, 5)]
    return write_html(
        page,
        "runs.html",
        title=f"Runs of {Path(folder).resolve().name}",
        summary=f"{plural(len(found), 'run')} in {plural(len(groups), 'group')}",
        when="; ".join(notes),
        chart=charts(groups),
        head=[*groups[0].settings, "runs", "top-1", "95 % over seeds", "from"],
        rows=[row(group) for group in groups],
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
    rows = show_settings([several[0].config for several in by_key.values()], settings)
    for several, values in zip(by_key.values(), rows):
        tested, measures = [], []
        for run in several:
            if (run.folder / PREDICTIONS).is_file():
                evaluation = load_evaluation(run.folder / PREDICTIONS)
                label_set = main_label_set(evaluation)
                tested.append(answers(evaluation, label_set))
                measures.append(f"{label_set}, {describe_protocol(evaluation.protocol)}")
        groups.append(Group(dict(zip(settings, values)), several, tested, [*dict.fromkeys(measures)]))
    return groups


def top1(group: Group) -> tuple[dict[Path, float], str]:
    """Return the top-1 of the runs of a group and where it is from: the test, else the best validation."""
    if len(group.answers) == len(group.runs) and len(group.measures) == 1:
        shares = [float(np.mean([hit for _, hit in one.values()])) for one in group.answers]
        return dict(zip([run.folder for run in group.runs], shares)), f"test {group.measures[0]}"
    names = [best_label_set(run.best) for run in group.runs if run.best]
    values = {run.folder: run.best[names[0]] for run in group.runs if names[:1] and names[0] in run.best}
    return values, f"validation {names[0]}" if names else ""


def best_label_set(best: Mapping[str, float]) -> str:
    """Return the label set that a table shows first, of the results of a validation: all together, if it is there."""
    joint = [name for name in best if len(best) > 2 and name == joint_name({*best} - {name})]
    return joint[0] if joint else next(iter(best))


def charts(groups: Sequence[Group]) -> Markup:
    """Draw the mean of each group with its interval over seeds, one chart for each kind of result."""
    rows: dict[str, list[Interval]] = {}
    for group in groups:
        values, source = top1(group)
        if values:
            stats = over_seeds([*values.values()])
            assert stats["mean"] is not None
            points = {folder.name: value for folder, value in values.items()}
            one = Interval(group.title, stats["mean"], stats["low"], stats["high"], points)
            rows.setdefault(source, []).append(one)
    title = "top-1, mean and 95 % interval over seeds"
    return Markup().join(interval_chart(f"{source}: {title}", several) for source, several in rows.items())


def row(group: Group) -> dict[str, Any]:
    """Return a row of the table of groups."""
    values, source = top1(group)
    stats = over_seeds([*values.values()]) if values else {"mean": None, "low": None, "high": None}
    interval = "" if stats["low"] is None else f"{stats['low']:.1%} to {stats['high']:.1%}"
    mean = "" if stats["mean"] is None else f"{stats['mean']:.1%}"
    cells = [*group.settings.values(), len(group.runs), mean, interval, source]
    return {"cells": cells, "names": [run.folder.name for run in group.runs]}


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


def compare_groups(groups: Sequence[Group]) -> tuple[list[PairedDifference], list[str]]:
    """Compare each tested group with the first one, if that was tested; also return which cannot be, and why."""
    first, *others = groups
    found, not_compared = [], []
    for group in others:
        if not first.answers or not group.answers:
            continue
        if first.measures != group.measures or len(first.measures) > 1:
            how = [" and ".join(one.measures) for one in (group, first)]
            not_compared.append(f"{group.title} ({how[0]}; the first group: {how[1]})")
            continue
        try:
            videos, right = align([*first.answers, *group.answers])
        except ValueError as error:
            not_compared.append(f"{group.title} ({error})")
            continue
        sides = [one.mean(axis=0) for one in np.split(right.astype(float), [len(first.answers)])]
        change = sides[1] - sides[0]
        files, which = np.unique([path for path, _, _ in videos], return_inverse=True)
        p = sign_flip_p(np.bincount(which, weights=change, minlength=len(files)))
        flips = [[v[0] for v, a, b in zip(videos, *pair) if a < 0.5 < b] for pair in (sides, sides[::-1])]
        found.append(PairedDifference(group.title, float(change.mean()), p, p, *flips))
    return [replace(one, adjusted=p) for one, p in zip(found, holm([one.p for one in found]))], not_compared


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
