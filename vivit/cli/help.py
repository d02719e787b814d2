"""Help texts, made from the dataclass of a command and the docstrings of its fields."""

from __future__ import annotations

import ast
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from sys import modules
from typing import Any

import tyro

from ..config import Config

COLUMNS, INDENT = 80, 28
POSITIONAL = tyro.conf.Positional[str].__metadata__[0]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Setting:
    """One setting of a command."""

    name: str
    """As in Python: optim.batch_size."""
    metavar: str
    """Kind of the value, or "" for a switch."""
    default: str | None
    """None: the setting is required; "": it is not set."""
    help: str
    positional: bool

    @property
    def option(self) -> str:
        """Return the setting as the user types it."""
        if self.positional:
            name = self.name.upper()
            return f"{name.removesuffix('S')} ..." if self.metavar.endswith("...") else name
        group, dot, name = self.name.replace("_", "-").rpartition(".")
        can_turn_off = not self.metavar and self.default == "on"
        return f"--{group}{dot}{'[no-]' if can_turn_off else ''}{name} {self.metavar}".rstrip()


def list_settings(cls: type, default: Any = None, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a dataclass and of the dataclasses in it, with the values of `default`.

    Without `default`, those of a Config have none: every recipe has its own.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    documented = field_docs(cls)
    for one in fields(cls):
        hint = hints[one.name]
        marks = getattr(hint, "__metadata__", ())
        kind = hint.__origin__ if marks else hint
        value = default_of(one) if default is None else getattr(default, one.name)
        if is_dataclass(kind):
            flat = any(getattr(mark, "name", None) == "" for mark in marks)
            inner = prefix if flat else f"{prefix}{one.name}."
            listed = list_settings(typing.cast(type, kind), None if value is MISSING else value, inner)
            is_open = default is None and kind is Config
            yield from (replace(found, default="") if is_open else found for found in listed)
        else:
            shown = None if value is MISSING or value is tyro.MISSING else show_value(value)
            text = documented.get(one.name, "")
            name = next((mark.name for mark in marks if getattr(mark, "name", None)), one.name)
            yield Setting(f"{prefix}{name}", metavar(kind), shown, text, POSITIONAL in marks)


def default_of(one: Field) -> Any:
    """Return the default value of a field, or MISSING."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def show_value(value: Any) -> str:
    """Format a default as the user would type it; "" for one that is not set."""
    if value is None or value == "" or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return f"{', '.join(map(str, value))} (label sets)"
    return " ".join(map(show_value, value)) if isinstance(value, tuple) else str(value)


def metavar(kind: Any) -> str:
    """Describe a type in the words of a usage line: INT, {a,b}, "" for a switch."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return "|".join(metavar(arg) for arg in args if arg is not type(None))
    if origin is typing.Literal:
        return "{" + ",".join(map(str, args)) + "}"
    if origin is tuple:
        return f"{metavar(args[0])} ..." if args[-1] is Ellipsis else " ".join(map(metavar, args))
    if kind is bool:
        return ""
    return {int: "INT", float: "FLOAT"}.get(kind, "TEXT")


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass and of its base classes."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            docs |= module_docs(base.__module__).get(base.__name__, {})
    return docs


@lru_cache
def module_docs(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of fields in a module, by class and field."""
    tree = ast.parse(Path(modules[module].__file__ or "").read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            docs = found.setdefault(node.name, {})
            for statement, after in zip(node.body, node.body[1:], strict=False):
                is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
                if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    docs[statement.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    return found


def format_help(
    cls: type,
    default: Any = None,
    *,
    usage: str,
    summary: str = "",
    usual: Sequence[str] = (),
    every: bool = False,
    is_used: Callable[[str], bool] = lambda name: True,
) -> str:
    """Return the help of a command: usage, summary (by default the first paragraph of the docstring), settings.

    Settings are positional arguments and those in `usual`; with `every`, or where `usual` is empty, all of them.
    """
    settings = [setting for setting in list_settings(cls, default) if is_used(setting.name)]
    settings.sort(key=lambda setting: "." in setting.name)  # those of the command itself come first
    summary = summary or (cls.__doc__ or "").split("\n\n")[0]
    lines = [f"usage: {usage}", "", *textwrap.wrap(" ".join(summary.split()), COLUMNS)]
    lines += [""] if not every or not settings or "." not in settings[0].name else []
    if every or not usual:
        shown = settings
    else:
        by_name = {setting.name: setting for setting in settings}
        shown = [setting for setting in settings if setting.positional or setting.default is None]
        shown += [by_name[name] for name in usual if by_name[name] not in shown]
    short = not every and len(shown) < len(settings)
    group = ""
    for setting in shown:
        if every and (first := setting.name.rpartition(".")[0]) != group:
            group = first
            lines += ["", f"{group}:"]
        lines += describe(setting, short=short)
    lines += [*wrap_entry("--help-all", f"Show all {len(settings)} settings.")] if short else []
    return "\n".join(lines)


def describe(setting: Setting, *, short: bool) -> list[str]:
    """Return the lines of one setting; `short`: only the first sentence of its help."""
    text = re.split(r"(?<=[.;])\s", setting.help)[0].rstrip(".;") + "." if short and setting.help else setting.help
    if setting.default is None:
        text += "" if setting.positional else " (required)"
    elif setting.default:
        text += f" (default: {setting.default})"
    return wrap_entry(setting.option, text.strip())


def wrap_entry(option: str, text: str) -> list[str]:
    """Put an option to the left of its text, in 80 columns."""
    lines = textwrap.wrap(text, COLUMNS - INDENT) or [""]
    if len(option) > INDENT - 4:
        spaced = option.replace(",", ", ") if len(option) > COLUMNS - 2 else option
        names = textwrap.wrap(spaced, COLUMNS - 2, subsequent_indent="    ")
        return [*(f"  {name}" for name in names), *(" " * INDENT + line for line in lines)]
    return [f"  {option:{INDENT - 2}}{lines[0]}", *(" " * INDENT + line for line in lines[1:])]
