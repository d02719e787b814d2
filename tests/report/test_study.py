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


def test_a_row_that_was_not_compared_is_named_with_its_reason(tmp_path):
    results = json.loads((RESULTS / "study-tokenisation.json").read_text())
    results["rows"][1]["not_compared"] = {"to_first": "no video in both"}
    assert f"{results['rows'][1]['title']}: not compared with the first row, no video in both" in unescape(
        page_of(results, tmp_path)
    )


def first_line(results, folder: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page_of(results, folder).split("<header>")[1])).strip()


def decide(results, *rows: int) -> None:
    """Make the difference of these rows clear and that of all others not."""
    for number, row in enumerate(row for row in results["rows"] if row.get("to_first")):
        low = 0.1 if number in rows else -0.1
        row["to_first"] |= {"low": low, "high": 0.3, "videos_low": low, "videos_high": 0.3, "mean": 0.2, "seeds": 3}


def test_the_first_line_says_what_is_undecided(tmp_path):
    results = json.loads((RESULTS / "study-tokenisation.json").read_text())
    compared = [row for row in results["rows"] if row.get("to_first")]
    decide(results)
    assert "Undecided: no row differs clearly from “Uniform frame sampling”." in first_line(results, tmp_path)
    decide(results, 0)
    line = first_line(results, tmp_path)
    assert f"Undecided for {len(compared) - 1} of {len(compared)} rows." in line
    assert f"in points: {compared[0]['title']} (+20.0)." in line
    decide(results, *range(len(compared)))
    assert "Undecided" not in first_line(results, tmp_path)


@pytest.mark.parametrize("name", ["low", "videos_low"])
def test_one_interval_with_zero_leaves_a_row_undecided(name, tmp_path):
    results = json.loads((RESULTS / "study-tokenisation.json").read_text())
    decide(results, 0)
    next(row for row in results["rows"] if row.get("to_first"))["to_first"][name] = -0.01
    assert "Undecided: no row" in first_line(results, tmp_path)


def test_rows_that_were_trained_too_short_are_named_and_not_judged(tmp_path):
    results = json.loads((RESULTS / "study-architecture.json").read_text())
    assert "Trained too short to be compared: R3D-18 (0.05 epochs), " in first_line(results, tmp_path)
    assert "R3D-18 (-" not in first_line(results, tmp_path)
    chart = re.search(r"<svg.*?</svg>", page_of(results, tmp_path), re.DOTALL)
    assert chart is not None
    assert "R3D-18" not in chart[0]
    for row in results["rows"]:
        row["epochs"] = 20.0
    assert "too short" not in first_line(results, tmp_path)


def test_the_axis_begins_near_the_values_where_these_are_close(tmp_path):
    results = json.loads((RESULTS / "study-architecture.json").read_text())
    assert '"middle">0%<' not in page_of(results, tmp_path)
    results["rows"][0]["accuracy"]["0"]["action"]["top1"] = 0.1
    assert '"middle">0%<' in page_of(results, tmp_path)
