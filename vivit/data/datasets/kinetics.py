"""Read Kinetics-400, -600 and -700: CSV files of trimmed YouTube clips."""

from __future__ import annotations

import os
from pathlib import Path

from ..sample import Sample
from .collector import SampleCollector, checked_classes, unknown_label
from .find_videos import name_of, videos_by
from .rows import empty_fields, find_file, parse_segment, table_rows
from .split_names import split_name

LABEL_SET = "action"
SPELLINGS = {"train": {"train"}, "val": {"val", "validate", "validation"}, "test": {"test"}}
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
LAYOUTS = (
    "train.csv and val.csv (validate.csv, kinetics-400_val.csv …), also in annotations/ or labels/",
    "videos named ID_000012_000022.mp4 in any folders: train/abseiling/, train/, abseiling/, videos_train/ …",
)


def read_kinetics(root: Path, split: str, missing: list[str]) -> list[Sample]:
    """Read the clips of a split that are there, in the order of its CSV.

    Folders may be named and nested in any way. Outside training a label that the training list does not have is an
    error, if that list is there.
    """
    name = split_name(split)
    found = SampleCollector(root, missing, LAYOUTS)
    table = _table(root, name, found.problems)
    known = None if name == "train" or _table(root, "train", []) is None else set(kinetics_classes(root)[LABEL_SET])
    videos = videos_by(name_of, root, order=lambda path: SPELLINGS[name].isdisjoint(path.lower().split("/")[:-1]))
    labels: dict[str, dict[str, str]] = {}
    for where, cells in table_rows(table, COLUMNS, found.problems):
        label, youtube_id, start, end = cells
        wrong = empty_fields(COLUMNS, cells)
        first, last = parse_segment(start, end, wrong, ("time_start", "time_end"))
        if os.sep in youtube_id:
            wrong.append(f"youtube_id {youtube_id!r} is outside {root}")
        if known is not None and label and label not in known:
            wrong.append(unknown_label("label", label, known))
        clip = f"{youtube_id}_{int(first or 0):06d}_{int(last or 0):06d}"
        found.add(where, clip, videos.get(clip), labels.setdefault(label, {LABEL_SET: label}), wrong)
    return found.checked()


def kinetics_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the labels of the training list (or of another list), in alphabetical order, as is official."""
    problems: list[str] = []
    tables = [_table(root, name, []) for name in SPELLINGS]
    table = next((table for table in tables if table), None) or _table(root, "train", problems)
    names = {label for _, (label,) in table_rows(table, ("label",), problems)}
    return checked_classes({LABEL_SET: sorted(names - {""})}, problems, root)


def _table(root: Path, split: str, problems: list[str]) -> Path | None:
    ways = [(suffix, before) for suffix in ("csv", "txt") for before in ("", "k*[-_]")]
    names = [f"{before}{name}.{suffix}" for suffix, before in ways for name in sorted(SPELLINGS[split])]
    return find_file(root, names, f"the list of the {split} clips", problems)
