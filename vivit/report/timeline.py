"""Write the timeline of a video as one HTML page: the video, its scores over time, and segments to jump to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..inference.segments import Segment, class_probabilities
from ..inference.timeline import Timeline
from .charts import lane
from .html import plural, write_html

MOST_LANES = 12  # classes drawn per label set
MOST_SEGMENTS = 2500  # on the page, which stays below 2 MB
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between marks of the axis


def write_timeline_page(
    path: Path,
    timeline: Timeline,
    found: Sequence[Segment],
    *,
    truth: Sequence[Segment] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of one video, which opens from disk, and return `path`.

    The page plays the file of the timeline, by its path relative to the page; without it, or where the browser cannot
    play it, curves and segments work all the same. Of many segments those of the highest scores are shown, and of each
    label set the classes with the longest segments, then those of the highest scores. `facts` are lines for the end of
    the page, such as the name of the weights. Raises OSError.
    """
    end = max(float(timeline.end.max(initial=0)), *(one.end for one in (*found, *truth)), 1e-3)
    shown = sorted(sorted(found, key=lambda s: -s.score)[:MOST_SEGMENTS], key=lambda s: (s.start, s.end))
    several = len(timeline.classes) > 1
    listed = [
        {
            "label": one.label,
            "label_set": one.label_set if several else "",
            "times": f"{clock(one.start)} – {clock(one.end)}",
            "score": f"{one.score:.0%}",
        }
        for one in shown
    ]
    video = video_source(Path(timeline.path), path.parent)
    return write_html(
        path,
        "timeline.html",
        title=os.path.basename(timeline.path),
        summary=f"{clock(end)} long, a score every {timeline.hop:.3g} s: {plural(len(found), 'segment')}.",
        when=f"shown: the {len(shown):,} segments of the highest scores" if len(shown) < len(found) else "",
        video=video,
        segments=listed,
        has_truth=bool(truth),
        **draw_lanes(timeline, shown, truth, end),
        data={
            "start": [round(one.start, 3) for one in shown],
            "end": [round(one.end, 3) for one in shown],
            "length": round(end, 3),
        },
        facts={"video": timeline.path, **(facts or {})},
    )


def draw_lanes(timeline: Timeline, found: Sequence[Segment], truth: Sequence[Segment], end: float) -> dict[str, Any]:
    """Draw the scores of a timeline from 0 to `end` seconds, with its segments, for the macro `lanes` of a template."""
    return {
        "groups": groups(timeline, found, truth, end),
        "marks": [{"left": f"{100 * t / end:.2f}", "text": clock(t, 0)} for t in marks(end)],
        "padded": padded_shares(timeline, end),
    }


def groups(timeline: Timeline, found: Sequence[Segment], truth: Sequence[Segment], end: float) -> list[dict[str, Any]]:
    """Make the lanes of each label set that has segments, or of all label sets if none has."""
    drawn = list(dict.fromkeys(one.label_set for one in (*found, *truth))) or list(timeline.classes)
    result = []
    for label_set in drawn:
        mine = [(i, one) for i, one in enumerate(found) if one.label_set == label_set]
        true = [one for one in truth if one.label_set == label_set]
        names, probabilities = class_probabilities(timeline, label_set, least=0.05)
        seconds = dict.fromkeys(names, 0.0)
        for one in (*(one for _, one in mine), *true):
            seconds[one.label] = seconds.get(one.label, 0.0) + one.length
        columns = {name: probabilities[:, j] for j, name in enumerate(names)}
        peak = {name: float(columns[name].max(initial=0)) if name in columns else 0.0 for name in seconds}
        chosen = sorted(seconds, key=lambda name: (-seconds[name], -peak[name]))[:MOST_LANES]
        empty = np.zeros(len(timeline.center))
        lanes = [
            {
                "name": name,
                "color": k % 5,
                "peak": f"{peak[name]:.0%}",
                "svg": lane(
                    timeline.center,
                    columns.get(name, empty),
                    end=end,
                    found=[(i, one.start, one.end) for i, one in mine if one.label == name],
                    truth=[(one.start, one.end) for one in true if one.label == name],
                ),
            }
            for k, name in enumerate(chosen)
        ]
        rest = len(seconds) - len(chosen)
        result.append({"name": label_set, "lanes": lanes, "rest": rest})
    return result


def video_source(video: Path, folder: Path) -> str:
    """Return the address of a video file as seen from a page in `folder`; "" if it is no file."""
    if not video.is_file():
        return ""
    try:
        relative = os.path.relpath(video.absolute(), folder.absolute())
    except ValueError:  # on another drive of Windows
        return video.absolute().as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))


def padded_shares(timeline: Timeline, end: float) -> list[dict[str, str]]:
    """Return where windows reach beyond the video, at its start and end: left and width in percent of the page."""
    inside = timeline.center[~timeline.padded]
    if not len(timeline.center):
        return []
    first, last = (inside[0], inside[-1]) if len(inside) else (end, end)
    spans = [(0.0, float(first)), (float(last), end)]
    return [{"left": f"{100 * a / end:.2f}", "width": f"{100 * (b - a) / end:.2f}"} for a, b in spans if b - a > 1e-6]


def marks(end: float) -> list[float]:
    """Return seconds of the marks of the axis, at most seven."""
    step = next((step for step in STEPS if end / step <= 6), end / 6)
    return [i * step for i in range(int(end / step) + 1)]


def clock(seconds: float, digits: int = 1) -> str:
    """Format seconds as 0:07.5 or 1:02:03."""
    units = round(max(seconds, 0) * 10**digits)
    whole, rest = divmod(units, 10**digits)
    hours, minutes = whole // 3600, whole // 60 % 60
    text = f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
    return f"{text}.{rest:0{digits}}" if digits else text
