"""Read UCF101 and HMDB51, which have three official divisions into training and test.

A split may end in the number of the division: train2 and test2 belong together; without a number it is the first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from ..sample import Sample
from .collector import SampleCollector, checked_classes, unknown_label
from .find_videos import escapes_root, name_of, videos_by
from .split_names import split_name

LABEL_SET = "action"
UCF101_LAYOUTS = (
    "ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt, also in annotations/ or without a folder of their own",
    "videos named v_Archery_g01_c01.avi in any folders, as UCF-101/Archery/",
)
HMDB51_LAYOUTS = (
    "testTrainMulti_7030_splits/brush_hair_test_split1.txt …, also in annotations/ or splits/",
    "videos in a folder of their class, brush_hair/NAME.avi, below any folder, as hmdb51_org/",
)
HMDB51_LIST = "_test_split1.txt"


def read_ucf101(root: Path, split: str, missing: list[str]) -> list[Sample]:
    """Read the videos of a split that are there, in the order of its list: Archery/v_Archery_g01_c01.avi [number]."""
    name, division = _split(split)
    found = SampleCollector(root, missing, UCF101_LAYOUTS)
    folder, classes = _ucf101(root, found.problems)
    labels = {label: {LABEL_SET: label} for label in classes}
    numbers = {label: str(number) for number, label in enumerate(classes, start=1)}
    # The lists write v_HandStandPushups, the files v_HandstandPushups.
    videos = videos_by(lambda path: name_of(path).lower(), root)
    for where, (path, *number) in _lines(folder / f"{name}list0{division}.txt", found.problems):
        label, stem = os.path.dirname(path), os.path.splitext(name_of(path))[0]
        wrong = [f"{path} is outside {root}"] if escapes_root(path) else []
        if labels and label not in labels:
            wrong.append(unknown_label("class", label, labels))
        elif labels and number and number != [numbers[label]]:
            wrong.append(f"number {' '.join(number)} is not that of {label}, {numbers[label]}")
        found.add(where, path, videos.get(stem.lower()), labels.get(label, {}), wrong)
    return found.checked()


def read_hmdb51(root: Path, split: str, missing: list[str]) -> list[Sample]:
    """Read the videos of a split that are there, by class: lines NAME.avi 1 for training, 2 for test, 0 for neither."""
    name, division = _split(split)
    found = SampleCollector(root, missing, HMDB51_LAYOUTS)
    folder, classes = _hmdb51(root, found.problems)
    videos = videos_by(lambda path: "/".join(path.split("/")[-2:]), root)
    for label in classes:
        labels = {LABEL_SET: label}
        for where, (path, *use) in _lines(folder / f"{label}_test_split{division}.txt", found.problems):
            wrong = [f"{path} is outside {root}"] if "/" in path else []
            if use not in (["0"], ["1"], ["2"]):
                wrong.append(f"got {' '.join(use) or 'no number'} after the name; allowed are 1 (train), 2 (test), 0")
            if wrong or use == ["1" if name == "train" else "2"]:
                video = f"{label}/{os.path.splitext(path)[0]}"
                found.add(where, f"{label}/{path}", videos.get(video), labels, wrong)
    return found.checked()


def ucf101_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the classes in the order of classInd.txt."""
    problems: list[str] = []
    return checked_classes({LABEL_SET: _ucf101(root, problems)[1]}, problems, root)


def hmdb51_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the classes from the file names of the lists, in alphabetical order."""
    problems: list[str] = []
    return checked_classes({LABEL_SET: _hmdb51(root, problems)[1]}, problems, root)


def _ucf101(root: Path, problems: list[str]) -> tuple[Path, list[str]]:
    """Return the folder of the lists, and the classes."""
    folder = _folder(root, "classInd.txt", ("ucfTrainTestlist",))
    classes: list[str] = []
    for where, (number, *name) in _lines(folder / "classInd.txt", problems):
        classes.append(" ".join(name))
        if number != str(len(classes)) or len(name) != 1:
            problems.append(f"{where}: got {number} {' '.join(name)}; expected {len(classes)} and a class")
    return folder, classes


def _hmdb51(root: Path, problems: list[str]) -> tuple[Path, list[str]]:
    """Return the folder of the lists, and the classes."""
    folder = _folder(root, f"*{HMDB51_LIST}", ("testTrainMulti_7030_splits", "splits"))
    classes = sorted(path.name.removesuffix(HMDB51_LIST) for path in folder.glob(f"[!.]*{HMDB51_LIST}"))
    if not classes:
        problems.append(f"no CLASS{HMDB51_LIST} in {folder}")
    return folder, classes


def _folder(root: Path, pattern: str, names: tuple[str, ...]) -> Path:
    """Return the first folder with a file of this name, or the folder where it should be."""
    places = [place / name for place in (root, root / "annotations", root / "labels") for name in (*names, "")]
    return next((place for place in places if place.is_dir() and any(place.glob(pattern))), places[0])


def _split(split: str) -> tuple[str, int]:
    """Split train2 into train, 2. Every split other than train is the test list."""
    match = re.fullmatch(r"([A-Za-z]+)([123]?)", split)
    if not match:
        raise DataError(f"unknown split {split!r}; allowed: train, test, and with a division train1 … train3, test3")
    name, division = match.groups()
    return "train" if split_name(name) == "train" else "test", int(division or 1)


def _lines(file: Path, problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (file:line, words) of a list. A missing or empty list is a problem."""
    if not file.is_file():
        problems.append(f"no {file.name} in {file.parent}")
        return
    rows = [(n, line.split()) for n, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1)]
    rows = [(n, words) for n, words in rows if words]
    if not rows:
        problems.append(f"{file.name}: no rows")
    for n, words in rows:
        yield f"{file.name}:{n}", words
