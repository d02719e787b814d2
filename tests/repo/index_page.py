"""Prepare README.md and pyproject.toml for the page of a package index, where relative links lead nowhere.

`python tests/repo/index_page.py https://host/owner/name v0.2.0` rewrites both in place, in the checkout of a release.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")  # a file of the repository, perhaps a picture


def absolute_links(text: str, repository: str, version: str) -> str:
    """Let the links to files lead to the repository at a version."""

    def to_repository(match: re.Match[str]) -> str:
        picture, title, path, anchor = match.groups()
        return f"{picture}[{title}]({repository}/{'raw' if picture else 'blob'}/{version}/{path}{anchor or ''})"

    return LINK.sub(to_repository, text)


def with_urls(text: str, repository: str, version: str) -> str:
    """Add the links that an index shows beside a package to pyproject.toml."""
    pages = {
        "Homepage": repository,
        "Documentation": f"{repository}/blob/{version}/README.md#read-next",
        "Changelog": f"{repository}/blob/{version}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    table = "\n".join(["[project.urls]", *(f'{name} = "{url}"' for name, url in pages.items())])
    return text.replace("[project.scripts]", f"{table}\n\n[project.scripts]", 1)


if __name__ == "__main__":
    repository, version = sys.argv[1:]
    for name, change in (("README.md", absolute_links), ("pyproject.toml", with_urls)):
        text = (ROOT / name).read_text(encoding="utf-8")
        (ROOT / name).write_text(change(text, repository, version), encoding="utf-8")
