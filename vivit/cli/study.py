"""`vivit study`: run an analysis of the paper on your own videos."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ..config import Config, replace, suggestion
from .parse import USUAL, parse, take_word, wants_help
from .recipe_config import recipe_config

STUDIES = ("tokenisation", "architecture", "regularisation")


@dataclass(frozen=True)
class Study:
    """Run an analysis of the paper on your videos: tokenisation, architecture or regularisation.

    The same command resumes a study that was interrupted.
    """

    seeds: int = 5
    """Runs of each row, with seeds from `seed` upwards; the same for all rows."""
    quick: bool = False
    """Use a third of the epochs, one seed, and a single view of each test video."""
    jobs: int = 1
    """Runs at a time, each in its own process; they share the cores."""
    cnn_epochs: float | None = None
    """Epochs of the 3-D convolutions, if fewer than of the other rows: a clip costs them many times more."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """Settings of all runs; `run` is the folder of the study."""


def run(args: list[str]) -> None:
    """Run a study; exit with code 1 if a row failed."""
    usage, usual = f"vivit study {'|'.join(STUDIES)} RECIPE [options]", ("seeds", "quick", "jobs", "cnn_epochs", *USUAL)
    if wants_help(args[:1]) or (args and args[0] in STUDIES and wants_help(args[1:2])):
        parse(Study, args, usage=usage, usual=usual)
    kind, rest = take_word(args, usage)
    if kind not in STUDIES:
        raise ValueError(f"unknown study {kind!r}{suggestion(kind, STUDIES)}")
    name, rest = take_word(rest, usage)
    config = replace(recipe_config(name, rest), run=f"runs/study/{kind}")
    asked = parse(Study, rest, default=Study(config=config), usage=f"vivit study {kind} {name} [options]", usual=usual)

    from ..studies.study import study

    results = study(
        kind,
        asked.config,
        recipe=name,
        seeds=asked.seeds,
        quick=asked.quick,
        num_jobs=asked.jobs,
        cnn_epochs=asked.cnn_epochs,
    )
    if results["failed"]:
        sys.exit(1)
