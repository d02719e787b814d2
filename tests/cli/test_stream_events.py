"""`vivit stream --events --webhook`: what a stream tells about its segments."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import vivit as package
from vivit.inference.segments import segments

from ..data.videos import counter_frames, write_video
from ..model import tiny


@pytest.fixture
def receiver():
    """A server on loopback and the list of what it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("option", ["background", "thresholds"])
def test_a_class_that_the_model_does_not_have_is_refused_before_the_stream_is_opened(vivit, tmp_path, option):
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    thresholds = tmp_path / "thresholds.json"
    thresholds.write_text('{"segments": {"classes": {"absent": {"on": 0.4, "off": 0.2}}}}')
    value = {"background": "absent", "thresholds": thresholds}[option]
    code, out, err = vivit("stream", weights, "none.mp4", "--events", f"--{option}", value, "--device", "cpu")
    assert (code, out, "unknown class 'absent'" in err) == (2, "", True), err


def test_a_streams_events_are_the_segments_of_the_timeline(vivit, tmp_path, receiver):
    url, got = receiver
    weights = tiny.model(classes={"noun": ("a", "b"), "verb": ("c", "d", "e")}).save_pretrained(tmp_path / "weights")
    video = write_video(tmp_path / "a.mp4", counter_frames(60))
    code, out, _ = vivit("stream", weights, video, "--events", "--webhook", url, "--device", "cpu")
    assert code == 0
    events = [line["event"] for line in map(json.loads, out.splitlines()) if "event" in line]
    timeline = package.timeline(package.from_pretrained(weights), video)
    expected = [s for name in ("noun", "verb") for s in segments(timeline, name)]
    key = lambda e: (e["label_set"], e["start"], e["label"])  # noqa: E731
    assert sorted(events, key=key) == sorted(
        ({name: getattr(s, name) for name in ("start", "end", "label", "score", "label_set")} for s in expected),
        key=key,
    )
    assert expected
    assert [message["event"] for message in got] == events
