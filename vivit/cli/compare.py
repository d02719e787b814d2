"""`vivit compare`: compare two evaluations on the same videos."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional

from .parse import parse


@dataclass(frozen=True)
class Compare:
    """Compare the top-1 accuracies of two evaluations on the same videos, with a 95 % interval of their difference."""

    a: Positional[str]
    """A folder in which `vivit eval` wrote predictions.npz, such as a run, or that file."""
    b: Positional[str]
    """The other evaluation."""
    single_view: bool = False
    """Compare the center crop of the middle clip instead of the mean over all views."""
    resamples: int = 10_000
    """Resamples of the paired bootstrap."""
    seed: int = 0
    """Seed of the paired bootstrap."""
    json: bool = False
    """Print the numbers as JSON."""


def run(args: list[str]) -> None:
    """Print which of two evaluations is better."""
    asked = parse(Compare, args, usage="vivit compare A B [options]")

    from ..engine.compare import compare

    result = compare(asked.a, asked.b, single_view=asked.single_view, resamples=asked.resamples, seed=asked.seed)
    print(json.dumps(result.to_dict(), indent=1) if asked.json else result)
