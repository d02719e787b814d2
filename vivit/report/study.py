"""A study as one HTML page that opens from disk, in the look of vivit.report.html."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .html import PAGE, escape, figure, line_chart, ticks
from .run import hardware

WIDTH, LEFT, LINE = 900, 290, 34


def write_page(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of what `study` returns."""
    sections = {
        "Result": forest(results),
        "Numbers": numbers(results),
        "Curves": charts(results),
        "Differences": differences(results),
        "Left out, failed": problems(results),
        "What each row sets": settings(results),
        "How it was measured": facts(results),
    }
    page = PAGE.substitute(
        title=escape(f"{results['title']} on {results['recipe'] or 'own settings'}"),
        summary=escape(summary(results)),
        when=escape(f"{results['environment']['started'][:10]}, {hardware(results['environment'])}"),
        tiles="",
        sections="".join(f"<section><h2>{name}</h2>{body}</section>\n" for name, body in sections.items() if body),
    )
    with atomic_write(path) as file:
        file.write(page)
    return path


def summary(results: Mapping[str, Any]) -> str:
    """What was run on what."""
    train, test = (facts["videos"] for facts in results["data"]["splits"].values())
    seeds, rows = len(results["seeds"]), sum(bool(row["top1"]) for row in results["rows"])
    times = "once" if seeds == 1 else f"{seeds} times"
    start = results["init"] or "a random start"
    quick = "; quick: a third of the epochs" if results["quick"] else ""
    return (
        f"{rows} rows, each trained {times} on {train} videos from {start} and tested on {test} others, "
        f"{results['protocol']} views{quick}."
    )


def forest(results: Mapping[str, Any]) -> str:
    """Every row's top-1: its mean, the 95 % interval over seeds, and each seed as a small dot."""
    main = results["label_set"]
    rows = [row for row in results["rows"] if row["top1"]]
    if not rows:
        return '<p class="note">No row has been tested.</p>'
    values = [row["accuracy"][seed][main]["top1"] for row in rows for seed in row["accuracy"]]
    values += [row["top1"][main][end] for row in rows for end in ("low", "high") if row["top1"][main][end] is not None]
    top = min(max(1.05 * max(values), 0.02), 1.0)
    down = LINE * len(rows) + 6

    def at(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 70) * min(max(value, 0), top) / top

    svg = ""
    for value in ticks(top):
        svg += f'<path class="grid" d="M{at(value):.1f} 0V{down}"/>'
        svg += f'<text x="{at(value):.1f}" y="{down + 18}" class="middle">{value:.0%}</text>'
    for i, row in enumerate(rows):
        y, found = LINE * i + LINE / 2 + 2, row["top1"][main]
        svg += f'<text x="{LEFT - 14}" y="{y + 4}" class="to">{escape(row["title"])}</text><g class="s0">'
        if found["low"] is not None:
            svg += f'<path class="line" d="M{at(found["low"]):.1f} {y}H{at(found["high"]):.1f}"/>'
        for seed, accuracy in row["accuracy"].items():
            value = accuracy[main]["top1"]
            says = f"seed {seed}: {value:.1%}"
            svg += f'<circle cx="{at(value):.1f}" cy="{y}" r="2.5" class="seed"><title>{says}</title></circle>'
        says = escape(f"{row['title']}: {found['mean']:.1%}")
        svg += f'<circle class="dot" cx="{at(found["mean"]):.1f}" cy="{y}" r="5.5"><title>{says}</title></circle>'
        right = at(max(found["high"] or 0, found["mean"], *(a[main]["top1"] for a in row["accuracy"].values())))
        svg += f'<text x="{right + 12:.1f}" y="{y + 4}">{found["mean"]:.1%}</text></g>'
    style = "<style>.seed { fill: var(--c); opacity: 0.55 } .dot { fill: var(--c) }</style>"
    title = f"{main}: top-1, mean and 95 % interval over seeds; small dots are single runs"
    box = f'viewBox="0 0 {WIDTH} {down + 26}" role="img" aria-label="{escape(title)}"'
    return style + figure(title, f"<svg {box}>{svg}</svg>")


def numbers(results: Mapping[str, Any]) -> str:
    """The table: accuracies, size, work, measured time, and the paper's number."""
    main = results["label_set"]
    sets = [main, *dict.fromkeys(name for row in results["rows"] for name in row["top1"] if name != main)]
    head = [
        "",
        *(f"{name} top-1" for name in sets),
        "parameters",
        "multiply-adds",
        "training",
        "test",
        "epochs",
        "paper",
    ]
    body = ""
    for row in results["rows"]:
        took = row["speed"] or {}
        cells = [mean(row["top1"].get(name)) for name in sets]
        cells += [amount(row.get(name)) for name in ("parameters", "multiply_adds")]
        cells += [f"{1e3 * took[name]:.3g}\u00a0ms" if took else "–" for name in ("train_seconds", "test_seconds")]
        cells += [f"{row['epochs']:.3g}" if "epochs" in row else "–", f"{row['paper']:.1f}" if row["paper"] else "–"]
        body += f"<tr><th>{escape(row['title'])}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    note = (
        "Training and test: measured seconds of one clip (forward and backward pass; forward pass), without reading "
        f"videos, one row after the other. Multiply-adds of one view. Paper: {results['paper']}, "
        "its own scale and data: compare the order, not the numbers."
    )
    return sheet(head, body) + f'<p class="note">{escape(note)}</p>'


def charts(results: Mapping[str, Any]) -> str:
    """The curves, as far as the study has them."""
    names = {"temporal_depth": ("Temporal depth", "layers over time"), "views": ("Test views", "temporal views")}
    made = ""
    for name, series in results["curves"].items():
        title, across = names[name]
        lines = {label: [(x, found["mean"]) for x, found in points] for label, points in series.items()}
        highest = max(y for line in lines.values() for _, y in line)
        made += line_chart(
            f"{title}: {results['label_set']} top-1, mean over seeds",
            lines,
            show="{:.0%}".format,
            top=min(1.0, 1.1 * highest or 1.0),
            across=across,
        )
    return f'<div class="two">{made}</div>' if made else ""


def differences(results: Mapping[str, Any]) -> str:
    """Paired differences with both intervals."""
    titles = {row["name"]: row["title"] for row in results["rows"]}
    body = ""
    for row in results["rows"]:
        for against, found in (("the first", row.get("to_first")), ("the one above", row.get("to_previous"))):
            if found:
                seeds, videos = span(found["low"], found["high"]), span(found["videos_low"], found["videos_high"])
                cells = f"<td>{against}</td><td><b>{100 * found['mean']:+.1f}</b></td><td>{seeds}</td><td>{videos}</td>"
                body += f"<tr><th>{escape(row['title'])}</th>{cells}</tr>"
    if not body:
        return ""
    head = ["", "compared with", "points", "95 % over seeds", "95 % over videos"]
    first = titles.get(results["reference"], "")
    note = (
        f"{results['label_set']} top-1; the first is “{first}”. Paired: the same seeds, order and augmentation, "
        "the same test videos. "
        "Over seeds: what training again would change (Student’s t); over videos: what other test videos would change "
        "(bootstrap). A difference is only clear where neither interval holds 0."
    )
    return sheet(head, body) + f'<p class="note">{escape(note)}</p>'


def problems(results: Mapping[str, Any]) -> str:
    """Rows without a result, and why."""
    items = [f"{row['title']}: left out, {row['why_not']}" for row in results["rows"] if row["why_not"]]
    items += [
        f"{row['title']}, seed {seed} failed: {problem}"
        for row in results["rows"]
        for seed, problem in row["problems"].items()
    ]
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def settings(results: Mapping[str, Any]) -> str:
    """How each row's settings differ from the recipe's."""
    rows = "".join(
        f"<dt>{escape(row['title'])}</dt><dd>{escape('; '.join(row['settings'])) or 'as the recipe'}</dd>"
        for row in results["rows"]
        if row.get("settings") is not None
    )
    return f"<dl>{rows}</dl>"


def facts(results: Mapping[str, Any]) -> str:
    """What someone needs to repeat it."""
    e = results["environment"]
    took = next((row["speed"] for row in results["rows"] if row["speed"]), None)
    rows = {
        "Command": shlex.join(e["command"]),
        "Seeds": ", ".join(map(str, results["seeds"])),
        "Start": results["init"] or "random",
        "Test": f"{results['protocol']} views, "
        + ", ".join(f"{name}: list {s['list_hash']}" for name, s in results["data"]["splits"].items()),
        "Times": f"{took['device']}, {took['threads']} threads, {took['clips']} clips at once" if took else "–",
        "Hardware": f"{hardware(e)}; {e['machine']}",
        "Software": ", ".join([f"Python {e['python']}", *map(" ".join, e["packages"].items())]),
        "Commit": e["commit"] or "unknown",
    }
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in rows.items())}</dl>"


def sheet(head: Sequence[str], body: str) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def amount(number: float | None) -> str:
    """A large number with three digits: 88.9 M."""
    if number is None:
        return "–"
    unit, size = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= s), ("", 1))
    return f"{number / size:.3g}\u00a0{unit}"


def mean(found: Mapping[str, float | None] | None) -> str:
    """A mean and its interval, as far as that lies between 0 and 100 %."""
    if found is None or found["mean"] is None:
        return "–"
    low, high = found["low"], found["high"]
    interval = "" if low is None or high is None else f"<small>{max(low, 0):.1%} to {min(high, 1):.1%}</small>"
    return f"<b>{found['mean']:.1%}</b>{interval}"


def span(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
