"""Write the lines of docs/files.md and the packages of the README from docstrings: `python -m tests.repo.tree`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": False, "docs/files.md": True}  # whether the page has the files too
BLOCK = re.compile(r"(?<=<!-- tree -->\n```\n).*?(?=```\n<!-- /tree -->)", re.DOTALL)
WIDTH = 28  # of the names


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].removesuffix(".")


def lines(folder: Path, depth: int = 0, *, files: bool) -> Iterator[str]:
    """Yield the lines of a folder: files, then folders, by name; the line of a package is that of its __init__.py."""
    indent = "  " * depth
    yield f"{indent + folder.name + '/':{WIDTH}}{summary(folder / '__init__.py')}".rstrip()
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in entries:
        if path.is_dir() and (path / "__init__.py").exists():
            yield from lines(path, depth + 1, files=files)
        elif files and path.suffix == ".py" and not path.name.startswith("__"):
            yield f"{indent + '  ' + path.name:{WIDTH}}{summary(path)}"


def tree(*, files: bool) -> str:
    return "".join(f"{line}\n" for folder in ("vivit", "benchmarks") for line in lines(ROOT / folder, files=files))


def write(page: Path, *, files: bool) -> None:
    page.write_text(BLOCK.sub(lambda _: tree(files=files), page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    for name, files in PAGES.items():
        write(ROOT / name, files=files)
