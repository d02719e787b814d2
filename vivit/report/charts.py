"""Draw charts as SVG: lines, intervals, confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from torch import Tensor

from .html import escape, visible

LONGEST_NAME = 24  # characters of a class name in a matrix
LANE_WIDTH, LANE_HEIGHT, LANE_COLUMNS = (
    1000,
    60,
    500,
)  # of a class over time; a column shows its lowest and highest value


def figure(title: str, body: str) -> Markup:
    """Wrap `body`, which is markup, in a figure with a title."""
    return Markup(f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>")


def ticks(top: float, start: float = 0.0) -> list[float]:
    """Return round numbers from `start`, or the round number below it, up to `top`, at most seven."""
    step = next(f * 10.0**e for e in range(-9, 19) for f in (1, 2, 5) if (top - start) / (f * 10.0**e) <= 5)
    return [i * step for i in range(math.floor(start / step + 1e-9), math.floor(top / step + 1e-9) + 1)]


Point = tuple[float, float]
LEFT, RIGHT, BOTTOM = 44, 390, 240  # the axes of a line chart, in its 530 x 280 units


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    format_value: Callable[[float], str],
    top: float = 0,
    x_title: str = "epoch",
) -> Markup:
    """Draw lines of (x, value), each with its name and last value at its end.

    `top` ends the value axis; 0 means the largest value. Points that are not finite are left out.
    """
    series = {name: [p for p in line if all(map(math.isfinite, p))] for name, line in series.items()}
    points = [point for line in series.values() for point in line]
    if not points:
        return figure(title, '<p class="note">Nothing was recorded.</p>')
    last = max(x for x, _ in points) or 1
    top = top or 1.05 * max(y for _, y in points) or 1

    def at(point: Point) -> Point:
        return LEFT + (RIGHT - LEFT) * point[0] / last, BOTTOM - 230 * point[1] / top

    svg = f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/><text x="217" y="278" class="middle">{x_title}</text>'
    for value in ticks(top):
        _, y = at((0, value))
        svg += f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        svg += f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="to">{format_value(value)}</text>'
    for value in ticks(last):
        x, _ = at((value, 0))
        svg += f'<path class="axis" d="M{x:.1f} {BOTTOM}v5"/><text x="{x:.1f}" y="259" class="middle">{value:g}</text>'
    lowest = 0.0  # where the next label may stand
    for i, (name, line) in sorted(enumerate(series.items()), key=lambda s: -s[1][1][-1][1] if s[1][1] else 0):
        if not line:
            continue
        svg += f'<g class="s{i % 5}"><path class="line" d="M{"L".join("{:.1f} {:.1f}".format(*at(p)) for p in line)}"/>'
        for point in line if len(line) <= 20 else line[-1:]:
            x, y = at(point)
            hint = escape(f"{name}, {x_title} {point[0]:g}: {format_value(point[1])}")
            svg += f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{hint}</title></circle>'
        x, y = at(line[-1])
        lowest = max(y + 4, lowest + 19)
        svg += f'<text x="{x + 10:.1f}" y="{lowest:.1f}">{escape(name)} {format_value(line[-1][1])}</text></g>'
    return figure(title, f'<svg viewBox="0 0 530 280" role="img" aria-label="{escape(title)}">{svg}</svg>')


@dataclass(frozen=True)
class Interval:
    """A row of an interval chart: shares of 1."""

    title: str
    mean: float
    low: float | None
    high: float | None
    """Both None where there is no interval."""
    points: Mapping[str, float]
    """The single values that the mean is of, by name."""


def interval_chart(title: str, rows: Sequence[Interval]) -> Markup:
    """Draw every row's mean, its interval, and each single value as a small dot; the title stands above its row.

    The axis begins at 0, or at a round number below the values if these are close to each other.
    """
    values = [x for row in rows for x in (row.mean, row.low, row.high, *row.points.values()) if x is not None]
    top = min(max(1.05 * max(values), 0.02), 1.0)
    marks = ticks(top, min(values) if min(values) > 0.6 * top else 0.0)
    line, width, start = 50, 560, marks[0]
    bottom = line * len(rows) + 6

    def at(value: float) -> float:
        return 8 + (width - 80) * (min(max(value, start), top) - start) / (top - start)

    svg = ""
    for value in marks:
        svg += f'<path class="grid" d="M{at(value):.1f} 0V{bottom}"/>'
        svg += f'<text x="{at(value):.1f}" y="{bottom + 18}" class="middle">{100 * value:.3g}%</text>'
    for i, row in enumerate(rows):
        y = line * i + 37
        svg += f'<text x="8" y="{y - 17}" class="row">{escape(row.title)}</text><g class="s0">'
        if row.low is not None and row.high is not None:
            svg += f'<path class="line" d="M{at(row.low):.1f} {y}H{at(row.high):.1f}"/>'
        for name, value in row.points.items():
            hint = escape(f"{name}: {value:.1%}")
            svg += f'<circle cx="{at(value):.1f}" cy="{y}" r="2.5" class="single"><title>{hint}</title></circle>'
        hint = escape(f"{row.title}: {row.mean:.1%}")
        svg += f'<circle class="dot" cx="{at(row.mean):.1f}" cy="{y}" r="5.5"><title>{hint}</title></circle>'
        right = at(max(row.high or 0, row.mean, *row.points.values()))
        svg += f'<text x="{right + 12:.1f}" y="{y + 4}">{row.mean:.1%}</text></g>'
    box = f'viewBox="0 0 {width} {bottom + 26}" class="intervals" role="img" aria-label="{escape(title)}"'
    return figure(title, f"<svg {box}>{svg}</svg>")


def confusion_matrix(title: str, counts: Tensor, names: Sequence[str]) -> Markup:
    """Draw counts (true, predicted), colored by each row's shares."""
    short = [escape(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…") for name in names]
    full = [escape(name) for name in names]
    cell, longest = 34, 7 * min(max(len(visible(name)) for name in names), LONGEST_NAME)
    left, top = longest + 14, round(longest * 0.7) + 20
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    svg = ""
    for i, name in enumerate(short):
        x, y = left + cell * i + 20, top + cell * i + 21
        svg += f'<text class="to" x="{left - 8}" y="{y}">{name}</text>'
        svg += f'<text transform="translate({x} {top - 8}) rotate(-45)">{name}</text>'
        for j, count in enumerate(counts[i].tolist()):
            x, share = left + cell * j, shares[i][j]
            box = f'x="{x + 1}" y="{y - 20}" width="{cell - 2}" height="{cell - 2}" rx="3"'
            tone = "on" if share > 0.65 else "off"
            svg += f"<g><title>{full[i]} → {full[j]}: {count}</title>"
            svg += f'<rect class="empty" {box}/><rect class="heat" {box} opacity="{share:.2f}"/>'
            svg += f'<text class="middle {tone}" x="{x + 17}" y="{y}">{count or ""}</text></g>'
    width, height = left + cell * len(names) + top, top + cell * len(names)
    style = f"max-width:{width}px;min-width:{round(0.8 * width)}px"
    return figure(
        title, f'<div class="wide"><svg class="matrix" viewBox="0 0 {width} {height}" style="{style}">{svg}</svg></div>'
    )


def lane(
    times: np.ndarray,
    shares: np.ndarray,
    *,
    end: float,
    found: Sequence[tuple[int, float, float]] = (),
    truth: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Draw one class over the seconds from 0 to `end`, stretched to any width.

    The curve of `shares` (n,) at `times` (n,); below it a bar per segment of `found`, (number, start, end), which is in
    its attribute data-i; above it a thin bar per segment of the truth, (start, end).
    """
    scale = LANE_WIDTH / max(end, 1e-9)
    times, shares = thin_out(times, np.nan_to_num(shares))
    height = LANE_HEIGHT - 22  # of the curve, which ends 14 above the bottom
    svg = ""
    if len(times):
        line = "L".join(f"{t * scale:.1f} {8 + height * (1 - y):.1f}" for t, y in zip(times.tolist(), shares.tolist()))
        base = f"{times[-1] * scale:.1f} {8 + height}L{times[0] * scale:.1f} {8 + height}Z"
        svg += f'<path class="area" d="M{line}L{base}"/><path class="line" d="M{line}"/>'
    for start, stop in truth:
        box = f'x="{start * scale:.1f}" width="{max((stop - start) * scale, 1):.1f}"'
        svg += f'<rect class="truth" {box} y="0" height="5"/>'
    for i, start, stop in found:
        box = f'x="{start * scale:.1f}" width="{max((stop - start) * scale, 2):.1f}"'
        svg += f'<rect class="found" data-i="{i}" {box} y="{LANE_HEIGHT - 12}" height="12"/>'
    view = f'viewBox="0 0 {LANE_WIDTH} {LANE_HEIGHT}" preserveAspectRatio="none"'
    return Markup(f'<svg class="lane" {view} aria-hidden="true">{svg}</svg>')


def thin_out(times: np.ndarray, values: np.ndarray, columns: int = LANE_COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """Keep the lowest and the highest value of each of `columns` equal parts, in order; few points stay as they are."""
    if len(times) <= 2 * columns:
        return times, values
    edges = np.linspace(0, len(times), columns + 1).astype(int)
    kept = {
        int(pick) for a, b in zip(edges, edges[1:]) for pick in (a + values[a:b].argmin(), a + values[a:b].argmax())
    }
    rows = np.array(sorted(kept))
    return times[rows], values[rows]
