"""The config of a recipe, as the commands that take a recipe use it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import tyro

from ..config import Config, DataConfig, replace, suggestion
from ..recipes import RECIPES
from .help import COLUMNS
from .parse import HELP, wants_help

T = TypeVar("T")
# Settings that the recipe `finetune` fits to the data and to the weights of --init.
FITTED = (
    *("model", "augment.mixup", "optim.lr", "optim.layer_decay", "optim.epochs", "optim.warmup_epochs"),
    *("linear_probe", "budget", "final_weights", "eval_every", "save_every"),
)


@dataclass(frozen=True)
class FittedTo:
    """The settings that a recipe is fitted to."""

    data: DataConfig = field(default_factory=DataConfig)
    init: str | None = None


@dataclass(frozen=True)
class Length:
    """How long to train; None: as long as the recipe says."""

    epochs: float | None = None


@dataclass(frozen=True)
class WithLength:
    """The part of a Config that says how long to train."""

    optim: Length = field(default_factory=Length)


def recipe_config(name: str, args: list[str]) -> Config:
    """Return the config of the recipe `name`. Raises ValueError for an unknown one.

    A recipe that depends on data and weights gets those that `args` name, also for the help. Its warmup and intervals
    follow the epochs in `args` (see `follow_epochs`).
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{suggestion(name, RECIPES)}")
    recipe = RECIPES[name]
    if "init" not in inspect.signature(recipe).parameters:
        return follow_epochs(recipe(), args)
    given = parse_some(FittedTo, args)
    if wants_help(args) and not (given.init and given.data.root):
        print(describe_fitted())
        return follow_epochs(recipe(), args)
    return follow_epochs(recipe(data=given.data, init=given.init), args)


def follow_epochs(config: Config, args: Sequence[str]) -> Config:
    """Return `config` with the epochs that `args` give, and a warmup that is the same share of them as before.

    Validations and checkpoints that come every few epochs keep their number in a run that is made shorter, so that the
    best weights can be found there too; none comes more often than once an epoch for it.
    """
    epochs, before = parse_some(WithLength, args).optim.epochs, config.optim.epochs
    if epochs is None or not 0 <= epochs < float("inf"):  # the parser of the command refuses the latter
        return config
    share = epochs / before
    every = {name: getattr(config, name) for name in ("eval_every", "save_every")}
    every = {name: min(value, max(value * share, 1)) for name, value in every.items()}
    optim = replace(config.optim, epochs=epochs, warmup_epochs=config.optim.warmup_epochs * share)
    return replace(config, optim=optim, **every)


def parse_some(cls: type[T], args: Sequence[str]) -> T:
    """Return an instance of `cls` with those of its settings that `args` give; other words are left alone."""
    settings = [word for word in args if word not in HELP]
    return tyro.cli(cls, args=settings, return_unknown_args=True, prog="vivit train")[0]


def describe_fitted() -> str:
    """Say which settings a recipe fits, in 80 columns."""
    names = ", ".join(name.replace("_", "-") for name in FITTED)
    indent = "  "
    listed = textwrap.fill(names, COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return (
        f"With --init, this recipe fits these settings to the data and the weights:\n{listed}\n"
        "To see their values, give --data.root and --init together with --help.\n"
    )
