"""Check that the documentation names files, functions and pages that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHECKED = [ROOT / "docs" / f"{name}.md" for name in ("concepts", "design", "paper")]
CODE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py|(?:[a-z_]+/)+)(?:: ([A-Za-z_]+))?`")  # `model/layers.py: Block`, `data/`


def names(path):
    """Return the names that the top level of a file defines."""
    return {
        target.id if isinstance(target, ast.Name) else getattr(target, "name", "")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for target in (getattr(node, "targets", None) or [getattr(node, "target", node)])
    }


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: page.name)
def test_every_file_and_function_that_a_page_names_exists(page):
    wrong = []
    for path, name in CODE.findall(page.read_text(encoding="utf-8")):
        found = [base / path for base in (ROOT / "vivit", ROOT) if (base / path).exists()]
        if not found or (name and name not in names(found[0])):
            wrong.append(f"{path}: {name}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
