"""What `vivit timeline` makes of the scores: segments in files of any format, pages, agreement with ground truth."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config import suggestion
from ..text import printable

if TYPE_CHECKING:
    from ..inference.formats.common import FormatOptions
    from ..inference.segments import SegmentParams
    from ..inference.timeline import Timeline


@dataclass(frozen=True)
class SegmentOptions:
    """Which segments to find in the scores, and where to write them."""

    segments: str | None = None
    """Write when each class happens: a file, or a folder for formats that hold one video."""
    format: str = ""
    """csv, jsonl, srt, vtt, audacity, activitynet, epic, labelstudio or parquet; empty: by the suffix of --segments."""
    html: str | None = None
    """Write a page with the video and its curves: a file, or a folder for several videos."""
    truth: str | None = None
    """A table of labelled segments: print how well those that are found agree with it."""
    fit: str | None = None
    """A table of labelled segments: choose the thresholds on it, and write them to --thresholds."""
    thresholds: str | None = None
    """The file of thresholds that --fit wrote; with --fit, where to write it."""
    label_set: str = ""
    """The label set of the segments; empty: all, or the one that the table has."""
    background: tuple[str, ...] = ()
    """Classes that are no event and get no segments."""
    fit_score: Literal["f1@10", "f1@25", "f1@50", "average_map", "edit", "accuracy"] = "f1@50"
    """What --fit maximises."""
    fps: float | None = None
    """Frames per second of the annotation tool, for --format labelstudio."""

    def asked(self) -> bool:
        """Return whether anything is to be made of the scores."""
        return any((self.segments, self.html, self.truth, self.fit))


def check_outputs(options: SegmentOptions, videos: Sequence[str]) -> None:
    """Raise an error for a table, thresholds, a format or a page that does not fit; nothing is computed yet."""
    from ..inference.formats.write import format_of
    from ..inference.segment_fit import load_params
    from ..inference.timeline_scores import read_truth

    if options.thresholds and not options.asked():
        raise ValueError("--thresholds needs --segments, --html, --truth or --fit")
    if options.segments:
        format_of(options.segments, options.format)
    if options.html and options.html.endswith(".html") and len(videos) > 1:
        raise ValueError(f"--html {options.html} is the page of one video, and there are {len(videos)}; give a folder")
    if options.html and find_spec("torch") is None:  # an exported model does without
        raise ImportError("--html needs PyTorch: pip install torch")
    for table in (options.truth, options.fit):
        if table:
            read_truth(table)
    if options.fit and not options.thresholds:
        raise ValueError("--fit needs --thresholds, the file to write: --thresholds thresholds.json")
    if options.thresholds and not options.fit:
        load_params(options.thresholds)


def check_fit(options: SegmentOptions, videos: Sequence[str], classes: Mapping[str, Sequence[str]]) -> None:
    """Raise what `write_outputs` would raise after hours: try it on a segment per label set of each video."""
    import numpy as np

    from ..inference.formats.write import check_timelines, refuse_unwritable
    from ..inference.segments import JOINT, Segment, label_sets
    from ..inference.timeline import Timeline
    from ..inference.timeline_scores import match_truth, read_truth

    row, none = np.zeros(1), np.zeros((1, sum(map(len, classes.values()))), np.float32)
    named = {name: list(names) for name, names in classes.items()}
    tries = [Timeline(path, named, row, row + np.inf, row, row.astype(bool), none, hop=1.0) for path in videos]
    if options.label_set not in ("", *label_sets(tries[0])):
        raise ValueError(f"unknown label set {options.label_set!r}{suggestion(options.label_set, classes)}")
    params = chosen_params(options)
    params.check_names(classes)
    for table in filter(None, (options.truth, options.fit)):
        match_truth(tries, read_truth(table), options.label_set, background=params.background)
    if options.segments:
        first = {name: names[0] for name, names in named.items()}
        found = [
            Segment(0.0, 1.0, first.get(name, JOINT.join(first.values())), 1.0, name)
            for name in chosen_label_sets(options, tries[0])
        ]
        check_timelines(options.segments, [(one, found) for one in tries], options.format, format_options(options))
    for path in page_files(options.html, tries) if options.html else []:
        refuse_unwritable(path)
    if options.fit and options.thresholds:
        refuse_unwritable(Path(options.thresholds))


def chosen_params(options: SegmentOptions) -> SegmentParams:
    """Return the thresholds that hold without a fit, with the classes that are no event."""
    from ..inference.segment_fit import load_params
    from ..inference.segments import SegmentParams

    params = load_params(options.thresholds) if options.thresholds and not options.fit else SegmentParams()
    return replace(params, background=(*params.background, *options.background))


def chosen_label_sets(options: SegmentOptions, timeline: Timeline) -> list[str]:
    """Return the label sets whose segments are written."""
    return [options.label_set] if options.label_set else list(timeline.classes)


def format_options(options: SegmentOptions) -> FormatOptions:
    """Return what a format needs to know besides the segments."""
    from ..inference.formats.common import FormatOptions

    return FormatOptions() if options.fps is None else FormatOptions(fps=options.fps)


def write_outputs(timelines: Sequence[Timeline], options: SegmentOptions) -> None:
    """Find segments in timelines and write, draw and score them. Raises DataError and OSError."""
    from ..inference.formats.write import write_timelines
    from ..inference.segment_fit import fit
    from ..inference.segments import segments
    from ..inference.timeline_scores import format_scores, read_truth, score_timelines

    params = chosen_params(options)
    if options.fit:
        found = fit(
            timelines,
            read_truth(options.fit),
            label_set=options.label_set,
            score=options.fit_score,
            background=options.background,
        )
        assert options.thresholds is not None
        found.save(options.thresholds)
        params = found.params
        change = f"{found.score} {found.value:.1%} on {found.videos} videos, {found.default_value:.1%} without a fit"
        print(f"thresholds in {printable(options.thresholds)}: {change}", file=sys.stderr)
    videos = []
    for timeline in timelines:
        label_sets = chosen_label_sets(options, timeline)
        videos.append((timeline, [one for name in label_sets for one in segments(timeline, name, params)]))
    if options.segments:
        written = write_timelines(options.segments, videos, options.format, format_options(options))
        print(f"segments in {', '.join(printable(str(path)) for path in written)}", file=sys.stderr)
    if options.html:
        from ..report.timeline import write_timeline_page  # imports PyTorch

        for path, (timeline, found) in zip(page_files(options.html, timelines), videos):
            write_timeline_page(path, timeline, found)
            print(f"open {printable(str(path))}", file=sys.stderr)
    if options.truth:
        print(
            format_scores(
                score_timelines(timelines, read_truth(options.truth), label_set=options.label_set, params=params)
            )
        )


def page_files(html: str, timelines: Sequence[Timeline]) -> list[Path]:
    """Return the file of the page of each video: `html`, or one per video in that folder."""
    if html.endswith(".html") and len(timelines) == 1:
        return [Path(html)]
    names = [os.path.basename(timeline.path) for timeline in timelines]
    return [Path(html) / f"{name}{f'-{i}' if names.count(name) > 1 else ''}.html" for i, name in enumerate(names)]
