"""`vivit train`: train a model by a recipe, or resume the run."""

from __future__ import annotations

import logging
import textwrap

from ..config import Config
from ..recipes import RECIPES, missing_start
from .help import COLUMNS
from .parse import HELP, USUAL, parse
from .recipe_config import recipe_config


def run(args: list[str]) -> None:
    """Train by the recipe that the first argument names."""
    name, *rest = args or ["--help"]
    if name in HELP:
        print("usage: vivit train RECIPE [options]\n")
        print("Train a model by a recipe. The same command resumes a run that was interrupted.")
        print("`vivit train RECIPE --help` shows the settings of a recipe and their values.\n")
        print("\n".join(describe_recipe(name) for name in RECIPES))
        return
    default = recipe_config(name, rest)
    config = parse(
        Config,
        rest,
        default=default,
        usage=f"vivit train {name} [options]",
        summary=summarise(name),
        usual=(*USUAL, "budget") if name == "finetune" else USUAL,
    )
    if warning := missing_start(name, config):
        logging.getLogger("vivit").warning(warning)

    from ..engine.train import train

    train(config)


def summarise(name: str) -> str:
    """Return the first line of the docstring of a recipe."""
    return (RECIPES[name].__doc__ or "").splitlines()[0]


def describe_recipe(name: str) -> str:
    """Return the name of a recipe and the first line of its docstring, in 80 columns."""
    lines = textwrap.wrap(summarise(name), COLUMNS - 26, max_lines=2, placeholder=" ...")
    return "\n".join([f"  {name:24}{lines[0]}", *(" " * 26 + line for line in lines[1:])])
