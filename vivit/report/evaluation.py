"""Write what `vivit eval` leaves for people: report.html and predictions.csv."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..config import Config, DataConfig
from ..engine.device import pick_device
from ..engine.evaluate import load_weights
from ..engine.evaluation import Evaluation
from ..files import atomic_write
from ..text import printable
from .examples import NO_ANSWER, answers
from .run import write_report

REPORT, PREDICTIONS_CSV = "report.html", "predictions.csv"
EXAMPLES = 24  # clips on the page


def write_eval_files(
    folder: Path,
    *,
    weights: str,
    config: Config,
    evaluation: Evaluation,
    changes: Mapping[str, Any] | None = None,
    exported: nn.Module | None = None,
) -> None:
    """Write predictions.csv and report.html of an evaluation into `folder`, and print where they are.

    `weights`, `config`, `changes` and `exported` are those that `evaluate_weights` was given; the page needs the model
    again. The results are on the disk before: a file that cannot be written is a warning that names it, and no error.
    """
    log = logging.getLogger("vivit")
    try:
        table = write_predictions_csv(evaluation, folder / PREDICTIONS_CSV)
        print(f"answers to every video: {printable(str(table))}")
    except OSError as error:
        log.warning("%s is not written: %s", PREDICTIONS_CSV, printable(str(error)))
    try:
        model = exported or load_weights(weights, **(changes or {})).to(pick_device(config.device)).eval()
        page = write_eval_report(folder, weights=weights, model=model, evaluation=evaluation, data=config.data)
        print(f"open {printable(str(page.resolve()))}")
    except Exception as error:  # a page may fail in any way, out of memory among them; the results must not
        log.warning("%s is not written: %s: %s", REPORT, type(error).__name__, printable(str(error)))


def write_eval_report(
    folder: Path, *, weights: str, model: nn.Module, evaluation: Evaluation, data: DataConfig | None = None
) -> Path:
    """Write report.html of `vivit eval` into `folder` and return its path.

    If `weights` is the folder of a run, the page shows its training as well. A model that is no ViViT has no attention
    maps on the page. Raises OSError if the page cannot be written.
    """
    return write_report(
        folder / REPORT,
        title=f"Evaluation of {weights}",
        run=Path(weights) if (Path(weights) / "environment.json").is_file() else None,
        model=model,
        evaluation=evaluation,
        examples=EXAMPLES,
        data=data,
    )


def write_predictions_csv(evaluation: Evaluation, path: Path) -> Path:
    """Write one line per readable video: path, start, end, and per label set the truth, the answer, its probability.

    Start and end are in seconds, empty where the video is a file from its first frame to its last. The answer is that
    of all views; it and its probability are empty where the logits are not finite. Raises OSError.
    """
    columns = [f"{label_set}_{what}" for label_set in evaluation.classes for what in ("truth", "answer", "probability")]
    with atomic_write(path, newline="", errors="surrogateescape") as file:  # paths need not be UTF-8
        table = csv.writer(file)
        table.writerow(["path", "start", "end", *columns])
        for sample, row in zip(evaluation.samples, answers(evaluation)):
            cells: list[str | float | None] = [sample.path, sample.start, sample.end]
            for one in row:
                known = one.answer != NO_ANSWER
                cells += [one.true, one.answer if known else "", f"{one.probability:.6g}" if known else ""]
            table.writerow(cells)
    return path
