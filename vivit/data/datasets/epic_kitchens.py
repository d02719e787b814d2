"""Read EPIC-Kitchens-100: actions, each a verb and a noun, in long videos.

Videos are files or folders of JPEG frames. An action is the segment between its timestamps, which hold for both. (The
columns start_frame and
stop_frame are the same times at 60 or 50 images a second, rounded down.)
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import DataError
from ...text import listing
from ..sample import Sample
from .collector import SampleCollector, checked_classes, unknown_label
from .find_videos import is_file_name, name_of, videos_by
from .rows import empty_fields, find_file, parse_segment, table_rows
from .split_names import labelled_split

LABEL_SETS = ("noun", "verb")  # the order of the official heads
TEST = "EPIC_100_test_timestamps.csv"
FILES = {"train": "EPIC_100_train.csv", "val": "EPIC_100_validation.csv"}
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "noun_class", "verb_class")
LAYOUTS = (
    "EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_verb_classes.csv, EPIC_100_noun_classes.csv and, for frames "
    "that you have extracted yourself, EPIC_100_video_info.csv; also in annotations/ or labels/",
    "P01/videos/P01_01.MP4, or P01_01.MP4 in any other folder",
    "P01/rgb_frames/P01_01/frame_0000000001.jpg, or a folder P01_01 of images in any other folder",
)


def read_epic_kitchens(root: Path, split: str, missing: list[str]) -> list[Sample]:
    """Read the actions of a split whose videos are there, in the order of its CSV; frames are preferred to files."""
    name = labelled_split(split, FILES)
    found = SampleCollector(root, missing, LAYOUTS)
    table = find_file(root, [FILES[name]], "the list of actions", found.problems)
    classes = _classes(root, found.problems)
    videos = videos_by(name_of, root, order=lambda path: (is_file_name(path), "rgb" not in path.lower()))
    info = _video_info(root, found.problems)
    rates: dict[str, float | None] = {}
    pairs: dict[tuple[str, ...], dict[str, str]] = {}
    for where, cells in table_rows(table, COLUMNS, found.problems):
        narration_id, video_id, start, stop, *numbers = cells
        wrong = empty_fields(COLUMNS, cells)
        first, last = parse_segment(_seconds(start), _seconds(stop), wrong, ("start_timestamp", "stop_timestamp"))
        if os.sep in video_id:
            wrong.append(f"video_id {video_id!r} is outside {root}")
        for label_set, number in zip(LABEL_SETS, numbers):
            if number and number not in classes[label_set] and classes[label_set]:
                wrong.append(unknown_label(f"{label_set}_class", number, classes[label_set]))
        path = videos.get(video_id)
        if path and video_id not in rates:
            rates[video_id] = None if is_file_name(path) else _rate(path, video_id, info.get(video_id))
        key = tuple(numbers)
        if key not in pairs:
            pairs[key] = {label_set: classes[label_set].get(n, "") for label_set, n in zip(LABEL_SETS, numbers)}
        # Two narrations may describe the same segment in the same way: the official list has such rows.
        action = f"{narration_id} of {video_id}"
        found.add(where, action, path, pairs[key], wrong, start=first, end=last, fps=rates.get(video_id))
    return found.checked()


def read_epic_test(root: Path) -> dict[str, Sample]:
    """Read the actions of the test split by narration_id, in the order of the CSV. The owners keep their labels.

    Raises DataError for rows that cannot be used, and if a video is not there: a submission needs all of them.
    """
    problems: list[str] = []
    table = find_file(root, [TEST], "the list of test actions", problems)
    videos = videos_by(name_of, root, order=lambda path: (is_file_name(path), "rgb" not in path.lower()))
    info = _video_info(root, problems)
    found: dict[str, Sample] = {}
    for where, cells in table_rows(table, COLUMNS[:4], problems):
        narration_id, video_id, start, stop = cells
        wrong = empty_fields(COLUMNS, cells)
        first, last = parse_segment(_seconds(start), _seconds(stop), wrong, ("start_timestamp", "stop_timestamp"))
        path = videos.get(video_id)
        if path is None:
            wrong.append(f"no video {video_id}")
        elif narration_id in found:
            wrong.append(f"{narration_id} again, after {found[narration_id].where}")
        else:
            fps = None if is_file_name(path) else _rate(path, video_id, info.get(video_id))
            found[narration_id] = Sample(path, {}, first, last, where, fps)
        problems += [f"{where}: {w}" for w in wrong]
    if problems:
        raise DataError(listing(f"{root}: test actions that cannot be used", problems))
    return found


def epic_kitchens_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read the nouns, then the verbs, in the order of their numbers."""
    problems: list[str] = []
    classes = _classes(root, problems)
    return checked_classes({name: list(names.values()) for name, names in classes.items()}, problems, root)


def _classes(root: Path, problems: list[str]) -> dict[str, dict[str, str]]:
    """Read the class names by number, as text, for each label set."""
    classes: dict[str, dict[str, str]] = {}
    for label_set in LABEL_SETS:
        names = (f"EPIC_100_{label_set}_classes.csv", f"EPIC_100_{label_set}_classes_v2.csv")
        file = find_file(root, names, f"the list of {label_set}s", problems)
        rows = list(table_rows(file, ("id", "key"), problems))
        classes[label_set] = {number: name for _, (number, name) in rows}
        for expected, (where, (number, _)) in enumerate(rows):
            if number != str(expected):
                problems.append(f"{where}: id {number!r}, where {expected} follows")
    return classes


def _video_info(root: Path, problems: list[str]) -> dict[str, tuple[float, float]]:
    """Read frame rate and duration of the video files; {} without the official file."""
    file = find_file(root, ["EPIC_100_video_info.csv"], "", [])
    info = {}
    for where, (video_id, fps, duration) in table_rows(file, ("video_id", "fps", "duration"), problems):
        try:
            info[video_id] = float(fps), float(duration)
        except ValueError:
            problems.append(f"{where}: fps {fps!r} and duration {duration!r} are no numbers")
    return info


def _rate(folder: str, video_id: str, info: tuple[float, float] | None) -> float:
    """Return the images per second of a folder of frames.

    The official frames were extracted at 60 a second from videos with two digits (P01_01) and at 50 from those with
    three, whatever the video's own rate. Your own frames may have the video's rate: the number of images tells.
    """
    official = 60.0 if re.fullmatch(r"P\d+_\d\d", video_id) else 50.0
    if info is None:
        return official
    fps, duration = info
    slow, fast = sorted((official, fps))
    between = round(duration * (slow + fast) / 2)
    return fast if os.path.exists(os.path.join(folder, f"frame_{between:010d}.jpg")) else slow


def _seconds(timestamp: str) -> float | str:
    """Parse 00:01:02.50 to 62.5; return other text as it is."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)", timestamp)
    if not match:
        return timestamp
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
