"""`vivit runs`: list the runs of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..text import printable
from .parse import parse


@dataclass(frozen=True)
class Runs:
    """List the runs of a folder: results, and the settings that differ."""

    folder: Positional[str] = "runs"
    """Folder to search; a run is a folder with config.json and metrics.jsonl."""
    html: str = ""
    """Write a page instead: groups of seeds, paired differences, flipped videos, curves."""


def run(args: list[str]) -> None:
    """Print one line per run, or write the page."""
    asked = parse(Runs, args, usage="vivit runs [FOLDER] [--html PAGE]")
    if asked.html:
        from ..studies.runs_page import write_runs_page

        print(f"open {printable(str(write_runs_page(asked.folder, Path(asked.html))))}")
        return

    from ..engine.runs import format_runs

    print(format_runs(asked.folder))
