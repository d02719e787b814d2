"""Write the file tree of the README from docstrings: `python -m tests.repo.tree`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- tree -->\n```\n).*?(?=```\n<!-- /tree -->)", re.DOTALL)
WIDTH = 28  # of the names


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].removesuffix(".")


def lines(folder: Path, depth: int = 0) -> Iterator[str]:
    """Yield the lines of a folder: files, then folders, by name; the line of a package is that of its __init__.py."""
    indent = "  " * depth
    yield f"{indent + folder.name + '/':{WIDTH}}{summary(folder / '__init__.py')}".rstrip()
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for path in entries:
        if path.is_dir() and (path / "__init__.py").exists():
            yield from lines(path, depth + 1)
        elif path.suffix == ".py" and not path.name.startswith("__"):
            yield f"{indent + '  ' + path.name:{WIDTH}}{summary(path)}"


def tree() -> str:
    return "".join(f"{line}\n" for folder in ("vivit", "benchmarks") for line in lines(ROOT / folder))


if __name__ == "__main__":
    README.write_text(BLOCK.sub(lambda _: tree(), README.read_text(encoding="utf-8")), encoding="utf-8")
