"""Events of a stream are the segments of its timeline; a webhook gets them and never delays it."""

from __future__ import annotations

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


def test_a_webhook_is_http_or_https():
    with pytest.raises(ValueError, match="http"):
        Webhook("file:///etc/passwd", print)
