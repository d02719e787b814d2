"""Read Moments in Time: CSV files without a header, and a list of numbered categories."""

from __future__ import annotations

import os
from pathlib import Path

from ..sample import Sample
from .collector import SampleCollector, checked_classes, unknown_label
from .find_videos import escapes_root, videos_by
from .rows import empty_fields, find_file, table_rows
from .split_names import labelled_split

LABEL_SET = "action"
FILES = {"train": ("trainingSet.csv", "training"), "val": ("validationSet.csv", "validation")}
LAYOUTS = (
    "moments_categories.txt, trainingSet.csv and validationSet.csv, also in annotations/ or labels/",
    "training/CLASS/NAME.mp4 and validation/CLASS/NAME.mp4, or CLASS/NAME.mp4 alone",
)


def read_moments(root: Path, split: str, missing: list[str]) -> list[Sample]:
    """Read the videos of a split that are there, in the order of its CSV: class/file.mp4,class,votes …"""
    name = labelled_split(split, FILES)
    table_name, folder = FILES[name]
    found = SampleCollector(root, missing, LAYOUTS)
    table = find_file(root, [table_name], f"the list of the {folder} videos", found.problems)
    labels = {label: {LABEL_SET: label} for label in _classes(root, found.problems)}
    base = root / folder if (root / folder).is_dir() else root
    videos = videos_by(lambda path: path, base)
    for where, (path, label) in table_rows(table, ("file", "class"), found.problems, header=False):
        if where.endswith(":1") and path in ("filename", "file", "path"):  # copies with a header
            continue
        wrong = empty_fields(("file", "class"), (path, label))
        if escapes_root(path):
            wrong.append(f"{path} is outside {base}")
        if label and labels and label not in labels:
            wrong.append(unknown_label("class", label, labels))
        found.add(where, path, videos.get(os.path.splitext(path)[0]), labels.get(label, {}), wrong)
    return found.checked()


def moments_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the categories in the order of their numbers."""
    problems: list[str] = []
    return checked_classes({LABEL_SET: _classes(root, problems)}, problems, root)


def _classes(root: Path, problems: list[str]) -> list[str]:
    file = find_file(root, ["moments_categories.txt"], "the list of categories", problems)
    rows = [row for _, row in table_rows(file, ("name", "number"), problems, header=False)]
    numbers = {name: int(number) if number.isdecimal() else -1 for name, number in rows}
    if sorted(numbers.values()) != list(range(len(rows))):
        problems.append(
            f"moments_categories.txt: the {len(rows)} categories do not have the numbers from 0 up, one each"
        )
    return sorted(numbers, key=numbers.__getitem__)
