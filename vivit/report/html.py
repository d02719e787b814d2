"""How our pages look: the template, figures, charts and pictures that reports, studies and shown clips are made of.

Small functions that return HTML or SVG; a page has no script and refers to nothing outside itself.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from html import escape as escape_markup
from string import Template

import av
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..text import printable

FRAME_HEIGHT = 112  # pixels


def escape(text: str) -> str:
    """Text for a page, in or between tags: no markup, and no control characters or bytes that UTF-8 cannot encode."""
    return escape_markup("\n".join(map(printable, text.split("\n"))))


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"


def many(count: float, what: str) -> str:
    return f"{count:,g} {what}" + ("" if count == 1 else "s")


def figure(title: str, body: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>"


def meter(share: float) -> str:
    return f'<i class="meter"><i style="width:{share:.1%}"></i></i>'


def ticks(top: float) -> list[float]:
    """Round numbers from 0 up to `top`, at most six."""
    step = next(f * 10.0**e for e in range(-9, 19) for f in (1, 2, 5) if top / (f * 10.0**e) <= 5)
    return [i * step for i in range(math.floor(top / step + 1e-9) + 1)]


def line_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    show: Callable[[float], str],
    top: float = 0,
    across: str = "epoch",
) -> str:
    """Lines of (epoch, value) as SVG, each labelled at its end; `top` of the axis, else the largest value.

    `across` says what runs along the other axis. Points that are not finite are left out.
    """
    series = {name: [p for p in line if all(map(math.isfinite, p))] for name, line in series.items()}
    points = [point for line in series.values() for point in line]
    if not points:
        return figure(title, '<p class="note">Nothing was recorded.</p>')
    left, right, down = 44, 390, 240
    last = max(x for x, _ in points) or 1
    top = top or 1.05 * max(y for _, y in points) or 1

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + (right - left) * point[0] / last, down - 230 * point[1] / top

    svg = f'<path class="axis" d="M{left} {down}H{right}"/><text x="217" y="277" class="middle">{across}</text>'
    for value in ticks(top):
        _, y = at((0, value))
        svg += f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        svg += f'<text x="{left - 8}" y="{y + 4:.1f}" class="to">{show(value)}</text>'
    for epoch in ticks(last):
        x, _ = at((epoch, 0))
        svg += f'<path class="axis" d="M{x:.1f} {down}v5"/><text x="{x:.1f}" y="259" class="middle">{epoch:g}</text>'
    lowest = 0.0  # where the next label may stand
    for i, (name, line) in sorted(enumerate(series.items()), key=lambda s: -s[1][1][-1][1] if s[1][1] else 0):
        if not line:
            continue
        svg += f'<g class="s{i % 5}"><path class="line" d="M{"L".join("{:.1f} {:.1f}".format(*at(p)) for p in line)}"/>'
        for point in line if len(line) <= 20 else line[-1:]:
            x, y = at(point)
            says = escape(f"{name}, {across} {point[0]:g}: {show(point[1])}")
            svg += f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{says}</title></circle>'
        x, y = at(line[-1])
        lowest = max(y + 4, lowest + 17)
        svg += f'<text x="{x + 10:.1f}" y="{lowest:.1f}">{escape(name)} {show(line[-1][1])}</text></g>'
    return figure(title, f'<svg viewBox="0 0 530 280" role="img" aria-label="{escape(title)}">{svg}</svg>')


def enlarge(frames: Tensor) -> Tensor:
    """Frames (n, 3, H, W) uint8 at the height of the page's pictures."""
    size = FRAME_HEIGHT, round(FRAME_HEIGHT * frames.shape[-1] / frames.shape[-2])
    return F.interpolate(frames.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)


def jpeg(picture: Tensor) -> str:
    """A picture (3, H, W) uint8 as a data address. A frame of Motion JPEG is a JPEG file."""
    pixels = rearrange(picture, "c h w -> h w c").contiguous().numpy()
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj444p")
    encoder = av.VideoCodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
        frame.width,
        frame.height,
        "yuvj444p",
        Fraction(1),
    )
    encoder.options = {"qmin": "2", "qmax": "2"}
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return "data:image/jpeg;base64," + b64encode(b"".join(map(bytes, packets))).decode()


PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1a1d21; --soft: #59616b; --line: #dfe3e8;
  --accent: #0067b1; --heat: #00528f; --on: #fff; --bad: #b3410b;
  --s0: #0067b1; --s1: #b84a08; --s2: #007a58; --s3: #96437d; --s4: #626600 }
@media screen and (prefers-color-scheme: dark) { :root { --page: #121417; --card: #1b1e23; --ink: #e8eaed;
  --soft: #a3abb5; --line: #343a42; --accent: #5fb4f0; --heat: #8accff; --on: #10151a; --bad: #ff9e5e;
  --s0: #5fb4f0; --s1: #ff9e5e; --s2: #3ccb9f; --s3: #e29ccb; --s4: #d3cf4e } }
* { box-sizing: border-box; -webkit-print-color-adjust: exact; print-color-adjust: exact }
body { margin: 0; background: var(--page); color: var(--ink); font-variant-numeric: tabular-nums;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 1080px; margin: auto; padding: 48px 24px }
h1 { font-size: 2.2rem; line-height: 1.15; margin: 0 0 8px; letter-spacing: -0.02em }
h2 { font-size: 1.25rem; margin: 0 0 16px; letter-spacing: -0.01em }
p { margin: 12px 0; max-width: 80ch }
small, .note, .faint, .lead { color: var(--soft) }
small { display: block; font-weight: 400; font-size: 0.8rem }
.note { font-size: 0.875rem; margin-bottom: 0 }
.lead { font-size: 1.1rem; margin: 0 0 24px }
.lead small { font-size: 0.9rem; margin-top: 4px }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px }
section { padding: 24px; margin: 20px 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 16px }
.tile { padding: 14px 20px }
.tile b { display: block; font-size: 2rem; line-height: 1.25; letter-spacing: -0.02em }
.tile span { color: var(--soft); font-size: 0.9rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: 10px 20px 10px 0; border-top: 1px solid var(--line) }
thead th { border: 0; padding-top: 0; color: var(--soft); font-size: 0.875rem; font-weight: 400 }
.bars th, .bars td { border: 0; padding: 3px 12px 3px 0; font-weight: 400; width: 40% }
.bars td:last-child { width: 20%; text-align: right; padding: 3px 0 }
.meter { display: block; height: 6px; min-width: 90px; margin: 5px 0; border-radius: 3px; background: var(--line) }
.meter i { display: block; height: 100%; border-radius: 3px; background: var(--accent) }
.bars .meter { height: 12px; margin: 7px 0 }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 24px 32px }
figure { margin: 0; min-width: 0 }
figcaption { font-weight: 600; margin-bottom: 8px }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font-size: 12px; fill: var(--soft) }
svg .to { text-anchor: end }
svg .middle { text-anchor: middle }
.s0 { --c: var(--s0) } .s1 { --c: var(--s1) } .s2 { --c: var(--s2) } .s3 { --c: var(--s3) } .s4 { --c: var(--s4) }
.grid { stroke: var(--line) }
.axis { stroke: var(--soft) }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round }
.dot { fill: var(--c); stroke: var(--card); stroke-width: 2 }
g[class] text { fill: var(--c); font-size: 13px; font-weight: 600 }
.empty { fill: var(--line); opacity: 0.4 }
.heat { fill: var(--heat) }
svg .on { fill: var(--on); font-weight: 600 }
svg .off { fill: var(--ink) }
article { border-top: 1px solid var(--line); padding: 16px 0 }
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 10px; max-width: none }
.chips span { border: 1px solid var(--line); border-radius: 14px; padding: 1px 12px; font-size: 0.9rem }
.chips .bad { border-color: var(--bad); color: var(--bad) }
.film { display: grid; grid-template-columns: minmax(90px, 1fr) 6fr; gap: 16px; align-items: start }
.film img { display: block; width: 100%; border-radius: 4px; margin-bottom: 3px }
.play { overflow: hidden; border-radius: 4px }
.play img { height: 100%; margin: 0; border-radius: 0; max-width: none }
@keyframes play { to { transform: translateX(-100%) } }
.film ol { display: grid; grid-template-columns: repeat(var(--n), 1fr); gap: 3px; margin: 0; padding: 0;
  list-style: none }
.film p { display: flex; flex-direction: column; justify-content: end; align-items: center; height: 56px; margin: 0;
  font-size: 0.75rem; color: var(--soft) }
.film p i { width: 50%; min-height: 1px; background: var(--accent); border-radius: 3px 3px 0 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; font-size: 0.9rem }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
code, pre { font: 0.9em/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere }
pre { margin: 0; white-space: pre-wrap }
@media (max-width: 600px) { th, td { padding-right: 10px } .meter { min-width: 60px }
  main { padding: 24px 12px } section { padding: 16px } h1 { font-size: 1.7rem }
  .film { grid-template-columns: 1fr } .play { max-width: 130px } .film ol { grid-template-columns: repeat(4, 1fr) }
  dl { grid-template-columns: 1fr } dd { margin-bottom: 8px } }
@media (prefers-reduced-motion: reduce) { .play img { animation: none !important } }
@media print { :root { --page: #fff; font-size: 12px } main { padding: 0 } .two { grid-template-columns: 1fr 1fr }
  h2 { break-after: avoid } article, figure, tr { break-inside: avoid } .play img { animation: none !important } }
</style>
</head>
<body>
<main>
<header><h1>$title</h1><p class="lead">$summary<small>$when</small></p><div class="tiles">$tiles</div></header>
$sections</main>
</body>
</html>
""")
