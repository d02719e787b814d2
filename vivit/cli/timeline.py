"""`vivit timeline`: scores of the classes of videos over time."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from ..errors import VivitError
from ..text import printable
from .parse import WithAnyWeights, parse
from .predict import Predict, find_inputs, load_any
from .terminal import print_error
from .timeline_outputs import SegmentOptions, check_fit, check_outputs, write_outputs

if TYPE_CHECKING:
    import numpy as np

    from ..inference.sliding import AnyModel
    from ..inference.timeline import Plan, Timeline

USAGE = "vivit timeline WEIGHTS VIDEO [VIDEO ...] [options]"
USUAL = ("hop", "start", "end", "out", "segments", "html", "truth", "fit", "thresholds", "background")


@dataclass(frozen=True)
class TimelineOptions(WithAnyWeights):
    """Score the classes of videos over time, every --hop seconds.

    Prints a CSV with one row per window, or writes .npz files where --out says; then Ctrl-C keeps what is done and the
    same command resumes. --segments, --html and --truth make events, pages and scores of them. Exits with code 1 if a
    video could not be read.
    """

    videos: Positional[tuple[str, ...]] = ()
    """Video files, folders of images, or folders that are searched for both."""
    hop: float = 0.5
    """Seconds from one row to the next, rounded to temporal positions of the model."""
    start: float | None = None
    """First second to score; windows still see the frames before."""
    end: float | None = None
    """Second at which to stop; windows still see the frames after."""
    crops: Literal[1, 3] = 1
    """1 center crop, or the mean over 3 crops along the longer side."""
    out: str | None = None
    """An .npz file for the scores of one video, or a folder for those of several."""
    batch: int | None = None
    """Temporal positions that Model 2 encodes together. None: 4 on a CPU, 128 elsewhere."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32."""
    outputs: Annotated[SegmentOptions, tyro.conf.arg(name="")] = SegmentOptions()
    """What to make of the scores."""

    def __post_init__(self):
        if not 0 < self.hop < float("inf"):
            raise ValueError(f"hop is {self.hop}; it takes seconds above 0")
        if self.start is not None and not self.start >= 0:
            raise ValueError(f"start is {self.start}; it is 0 or more seconds")
        if self.end is not None and not self.end > (self.start or 0):
            raise ValueError(f"end is {self.end}; it must be after start={self.start or 0}, in seconds")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is 1 or more positions")


def run(args: list[str]) -> None:
    """Write the timelines of the videos that the arguments name; exit with code 1 if one could not be read."""
    asked = parse(TimelineOptions, args, usage=USAGE, usual=USUAL)
    if not asked.videos:
        raise ValueError(f"no video to score; usage: {USAGE}")
    videos = find_inputs(asked.videos)
    targets = output_files(videos, asked.out)
    check_outputs(asked.outputs, videos)
    model = load_any(Predict(asked.weights, device=asked.device, precision=asked.precision))
    if asked.outputs.asked():
        check_fit(asked.outputs, videos, model.config.classes)
    if asked.out:
        score = make_saver(model, targets, asked)
    else:
        score = make_collector(model, asked) if asked.outputs.asked() else make_printer(model, asked)
    failed, timelines = 0, []
    for path in videos:
        try:
            timelines.append(score(path))
        except VivitError as error:
            failed += 1
            named = str(error) if path in str(error) else f"{path}: {error}"
            print_error(named)
    if asked.out:
        print(f"{len(videos) - failed} of {len(videos)} timelines in {asked.out}", file=sys.stderr)
    if timelines and asked.outputs.asked():
        write_outputs(timelines, asked.outputs)
    if failed:
        sys.exit(1)


def output_files(videos: Sequence[str], out: str | None) -> dict[str, Path]:
    """Return the .npz file of each video: `out` itself, or of a folder a file per video. Raises ValueError."""
    if out is None:
        return {}
    if out.endswith(".npz"):
        if len(videos) > 1:
            raise ValueError(f"--out {out} takes the scores of one video, and there are {len(videos)}; give a folder")
        return {videos[0]: Path(out)}
    if Path(out).is_file():
        raise NotADirectoryError(f"{out} is a file; --out takes a folder, or the name of an .npz file")
    whole = [os.path.abspath(video) for video in videos]
    base = os.path.commonpath([os.path.dirname(path) for path in whole])
    return {video: Path(out) / f"{os.path.relpath(path, base)}.npz" for video, path in zip(videos, whole)}


def open_plan(model: AnyModel, path: str, asked: TimelineOptions) -> Plan:
    """Read the frame index of a video and choose the windows; say what the hop is."""
    from rich.console import Console

    from ..inference.timeline import describe_hop, plan_timeline

    with Console(stderr=True).status(f"reading the frame index of {printable(path)}"):
        plan = plan_timeline(model, path, hop=asked.hop, start=asked.start, end=asked.end, crops=asked.crops)
    rows = f"{len(plan.rows)} row{'s' if len(plan.rows) > 1 else ''}"
    print(f"{printable(path)}: {describe_hop(plan.windows, plan.hop)}; {rows}", file=sys.stderr)
    return plan


def compute(
    model: AnyModel, plan: Plan, done: int, asked: TimelineOptions, *, bar: bool = True
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the logits (K,) of the rows after the first `done` ones; a terminal shows the time left."""
    import numpy as np
    from rich.console import Console

    from ..engine.progress import progress_bar
    from ..inference.timeline import compute_rows

    console, name = Console(stderr=True), os.path.basename(plan.video.path)
    with progress_bar(printable(name), len(plan.rows), enabled=bar, console=console) as update:
        update(done)
        rows = compute_rows(model, plan, rows=plan.rows[done:], precision=asked.precision, batch=asked.batch)
        for count, (row, logits) in enumerate(rows, start=done + 1):
            yield row, np.asarray(logits)
            update(count)


def make_saver(model: AnyModel, targets: dict[str, Path], asked: TimelineOptions) -> Callable[[str], Timeline]:
    """Return a function that writes the timeline of a video to its file, and resumes where a run was stopped."""
    from ..inference.resume import PartialRows, is_finished, made_from
    from ..inference.sliding import choose_batch
    from ..inference.timeline import Timeline

    weights, device = identify(model)

    def save(path: str) -> Timeline:
        target, plan = targets[path], open_plan(model, path, asked)
        batch = choose_batch(model, asked.batch)
        source = made_from(plan, weights, precision=asked.precision, batch=batch, device=device)
        if is_finished(target, source):
            print(f"{printable(str(target))} is finished already", file=sys.stderr)
            return replace(Timeline.load(target), path=path)  # which may be another name of the video
        partial = target.with_name(f"{target.name}.partial")
        with PartialRows(partial, source, model.config.num_classes) as kept:
            if kept.count:
                print(f"resuming after {kept.count} of {len(plan.rows)} rows", file=sys.stderr)
            try:
                for _, logits in compute(model, plan, kept.count, asked):
                    kept.append(logits)
            except KeyboardInterrupt:
                print(f"{kept.count} of {len(plan.rows)} rows are kept; the same command resumes", file=sys.stderr)
                raise
            found = plan.timeline(kept.rows())
            found.save(target, source)
            kept.remove()
        return found

    return save


def identify(model: AnyModel) -> tuple[str, str]:
    """Return the hash of the weights and the kind of device, on which the logits of a timeline depend."""
    from ..inference.exported import ExportedModel

    if isinstance(model, ExportedModel):
        return model.weights, f"exported {model.path.suffix}"
    from ..weights.save import hash_weights

    return hash_weights(model), next(model.parameters()).device.type


def make_collector(model: AnyModel, asked: TimelineOptions) -> Callable[[str], Timeline]:
    """Return a function that computes the timeline of a video and prints none of its rows."""

    import numpy as np

    def collect(path: str) -> Timeline:
        plan = open_plan(model, path, asked)
        return plan.timeline(np.stack([logits for _, logits in compute(model, plan, 0, asked)]))

    return collect


def make_printer(model: AnyModel, asked: TimelineOptions) -> Callable[[str], Timeline]:
    """Return a function that prints the timeline of a video as CSV, row by row."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(score_columns(model.config.classes))

    import numpy as np

    def show(path: str) -> Timeline:
        plan, rows = open_plan(model, path, asked), []
        for row, logits in compute(model, plan, 0, asked, bar=not sys.stdout.isatty()):
            timeline = plan.timeline(logits[None], range(row, row + 1))
            scores = [p for name in timeline.classes for p in timeline.probabilities(name)[0]]
            times = [f"{values[0]:.3f}" for values in (timeline.start, timeline.end, timeline.center)]
            writer.writerow([path, *times, int(timeline.padded[0]), *(f"{p:.6f}" for p in scores)])
            sys.stdout.flush()
            rows.append(logits)
        return plan.timeline(np.stack(rows))

    return show


def score_columns(classes: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the header of the CSV: a column per class, with the label set in its name if there are several."""
    several = len(classes) > 1
    names = [f"{label_set}: {name}" if several else name for label_set, names in classes.items() for name in names]
    return ["path", "start", "end", "center", "padded", *names]
