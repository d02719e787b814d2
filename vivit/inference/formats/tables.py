"""Tables of segments and of scores: CSV that trains a model, JSON lines for programs, npz, Parquet"""

from __future__ import annotations

import csv
import logging
import os
from typing import IO, Any

import numpy as np

from ...data.datasets.label_table import SPECIAL
from ..segments import Segment
from .common import FormatOptions, Videos, import_pyarrow, one_label_set, path_of, seconds, to_json


def write_csv(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write path, start, end, label, score: a table that trains a model. The label column is named as the label set.

    The table of a training has one row for a segment: of several classes with equal start and end the one of the
    highest score is written, and a warning counts the others.
    """
    label_set = one_label_set(videos, "csv")
    table = csv.writer(file)
    table.writerow(["path", "start", "end", "label" if label_set in SPECIAL else label_set or "label", "score"])
    left_out = 0
    for timeline, found in videos:
        best: dict[tuple[float, float], Segment] = {}
        for one in sorted(found, key=lambda s: (s.start, s.end, -s.score)):
            left_out += (seconds(one.start), seconds(one.end)) in best
            best.setdefault((seconds(one.start), seconds(one.end)), one)
        path = path_of(timeline, options)
        table.writerows([path, *times, one.label, f"{one.score:.6g}"] for times, one in best.items())
    if left_out:
        logging.getLogger("vivit").warning(
            "%d segments are left out of the table: another class has the same start, end and a higher score; "
            "a higher `on` avoids it",
            left_out,
        )


def write_jsonl(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write one object per line: path, start, end, label, score, label_set; no training table."""
    for timeline, found in videos:
        path = path_of(timeline, options)
        for one in found:
            row = {"path": path, "start": seconds(one.start), "end": seconds(one.end)}
            row |= {"label": one.label, "score": round(one.score, 6), "label_set": one.label_set}
            file.write(to_json(row) + "\n")


def write_npz(file: IO[bytes], videos: Videos, options: FormatOptions) -> None:
    """Write the timeline of one video as arrays; `Timeline.load` and numpy read them without pickle."""
    [(timeline, _)] = videos
    timeline.write(file)


def write_parquet(file: IO[bytes], videos: Videos, options: FormatOptions) -> None:
    """Write a row per window: path, start, end, center, padded, and probabilities in columns `label_set/class`."""
    pyarrow, parquet = import_pyarrow()
    writer = None
    for timeline, _ in videos:
        n = len(timeline.center)
        columns: dict[str, Any] = {"path": [os.fsencode(path_of(timeline, options)).decode("utf-8", "replace")] * n}
        columns |= {name: getattr(timeline, name) for name in ("start", "end", "center", "padded")}
        for label_set, names in timeline.classes.items():
            found = np.asarray(timeline.probabilities(label_set), dtype=np.float32)
            columns |= {f"{label_set}/{name}": np.ascontiguousarray(c) for name, c in zip(names, found.T)}
        table = pyarrow.table(columns)
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
