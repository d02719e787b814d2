"""Copy, compare, save, load and check settings dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
# Names of settings in files of earlier versions, by class: old -> new.
OLD_NAMES = {
    "Config": {
        "result": "final_weights",
        "probe": "linear_probe",
        "keep": "keep_checkpoints",
        "scale": "parallel",
    },
    "ParallelConfig": {"shard": "strategy"},
    "AugmentConfig": {"erasing": "random_erasing", "colour_drop": "grayscale", "colour_jitter": "color_jitter"},
    "OptimConfig": {"max_skipped": "max_nonfinite_steps"},
}


def replace(config: T, **changes: Any) -> T:
    """Return a copy of `config` with some fields changed. Raises ValueError with a suggestion for an unknown field."""
    _check_names(type(config), changes)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain dicts, lists and values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a config from the output of `to_dict`, also after a trip through JSON.

    Missing keys take the defaults and `OLD_NAMES` are translated. Raises ValueError for an unknown key, or a value of
    the wrong type; `where` is the prefix of its name in the message.
    """
    old_names = OLD_NAMES.get(cls.__name__, {})
    return cls(**read_fields(cls, {old_names.get(key, key): value for key, value in values.items()}, where))


def read_fields(cls: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return values of fields of a config, plain and of the type of their field. Raises ValueError."""
    _check_names(cls, values, where)
    hints = typing.get_type_hints(cls)
    return {key: _restore(hints[key], _plain(value), f"{where}{key}.") for key, value in values.items()}


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """List the fields in which two configs of one type differ, as lines 'optim.lr: 0.1 -> 0.2'."""
    lines = []
    for f in dataclasses.fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if dataclasses.is_dataclass(x):
            lines += differences(x, y, f"{prefix}{f.name}.")
        elif x != y:
            lines.append(f"{prefix}{f.name}: {x!r} -> {y!r}")
    return lines


def _restore(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _restore(next(a for a in args if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        _check_type(isinstance(value, Mapping), where, value, "an object of settings")
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        _check_type(isinstance(value, list | tuple), where, value, "a list")
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        _check_type(len(inner) == len(value), where, value, f"a list of {len(inner)}")
        return tuple(_restore(h, v, where) for h, v in zip(inner, value, strict=True))
    if origin is dict:
        _check_type(isinstance(value, Mapping), where, value, "an object")
        return {key: _restore(args[1], v, where) for key, v in value.items()}
    if hint in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
        fits = hint is float or (is_number and value == int(value))
        _check_type(is_number and fits, where, value, "an integer" if hint is int else "a finite number")
        return int(value) if hint is int else value
    if hint in (str, bool):
        _check_type(isinstance(value, hint), where, value, "text" if hint is str else "true or false")
    return value


def _check_type(condition: bool, where: str, value: Any, kind: str) -> None:
    check(condition, f"{where.removesuffix('.')} is {str(value)[:60]!r}; it must be {kind}")


def suggestion(name: str, allowed: typing.Iterable[str]) -> str:
    """Return '; did you mean …?' if a name is close to an allowed one, else the list of what is allowed."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(sorted(allowed))}"


def _check_names(cls: type, values: Mapping[str, Any], where: str = "") -> None:
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ValueError(f"unknown setting {where + key!r}{suggestion(key, names)}")


def make_plain(config: Any) -> None:
    """Turn paths into text, values of NumPy into Python's and lists into tuples, in place: as JSON gives them back."""
    for f in dataclasses.fields(config):
        object.__setattr__(config, f.name, _plain(getattr(config, f.name)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if type(value).__module__ == "numpy":  # which is not imported here
        return _plain(value.tolist())
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def positive(config: Any, *names: str) -> None:
    """Check that the fields `names` are None, or above 0 and finite."""
    for name in names:
        value = getattr(config, name)
        check(value is None or 0 < value < math.inf, f"{name} is {value}; it must be above 0 and finite")


def one_of(config: Any, *names: str) -> None:
    """Check that the fields `names` have one of the values of their Literal type."""
    hints = typing.get_type_hints(type(config))
    for name in names:
        value, allowed = getattr(config, name), typing.get_args(hints[name])
        check(value in allowed, f"{name} is {value!r}{suggestion(str(value), map(str, allowed))}")


def divides(size: int, part: int, size_name: str, part_name: str) -> None:
    """Check that `part` divides `size`; the message names the nearest sizes that fit."""
    below = size - size % part
    options = f"{below} or {below + part}" if below else f"{part}"
    check(size % part == 0, f"{part_name} {part} does not divide {size_name} {size}; use {size_name} {options}")


def short_repr(config: Any) -> str:
    """Name the fields of a config, and of its parts, that differ from their defaults: 'Config(seed=1)'."""
    default, changed = type(config)(), []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value != getattr(default, f.name):
            changed.append(f"{f.name}={(short_repr if dataclasses.is_dataclass(value) else reprlib.repr)(value)}")
    return f"{type(config).__name__}({', '.join(changed)})"
