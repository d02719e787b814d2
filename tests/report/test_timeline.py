"""The page of a timeline, in a real browser: clicks, keys, a phone, videos that do not play."""

import re
import shutil
from html import unescape

import numpy as np
import pytest

from vivit.data.tools.synthetic import render, write_video
from vivit.inference.segments import Segment, SegmentParams, Thresholds, segments
from vivit.report.charts import thin_out
from vivit.report.timeline import MOST_SEGMENTS, clock, marks, write_timeline_page

from ..inference.test_segments import timeline_of
from .browser import CHROMIUM, HIDDEN_BUT_SHOWN, Browser

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium")
ODD = "</script><b id=bold>\"&' a name without any end, which goes on and on beyond the edge of a phone" + "x" * 60
NAMES = ["left", ODD, "走る"]
SECONDS = 20.0


def example(path, seconds=SECONDS, hop=0.25):
    """A timeline, and three segments of which the second and third overlap."""
    n = round(seconds / hop)
    scores = np.random.default_rng(0).dirichlet([1, 1, 1], n)
    found = [(2.0, 4.0, NAMES[0]), (8.25, 12.5, NAMES[1]), (12.0, 15.0, NAMES[2])]
    rows = [Segment(start, end, label, 0.75, "label") for start, end, label in found]
    return timeline_of(scores, hop=hop, classes={"label": NAMES}, path=str(path)), rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a page in pages/, and next to it the video with a name that an address must escape."""
    folder = tmp_path_factory.mktemp("timeline")
    (folder / "videos").mkdir()
    video = folder / "videos" / "a b#1%20?é.mp4"
    write_video(video, render(0, "val", 0, num_frames=round(SECONDS * 20))[0])
    timeline, found = example(video)
    write_timeline_page(folder / "pages" / "page.html", timeline, found, truth=found[:1], facts={"weights": "runs/x"})
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, folder):
    browser.resize(1300, 1000)
    browser.open(folder / "pages" / "page.html")
    browser.wait("video.readyState >= 2")
    return browser


def click(browser, selector):
    """Scroll to an element and click on its middle."""
    x, y = browser.evaluate(
        f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    browser.click(x, y)


def playhead(browser):
    """Return where the playhead is, in seconds."""
    share = browser.evaluate(
        "(() => { const box = lanes.getBoundingClientRect(), mark = find('playhead').getBoundingClientRect();"
        "return (mark.x + mark.width / 2 - box.x) / box.width; })()"
    )
    return share * SECONDS


@needs_browser
def test_a_click_on_a_segment_jumps_there_in_the_video_and_in_the_curves(page):
    assert page.evaluate("[video.duration, document.querySelectorAll('#list button').length]") == [SECONDS, 3]
    for i, start in enumerate([2.0, 8.25, 12.0]):
        click(page, f"#list button[data-i='{i}']")
        page.wait(f"video.currentTime === {start} && !video.seeking")
        assert playhead(page) == pytest.approx(start, abs=0.05)
    assert page.evaluate("[...document.querySelectorAll('[aria-current]')].map((b) => +b.dataset.i)") == [1, 2]
    assert page.evaluate("[find('clock').textContent, video.paused]") == ["0:12.0", True]


@needs_browser
def test_a_click_on_a_bar_jumps_to_its_start_and_one_on_a_curve_to_that_time(page):
    click(page, "rect.found[data-i='1']")
    page.wait("video.currentTime === 8.25")
    click(page, "svg.lane .area")
    page.wait("Math.abs(video.currentTime - 10) < 0.2")


@needs_browser
def test_keys_play_step_and_go_from_segment_to_segment(page):
    def at(seconds):
        page.wait(f"Math.abs(video.currentTime - {seconds}) < 1e-6 && !video.seeking")

    for key, shift, seconds in (
        *(("n", False, 2.0), ("n", False, 8.25), ("n", False, 12.0), ("n", False, 12.0), ("p", False, 8.25)),
        *(("ArrowRight", False, 13.25), ("ArrowRight", True, 14.25), ("ArrowLeft", False, 9.25)),
        *(("ArrowLeft", False, 4.25), ("ArrowLeft", False, 0.0), ("p", False, 0.0)),
    ):
        page.press(key, shift=shift)
        at(seconds)
    click(page, "#list button[data-i='0']")  # a button that has the focus is not pressed by the space bar
    at(2.0)
    page.press("n")
    at(8.25)
    page.press(" ")
    page.wait("!video.paused && video.currentTime > 8.5")
    assert playhead(page) > 8.25
    page.press(" ")
    page.wait("video.paused")
    assert page.evaluate("video.currentTime") > 8.5


@needs_browser
def test_nothing_is_wider_than_a_phone_and_names_are_text(page):
    page.resize(390, 844)
    page.wait("innerWidth === 390")
    wide = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 390.5)"
    hidden = "!e.closest('.marks') && !e.closest('svg')"  # which clip what is in them
    assert page.evaluate(f"{wide}.filter((e) => {hidden}).map((e) => e.outerHTML.slice(0, 80))") == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("find('bold')") is None
    assert ODD in page.evaluate("[...document.querySelectorAll('#list b')].map((b) => b.textContent)")
    smallest = "Math.min(...[...document.querySelectorAll('#list button')].map((b) => b.offsetHeight))"
    assert page.evaluate(smallest) >= 44  # as high as a finger


@needs_browser
@pytest.mark.parametrize("broken", ["codec", "moved", "images"])
def test_without_a_video_that_plays_the_page_says_so_and_still_shows_the_times(browser, tmp_path, broken):
    video = tmp_path / "video.mp4"
    if broken == "images":
        video.mkdir()
    else:
        video.write_bytes(b"no video" * 1000)
    timeline, found = example(video)
    page = write_timeline_page(tmp_path / "page.html", timeline, found)
    if broken == "moved":
        video.unlink()
    browser.resize(1300, 1000)
    browser.open(page)
    if broken == "images":
        assert "There is no video file to play" in browser.evaluate("document.body.innerText")
    else:
        browser.wait("!find('unplayable').hidden")
        assert "This browser cannot play the video" in browser.evaluate("document.body.innerText")
        assert browser.evaluate(HIDDEN_BUT_SHOWN) == []
    click(browser, "#list button[data-i='1']")
    assert playhead(browser) == pytest.approx(8.25, abs=0.05)
    browser.press("n")
    assert browser.evaluate("find('clock').textContent") == "0:12.0"
    browser.press(" ")  # nothing to play, and no error
    browser.press("ArrowLeft")
    assert playhead(browser) == pytest.approx(7.0, abs=0.05)


def test_the_page_loads_nothing_but_the_video_by_its_relative_address(folder):
    page = (folder / "pages" / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["../videos/a%20b%231%2520%3F%C3%A9.mp4"]
    assert "default-src 'none'" in page
    assert page.count('class="truth"') == 1
    assert [unescape(name) for name in re.findall(r'lane-name"><b>(.*?)</b>', page)] == [NAMES[1], NAMES[0], NAMES[2]]


def test_two_hours_fit_in_a_small_page_that_keeps_the_peaks(tmp_path):
    n, k = 24000, 40
    rng = np.random.default_rng(0)
    powers = np.exp(3 * rng.normal(size=(n, k)))
    timeline = timeline_of(powers / powers.sum(axis=1, keepdims=True), hop=0.3, path="two_hours.mp4")
    found = segments(timeline, "label", SegmentParams(Thresholds(0.5, 0.5, 0.0, 0.0)))
    assert len(found) > MOST_SEGMENTS
    page = write_timeline_page(tmp_path / "page.html", timeline, found)
    assert page.stat().st_size < 2_000_000
    text = page.read_text(encoding="utf-8")
    assert text.count("<li>") == MOST_SEGMENTS
    assert f"the {MOST_SEGMENTS:,} segments of the highest scores" in text
    assert "28 other classes of label not drawn" in text
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("n", [0, 1, 999, 1000, 1001, 24001])
def test_thinning_keeps_the_lowest_and_the_highest_value_of_every_stretch(n):
    values = np.random.default_rng(n).uniform(size=n)
    times = np.arange(n) * 0.3
    kept_times, kept = thin_out(times, values, columns=500)
    assert len(kept) == min(n, len(kept)) <= 1000
    assert (np.diff(kept_times) > 0).all()
    np.testing.assert_array_equal(kept, values[np.searchsorted(times, kept_times)])
    if n > 1000:
        for part in np.array_split(np.arange(n), 125):  # each holds at least one whole column
            inside = kept[np.isin(kept_times, times[part])]
            assert inside.max() >= np.sort(values[part])[-len(part) // 2]
        assert (kept.min(), kept.max()) == (values.min(), values.max())


def test_a_page_without_segments_or_rows_is_a_page(tmp_path):
    timeline, _ = example("gone.mp4")
    assert "no segments" in write_timeline_page(tmp_path / "a.html", timeline, []).read_text()
    empty = timeline_of(np.zeros((0, 3)), path="gone.mp4")
    assert "no segments" in write_timeline_page(tmp_path / "b.html", empty, []).read_text()


def test_times_are_read_as_on_a_clock():
    assert [clock(t) for t in (0, 7.46, 59.96, 3723.4)] == ["0:00.0", "0:07.5", "1:00.0", "1:02:03.4"]
    assert clock(3600, 0) == "1:00:00"
    for end in (0.4, 3, 59, 61, 7200, 40000, 1e6):
        assert 1 <= len(marks(end)) <= 7
        assert marks(end)[-1] <= end
