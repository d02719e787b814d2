"""Parse the arguments of a command into its dataclass, or print its help."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import tyro
from tyro.conf import Positional

from ..config import Config, suggestion
from .help import format_help

T = TypeVar("T")
# The settings of a run that its short help shows.
USUAL = (
    *("data.root", "init", "run", "model.num_frames", "model.image_size", "optim.epochs", "optim.batch_size"),
    *("optim.lr", "data.workers", "device"),
)
HELP = ("-h", "--help", "--help-all")


@dataclass(frozen=True)
class WithWeights:
    """A command whose first argument names weights."""

    weights: Positional[str]
    """A run, a folder with model.safetensors, a file, a hub id or a start."""


@dataclass(frozen=True)
class WithAnyWeights(WithWeights):
    """A command that takes an exported file too."""

    weights: Positional[str]
    """A run, a folder with model.safetensors, a file, also one of vivit export, a hub id or a start."""


def parse(
    cls: type[T],
    args: Sequence[str],
    *,
    usage: str,
    summary: str = "",
    default: T | None = None,
    usual: Sequence[str] = (),
    used: Sequence[str] = (),
) -> T:
    """Return an instance of the dataclass `cls` with the settings in `args`; print its help and exit where asked.

    `usage` starts with the command and its fixed words. `summary` replaces the docstring of `cls` in the help. `usual`
    are the settings of the short help, `used` those of a Config that the command uses (none: all). A wrong argument
    exits with code 2.
    """
    if wants_help(args):
        text = format_help(
            cls,
            default,
            usage=usage,
            summary=summary,
            usual=usual,
            every="--help-all" in args,
            is_used=lambda name: is_used(name, used),
        )
        print(text)
        sys.exit(0)
    command = re.split(r" (?=[A-Z\[])", usage)[0]
    refuse_unused(args, used, command)
    if default is None:
        return tyro.cli(cls, args=args, prog=command)
    return tyro.cli(cls, args=args, default=default, prog=command)


def wants_help(args: Sequence[str]) -> bool:
    """Say whether the arguments ask for help."""
    return any(word in HELP for word in args)


def take_word(args: list[str], usage: str) -> tuple[str, list[str]]:
    """Return the first argument and the rest. Raises ValueError with the usage where an option comes first."""
    if not args or args[0].startswith("-"):
        raise ValueError(f"usage: {usage}")
    return args[0], args[1:]


def pick_verb(command: str, args: list[str], verbs: dict[str, Any], usages: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the entry of `verbs` that the first argument names, and the rest; print the usages where asked.

    Raises ValueError for an unknown verb.
    """
    verb, *rest = args or ["--help"]
    if verb in HELP:
        print("usage: " + "\n       ".join(usages))
        sys.exit(0)
    if verb not in verbs:
        raise ValueError(f"unknown command '{command} {verb}'{suggestion(verb, verbs)}")
    return verbs[verb], rest


def is_used(name: str, used: Sequence[str]) -> bool:
    """Say whether a command uses the setting `name`; `used` has settings of a Config, or groups of them."""
    if not used or name not in set(setting_names(Config())):
        return True
    return any(name == one or name.startswith(f"{one}.") for one in used)


def refuse_unused(args: Sequence[str], used: Sequence[str], command: str) -> None:
    """Raise ValueError for a setting of a run that the command does not use."""
    for word in args:
        name = re.sub(r"(^|\.)no_", r"\1", word.split("=")[0].removeprefix("--").replace("-", "_"))
        if word.startswith("--") and not is_used(name, used):
            settings = ", ".join(one.replace("_", "-") for one in used)
            raise ValueError(f"{command} does not use {word.split('=')[0]}; leave it out. Settings it uses: {settings}")


def setting_names(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield every setting of a config and of the dataclasses in it: 'optim.lr'."""
    for setting in fields(config):
        value = getattr(config, setting.name)
        yield f"{prefix}{setting.name}"
        if is_dataclass(value):
            yield from setting_names(value, f"{prefix}{setting.name}.")
