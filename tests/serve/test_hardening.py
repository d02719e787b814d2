"""A server that one may expose: limits, tokens, names, hostile files, slow clients, full queues."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import vivit
from vivit.cli.serve import read_token
from vivit.serve.client import Client, ServerError
from vivit.serve.limits import Limits
from vivit.serve.run import is_loopback, make_server

from ..data.videos import write_video
from .conftest import serving
from .test_answers import assert_same_classes

LIMIT = 4_000_000  # bytes, of the fixture


def raw(server, lines, body=b"", seconds=120):
    """Send bytes as they are; return the status and what came back until the server closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split()[1]), answer


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if text[:1] in "{[" and text else text, answer.headers
    finally:
        connection.close()


def files_left(server):
    return [path.name for path in server.service.folder.iterdir()]


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_refused_before_it_is_sent(server, video):
    padded = video.read_bytes() + bytes(LIMIT - video.stat().st_size)  # bytes after the last box are not looked at
    status, answer, _ = ask(server, "POST", "/v1/predict?temporal_views=1&spatial_views=1", padded)
    assert status == 200, answer
    lines = ["POST /v1/predict HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {LIMIT + 1}"]
    status, answer = raw(server, lines)  # no byte of the body is sent
    assert status == 413
    assert b"larger than 4000000 bytes" in answer
    # A client that sends everything before it reads gets the answer too.
    status, answer, _ = ask(server, "POST", "/v1/predict", bytes(3 * LIMIT))
    assert status == 413
    assert "larger than 4000000 bytes" in answer["error"]
    assert files_left(server) == []


@pytest.mark.parametrize("kind", ["application/octet-stream", "multipart/form-data; boundary=x"])
def test_a_chunked_body_is_cut_at_the_limit_and_leaves_nothing_on_the_disk(server, kind):
    form = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
    start = form if "multipart" in kind else b""
    lines = ["POST /v1/predict HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", "Transfer-Encoding: chunked"]
    body = start + bytes(LIMIT + 1 - len(start))
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 50000]), body[i : i + 50000]) for i in range(0, len(body), 50000)
    )
    sent = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        connection.sendall(chunks)  # the end of the body is never sent
        while part := connection.recv(65536):
            sent += part
    assert sent.split()[1] == b"413"
    assert files_left(server) == []


PLAYLISTS = {
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "m3u8 of another file": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "ffconcat": b"ffconcat version 1.0\nfile '{target}'\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    b"a=rtpmap:96 H264/90000\n",
    "dash": b'<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="1">'
    b"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    "address": b"{target}",
    "nothing": b"\0" * 100,
    "text": b"hello " * 100,
    "mov that refers to another file": b"\0\0\0\x14ftypqt  \0\0\0\0qt  \0\0\0\x30moov\0\0\0\x28rmra"
    b"\0\0\0\x20rmda\0\0\0\x18rdrf\0\0\0\0url \0\0\0\x08{target}",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_play_lists_and_addresses_are_refused_and_nothing_is_fetched(server, video, name):
    fetched = []
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)

        def listen():
            with suppress(TimeoutError):
                fetched.append(trap.accept())

        thread = threading.Thread(target=listen)
        thread.start()
        target = f"http://127.0.0.1:{trap.getsockname()[1]}/x.mp4".encode()
        for path in ("/v1/predict", "/v1/explain"):
            status, answer, _ = ask(server, "POST", path, PLAYLISTS[name].replace(b"{target}", target))
            assert status == 422, answer
            assert "the video" in answer["error"]
            assert str(server.service.folder) not in answer["error"]
        thread.join()
    assert fetched == []
    assert files_left(server) == []


def test_frames_and_pixels_beyond_the_limits_are_refused(model, video, tmp_path):
    large = write_video(tmp_path / "large.mp4", np.zeros((3, 400, 600, 3), np.uint8))
    with serving(model, frame_megapixels=0.2, frames=49) as server:
        with pytest.raises(ServerError, match="600x400 pixels; expected at most 0.2 million pixels") as refused:
            server.client.predict(large)
        assert refused.value.status == 422
        with pytest.raises(ServerError, match="has 50 frames; expected at most 49"):
            server.client.predict(video)
        assert server.service.killed() == 0  # these are answers, not crashes


def test_a_decoder_that_hangs_is_killed_and_the_next_request_does_not_wait_for_a_new_one(model, video):
    with serving(model, decode_seconds=2.0) as server:
        decoders = server.service.decoders
        while decoders.idle.qsize() < 2:
            time.sleep(0.05)
        first = decoders.idle._queue[0]
        os.kill(first.process.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ServerError, match="still being decoded after 2 s, and was given up") as refused:
            server.client.predict(video)
        assert refused.value.status == 422
        assert_same_classes(
            server.client.predict(video, temporal_views=1), vivit.predict(model, video, temporal_views=1)
        )
        while first.is_alive:  # it ends aside; the answer does not wait for that
            assert time.monotonic() - started < 120
            time.sleep(0.05)
        assert server.service.killed() == 1
        assert time.monotonic() - started < 2 + 120


def test_a_decoder_beyond_its_memory_is_killed_and_replaced(model, video, tmp_path):
    large = write_video(tmp_path / "large.mp4", np.zeros((40, 1080, 1920, 3), np.uint8))
    with serving(model, memory_mb=40) as server:
        with pytest.raises(ServerError) as refused:
            server.client.predict(large)
        assert refused.value.status == 422
        assert server.client.predict(video, temporal_views=1)["classes"]


def test_a_full_queue_says_when_to_come_back(model, video):
    with serving(model, queue=1, body_grace=20.0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as uploading:
            uploading.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
            while not server.service.requests:
                time.sleep(0.01)
            with pytest.raises(ServerError, match="1 requests are being served") as refused:
                server.client.predict(video)
            assert (refused.value.status, refused.value.retry_after) == (503, 1)
            assert ask(server, "GET", "/readyz")[0] == 503
            assert ask(server, "GET", "/healthz")[0] == 200
        while server.service.requests:  # the client has gone
            time.sleep(0.01)
        assert server.client.predict(video, temporal_views=1)["classes"]


def test_jobs_are_bounded_can_be_stopped_and_leave_no_file(model, video):
    with serving(model, jobs=1, kept_jobs=1) as server:
        first = server.client.submit(video, hop=0.01)
        with pytest.raises(ServerError, match="1 jobs wait or run") as refused:
            server.client.submit(video)
        assert refused.value.status == 503
        server.client.delete(first["id"])
        assert files_left(server) == []
        done = [server.client.submit(video, hop=1) for _ in range(1)]
        last = list(server.client.follow(done[0]["id"]))[-1]
        assert last["status"] == "done", last
        broken = server.client
        bad = ask(server, "POST", "/v1/jobs", b"no video")[1]
        assert list(broken.follow(bad["id"]))[-1]["error"].startswith("the video: cannot be read")
        third = server.client.submit(video, hop=1)
        list(server.client.follow(third["id"]))
        with pytest.raises(ServerError, match="newer results have replaced it"):
            server.client.job(done[0]["id"])


def test_slow_headers_and_slow_bodies_are_cut_off(server):
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        for byte in b"GET /healthz HT":  # one byte at a time does not reset the clock
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        assert connection.recv(100) == b""
    assert 1.5 < time.monotonic() - started < 120
    started = time.monotonic()
    status, answer = raw(server, ["POST /v1/predict HTTP/1.1", "Host: localhost", "Content-Length: 1000"], b"x" * 10)
    assert status == 408
    assert b"too slowly" in answer
    assert 1.5 < time.monotonic() - started < 120
    assert files_left(server) == []


def test_only_the_token_opens_what_computes(model, video):
    token = "correct horse battery"
    with serving(model, token=token) as server:
        assert server.client.predict(video, temporal_views=1)["classes"]
        for wrong in (None, "wrong", token[:-1], token + "x"):
            with pytest.raises(ServerError, match="wrong or missing token") as refused:
                Client(server.url, token=wrong).predict(video)
            assert refused.value.status == 401
        for path, status in (("/v1/model", 401), ("/metrics", 401), ("/v1/jobs/x", 401), ("/", 200), ("/healthz", 200)):
            assert ask(server, "GET", path)[0] == status, path


def test_names_never_become_paths(server):
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.js/../../app.py",
        "/static/x",
        "/v1/jobs/..%2f..%2fx",
    ):
        status, answer, _ = ask(server, "GET", path)
        assert status == 404
        assert "root:" not in str(answer)


def test_pages_of_other_sites_and_rebound_addresses_are_refused(server, video):
    assert ask(server, "GET", "/v1/model", Origin="https://evil.example")[0] == 403
    assert ask(server, "POST", "/v1/predict", video.read_bytes(), Origin="null")[0] == 403
    assert ask(server, "GET", "/v1/model", Host="evil.example:8000")[0] == 403
    own = f"127.0.0.1:{server.port}"
    assert ask(server, "GET", "/v1/model", Host=own, Origin=f"http://{own}")[0] == 200


def test_on_all_networks_names_are_those_that_are_given(model):
    def answers(running, name):
        return ask(running, "GET", "/v1/model", Host=name)[0]

    with serving(model, host="0.0.0.0", names=["Videos.example", "127.0.0.1"], token="x" * 20) as running:
        named = [answers(running, name) for name in ("videos.example", "127.0.0.1:80", "evil.example", "localhost")]
        assert ask(running, "GET", "/healthz", Host="10.0.0.7:8000")[0] == 200  # as a cluster asks
    assert named == [401, 401, 403, 403]
    with serving(model, host="0.0.0.0", token="x" * 20) as running:
        assert answers(running, "evil.example") == 401


def test_every_answer_carries_the_policy(server):
    for path in ("/", "/page.js", "/v1/model", "/nowhere"):
        headers = ask(server, "GET", path)[2]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("top_k=0", "top_k is '0'; it is a whole number at least 1 and at most 1000"),
        ("top_k=1_0", "top_k is '1_0'"),
        ("start=nan", "start is 'nan'"),
        ("start=2&end=1", "end is 1; it must be after start=2"),
        ("topk=3", "unknown parameter 'topk'; did you mean 'top_k'?"),
        ("top_k=1&top_k=2", "top_k is given more than once"),
        ("spatial_views=2", "spatial_views is '2'; it is one of 1, 3"),
        ("label_set=x", "label_set is 'x'; the model has noun, verb"),
    ],
)
def test_wrong_parameters_are_named(server, query, said):
    status, answer, _ = ask(server, "POST", f"/v1/predict?{query}", b"x")
    assert status == 400
    assert said in answer["error"]


def test_bodies_that_are_no_video_are_named(server):
    assert ask(server, "POST", "/v1/predict", b"")[1]["error"].startswith("there is no video in the request")
    assert ask(server, "POST", "/v1/predict", b"{}", Content_Type="application/json")[0] == 415
    form = "multipart/form-data; boundary=x"
    other = b'--x\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nx\r\n--x--\r\n'
    assert "no file called 'video'" in ask(server, "POST", "/v1/predict", other, Content_Type=form)[1]["error"]
    assert ask(server, "POST", "/v1/predict", b"--y", Content_Type=form)[0] == 400


def test_a_server_for_other_machines_warns_without_a_token(model, caplog):
    make_server(model, name="tiny", host="0.0.0.0", port=0)
    assert "there is no token" in caplog.text
    caplog.clear()
    make_server(model, name="tiny", host="0.0.0.0", port=0, token="x" * 20)
    make_server(model, name="tiny", host="127.0.0.1", port=0)
    assert caplog.text == ""
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        *(True, True, True, False, False)
    ]


def test_tokens_are_made_once_readable_by_their_owner_and_long_enough(tmp_path):
    path = tmp_path / "token"
    token = read_token(path)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o077 == 0
    assert read_token(path) == token
    path.write_text("short\n")
    with pytest.raises(ValueError, match="5 characters"):
        read_token(path)


def test_limits_that_cannot_be_are_refused():
    for wrong in ({"queue": 0}, {"body_mb": 0.0}, {"decode_seconds": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)


def test_decoders_know_no_secret_of_the_server(server):
    [worker, *_] = server.service.decoders.workers
    names = {line.split(b"=")[0] for line in Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")}
    assert not {name for name in names if b"TOKEN" in name or b"KEY" in name}
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
    assert "Max file size             0 " in limits
