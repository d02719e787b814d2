"""Show explanations of a clip: lines for the terminal, files, and an HTML page that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from markupsafe import Markup
from PIL import Image

from ..files import atomic_write, write_json
from ..inference.evidence import Evidence
from ..inference.explain import Clip, Explanation
from ..model.rollout import overlay
from ..text import printable
from .charts import line_chart
from .examples import PLAYED, ClipFigure, map_columns
from .html import enlarge, join_frames, jpeg, percent, write_html

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 40  # moments in one line of the terminal

DISPLAY_NAMES = {"gradient_attention": "gradient x attention", "rollout": "attention rollout", "occlusion": "occlusion"}
ABOUT = {
    "gradient_attention": "Attention through all layers, weighted by its gradient: what speaks for this class.",
    "rollout": "Attention through all layers, mean over heads: the same map for every class.",
    "occlusion": "How much the class loses when a tile is hidden (frames) or a moment frozen (bars).",
}


def to_text(clip: Clip, explanations: Sequence[Explanation], *, predicted: bool) -> str:
    """Format the numbers of the explanations of one clip, at most 80 columns except for long names."""
    first = explanations[0]
    why = "the predicted class" if predicted else "the class asked for"
    lines = [
        printable(clip.path),
        f"  clip      {describe_clip(clip)}",
        f"  class     {printable(first.label_set)}: {printable(first.label)} {first.score:.1%} ({why})",
        "",
        f"  {'moments':22}{clip.seconds[first.frames[0]]:.2f} s … {clip.seconds[first.frames[-1]]:.2f} s",
        *(f"  {DISPLAY_NAMES[one.method]:22}{sparkline(one)}  {describe_peak(clip, one)}" for one in explanations),
    ]
    if all(one.evidence for one in explanations):
        lines += ["", f"  {'':22}{'deletion (random)':>19}{'insertion (random)':>20}   beats random"]
    for one in explanations:
        if one.evidence:
            deletion, insertion = one.evidence.random_areas
            lines.append(
                f"  {DISPLAY_NAMES[one.method]:22}"
                f"{f'{one.evidence.deletion_area:.1%} ({deletion:.1%})':>19}"
                f"{f'{one.evidence.insertion_area:.1%} ({insertion:.1%})':>20}"
                f"   {one.evidence.beaten} of {len(one.evidence.random_deletion)}"
            )
    lines += [f"  {DISPLAY_NAMES[one.method]}: {verdict(one.evidence)}" for one in explanations if one.evidence]
    return "\n".join(lines)


def describe_clip(clip: Clip) -> str:
    """Return how many frames a clip has and from when to when they appear."""
    return f"{len(clip.video)} frames, {clip.seconds.min():.2f} s to {clip.seconds.max():.2f} s; the center crop"


def describe_peak(clip: Clip, one: Explanation) -> str:
    """Return when the moment with the largest share is."""
    best = int(one.time.argmax())
    return f"most at {clip.seconds[one.frames[best]]:.2f} s ({one.time[best]:.0%})"


def sparkline(one: Explanation) -> str:
    """Draw the shares of the moments as a line of bars; neighbors share a bar where there are more than MOST_BARS."""
    groups = one.time.tensor_split(min(len(one.time), MOST_BARS))
    shares = torch.stack([group.sum() for group in groups])
    heights = shares / shares.max().clamp(min=1e-9) * (len(BARS) - 1)
    return "".join(BARS[int(height)] for height in heights.round())


def verdict(evidence: Evidence) -> str:
    """Say in a sentence whether a map orders the tokens of the clip better than chance."""
    orders = len(evidence.random_deletion)
    if evidence.better_than_random:
        return f"better than all {orders} random orders of the tiles"
    return "NO better than random order: do not trust this map"


def write_files(folder: Path, clip: Clip, explanations: Sequence[Explanation]) -> None:
    """Write into `folder` <method>.png (frames over maps), maps.npz and explanation.json. Raises OSError."""
    arrays: dict[str, Any] = {"seconds": clip.seconds, "frames": np.array(explanations[0].frames)}
    for one in explanations:
        arrays |= {f"{one.method}_{name}": getattr(one, name).numpy() for name in ("space", "time", "joint")}
        plain = enlarge(clip.video[one.frames])
        strip = torch.cat((join_frames(plain), join_frames(overlay(plain, one.joint))), dim=1)
        with atomic_write(folder / f"{one.method}.png", "wb") as file:
            Image.fromarray(rearrange(strip, "c h w -> h w c").contiguous().numpy()).save(file, "PNG")
    with atomic_write(folder / "maps.npz", "wb") as file:
        np.savez(file, **arrays)
    write_json(folder / "explanation.json", [to_dict(clip, one) for one in explanations])


def to_dict(clip: Clip, one: Explanation) -> dict[str, Any]:
    """Return the numbers of an explanation for JSON."""
    moments = [
        {"frame": frame, "seconds": round(float(clip.seconds[frame]), 6), "share": share}
        for frame, share in zip(one.frames, one.time.tolist())
    ]
    known = {"path": clip.path, "method": one.method, "label_set": one.label_set, "label": one.label}
    result: dict[str, Any] = known | {"score": one.score, "moments": moments}
    if one.evidence:
        deletion, insertion = one.evidence.random_areas
        result["evidence"] = {
            "deletion": one.evidence.deletion_area,
            "insertion": one.evidence.insertion_area,
            "random_deletion": deletion,
            "random_insertion": insertion,
            "random_orders": len(one.evidence.random_deletion),
            "beaten": one.evidence.beaten,
            "better_than_random": one.evidence.better_than_random,
        }
    return result


def write_page(path: Path, clip: Clip, explanations: Sequence[Explanation], *, weights: str, predicted: bool) -> Path:
    """Write one HTML page with a section per method: frames, maps, moments, and what the check says. Raises OSError."""
    first = explanations[0]
    n = min(len(clip.video), PLAYED)
    sheet = enlarge(clip.video[torch.linspace(0, len(clip.video) - 1, n).round().long()])
    sections = [
        {
            "title": DISPLAY_NAMES[one.method],
            "about": ABOUT[one.method],
            "clip": ClipFigure(
                jpeg(join_frames(sheet)),
                n,
                sheet.shape[-1] / sheet.shape[-2],
                tuple(map_columns(clip.video, one.joint, one.time, one.frames)),
            ),
            "peak": describe_peak(clip, one),
            "verdict": verdict(one.evidence) if one.evidence else "",
            "better": bool(one.evidence and one.evidence.better_than_random),
            "charts": draw_curves(one.evidence) if one.evidence else "",
        }
        for one in explanations
    ]
    why = "The predicted class" if predicted else "The class asked for"
    return write_html(
        path,
        "explain.html",
        title=f"Why {first.label}?",
        summary=f"{why} of “{first.label_set}” is {first.label}, with {percent(first.score)}.",
        when=f"{clip.path}: {describe_clip(clip)}",
        sections=sections,
        facts={
            "weights": weights,
            "frames": "The middle frame of each temporal position; where there are many, neighbors share one.",
            "bars": "The share of the evidence that this moment gets. Brightness is relative to the frame's maximum.",
            "deletion": "Hide the tiles in the order of the map, strongest first: the probability should fall early.",
            "insertion": "Show them in this order on a hidden clip: the probability should rise early.",
            "random": "The mean over random orders of the same tiles. A map must beat each one to be called better.",
        },
    )


def draw_curves(evidence: Evidence) -> Markup:
    """Draw the deletion and the insertion curve, each beside the mean of the random orders."""
    steps = len(evidence.deletion) - 1
    charts = []
    for title, own, random in (
        ("Deletion", evidence.deletion, evidence.random_deletion),
        ("Insertion", evidence.insertion, evidence.random_insertion),
    ):
        mean = [sum(values) / len(values) for values in zip(*random)]
        lines = {"map": own, "random": mean}
        series = {name: [(100 * k / steps, p) for k, p in enumerate(curve)] for name, curve in lines.items()}
        what = "% of the tiles hidden" if title == "Deletion" else "% of the tiles shown"
        charts.append(line_chart(title, series, format_value=lambda p: f"{p:.0%}", top=1, x_title=what))
    return Markup("").join(charts)
