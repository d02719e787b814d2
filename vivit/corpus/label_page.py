"""Serve a page on this machine on which a person labels videos; every change goes into the table at once."""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from ..data.datasets.find_videos import find_videos
from ..data.datasets.label_table import read_table, read_text, table_samples
from ..data.sample import Sample
from ..errors import DataError, VideoError
from ..model.vivit import ViViT
from ..report.html import templates
from ..text import printable
from .label_choice import encode
from .labels import check_folder, path_in_table, write_label_table
from .stamps import read_stamps

LABEL_SET = "label"
BLOCK = 1 << 20  # bytes that are sent at a time
MOST = 1 << 20  # bytes of a request


@dataclass
class Labelling:
    """The videos of a folder, their labels so far, and the table that keeps them."""

    root: Path
    table: Path
    classes: list[str]
    videos: list[str]
    """Paths below the root."""
    labels: dict[str, list[tuple[float | None, float | None, str]]]
    """(start, end, class) of the labelled videos; None: from the beginning, to the end."""
    suggestions: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Class and probability by video."""
    lock: Lock = field(default_factory=Lock)

    def change(self, video: int, segments: Any) -> list[dict[str, Any]]:
        """Replace the labels of a video and write the table; return them with times on borders of frames.

        Raises DataError for an unknown class, an empty segment or two classes of one, and OSError for a full disk.
        """
        path = self.videos[video]
        stamps = read_stamps(str(self.root / path))
        rows: dict[tuple[float | None, float | None], str] = {}
        for one in segments:
            start, end = one["start"], one["end"]
            if start is not None or end is not None:
                start, end = stamps.seconds(*stamps.frames(*(None if t is None else float(t) for t in (start, end))))
            if one["label"] not in self.classes:
                raise DataError(f"{one['label']!r} is not one of the classes: {', '.join(self.classes)}")
            if None not in (one["start"], one["end"]) and not one["start"] < one["end"]:
                raise DataError(f"the segment ends at {one['end']} s, before it starts at {one['start']} s")
            if rows.setdefault((start, end), one["label"]) != one["label"]:
                raise DataError("this segment has another label already; remove that first")
        with self.lock:
            before = self.labels.get(path, [])
            self.labels[path] = [(start, end, label) for (start, end), label in rows.items()]
            try:
                self.write()
            except OSError:
                self.labels[path] = before
                raise
        return self.as_dicts(path)

    def as_dicts(self, path: str) -> list[dict[str, Any]]:
        """Return the labels of a video for JSON."""
        return [{"start": start, "end": end, "label": label} for start, end, label in self.labels.get(path, [])]

    def write(self) -> None:
        """Write the table, all or nothing."""
        samples = [
            Sample(str(self.root / path), {LABEL_SET: label}, start, end)
            for path in self.videos
            for start, end, label in self.labels.get(path, [])
        ]
        write_label_table(self.table, samples, [LABEL_SET])


def open_labelling(root: Path, table: Path, classes: Sequence[str] = ()) -> Labelling:
    """Find the videos of a folder and the labels that the table has already.

    Raises DataError without the folder, a video or a class, for videos outside the folder of the table, and for a table
    of something else.
    """
    check_folder(root)
    videos = [path for path in find_videos(root, thorough=True) if (root / path).is_file()]
    if not videos:
        raise DataError(f"{root}: no video file in this folder")
    for path in videos:
        path_in_table(str(root / path), table)  # before anything is labelled
    labels: dict[str, list[tuple[float | None, float | None, str]]] = {}
    known = list(dict.fromkeys(classes))
    if table.is_file() and len(read_text(table).splitlines()) > 1:
        read = read_table(table)
        if read.label_sets != (LABEL_SET,):
            raise DataError(f"{table}: the page labels one column {LABEL_SET!r}, the table has {read.label_sets}")
        if others := [name for name in read.columns if name not in ("path", "start", "end", LABEL_SET)]:
            raise DataError(f"{table}: the page would drop the columns {', '.join(others)}; give another --out")
        for sample in table_samples(table, read)[0]:
            path = Path(os.path.relpath(sample.path, root)).as_posix()
            if path not in videos:
                raise DataError(f"{table}: {path} is not among the videos of {root}; give another --out")
            labels.setdefault(path, []).append((sample.start, sample.end, sample.labels[LABEL_SET]))
            known = list(dict.fromkeys([*known, sample.labels[LABEL_SET]]))
    if not known:
        raise DataError("no class to label with; name them: --classes open close")
    return Labelling(root, table, known, videos, labels)


def suggest(labelling: Labelling, model: ViViT, workers: int | None = None) -> None:
    """Add the model's most probable class of every video without a label, which the user can accept.

    Raises DataError for a model with several label sets and if none of these videos can be read.
    """
    if len(model.config.classes) != 1:
        raise DataError(f"the page labels one column, the model has the label sets {', '.join(model.config.classes)}")
    [names] = model.config.classes.values()
    labelling.classes = list(dict.fromkeys([*labelling.classes, *names]))
    todo = [path for path in labelling.videos if path not in labelling.labels]
    if not todo:
        return
    found = encode(model, [Sample(str(labelling.root / path), where=path) for path in todo], workers=workers)
    best = found.logits.softmax(dim=1).max(dim=1)
    for sample, p, i in zip(found.samples, best.values.tolist(), best.indices.tolist()):
        labelling.suggestions[sample.where] = names[i], p


class LabelServer(ThreadingHTTPServer):
    """A server on loopback only; port 0 takes a free one. Raises OSError for a port in use."""

    def __init__(self, labelling: Labelling, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.labelling = labelling


class Handler(BaseHTTPRequestHandler):
    """Answers requests of the page: the page itself, parts of videos, and changed labels."""

    protocol_version = "HTTP/1.1"
    server: LabelServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        """Send the page or a video."""
        if not self.is_local():
            return
        labelling = self.server.labelling
        if self.path == "/":
            data = {
                "classes": labelling.classes,
                "videos": [
                    {"path": path, "labels": labelling.as_dicts(path), "suggestion": labelling.suggestions.get(path)}
                    for path in labelling.videos
                ],
            }
            page = (
                templates()
                .get_template("label.html")
                .render(
                    title=printable(f"Labels of {labelling.root.name}"),
                    summary=printable(str(labelling.table)),
                    when="",
                    data=data,
                )
            )
            self.answer(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")
        elif (video := self.video("/video/")) is not None:
            self.send_video(labelling.root / labelling.videos[video])
        else:
            self.answer(HTTPStatus.NOT_FOUND, b"", "text/plain")

    def do_POST(self) -> None:
        """Change the labels of a video."""
        number = self.headers.get("Content-Length", "")
        length = int(number) if re.fullmatch(r"[0-9]{1,9}", number) else 0
        is_json = self.headers.get("Content-Type") == "application/json"  # no form of another site can send it
        video = self.video("/labels/")
        if not self.is_local():
            return
        if not is_json or video is None or not 0 < length <= MOST:
            self.close_connection = True  # what it sent is not read
            self.answer(HTTPStatus.BAD_REQUEST, b"not a change of labels", "text/plain")
            return
        try:
            found = self.server.labelling.change(video, json.loads(self.rfile.read(length)))
            self.answer(HTTPStatus.OK, json.dumps(found).encode(), "application/json")
        except (DataError, VideoError, OSError, ValueError, LookupError, TypeError) as error:
            self.answer(HTTPStatus.BAD_REQUEST, str(error).encode("utf-8", "replace"), "text/plain; charset=utf-8")

    def is_local(self) -> bool:
        """Refuse a request to another name than this machine's, by which a site could reach the page."""
        port = self.server.server_port
        if self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return True
        self.close_connection = True
        self.answer(HTTPStatus.FORBIDDEN, b"this page is for this machine only", "text/plain")
        return False

    def video(self, prefix: str) -> int | None:
        """Return the number of the video in the address, None for another address."""
        number = self.path.removeprefix(prefix)
        if not self.path.startswith(prefix) or not re.fullmatch(r"\d{1,9}", number):
            return None
        return int(number) if int(number) < len(self.server.labelling.videos) else None

    def answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        """Send a complete answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def send_video(self, path: Path) -> None:
        """Send a file, or the part that the player asks for."""
        try:
            file = path.open("rb")
        except OSError as error:
            self.answer(HTTPStatus.NOT_FOUND, str(error).encode("utf-8", "replace"), "text/plain; charset=utf-8")
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            last = min(int(asked[2]) if asked and asked[2] else size - 1, size - 1)
            if first > last:
                self.answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", "text/plain")
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
            self.send_header("Content-Type", mimetypes.guess_type(path.name)[0] or "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last - first + 1))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            file.seek(first)
            left = last - first + 1
            try:
                while left and (block := file.read(min(BLOCK, left))):
                    self.wfile.write(block)
                    left -= len(block)
            except ConnectionError:  # the player has what it wants
                self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""
