"""Events of a stream: segments of its label sets, as they end, and a webhook that gets them."""

from __future__ import annotations

import json
import queue
import re
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..text import printable
from .segments import Segment, SegmentParams, SegmentStream

WAITING = 100  # events that wait for a slow webhook; more are dropped
TIMEOUT = 3.0  # seconds for one request


class Events:
    """The segments of all label sets of a stream, row by row. A row of another connection starts anew.

    Raises ValueError for thresholds of a class that no label set has.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], hop: float, params: SegmentParams):
        params.check_names(classes)
        self.classes, self.hop, self.params = classes, hop, params
        self.connection = 0
        self.streams = self._open()

    def _open(self) -> list[SegmentStream]:
        return [SegmentStream(names, name, hop=self.hop, params=self.params) for name, names in self.classes.items()]

    def push(self, start: float, end: float, center: float, logits: np.ndarray, connection: int) -> list[Segment]:
        """Take a row, logits (K,); return the segments that it ends."""
        ended = []
        if connection != self.connection:
            ended, self.connection = self.finish(), connection
        begin = 0
        for stream in self.streams:
            part = logits[begin : begin + len(stream.names)].astype(np.float64)
            begin += len(stream.names)
            powers = np.exp(part - part.max())
            ended += stream.push(center, start, end, powers / powers.sum())
        return ended

    def finish(self) -> list[Segment]:
        """Return the segments that the end of the stream ends."""
        ended = [segment for stream in self.streams for segment in stream.finish()]
        self.streams = self._open()
        return ended


class Webhook:
    """Send events to a URL as JSON, in a thread of its own: a slow or dead receiver never delays the stream."""

    def __init__(self, url: str, log: Callable[[str], None]):
        try:
            parts = urlsplit(url)
            is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s\x00-\x1f]", url)
            is_one = is_one and parts.port != 0  # raises for a port that is no number
        except ValueError:
            is_one = False
        if not is_one:
            raise ValueError(f"webhook is {url!r}; it takes a URL such as http://host/path or https://host:8443/path")
        self.url, self.log = url, log
        self.failed = self.dropped = 0
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()

    def put(self, event: dict[str, Any]) -> None:
        """Queue an event; it is dropped, and counted, if too many wait."""
        try:
            self.events.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def close(self, seconds: float = 2 * TIMEOUT) -> None:
        """Wait at most `seconds` for the events that wait, and say how many were not delivered."""
        with suppress(queue.Full):
            self.events.put(None, timeout=seconds)
        self.thread.join(seconds)
        if undelivered := self.failed + self.dropped + self.events.qsize():
            self.log(f"{undelivered} events were not delivered to {self.url}")

    def _send(self) -> None:
        while (event := self.events.get()) is not None:
            request = urllib.request.Request(
                self.url, json.dumps(event).encode(), {"Content-Type": "application/json"}, method="POST"
            )
            try:
                urllib.request.urlopen(request, timeout=TIMEOUT).close()  # noqa: S310  http and https only
            except Exception as error:  # HTTPException is no OSError, and the thread must not end
                self.failed += 1
                if self.failed == 1:
                    said = printable(f"{type(error).__name__}: {error}")
                    self.log(f"webhook {self.url}: {said}; the stream continues; further failures are counted")
