"""Labels in the files of other tools: Label Studio, CVAT, FiftyOne, VIA, ActivityNet, EPIC-Kitchens and plain CSV."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from ..data.datasets.label_table import read_rows
from ..data.datasets.registry import official_classes
from ..errors import DataError
from ..files import atomic_write, write_json
from ..text import listing
from .stamps import Stamps

LABEL_SET = "label"  # the name of a label set that a file does not name
EPIC_LABEL_SETS = ("verb", "noun")
EPIC_COLUMNS = (
    *("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"),
    *("start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"),
    "all_noun_classes",
)
VideoKey = Literal["path", "path without suffix", "name"]
"""How a format names a video; the name has neither folder nor suffix."""
URL_PREFIX = "/data/local-files/?d="  # of Label Studio


@dataclass(frozen=True)
class Label:
    """A class of a video or of a segment of it, in seconds or in frames."""

    video: str
    """See `VideoKey`."""
    label: str
    label_set: str = LABEL_SET
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    """The first and the last frame, from 0, in place of start and end."""
    snaps: bool = False
    """Whether start and end are those of a clock of the tool, to be moved to the nearest borders of frames."""


Labels = dict[str, tuple[Stamps, list[Label]]]
"""Time stamps and labels, with start and end, by the path of the video."""


def write_label_studio(out: Path, videos: Labels) -> None:
    """Write tasks with annotations. Their frames count from 1 at data.fps, and the last one is part of a region."""
    tasks = []
    for path, (stamps, labels) in videos.items():
        rate, regions = stamps.clock_rate, []
        for i, one in enumerate(labels):
            first, last = stamps.frames(one.start, one.end)
            begin = round(stamps.bounds[first] * rate) + 1
            end = max(round(stamps.bounds[last + 1] * rate), begin)
            value = {"ranges": [{"start": begin, "end": end}], "timelinelabels": [one.label]}
            region = {"id": f"s{i}", "type": "timelinelabels", "from_name": one.label_set, "to_name": "video"}
            regions.append(region | {"value": value})
        data = {"video": URL_PREFIX + quote(os.fsencode(path)), "fps": rate}
        tasks.append({"data": data, "annotations": [{"result": regions}]})
    write_json(out, tasks)


def read_label_studio(file: Path) -> Iterator[Label]:
    """Read the timeline labels of exported tasks, also those of predictions where nothing was annotated.

    An annotation that was cancelled, because the task was skipped, has none.
    """
    for task in read_json(file, list):
        data = task["data"]
        video = unquote(data["video"].partition("?d=")[2] or data["video"], errors="surrogateescape")
        rate = float(data.get("fps", 25.0))
        for annotation in task.get("annotations") or task.get("predictions") or []:
            for region in [] if annotation.get("was_cancelled") else annotation["result"]:
                if region["type"] != "timelinelabels":
                    continue
                name = LABEL_SET if region["from_name"] == "timeline" else region["from_name"]
                for part in region["value"]["ranges"]:
                    start, end = (part["start"] - 1) / rate, part["end"] / rate
                    for label in region["value"]["timelinelabels"]:
                        yield Label(video, label, name, start, end, snaps=True)


def write_cvat(out: Path, videos: Labels) -> None:
    """Write the XML "CVAT for video 1.1" of each video into a folder; a segment is a track of a full-frame box."""
    names: set[str] = set()
    for path, (stamps, labels) in videos.items():
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        for name, text in (("name", path), ("size", str(len(stamps.times))), ("mode", "interpolation")):
            ElementTree.SubElement(task, name).text = text
        known = ElementTree.SubElement(task, "labels")
        for label in sorted({one.label for one in labels}):
            ElementTree.SubElement(ElementTree.SubElement(known, "label"), "name").text = label
        for i, one in enumerate(labels):
            track = ElementTree.SubElement(root, "track", id=str(i), label=one.label, source="manual")
            first, last = stamps.frames(one.start, one.end)
            frames = [(first, 0), (last, 0)][: 1 + (last > first)]
            frames += [(last + 1, 1)] if last + 1 < len(stamps.times) else []
            for frame, outside in frames:
                corners = {"xtl": "0", "ytl": "0", "xbr": str(stamps.size[0]), "ybr": str(stamps.size[1])}
                flags = {"frame": str(frame), "outside": str(outside), "occluded": "0", "keyframe": "1"}
                box = ElementTree.SubElement(track, "box", flags | corners)
                ElementTree.SubElement(box, "attribute", name="label_set").text = one.label_set
        name = path.replace("/", "_") + ".xml"
        if name in names:
            raise DataError(f"{path}: another video has the same name {name}; rename one of them")
        names.add(name)
        with atomic_write(out / name, "wb") as file:
            ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def read_cvat(file: Path) -> Iterator[Label]:
    """Read the tracks of an XML file "CVAT for video", or of all in a folder: a label lasts while its box is shown."""
    for path in sorted(file.glob("*.xml")) if file.is_dir() else [file]:
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            raise DataError(f"{path}: not XML: {error}") from error
        video = root.findtext("meta/task/name") or root.findtext("meta/task/source")
        if not video:
            raise DataError(f"{path}: no meta/task/name; export the task as 'CVAT for video 1.1'")
        for track in root.iter("track"):
            name = track.findtext("*/attribute[@name='label_set']") or LABEL_SET
            first = last = None
            for shape in track:
                frame, outside = int(shape.attrib["frame"]), shape.attrib["outside"] == "1"
                if first is not None and last is not None and outside:
                    yield Label(video, track.attrib["label"], name, frames=(first, frame - 1))
                    first = last = None
                elif not outside:
                    first, last = frame if first is None else first, frame
            if first is not None and last is not None:
                yield Label(video, track.attrib["label"], name, frames=(first, last))


def write_fiftyone(out: Path, videos: Labels) -> None:
    """Write labels.json of FiftyOne's temporal detections; an id is the path without suffix, frames count from 1."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, (stamps, labels) in videos.items():
        rows = []
        for one in labels:
            first, last = stamps.frames(one.start, one.end)
            name = {"attributes": {"label_set": one.label_set}}
            rows.append({"label": one.label, "support": [first + 1, last + 1]} | name)
        found[unique_id(os.path.splitext(path)[0], path, found)] = rows
    classes = sorted({one.label for _, labels in videos.values() for one in labels})
    write_json(out, {"classes": classes, "labels": found})


def read_fiftyone(file: Path) -> Iterator[Label]:
    """Read temporal detections, by frames (`support`) or by seconds (`timestamps`)."""
    content = read_json(file, dict)
    for video, rows in content["labels"].items():
        for row in rows or []:
            label = content["classes"][row["label"]] if isinstance(row["label"], int) else row["label"]
            name = row.get("attributes", {}).get("label_set", LABEL_SET)
            if "support" in row:
                first, last = row["support"]
                yield Label(video, label, name, frames=(first - 1, last - 1))
            else:
                start, end = row["timestamps"]
                yield Label(video, label, name, float(start), float(end))


def write_via(out: Path, videos: Labels) -> None:
    """Write a project of the VGG Video Annotator, version 3: a list of options per label set, times in seconds."""
    options: dict[str, list[str]] = {}
    for _, labels in videos.values():
        for one in labels:
            options.setdefault(one.label_set, [])
            if one.label not in options[one.label_set]:
                options[one.label_set].append(one.label)
    number = {name: str(i) for i, name in enumerate(options, start=1)}
    attributes = {
        number[name]: {
            "aname": name,
            "anchor_id": "FILE1_Z2_XY0",
            "type": 4,
            "desc": "",
            "options": {str(i): label for i, label in enumerate(labels)},
            "default_option_id": "",
        }
        for name, labels in options.items()
    }
    files, views, metadata = {}, {}, {}
    for i, (path, (stamps, labels)) in enumerate(videos.items(), start=1):
        files[str(i)] = {"fid": str(i), "fname": path, "type": 4, "loc": 1, "src": path}
        views[str(i)] = {"fid_list": [str(i)]}
        for j, one in enumerate(labels):
            value = {number[one.label_set]: str(options[one.label_set].index(one.label))}
            times = list(stamps.closed(one.start, one.end))
            metadata[f"{i}_{j:08}"] = {"vid": str(i), "flg": 0, "z": times, "xy": [], "av": value}
    project = {"pid": "__VIA_PROJECT_ID__", "rev": "1", "pname": "vivit", "vid_list": [*views]}
    project |= {"data_format_version": "3.1.1"}
    config = {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}}
    rest = {"attribute": attributes, "file": files, "view": views, "metadata": metadata}
    write_json(out, {"project": project, "config": config, **rest})


def read_via(file: Path) -> Iterator[Label]:
    """Read the temporal segments of a VIA 3 project, and labels without times as those of whole videos.

    A value is the number of an option, of a checkbox several with commas, or text where there are no options.
    """
    content = read_json(file, dict)
    problems = []
    for one in content["metadata"].values():
        source = content["file"][str(content["view"][str(one["vid"])]["fid_list"][0])]
        start, end = map(float, one["z"]) if len(one["z"]) == 2 else (None, None)
        for number, value in one["av"].items():
            attribute = content["attribute"][number]
            options = attribute["options"]
            for part in value.split(",") if options else [value]:
                if options and part and part not in options:
                    problems.append(
                        f"{source['fname']}: {attribute['aname']} is option {part!r} of {', '.join(options)}"
                    )
                yield Label(source["fname"], options.get(part, part), attribute["aname"], start, end)
    if problems:
        raise DataError(listing(f"{file}: unknown options", problems))


def write_activitynet(out: Path, videos: Labels) -> None:
    """Write the ground truth that ActivityNet's evaluation reads; a video is known by its name without suffix."""
    database: dict[str, Any] = {}
    for path, (stamps, labels) in videos.items():
        rows = [
            {"segment": list(stamps.closed(one.start, one.end)), "label": one.label, "label_set": one.label_set}
            for one in labels
        ]
        video = unique_id(Path(path).stem, path, database)
        database[video] = {"duration": stamps.duration, "subset": "validation", "annotations": rows}
    write_json(out, {"version": "VERSION 1.3", "taxonomy": [], "database": database})


def read_activitynet(file: Path) -> Iterator[Label]:
    """Read the annotations of a ground truth of ActivityNet."""
    for video, entry in read_json(file, dict)["database"].items():
        for one in entry["annotations"]:
            start, end = one["segment"]
            yield Label(video, one["label"], one.get("label_set", LABEL_SET), float(start), float(end))


def write_csv(out: Path, videos: Labels) -> None:
    """Write a row per label, with its seconds and its frames from 0."""
    with atomic_write(out, newline="", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "start", "end", "start_frame", "end_frame", "label_set", "label"])
        for path, (stamps, labels) in videos.items():
            for one in labels:
                frames = stamps.frames(one.start, one.end)
                times = stamps.closed(one.start, one.end)
                table.writerow([path, *times, *frames, one.label_set, one.label])


def read_csv(file: Path) -> Iterator[Label]:
    """Read a table with path, label and start and end in seconds or, without those, start_frame and end_frame."""
    for _, row in read_rows(file):
        name = row.get("label_set") or LABEL_SET
        start, end = (float(row[key]) if row.get(key) else None for key in ("start", "end"))
        frames = None
        if start is end is None and row.get("start_frame"):
            frames = int(row["start_frame"]), int(row["end_frame"])
        yield Label(row["path"], row["label"], name, start, end, frames)


def write_epic(out: Path, videos: Labels) -> None:
    """Write the annotations of EPIC-Kitchens-100 into a folder: EPIC_100_train.csv and the lists of classes.

    Timestamps are rounded to microseconds, start_frame and stop_frame are those of the file, from 1. Raises DataError
    unless the label sets are verb and noun.
    """
    every = [one for _, labels in videos.values() for one in labels]
    classes = {name: sorted({one.label for one in every if one.label_set == name}) for name in EPIC_LABEL_SETS}
    if {one.label_set for one in every} != set(EPIC_LABEL_SETS):
        raise DataError(f"epic takes the label sets verb and noun, got {', '.join({one.label_set for one in every})}")
    for name, labels in classes.items():
        with atomic_write(out / f"EPIC_100_{name}_classes.csv", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("id", "key"), *enumerate(labels)])
    with atomic_write(out / "EPIC_100_train.csv", newline="") as file:
        table, ids = csv.writer(file, lineterminator="\n"), dict[str, str]()
        table.writerow(EPIC_COLUMNS)
        for path, (stamps, labels) in videos.items():
            video = unique_id(Path(path).stem, path, ids)
            ids[video] = path
            for i, pair in enumerate(zip(labels[::2], labels[1::2])):
                names = {one.label_set: one.label for one in pair}
                verb, noun = names["verb"], names["noun"]
                start, stop = map(format_clock, stamps.closed(pair[0].start, pair[0].end))
                first, last = stamps.frames(pair[0].start, pair[0].end)
                numbers = classes["verb"].index(verb), classes["noun"].index(noun)
                cells = [f"{video}_{i}", video.partition("_")[0], video, start, start, stop, first + 1, last + 1]
                cells += [f"{verb} {noun}", verb, numbers[0], noun, numbers[1], [noun], [numbers[1]]]
                table.writerow(cells)


def read_epic(file: Path) -> Iterator[Label]:
    """Read EPIC_100_train.csv, or the CSV given, with the lists of classes in the same folder."""
    table = file / "EPIC_100_train.csv" if file.is_dir() else file
    classes = official_classes("epic_kitchens", str(table.parent))
    for _, row in read_rows(table):
        start, end = (parse_clock(row[f"{name}_timestamp"]) for name in ("start", "stop"))
        for name in EPIC_LABEL_SETS:
            yield Label(row["video_id"], classes[name][int(row[f"{name}_class"])], name, start, end)


def format_clock(seconds: float) -> str:
    """Format as 00:01:02.500000."""
    minutes, rest = divmod(round(seconds * 1e6), 60_000_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1_000_000:02}.{rest % 1_000_000:06}"


def parse_clock(text: str) -> float:
    """Return the seconds of 00:01:02.50. Raises ValueError."""
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def unique_id(video: str, path: str, others: dict[str, Any]) -> str:
    """Return the id of a video. Raises DataError if another one has it."""
    if video in others:
        raise DataError(f"{path}: another video has the id {video!r} too; rename one of them")
    return video


def read_json(path: Path, kind: type) -> Any:
    """Read a JSON list or object. Raises DataError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{path}: a JSON {'list' if kind is list else 'object'} is expected, got {str(value)[:60]}")
    return value


@dataclass(frozen=True)
class LabelFormat:
    """How to write and read the labels of a tool."""

    write: Callable[[Path, Labels], None]
    """(file or folder, labels) → None"""
    read: Callable[[Path], Iterator[Label]]
    key: VideoKey = "path"


FORMATS = {
    "label-studio": LabelFormat(write_label_studio, read_label_studio),
    "cvat": LabelFormat(write_cvat, read_cvat),
    "fiftyone": LabelFormat(write_fiftyone, read_fiftyone, "path without suffix"),
    "via": LabelFormat(write_via, read_via),
    "activitynet": LabelFormat(write_activitynet, read_activitynet, "name"),
    "epic": LabelFormat(write_epic, read_epic, "name"),
    "csv": LabelFormat(write_csv, read_csv),
}


def read_labels(file: Path, name: str) -> Sequence[Label]:
    """Read all labels of a file. Raises DataError that names the file for one of another form."""
    try:
        return [*FORMATS[name].read(file)]
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: not a file of {name}, or a damaged one ({type(error).__name__}: {error})") from error
