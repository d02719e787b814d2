"""The table of differences in docs/guides/weights.md is complete, and what it says is so."""

import pytest

from ..repo.test_docs import ROOT
from .parity_table import CASES, HEADING, measure
from .test_vjepa2 import TOLERANCE


def documented():
    lines = (ROOT / "docs" / "guides" / "weights.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(f"| {' | '.join(HEADING)} |") + 2
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + len(CASES)]]


def test_the_guide_lists_every_case_with_a_difference_that_is_allowed():
    rows = documented()
    assert [row[:3] for row in rows] == [[case.family, case.size, case.format] for case in CASES]
    assert all(0 <= float(row[3]) <= TOLERANCE for row in rows)


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda c: f"{c.family}, {c.format}")
def test_narrow_models_are_equal(case):
    assert measure(case) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.large], ids=lambda c: f"{c.family}, {c.size}")
def test_models_of_the_released_width_are_equal(case):
    assert measure(case) <= TOLERANCE
