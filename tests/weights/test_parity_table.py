"""The table of differences in docs/guides/weights.md is complete, and what it says is so."""

import pytest

from vivit.weights.starts import STARTS

from ..repo.test_docs import ROOT
from . import prism
from .parity_table import CASES, HEADING, measure
from .test_vjepa2 import TOLERANCE

# Short names begin with → the family in the guide
FAMILIES = {
    "vivit": "ViViT",
    "videomae": "VideoMAE",
    "videoprism": "VideoPrism",
    "vjepa2": "V-JEPA 2",
    "dinov3": "DINOv3",
    "dinov2": "DINOv2 with registers",
    "siglip2": "SigLIP 2",
    "clip": "CLIP",
    "vit": "ViT",
}


def documented(heading):
    """The rows of the table with this heading in docs/guides/weights.md."""
    text = (ROOT / "docs" / "guides" / "weights.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines()]
    rows = lines[lines.index(heading) + 2 :]
    return rows[: next(i for i, row in enumerate(rows) if len(row) != len(heading))]


def test_the_guide_lists_every_case_with_a_difference_that_is_allowed():
    rows = documented(HEADING)
    assert [row[:3] for row in rows] == [[case.family, case.size, case.format] for case in CASES]
    assert all(0 <= float(row[3]) <= TOLERANCE for row in rows)


def test_the_guide_lists_every_video_prism_in_both_formats_with_a_difference_that_is_allowed():
    rows = documented(["model", "shape", "format", "input", "relative difference"])
    expected = {(kind, shape, form) for kind in prism.KINDS for shape in prism.SHAPES for form in prism.FORMATS}
    assert {tuple(row[:3]) for row in rows} == expected
    assert all(0 <= float(row[4]) <= TOLERANCE for row in rows)


@pytest.mark.parametrize("name", STARTS)
def test_the_family_of_every_start_is_said_to_be_equal(name):
    family = FAMILIES[name.partition("-")[0]]
    said = [row[-1] for row in documented(["family", "read as", ""]) if family in row[0]]
    assert any(text.startswith("equal") for text in said)
    measured = {row[0] for row in documented(HEADING)}
    assert family == "VideoPrism" or any(family in of for of in measured)


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda c: f"{c.family}, {c.format}")
def test_narrow_models_are_equal(case):
    assert measure(case) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.large], ids=lambda c: f"{c.family}, {c.size}")
def test_models_of_the_released_width_are_equal(case):
    assert measure(case) <= TOLERANCE
