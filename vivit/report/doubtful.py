"""Show training videos that look wrongly labelled, from the list that the stages of a budget wrote."""

from __future__ import annotations

import csv
from pathlib import Path

from torch import nn

from ..config import Config
from ..data.splits import read_split
from ..engine.stages import DOUBTFUL
from ..errors import DataError
from .examples import Answer, ClipFigure, Example, clip_figure

SHOWN = 12  # videos


def doubtful_examples(run: Path, config: Config, model: nn.Module) -> tuple[list[Example], int]:
    """Draw the training videos that heads fitted without them most confidently take for another class.

    Returns SHOWN of them at most, and how many lines the list of the run has: none without stages. A video that is no
    longer there has the problem instead of pictures.
    """
    try:
        with (run / DOUBTFUL).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return [], 0
    samples, problem = {}, "no longer among the training videos"
    try:
        found = read_split(config.data, config.data.train_split) if rows else []
        samples = {(s.path, *map(_seconds, (s.start, s.end))): s for s in found}
    except DataError as error:
        problem = str(error)
    examples = []
    for row in rows[:SHOWN]:
        sample = samples.get((row["path"], row.get("start", ""), row.get("end", "")))
        clip = clip_figure(model, sample, attention=False) if sample else ClipFigure(problem=problem)
        answer = Answer(row["label_set"], row["label"], row["answer"], float(row["probability"]))
        examples.append(Example(row["path"], [answer], clip))
    return examples, len(rows)


def _seconds(value: float | None) -> str:
    return "" if value is None else str(value)
