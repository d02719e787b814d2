"""Events of a stream are the segments of its timeline; a webhook gets them and never delays it."""

from __future__ import annotations

import json
import socket
import threading
import time

import numpy as np
import pytest

from vivit.inference.events import Events, Webhook
from vivit.inference.segments import SegmentParams, Thresholds


def test_another_connection_ends_what_was_going_on():
    events = Events({"label": ["a", "b"]}, 1.0, SegmentParams(Thresholds(min_length=0.0, merge_gap=0.0)))
    sure = np.array([9.0, 0.0], np.float32)
    assert events.push(0, 2, 1, sure, 0) == []
    [first] = events.push(0, 2, 1, sure, 1)
    [second] = events.finish()
    assert (first.label, second.label) == ("a", "a")


def test_a_dead_webhook_neither_stops_nor_delays_anything():
    said = []
    webhook = Webhook("http://127.0.0.1:9/nobody", said.append)
    since = time.monotonic()
    for i in range(1000):
        webhook.put({"event": i})
    assert time.monotonic() - since < 20  # each would wait for an answer
    webhook.close()
    assert "the stream continues" in said[0]
    assert "events were not delivered" in said[-1]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://bad host/", "http:///hook", "http://h:port/", "http://[1/"]
)
def test_a_webhook_is_http_or_https(url):
    with pytest.raises(ValueError, match="it takes a URL such as http://host/path"):
        Webhook(url, print)


def test_a_webhook_goes_on_after_an_answer_that_is_no_http():
    """As of a receiver that speaks TLS: the first answer is an alert, the later ones are 204."""
    got, said = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def answer():
            for reply in (b"\x15\x03\x01\x00\x02\x02\x46", *[b"HTTP/1.1 204 No Content\r\n\r\n"] * 3):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    length = max(int(line.split()[1]) for line in iter(request.readline, b"\r\n") if b"-Length" in line)
                    got.append(json.loads(request.read(length)))
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        webhook = Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/hook", said.append)
        for number in range(4):
            webhook.put({"event": number})
        webhook.close(60)
        thread.join()
    assert got == [{"event": number} for number in range(4)]
    assert webhook.failed == 1
    assert "BadStatusLine" in said[0]
    assert "1 events were not delivered" in said[-1]
