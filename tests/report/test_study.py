"""The page of a study, from the results of real studies."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from vivit.report.study import write_page

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def page_of(results, folder: Path) -> str:
    return write_page(folder / "report.html", results).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["tokenisation", "regularisation", "architecture"])
def test_the_pages_in_docs_are_those_of_their_results(name, tmp_path):
    results = json.loads((RESULTS / f"study-{name}.json").read_text())
    page = page_of(results, tmp_path)
    assert page == (RESULTS / f"study-{name}.html").read_text(encoding="utf-8")
    for row in results["rows"]:
        assert row["title"] in unescape(page)
        assert f"<b>{row['top1'][results['label_set']]['mean']:.1%}</b>" in page
    assert ("too few seeds" in page) == (len(results["seeds"]) < 3)


def test_intervals_are_drawn_from_three_seeds_on(tmp_path):
    results = json.loads((RESULTS / "study-tokenisation.json").read_text())
    chart = re.search(r"<svg.*?</svg>", page_of(results, tmp_path), re.DOTALL)
    assert chart is not None
    assert chart[0].count('class="line"') == len(results["rows"])
    for row in results["rows"]:
        row["accuracy"].pop(next(iter(row["accuracy"])))
    chart = re.search(r"<svg.*?</svg>", page_of(results, tmp_path), re.DOTALL)
    assert chart is not None
    assert 'class="line"' not in chart[0]


def test_text_of_a_study_is_no_markup(tmp_path):
    results = json.loads((RESULTS / "study-tokenisation.json").read_text())
    results["rows"][0] |= {"title": "<b>row", "why_not": "needs <i>\x1b[31m", "problems": {"0": "<u>failed"}}
    page = page_of(results, tmp_path)
    assert not {"<b>row", "<i>\x1b", "<u>"} & set(re.findall(r"<b>row|<i>\x1b|<u>", page))
    assert "needs <i>\\x1b[31m" in unescape(page)
