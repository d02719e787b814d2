"""`vivit runs`: list the runs of a folder."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from .parse import parse


@dataclass(frozen=True)
class Runs:
    """List the runs of a folder: results, and the settings that differ."""

    folder: Positional[str] = "runs"
    """Folder to search; a run is a folder with config.json and metrics.jsonl."""


def run(args: list[str]) -> None:
    """Print one line per run."""
    asked = parse(Runs, args, usage="vivit runs [FOLDER]")

    from ..engine.runs import format_runs

    print(format_runs(asked.folder))
