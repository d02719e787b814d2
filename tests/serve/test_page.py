"""The page in a real browser: choose a video, read the classes, seek along the timeline, see where the model looks."""

import json
import time

import pytest

from ..report.browser import CHROMIUM, Browser
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
        choose(browser, video)
        browser.wait("!document.getElementById('over-time').hidden", 120)
        assert browser.evaluate("document.getElementById('problem').hidden")


def test_the_camera_is_classified_clip_by_clip_until_it_is_stopped(locked, tmp_path):
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with Browser(tmp_path / "profile", options=options) as browser:
        visit(browser, locked)
        give_token(browser, TOKEN)
        browser.evaluate("document.getElementById('camera').click()")
        browser.wait("document.querySelectorAll('#classes dt').length === 5 || !problem.hidden", 120)
        assert text(browser, "problem") == ""
        browser.evaluate("document.getElementById('classes').replaceChildren()")
        browser.wait("document.querySelectorAll('#classes dt').length === 5 || !problem.hidden", 120)  # the next clip
        assert text(browser, "problem") == ""
        browser.evaluate("document.getElementById('camera').click()")
        assert browser.evaluate("document.getElementById('video').srcObject === null")
        assert browser.evaluate("broken") == []
