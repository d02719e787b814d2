"""`vivit slurm`: print the batch script of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ..config import Config
from ..engine.slurm import SlurmOptions, sbatch_script
from .parse import USUAL, parse, take_word, wants_help
from .recipe_config import recipe_config

USAGE = "vivit slurm RECIPE --run FOLDER [options] > job.sh"
OWN = "--slurm."


@dataclass(frozen=True)
class Slurm:
    """Print a script for sbatch that trains by a recipe, with the settings of `vivit train`.

    The job is requeued at its time limit, after a failure of a node and when a process was lost, and resumes from its
    last checkpoint.
    """

    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """What to ask SLURM for."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """Settings of the run."""


def run(args: list[str]) -> None:
    """Print the script for the recipe that the first argument names."""
    usual = (*(f"slurm.{name}" for name in SlurmOptions.__dataclass_fields__), *USUAL)
    if args and wants_help(args[:1]):
        parse(Slurm, args, usage=USAGE, usual=usual)
    name, rest = take_word(args, USAGE)
    asked = parse(Slurm, rest, default=Slurm(config=recipe_config(name, rest)), usage=USAGE, usual=usual)
    if not any(word == "--run" or word.startswith("--run=") for word in rest):
        raise ValueError("give --run FOLDER: a requeued job resumes the run of this folder, on storage of all nodes")
    print(sbatch_script(["vivit", "train", name, *without_own(rest)], asked.slurm), end="")


def without_own(args: Sequence[str]) -> list[str]:
    """Return the arguments of `vivit train` among those of `vivit slurm`; each of the others takes one value."""
    kept, skip = list[str](), False
    for word in args:
        if not skip and not word.startswith(OWN):
            kept.append(word)
        skip = not skip and word.startswith(OWN) and "=" not in word
    return kept
