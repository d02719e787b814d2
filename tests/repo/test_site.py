"""Build the documentation site: every page is found, links lead somewhere, nothing is fetched from elsewhere."""

import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import vivit

from ..report.browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


def pages(nav):
    """Return the files of a navigation, which has sections in sections."""
    return [
        page
        for entry in nav
        for value in entry.values()
        for page in ([value] if isinstance(value, str) else pages(value))
    ]


class Links(HTMLParser):
    """The ids of a page, the addresses that it links to, and those that a browser fetches with it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.fetched = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if (address := values.get(FETCHED.get(tag, ""))) and values.get("rel") not in ("next", "prev"):
            self.fetched.add(address)


def test_every_page_is_in_the_navigation():
    names = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages(CONFIG["nav"])) == sorted(names)


def test_the_api_page_has_every_public_name():
    lines = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
    named = [line.removeprefix("::: vivit.") for line in lines if line.startswith("::: ")]
    assert set(vivit._MODULES) <= set(named)
    assert len(named) == len(set(named))
    for name in named:
        value = vivit
        for part in name.split("."):
            value = getattr(value, part)
        assert value.__doc__, name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site from copies, as `make docs` does: warnings are errors."""
    if find_spec("zensical") is None:
        pytest.skip("the group docs is not installed")
    home = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", home)
    for folder in ("docs", "vivit"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "site"


@pytest.mark.slow
def test_links_lead_somewhere_and_nothing_is_fetched_from_elsewhere(site):
    parsed = {
        path: Links(path) for path in site.rglob("*.html") if path.name != "404.html" and "results" not in path.parts
    }
    assert {path.relative_to(site).with_suffix(".md").as_posix() for path in parsed} == set(pages(CONFIG["nav"]))
    wrong = []
    for path, page in parsed.items():
        for link in page.links | page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.fetched:
                    wrong.append(f"{path.name} fetches {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (
                parts.fragment and target in parsed and parts.fragment not in parsed[target].ids
            ):
                wrong.append(f"{path.name} links to {link}")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_search_answers_from_disk_and_pages_fit_a_phone(site, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
        browser.open(site / "index.html")
        browser.wait("document.querySelector('.md-search__button') !== null")
        browser.evaluate("document.querySelector('.md-search__button').click()")
        browser.wait("document.activeElement.shadowRoot?.activeElement?.tagName === 'INPUT'")
        browser.evaluate("window.box = document.activeElement.shadowRoot, 0")
        browser.call("Input.insertText", text="tubelet")
        browser.wait("/[1-9]\\d* results/.test(box.textContent)")
        browser.resize(390, 800)
        for page in ("tutorial.html", "api.html", "guides/serve.html"):
            browser.open(site / page)
            assert browser.evaluate("document.documentElement.scrollWidth") == 390, page
