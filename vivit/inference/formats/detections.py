"""Files of detection challenges: ActivityNet, EPIC-Kitchens-100"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ...errors import DataError
from ...model_config import joint_name
from ..segments import JOINT, Segment
from ..timeline import Timeline
from .common import FormatOptions, Videos, one_label_set, seconds, to_json

EPIC_VERSION, EPIC_CLASSES = "0.2", {"verb": 97, "noun": 300}


def write_activitynet(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write the predictions that ActivityNet's Evaluation/get_detection_performance.py reads."""
    one_label_set(videos, "activitynet")
    results = {
        video: [
            {"label": s.label, "score": round(s.score, 6), "segment": [seconds(s.start), seconds(s.end)]} for s in found
        ]
        for video, (_, found) in by_video_id(videos).items()
    }
    external = {"used": True, "details": "scores of a vivit model"}
    file.write(to_json({"version": "VERSION 1.3", "results": results, "external_data": external}) + "\n")


def write_epic(file: IO[str], videos: Videos, options: FormatOptions) -> None:
    """Write a submission to the EPIC-Kitchens-100 action detection challenge (C2), from segments of actions.

    Classes become their numbers in the lists of the model, which are the official ones if it was trained on them.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for video, (timeline, found) in by_video_id(videos).items():
        if not set(EPIC_CLASSES) <= timeline.classes.keys():
            raise DataError(
                f"the format epic needs the label sets verb and noun, the model has {', '.join(timeline.classes)}"
            )
        wrong = {one.label_set for one in found} - {joint_name(EPIC_CLASSES)}
        if wrong:
            raise DataError(f"the format epic takes segments of 'action', got {', '.join(sorted(wrong))}")
        rows = []
        for one in found:
            verb, noun = verb_and_noun(timeline, one.label)
            row: dict[str, Any] = {"verb": verb, "noun": noun, "action": f"{verb},{noun}"}
            rows.append(row | {"score": round(one.score, 6), "segment": [seconds(one.start), seconds(one.end)]})
        results[video] = rows
    sizes = {name: len(names) for name, names in (videos[0][0].classes if videos else {}).items()}
    if any(sizes.get(name, size) != size for name, size in EPIC_CLASSES.items()):
        logging.getLogger("vivit").warning(
            "the model has %d verbs and %d nouns, EPIC-Kitchens-100 has %d and %d: the class numbers are not its own",
            *(sizes["verb"], sizes["noun"], EPIC_CLASSES["verb"], EPIC_CLASSES["noun"]),
        )
    levels = dict(zip(("sls_pt", "sls_tl", "sls_td"), options.epic_levels))
    file.write(to_json({"version": EPIC_VERSION, "challenge": "action_detection", **levels, "results": results}) + "\n")


def verb_and_noun(timeline: Timeline, label: str) -> tuple[int, int]:
    """Return the class numbers of "take + cup", whatever the order of the label sets."""
    parts = label.split(JOINT)
    for i in range(1, len(parts)):  # a name may itself hold " + "
        named = dict(zip(timeline.classes, (JOINT.join(parts[:i]), JOINT.join(parts[i:]))))
        if all(named[name] in timeline.classes[name] for name in EPIC_CLASSES if name in named):
            verb, noun = (list(timeline.classes[name]).index(named[name]) for name in EPIC_CLASSES)
            return verb, noun
    raise DataError(f"{label!r} is no action; it must be a verb and a noun of the model, joined by {JOINT!r}")


def by_video_id(videos: Videos) -> dict[str, tuple[Timeline, Sequence[Segment]]]:
    """Return the videos by file name without suffix; v_… of ActivityNet's files is no part of their ids."""
    found: dict[str, tuple[Timeline, Sequence[Segment]]] = {}
    for timeline, several in videos:
        name = Path(timeline.path).stem
        video = name[2:] if re.fullmatch(r"v_.{11}", name) else name
        if video in found:
            raise DataError(
                f"{timeline.path} and {found[video][0].path} both have the id {video!r}; rename one of them"
            )
        found[video] = timeline, several
    return found
