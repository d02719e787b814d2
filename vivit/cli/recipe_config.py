"""The config of a recipe, as the commands that take a recipe use it."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass, field

import tyro

from ..config import Config, DataConfig, suggestion
from ..recipes import RECIPES
from .help import COLUMNS
from .parse import HELP, wants_help

# Settings that the recipe `finetune` fits to the data and to the weights of --init.
FITTED = (
    *("model", "augment.mixup", "optim.lr", "optim.layer_decay", "optim.epochs", "optim.warmup_epochs"),
    *("linear_probe", "final_weights", "eval_every", "save_every"),
)


@dataclass(frozen=True)
class FittedTo:
    """The settings that a recipe is fitted to."""

    data: DataConfig = field(default_factory=DataConfig)
    init: str | None = None


def recipe_config(name: str, args: list[str]) -> Config:
    """Return the config of the recipe `name`. Raises ValueError for an unknown one.

    A recipe that fits itself to data and weights gets those that `args` name, also for the help.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{suggestion(name, RECIPES)}")
    recipe = RECIPES[name]
    if "init" not in inspect.signature(recipe).parameters:
        return recipe()
    settings = [word for word in args if word not in HELP]
    given, _ = tyro.cli(FittedTo, args=settings, return_unknown_args=True, prog="vivit train")
    if wants_help(args) and not (given.init and given.data.root):
        print(describe_fitted())
        return recipe()
    return recipe(data=given.data, init=given.init)


def describe_fitted() -> str:
    """Say which settings a recipe fits, in 80 columns."""
    names = ", ".join(name.replace("_", "-") for name in FITTED)
    indent = "  "
    listed = textwrap.fill(names, COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return (
        f"With --init, this recipe fits these settings to the data and the weights:\n{listed}\n"
        "To see their values, give --data.root and --init together with --help.\n"
    )
