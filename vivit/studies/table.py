"""Format the results of a study as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..report.study import MIN_SEEDS, TOO_FEW_SEEDS
from ..text import format_table, printable


def format_results(results: Mapping[str, Any]) -> str:
    """Format the rows for the terminal: top-1 per label set and cost; then differences with 95 % intervals."""
    main = results["label_set"]
    sets = list(dict.fromkeys([main, *(name for row in results["rows"] for name in row["top1"])]))
    costs = ["M params", "G mult-adds", "ms/clip training", "test", "epochs", "paper"]
    accuracies = [["", *(f"{name} top-1" for name in sets), *costs]]
    differences = [["difference in points", "to", "mean", "95 % over seeds", "over videos"]]
    notes = []
    others = {"to_first": "the first", "to_previous": "the one above"}
    for row in results["rows"]:
        accuracies.append(
            [
                row["title"],
                *(format_mean(row["top1"].get(name), len(row["accuracy"])) for name in sets),
                *cost_cells(row),
            ]
        )
        for against, other in others.items():
            if row.get(against):
                differences.append([row["title"], other, *format_difference(row[against])])
            if against in row["not_compared"]:
                notes.append(f"{row['title']}: not compared with {other}, {row['not_compared'][against]}")
        notes += [f"{row['title']}: left out, {row['why_not']}"] if row["why_not"] else []
        notes += [f"{row['title']}, seed {seed} FAILED: {problem}" for seed, problem in row["problems"].items()]
    splits = ", ".join(f"{name} {facts['videos']}" for name, facts in results["data"]["splits"].items())
    seeds = ", ".join(map(str, results["seeds"]))
    heading = f"{results['title']}: seeds {seeds}; videos: {splits}; {results['protocol']} views"
    blocks = [
        heading,
        format_table(accuracies),
        format_table(differences) if len(differences) > 1 else "",
        "\n".join(map(printable, notes)),
    ]
    return "\n\n".join(filter(None, blocks))


def cost_cells(row: Mapping[str, Any]) -> list[str]:
    """Format the size, work and time of a row; "-" for what is not known."""
    took, paper = row["speed"], f"{row['paper']:.1f}" if row["paper"] else "-"
    size = [f"{row['parameters'] / 1e6:.2f}", f"{row['multiply_adds'] / 1e9:.3g}"] if "epochs" in row else ["-", "-"]
    times = [f"{1e3 * took[name]:.3g}" if took else "-" for name in ("train_seconds", "test_seconds")]
    return [*size, *times, f"{row['epochs']:.3g}" if "epochs" in row else "-", paper]


def format_mean(found: Mapping[str, float | None] | None, seeds: int) -> str:
    """Format a mean in percent and, of enough seeds, half of its interval."""
    if found is None or found["mean"] is None:
        return "-"
    half = "" if found["low"] is None or seeds < MIN_SEEDS else f" ±{100 * (found['mean'] - found['low']):.1f}"
    return f"{100 * found['mean']:.1f}{half}"


def format_difference(found: Mapping[str, Any]) -> list[str]:
    """Format a difference and its two intervals, in points."""
    return [
        f"{100 * found['mean']:+.1f}",
        format_interval(found["low"], found["high"]) if found["seeds"] >= MIN_SEEDS else TOO_FEW_SEEDS,
        format_interval(found["videos_low"], found["videos_high"]),
    ]


def format_interval(low: float, high: float) -> str:
    """Format an interval of a difference, in points."""
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"
