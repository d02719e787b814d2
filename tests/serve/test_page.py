"""The page in a real browser: choose a video, read the classes, seek along the timeline, see where the model looks."""

import json
import time

import av
import numpy as np
import pytest

from ..data.videos import counter_frames, write_video
from ..report.browser import CHROMIUM, HIDDEN_BUT_SHOWN, Browser
from .conftest import serving

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no chromium"), pytest.mark.slow]
TOKEN = "a token of the test"


@pytest.fixture(scope="module")
def locked(model):
    with serving(model, token=TOKEN, queue=64) as running:
        yield running


def visit(browser, server):
    browser.call("Page.enable")
    listen = "window.broken = []; addEventListener('securitypolicyviolation', (e) => broken.push(e.violatedDirective))"
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=listen)
    browser.call("Page.navigate", url=f"{server.url}/")
    browser.wait("document.readyState === 'complete' && !!window.sessionStorage")


def choose(browser, path):
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def give_token(browser, token):
    browser.wait("!document.getElementById('token-form').hidden")
    browser.evaluate(
        f"document.getElementById('token').value = {json.dumps(token)};"
        "document.querySelector('#token-form button').click()"
    )


def text(browser, id):
    return browser.evaluate(f"document.getElementById({json.dumps(id)}).textContent")


def test_a_video_is_classified_played_and_explained(locked, video, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        visit(browser, locked)
        give_token(browser, "wrong token")
        browser.wait("document.getElementById('about').textContent.includes('wants a token')")
        give_token(browser, TOKEN)
        browser.wait("document.getElementById('about').textContent.startsWith('tiny: 3 classes of noun')")
        choose(browser, video)
        browser.wait("!document.getElementById('over-time').hidden", 120)
        expected = locked.client.predict(video, threshold=0.5)
        for label_set, top in expected["classes"].items():
            assert label_set in text(browser, "classes")
            assert f"{top[0]['name']}" in text(browser, "classes")
            assert f"{100 * top[0]['probability']:.1f} %" in text(browser, "classes")
        assert text(browser, "classes").count("Unsure") >= len(expected["unsure"])
        assert browser.evaluate("document.querySelectorAll('svg.lane').length") == 5  # all classes
        box = browser.evaluate(
            "(() => { lanes.scrollIntoView(); const box = lanes.getBoundingClientRect();"
            " return [box.left, box.width, box.top] })()"
        )
        browser.click(box[0] + box[1] / 2, box[2] + 40)
        browser.wait("Math.abs(video.currentTime - timeline.video.seconds / 2) < 0.1")
        browser.press("ArrowLeft")
        browser.wait("video.currentTime === 0")
        assert browser.evaluate("parseFloat(document.getElementById('playhead').style.left)") == 0
        browser.evaluate("document.getElementById('explain').click()")
        browser.wait("document.querySelectorAll('#moments img').length > 0", 120)
        assert "random order" in text(browser, "why")
        assert browser.evaluate(HIDDEN_BUT_SHOWN) == []
        assert browser.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert browser.evaluate("document.getElementById('problem').hidden")
        for width, dark in ((1300, False), (390, False), (390, True)):
            browser.resize(width, 900, dark=dark)
            time.sleep(0.2)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            browser.picture(tmp_path / f"page_{width}{'_dark' if dark else ''}.png")
        assert browser.evaluate("broken") == []
        names = browser.call("Accessibility.getFullAXTree")["nodes"]
        unnamed = [
            node
            for node in names
            if node.get("role", {}).get("value") in ("button", "image", "progressbar", "textbox")
            and not node.get("ignored")
            and not node.get("name", {}).get("value")
        ]
        assert unnamed == []
        assert locked.service.jobs.jobs == {}  # the page has tidied up


def test_a_file_that_is_no_video_is_named_and_the_page_takes_the_next_one(locked, video, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    with Browser(tmp_path / "profile", width=390) as browser:
        visit(browser, locked)
        give_token(browser, TOKEN)
        choose(browser, tmp_path / "notes.mp4")
        browser.wait("!document.getElementById('problem').hidden", 120)
        assert text(browser, "problem").startswith("the video cannot be read as a video")
        (tmp_path / "large.mp4").write_bytes(bytes(4_000_001))
        choose(browser, tmp_path / "large.mp4")
        browser.wait("document.getElementById('problem').textContent.startsWith('The video has 5 MB')")
        assert browser.evaluate("document.getElementById('file').files.length") == 0  # it can be chosen again
        choose(browser, video)
        browser.wait("!document.getElementById('over-time').hidden", 120)
        assert browser.evaluate("document.getElementById('problem').hidden")


def test_the_camera_is_one_stream_until_it_is_stopped(model, tmp_path):
    still = np.repeat(counter_frames(5, 240, 320)[4:], 40, axis=0)
    film = write_video(tmp_path / "film.mp4", still)
    planes = av.VideoFrame.from_ndarray(still[0], format="rgb24").to_ndarray(format="yuv420p").tobytes()
    (tmp_path / "film.y4m").write_bytes(b"YUV4MPEG2 W320 H240 F25:1 Ip A1:1 C420\n" + (b"FRAME\n" + planes) * 40)
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    options += [f"--use-file-for-fake-video-capture={tmp_path / 'film.y4m'}"]  # again and again
    with serving(model, streams=1) as server, Browser(tmp_path / "profile", options=options) as browser:
        visit(browser, server)
        browser.evaluate("document.getElementById('camera').click()")
        browser.wait("document.querySelectorAll('#classes dt').length === 5 || !problem.hidden", 120)
        assert text(browser, "problem") == ""
        [one] = server.service.streams.open.values()
        rows = one.lane.statistics.rows
        browser.evaluate("document.getElementById('classes').replaceChildren()")
        browser.wait("document.querySelectorAll('#classes dt').length === 5 || !problem.hidden", 120)  # the next row
        assert text(browser, "problem") == ""
        assert [*server.service.streams.open.values()] == [one]  # still the same stream
        assert one.lane.statistics.rows > rows
        expected = server.client.predict(film, temporal_views=1, spatial_views=1)["classes"]
        shown = browser.evaluate(
            "[...document.querySelectorAll('#classes dd:not([aria-hidden])')].map((d) => d.textContent)"
        )
        wanted = [100 * one["probability"] for top in expected.values() for one in top]
        assert [float(percent.removesuffix(" %")) for percent in shown] == pytest.approx(wanted, abs=3)
        for label_set, [best, *_] in expected.items():
            said = best["name"] if best["probability"] >= 0.5 else f"unsure of {label_set}"
            assert said in text(browser, "status")
        browser.resize(390, 900)
        browser.picture(tmp_path / "camera.png")
        browser.evaluate("document.getElementById('camera').click()")
        assert browser.evaluate("document.getElementById('video').srcObject === null")
        assert browser.evaluate("broken") == []
        end = time.monotonic() + 120
        while server.service.streams.open and time.monotonic() < end:
            time.sleep(0.05)
        assert server.service.streams.open == {}
        browser.evaluate("document.getElementById('camera').click()")  # and once more, until the page goes away
        browser.wait("document.querySelectorAll('#classes dt').length === 5 || !problem.hidden", 120)
        assert text(browser, "problem") == ""
        browser.call("Page.navigate", url="about:blank")
        end = time.monotonic() + 15  # the silence would take 20 s
        while server.service.streams.open and time.monotonic() < end:
            time.sleep(0.05)
        assert server.service.streams.open == {}
