"""Files and functions stay small enough to read: see CONTRIBUTING.md. Complexity is held by ruff (C901)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "vivit").rglob("*.py"))
OTHERS = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_more_than_400_lines_and_no_function_more_than_80(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines"


def test_no_file_of_tests_or_benchmarks_has_more_than_400_lines():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in OTHERS}
    assert [f"{path.relative_to(ROOT)}: {n}" for path, n in lines.items() if n > 400] == []
