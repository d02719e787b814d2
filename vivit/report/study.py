"""Write a study as one HTML page that opens from disk."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .charts import Interval, interval_chart, line_chart
from .html import write_html
from .run import hardware

MIN_SEEDS = 3  # of two, Student's t gives an interval so wide that it says nothing
TOO_FEW_SEEDS = "too few seeds"
CURVES = {"temporal_depth": ("Temporal depth", "layers over time"), "views": ("Test views", "temporal views")}


def write_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of what `study` returns, which is also what its results.json holds, and return `path`."""
    main = results["label_set"]
    sets = [main, *dict.fromkeys(name for row in results["rows"] for name in row["top1"] if name != main)]
    titles = {row["name"]: row["title"] for row in results["rows"]}
    seeds = len(results["seeds"])
    return write_html(
        path,
        "study.html",
        title=f"{results['title']} on {results['recipe'] or 'own settings'}",
        summary=summary(results),
        when=f"{results['environment']['started'][:10]}, {hardware(results['environment'])}",
        chart=top1_chart(results),
        few_seeds=f"No interval over seeds: {TOO_FEW_SEEDS} ({seeds} of at least {MIN_SEEDS})."
        if seeds < MIN_SEEDS
        else "",
        number_head=[
            "",
            *(f"{name} top-1" for name in sets),
            "parameters",
            "multiply-adds",
            "training",
            "test",
            "epochs",
            "paper",
        ],
        numbers=[{"title": row["title"], "cells": number_cells(row, sets)} for row in results["rows"]],
        paper=results["paper"],
        curves=curves(results),
        differences=differences(results),
        label_set=main,
        reference=titles.get(results["reference"], ""),
        problems=problems(results),
        settings={
            row["title"]: "; ".join(row["settings"]) or "as the recipe"
            for row in results["rows"]
            if row.get("settings") is not None
        },
        facts=facts(results),
    )


def summary(results: Mapping[str, Any]) -> str:
    """Say what was run on what."""
    train, test = (facts["videos"] for facts in results["data"]["splits"].values())
    seeds, rows = len(results["seeds"]), sum(bool(row["top1"]) for row in results["rows"])
    times = "once" if seeds == 1 else f"{seeds} times"
    start = results["init"] or "a random start"
    quick = "; quick: a third of the epochs" if results["quick"] else ""
    return (
        f"{verdict(results)}{rows} rows, each trained {times} on {train} videos from {start} and tested on {test} "
        f"others, {results['protocol']} views{quick}."
    )


def verdict(results: Mapping[str, Any]) -> str:
    """Say which rows differ clearly from the first, how many are undecided, and which say nothing yet.

    Nothing if none was compared.
    """
    less = trained_less(results)
    compared = [row for row in results["rows"] if row.get("to_first") and row not in less]
    if not compared:
        return ""
    first = next(row["title"] for row in results["rows"] if row["name"] == results["reference"])
    clear = [f"{row['title']} ({100 * row['to_first']['mean']:+.1f})" for row in compared if is_clear(row["to_first"])]
    open_rows = len(compared) - len(clear)
    names = ", ".join(f"{row['title']} ({row['epochs']:.3g} epochs)" for row in less)
    not_compared = f"Trained too short to be compared: {names}. " if less else ""
    if not clear:
        return f"Undecided: no row differs clearly from “{first}”. {not_compared}"
    undecided = f"Undecided for {open_rows} of {len(compared)} rows. " if open_rows else ""
    return f"{undecided}Clearly different from “{first}”, in points: {', '.join(clear)}. {not_compared}"


def trained_less(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows that were trained for fewer epochs than the first one: their accuracy says nothing yet."""
    epochs = {row["name"]: row.get("epochs", 0.0) for row in results["rows"]}
    return [row for row in results["rows"] if 0 < epochs[row["name"]] < epochs.get(results["reference"], 0.0)]


def is_clear(found: Mapping[str, Any]) -> bool:
    """Return whether neither interval of a difference holds 0."""
    intervals = ((found["low"], found["high"]), (found["videos_low"], found["videos_high"]))
    return found["seeds"] >= MIN_SEEDS and all(low > 0 or high < 0 for low, high in intervals)


def top1_chart(results: Mapping[str, Any]) -> Markup | str:
    """Draw the top-1 of rows that can be compared: mean, 95 % interval over seeds, and each seed as a small dot."""
    main, rows, less = results["label_set"], [], trained_less(results)
    for row in results["rows"]:
        if row["top1"] and row not in less:
            found, enough = row["top1"][main], len(row["accuracy"]) >= MIN_SEEDS
            points = {f"seed {seed}": accuracy[main]["top1"] for seed, accuracy in row["accuracy"].items()}
            low, high = (found["low"], found["high"]) if enough else (None, None)
            rows.append(Interval(row["title"], found["mean"], low, high, points))
    if not rows:
        return ""
    interval = " and 95 % interval over seeds" if any(row.low is not None for row in rows) else ""
    return interval_chart(f"{main}: top-1, mean{interval}; small dots are single runs", rows)


def number_cells(row: Mapping[str, Any], label_sets: list[str]) -> list[str]:
    """Format a row's accuracies, size, work, measured time, and the paper's number."""
    took = row["speed"] or {}
    return [
        *(mean_cell(row["top1"].get(name), len(row["accuracy"])) for name in label_sets),
        *(large_number(row.get(name)) for name in ("parameters", "multiply_adds")),
        *(f"{1e3 * took[name]:.3g}\u00a0ms" if took else "–" for name in ("train_seconds", "test_seconds")),
        f"{row['epochs']:.3g}" if "epochs" in row else "–",
        f"{row['paper']:.1f}" if row["paper"] else "–",
    ]


def curves(results: Mapping[str, Any]) -> Markup:
    """Draw the curves that the study has."""
    drawn = Markup()
    for name, series in results["curves"].items():
        title, x_title = CURVES[name]
        lines = {label: [(x, found["mean"]) for x, found in points] for label, points in series.items()}
        highest = max(y for line in lines.values() for _, y in line)
        drawn += line_chart(
            f"{title}: {results['label_set']} top-1, mean over seeds",
            lines,
            format_value="{:.0%}".format,
            top=min(1.0, 1.1 * highest or 1.0),
            x_title=x_title,
        )
    return drawn


def differences(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the rows of paired differences, with both intervals."""
    rows = []
    for row in results["rows"]:
        for against, found in (("the first", row.get("to_first")), ("the one above", row.get("to_previous"))):
            if found:
                seeds = span(found["low"], found["high"]) if found["seeds"] >= MIN_SEEDS else TOO_FEW_SEEDS
                points = Markup(f"<b>{100 * found['mean']:+.1f}</b>")
                videos = span(found["videos_low"], found["videos_high"])
                rows.append({"title": row["title"], "cells": [against, points, seeds, videos]})
    return rows


def problems(results: Mapping[str, Any]) -> list[str]:
    """Name the rows without a result or a comparison, and say why."""
    left_out = [f"{row['title']}: left out, {row['why_not']}" for row in results["rows"] if row["why_not"]]
    failed = [
        f"{row['title']}, seed {seed} failed: {problem}"
        for row in results["rows"]
        for seed, problem in row["problems"].items()
    ]
    not_compared = [
        f"{row['title']}: not compared with the {against.removeprefix('to_')} row, {why}"
        for row in results["rows"]
        for against, why in row.get("not_compared", {}).items()
    ]
    return left_out + failed + not_compared


def facts(results: Mapping[str, Any]) -> dict[str, str]:
    """List what someone needs to repeat the study."""
    e = results["environment"]
    took = next((row["speed"] for row in results["rows"] if row["speed"]), None)
    lists = ", ".join(f"{name}: list {s['list_hash']}" for name, s in results["data"]["splits"].items())
    return {
        "Command": shlex.join(e["command"]),
        "Seeds": ", ".join(map(str, results["seeds"])),
        "Start": results["init"] or "random",
        "Test": f"{results['protocol']} views, {lists}",
        "Times": f"{took['device']}, {took['threads']} threads, {took['clips']} clips at once" if took else "–",
        "Hardware": f"{hardware(e)}; {e['machine']}",
        "Software": ", ".join([f"Python {e['python']}", *map(" ".join, e["packages"].items())]),
        "Commit": e["commit"] or "unknown",
    }


def large_number(number: float | None) -> str:
    """Format a large number with three digits: 88.9 M."""
    if number is None:
        return "–"
    unit, size = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= s), ("", 1))
    return f"{number / size:.3g}\u00a0{unit}"


def mean_cell(found: Mapping[str, float | None] | None, seeds: int) -> Markup | str:
    """Format a mean and, of enough seeds, the part of its interval between 0 and 100 %."""
    if found is None or found["mean"] is None:
        return "–"
    low, high = found["low"], found["high"]
    if low is None or high is None or seeds < MIN_SEEDS:
        return Markup(f"<b>{found['mean']:.1%}</b>")
    return Markup(f"<b>{found['mean']:.1%}</b><small>{max(low, 0):.1%} to {min(high, 1):.1%}</small>")


def span(low: float, high: float) -> str:
    """Format an interval of a difference in points."""
    return f"{100 * low:+.1f} to {100 * high:+.1f}"
