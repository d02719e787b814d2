"""Streams take a recording in chunks, and give the rows of `vivit stream`; none outlives its client."""

import io
import os
import signal
import socket
import time
from contextlib import suppress
from itertools import pairwise

import av
import numpy as np
import pytest

from vivit.config import Preprocessing
from vivit.data.video.live import Source
from vivit.inference.steps import TorchSteps
from vivit.inference.stream import stream
from vivit.serve.client import ServerError

from ..data.videos import counter_frames
from ..model import tiny
from .conftest import serving
from .test_hardening import ask, files_left

FPS = 25
FORMATS = {
    "webm": ("webm", "libvpx", {"live": "1"}),
    "mp4": ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "mpegts": ("mpegts", "libx264", {}),
}


@pytest.fixture(scope="module")
def server(model):
    with serving(model, silence_seconds=30.0, queue=64) as running:
        yield running


def record(name, frames, fps=FPS):
    """Encode frames as a browser's recorder or a camera does, and return the bytes."""
    kind, codec, options = FORMATS[name]
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options) as container:
        track = container.add_stream(codec, rate=fps, options={"g": "10", "b": "500k"})
        track.height, track.width, track.pix_fmt = *frames.shape[1:3], "yuv420p"
        for image in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(track.encode())
    return file.getvalue()


def cut(data, *, pieces, seed=0):
    """Cut bytes at random places."""
    places = np.random.default_rng(seed).choice(np.arange(1, len(data)), pieces - 1, replace=False)
    return [data[a:b] for a, b in pairwise([0, *sorted(places.tolist()), len(data)])]


def assert_same_rows(rows, expected, model, *, tolerance):
    """Compare rows of the server with those of the package, all classes of them."""
    assert len(rows) == len(expected)
    for row, one in zip(rows, expected):
        told = one.to_dict(model.config.classes, 5)
        for field in ("start", "end", "center", "padded", "connection"):
            assert row[field] == told[field], field
        assert row["dropped"] == 0
        for label_set, top in told["classes"].items():
            found = {best["name"]: best["probability"] for best in row["classes"][label_set]}
            assert found == pytest.approx({best["name"]: best["probability"] for best in top}, abs=tolerance)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("pieces", [1, 40])
def test_the_chunks_of_a_recording_give_the_rows_of_the_whole_to_the_bit(server, tmp_path, name, pieces):
    path = tmp_path / "whole"
    path.write_bytes(record(name, counter_frames(70)))
    rows = list(server.client.stream(cut(path.read_bytes(), pieces=pieces), hop=0.3, top_k=5))
    assert_same_rows(rows, list(stream(server.model, Source(str(path)), hop=0.3)), server.model, tolerance=0)
    assert server.service.streams.open == {}
    assert files_left(server) == []


def test_windows_have_the_rate_of_the_recording(server, tmp_path):
    path = tmp_path / "whole"
    path.write_bytes(record("mpegts", counter_frames(40), fps=10))
    rows = list(server.client.stream(cut(path.read_bytes(), pieces=5), hop=0.8, top_k=5))
    assert_same_rows(rows, list(stream(server.model, Source(str(path)), hop=0.8)), server.model, tolerance=0)
    assert np.diff([row["center"] for row in rows[:-1]]) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "spatiotemporal", "preprocessing": Preprocessing(clip_seconds=0.7)},
        {"tokenizer": "uniform_frames", "sampled_frames": 3, "num_frames": 8, "tubelet_size": (1, 8, 8)},
    ],
)
@pytest.mark.slow
def test_other_models_and_crops_too(tmp_path, given):
    model = tiny.model(**given, classes={"noun": ("cup", "dog", "pen"), "verb": ("put", "take")})
    path = tmp_path / "whole"
    path.write_bytes(record("webm", counter_frames(40)))
    with serving(model) as server:
        rows = list(server.client.stream(cut(path.read_bytes(), pieces=7), hop=0.2, crops=3))
    expected = list(stream(model, Source(str(path)), hop=0.2, crops=3))
    assert_same_rows(rows, expected, model, tolerance=0)


def test_rows_come_while_the_recording_goes_on_and_each_position_is_encoded_once(server):
    frames, seen = counter_frames(100), []

    def chunks():
        for chunk in cut(record("mpegts", frames), pieces=20):
            seen.append(0)
            for one in server.service.streams.open.values():
                engine = one.lane.engine
            yield chunk
            seen[-1] = engine.encoded

    rows = [(len(seen), row) for row in server.client.stream(chunks(), hop=0.08)]
    assert rows[0][0] < 10  # the first row is there before the second half is sent
    assert server.service.engine.model.config.encoder == "factorised_encoder"
    assert 0 < max(seen) <= len(frames) / server.model.config.tubelet_size[0]


def test_where_rows_must_stay_recent_positions_are_left_out(server, monkeypatch):
    data = record("webm", counter_frames(100))
    expected = list(server.client.stream([data], hop=0.16))
    undropped = list(server.client.stream(cut(data, pieces=50), hop=0.16, when_slow="drop"))
    assert [row["center"] for row in undropped] == [row["center"] for row in expected]  # when it is fast enough
    encode, encoded = TorchSteps.encode, []

    def slowly(self, frames):
        encoded.append(len(frames))
        time.sleep(0.1 * len(frames))
        return encode(self, frames)

    monkeypatch.setattr(TorchSteps, "encode", slowly)
    rows = list(server.client.stream([data], hop=0.16, when_slow="drop"))
    assert sum(encoded) < 50 / 2
    assert rows[-1]["dropped"] > 10
    assert len(rows) < len(expected)


def test_streams_are_few_and_end_with_their_client_in_silence_and_in_time(model):
    data = record("mpegts", counter_frames(20))
    with serving(model, streams=1, silence_seconds=4.0, stream_seconds=6.0) as server:

        def opened():
            status, answer, headers = ask(server, "POST", "/v1/streams")
            assert (status, headers["location"]) == (201, f"/v1/streams/{answer['id']}"), answer
            return headers["location"]

        def is_gone(path):
            return ask(server, "POST", path, b"x")[0] == 404

        path = opened()
        status, answer, headers = ask(server, "POST", "/v1/streams")
        assert (status, answer["error"].startswith("1 streams are open; try again in")) == (503, True)
        assert int(headers["retry-after"]) > 0
        assert ask(server, "DELETE", path)[:2] == (200, {"rows": []})  # without a chunk
        assert is_gone(path)

        path = opened()
        time.sleep(1)
        assert ask(server, "POST", path, data)[0] == 200  # not yet silent for too long
        end = time.monotonic() + 120
        while server.service.streams.open and time.monotonic() < end:
            time.sleep(0.05)
        assert is_gone(path)

        path, started = opened(), time.monotonic()
        with suppress(AssertionError):
            while time.monotonic() < started + 120:
                assert ask(server, "POST", path, data)[0] == 200
                time.sleep(0.5)
        assert 3 < time.monotonic() - started < 100  # it had its time
        assert is_gone(path)

        path = opened()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx".encode())
            while not server.service.streams.open[path.rpartition("/")[2]].is_busy:
                time.sleep(0.01)
            status, answer, _ = ask(server, "POST", path, data)
            assert (status, "still being taken" in answer["error"]) == (409, True)
        while server.service.streams.open:  # the client went away in a chunk
            time.sleep(0.01)
        assert is_gone(path)
        assert server.service.killed() == 0  # every stream let go of its process
        assert len(server.service.stream_decoders.workers) == 1
        assert files_left(server) == []


def test_damaged_and_hostile_chunks_end_their_stream_and_no_other(model):
    good = record("mpegts", counter_frames(30))
    with serving(model, streams=2, decode_seconds=2.0, frame_megapixels=0.01, frames=100) as server:
        expected = list(server.client.stream([good], hop=0.2))
        for data, said in (
            (b"no video" * 100_000, "cannot be"),
            (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n" * 1000, "cannot be"),
            (record("mpegts", np.zeros((40, 120, 160, 3), np.uint8)), "has frames of 160x120 pixels"),
            (record("mpegts", counter_frames(101)), "has more than 100 frames"),
        ):
            mine = server.client.stream(cut(good, pieces=3), hop=0.2)
            rows = [next(mine)]  # another stream is open meanwhile
            with pytest.raises(ServerError, match=said) as refused:
                list(server.client.stream([data]))
            assert refused.value.status == 422
            rows += mine
            assert [row["classes"] for row in rows] == [row["classes"] for row in expected]
        assert server.service.killed() == 0
        path = ask(server, "POST", "/v1/streams")[2]["location"]
        [worker] = [one for one in server.service.stream_decoders.workers if one not in idle(server)]
        os.kill(worker.process.pid, signal.SIGSTOP)
        status, answer, _ = ask(server, "POST", path, good)
        assert (status, "the chunk is still being decoded after 2 s" in answer["error"]) == (422, True)
        assert server.service.killed() == 1
        assert ask(server, "POST", path, good)[0] == 404
        path = ask(server, "POST", "/v1/streams")[2]["location"]
        assert ask(server, "POST", path, bytes(4_000_001))[0] == 413
        assert ask(server, "POST", path, b"")[0] == 400
        assert ask(server, "POST", path, good)[0] == 200  # the stream continues
        assert ask(server, "POST", "/v1/streams?when_slow=maybe")[0] == 400
        assert files_left(server) == []
    assert server.service.streams.open == {}


def idle(server):
    return list(server.service.stream_decoders.idle._queue)


def test_only_the_token_opens_a_stream(model):
    with serving(model, token="correct horse battery") as server:
        assert ask(server, "POST", "/v1/streams")[0] == 401
        assert list(server.client.stream([record("webm", counter_frames(10))]))
