"""Read Something-Something v2: JSON lists of videos with a template as the class."""

from __future__ import annotations

import json
from pathlib import Path

from ..sample import Sample
from .collector import SampleCollector, checked_classes, unknown_label
from .find_videos import name_of, videos_by
from .rows import empty_fields, find_file, json_rows
from .split_names import labelled_split

LABEL_SET = "action"
FILES = {"train": "train", "val": "validation"}
LAYOUTS = (
    "something-something-v2-{train,validation,labels}.json, or labels/{train,validation,labels}.json",
    "videos named 78687.webm (or .mp4, or folders of images) in any folder, as 20bn-something-something-v2/",
)


def read_ssv2(root: Path, split: str, missing: list[str]) -> list[Sample]:
    """Read the videos of a split that are there, in the order of its list; a class is a template without brackets."""
    name = labelled_split(split, FILES)
    found = SampleCollector(root, missing, LAYOUTS)
    file = _file(root, FILES[name], found.problems)
    labels = {label: {LABEL_SET: label} for label in _classes(root, found.problems)}
    videos = videos_by(name_of, root)
    for where, row in json_rows(file, found.problems):
        video, template = (str(row.get(key, "")).strip() for key in ("id", "template"))
        label = template.replace("[", "").replace("]", "")
        wrong = empty_fields(("id", "template"), (video, template))
        if "/" in video:
            wrong.append(f"id {video!r} is outside {root}")
        if label and labels and label not in labels:
            wrong.append(unknown_label("template", label, labels))
        found.add(where, video, videos.get(video), labels.get(label, {}), wrong)
    return found.checked()


def ssv2_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the templates in the order of their numbers in labels.json."""
    problems: list[str] = []
    return checked_classes({LABEL_SET: _classes(root, problems)}, problems, root)


def _classes(root: Path, problems: list[str]) -> list[str]:
    file = _file(root, "labels", problems)
    if file is None:
        return []
    try:
        numbers = {label: int(number) for label, number in json.loads(file.read_text(encoding="utf-8-sig")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        problems.append(f'{file.name}: expected an object like {{"Holding something": "0", …}}: {error}')
        return []
    if sorted(numbers.values()) != list(range(len(numbers))):
        problems.append(f"{file.name}: the numbers of the {len(numbers)} classes are not 0 to {len(numbers) - 1}")
    return sorted(numbers, key=numbers.__getitem__)


def _file(root: Path, name: str, problems: list[str]) -> Path | None:
    return find_file(root, (f"something-something-v2-{name}.json", f"{name}.json"), f"the {name} file", problems)
