"""The page for labelling: in a real browser, and what its server refuses."""

import http.client
import json
import os
import threading

import pytest

from vivit.corpus.label_page import LabelServer, open_labelling
from vivit.data.tools.synthetic import render, write_video
from vivit.errors import DataError

from ..report.browser import CHROMIUM, Browser


@pytest.fixture
def root(tmp_path, request):
    root = tmp_path / getattr(request, "param", ".")
    root.mkdir(exist_ok=True)
    for i in range(3):
        write_video(root / f"{i} é#?.mp4", render(i, "val", 0, num_frames=40)[0])
    return root


@pytest.fixture
def serve(root):
    servers = []

    def start(classes=("open", "close <b>")):
        labelling = open_labelling(root, root / "labels.csv", classes)
        server = LabelServer(labelling, 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return labelling, server.server_port

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def request(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer
    finally:
        connection.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium")
def test_keys_label_videos_and_segments_and_the_page_resumes(root, serve, tmp_path_factory):
    labelling, port = serve()
    labelling.suggestions["1 é#?.mp4"] = ("close <b>", 0.75)
    table = root / "labels.csv"
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        browser.wait("location.port && typeof video !== 'undefined' && video.readyState >= 2")
        browser.press("1")
        browser.wait("current === 1 && document.getElementById('suggestion').textContent.includes('close <b> (75 %)')")
        assert table.read_text() == "path,start,end,label\n0 é#?.mp4,,,open\n"
        browser.press("Enter")
        browser.wait("current === 2 && video.readyState >= 2")
        browser.evaluate("video.pause(); video.currentTime = 0.51; new Promise(done => video.onseeked = () => done(1))")
        browser.press("i")
        browser.evaluate("video.currentTime = 1.24; new Promise(done => video.onseeked = () => done(1))")
        browser.press("o")
        assert browser.evaluate("document.getElementById('range').textContent") == "segment 0.51 s – 1.24 s"
        browser.press("2")
        browser.wait("videos[2].labels.length === 1")
        assert table.read_text().splitlines()[2:] == ["1 é#?.mp4,,,close <b>", "2 é#?.mp4,0.5,1.25,close <b>"]
        assert browser.evaluate("document.getElementById('count').textContent") == "3 of 3 videos labelled"
        browser.press("Backspace")
        browser.wait("videos[2].labels.length === 0")
        browser.press("p")
        browser.press("p")
        browser.press("2")
        browser.wait("videos[0].labels[0].label === 'close <b>'")
    assert table.read_text() == "path,start,end,label\n0 é#?.mp4,,,close <b>\n1 é#?.mp4,,,close <b>\n"
    again, _ = serve(classes=())
    assert again.labels == {"0 é#?.mp4": [(None, None, "close <b>")], "1 é#?.mp4": [(None, None, "close <b>")]}
    assert again.classes == ["close <b>"]


def test_parts_of_videos_are_sent_as_players_ask(root, serve):
    _, port = serve()
    content = (root / "0 é#?.mp4").read_bytes()
    assert request(port, "GET", "/video/0")[:2] == (200, content)
    status, body, answer = request(port, "GET", "/video/0", Range="bytes=10-19")
    assert (status, body) == (206, content[10:20])
    assert answer.headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    assert request(port, "GET", "/video/0", Range=f"bytes={len(content) - 5}-")[:2] == (206, content[-5:])
    assert request(port, "GET", "/video/0", Range=f"bytes={len(content)}-")[0] == 416


def test_only_the_page_of_this_machine_may_read_and_change(root, serve, capfd):
    _, port = serve()
    change = json.dumps([{"start": None, "end": None, "label": "open"}])
    as_json = {"Content-Type": "application/json"}
    assert request(port, "GET", "/", Host="evil.example")[0] == 403
    assert request(port, "POST", "/labels/0", change, **as_json, Host="evil.example")[0] == 403
    assert request(port, "POST", "/labels/0", change, **{"Content-Type": "text/plain"})[0] == 400
    for length in ("abc", "-1", "²"):
        assert request(port, "POST", "/labels/0", **as_json, **{"Content-Length": length})[0] == 400
    for path in ("/video/3", "/video/-1", "/video/../labels.csv", "/labels.csv", "/video/"):
        assert request(port, "GET", path)[0] == 404
    assert not (root / "labels.csv").exists()
    assert request(port, "POST", "/labels/0", change, **as_json)[0] == 200
    for wrong, problem in (
        ([{"start": None, "end": None, "label": "shut"}], "'shut' is not one of the classes: open, close <b>"),
        ([{"start": 1, "end": 0.5, "label": "open"}], "before it starts"),
        ([{"start": 0.5, "end": 1, "label": name} for name in ("open", "close <b>")], "another label already"),
        ([{"label": "open"}], "start"),
    ):
        status, body, _ = request(port, "POST", "/labels/0", json.dumps(wrong), **as_json)
        assert (status, problem in body.decode()) == (400, True), body
    assert (root / "labels.csv").read_text() == "path,start,end,label\n0 é#?.mp4,,,open\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("root", [os.fsdecode(b"videos \xff")], indirect=True)
def test_a_table_with_a_name_that_is_not_utf_8_is_read_again(root, serve, capfd):
    name = os.fsdecode(b"\xff.mp4")
    (root / "0 é#?.mp4").rename(root / name)
    labelling, port = serve()
    change = json.dumps([{"start": None, "end": None, "label": "open"}])
    video = labelling.videos.index(name)
    assert request(port, "POST", f"/labels/{video}", change, **{"Content-Type": "application/json"})[0] == 200
    again, port = serve(classes=())
    assert again.labels == {name: [(None, None, "open")]}
    status, page, _ = request(port, "GET", "/")
    assert (status, b"\\udcff.mp4" in page) == (200, True)
    assert request(port, "GET", f"/video/{video}")[0] == 200
    (root / "labels.csv").write_bytes("path,label\n1 é#?.mp4,geöffnet\n".encode("cp1252"))
    with pytest.raises(DataError, match="labels.csv.*:2"):
        open_labelling(root, root / "labels.csv", ["a"])
    assert capfd.readouterr().err == ""


def test_what_cannot_be_labelled_is_refused(root, tmp_path_factory):
    with pytest.raises(DataError, match="no class to label with"):
        open_labelling(root, root / "labels.csv")
    with pytest.raises(DataError, match="no video file in this folder"):
        open_labelling(tmp_path_factory.mktemp("empty"), root / "labels.csv", ["a"])
    with pytest.raises(DataError, match="0 é#.*is outside .*elsewhere, the folder of labels.csv; give an --out above"):
        open_labelling(root, root / "elsewhere" / "labels.csv", ["a"])
    (root / "labels.csv").write_text("path,verb,noun\n0 é#?.mp4,a,b\n")
    with pytest.raises(DataError, match="labels one column 'label', the table has"):
        open_labelling(root, root / "labels.csv", ["a"])
    table = "path,split,label\n0 é#?.mp4,train,a\n"
    (root / "labels.csv").write_text(table)
    with pytest.raises(DataError, match="would drop the columns split; give another --out"):
        open_labelling(root, root / "labels.csv", ["a"])
    assert (root / "labels.csv").read_text() == table
