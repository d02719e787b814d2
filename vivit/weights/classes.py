"""Read the argument `classes` of `create` and `from_pretrained`."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

Classes = Mapping[str, Sequence[str | int]] | Sequence[str | int] | int


def label_sets(classes: Classes | None) -> dict[str, Any]:
    """Return {"classes": label sets by name} as ModelConfig has them, {} for None. Raises ValueError."""
    if classes is None:
        return {}
    if isinstance(classes, Integral):
        if classes < 1:
            raise ValueError(f"classes is {classes}; a number of classes is 1 or more")
        return {"classes": {"label": tuple(map(str, range(int(classes))))}}
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ValueError(f"classes is {classes!r}; pass a list of class names, [{str(classes)!r}]")
    sets = classes if isinstance(classes, Mapping) else {"label": classes}
    return {"classes": {name: _label_set(name, names) for name, names in sets.items()}}


def _label_set(label_set: str, names: object) -> tuple[str, ...]:
    """Return the class names of a label set as text; whole numbers become text, as in a table of videos."""
    if isinstance(names, str | Mapping) or not isinstance(names, Iterable) or not isinstance(label_set, str):
        raise ValueError(
            f"classes maps {label_set!r} to {reprlib.repr(names)}; a dict maps the name of a label set to a list of "
            "class names. Of names by number pass classes=list(id2label.values())"
        )
    if isinstance(names, set | frozenset):
        raise ValueError(f"classes is {reprlib.repr(names)}, and a set has no order; pass a list, sorted(…)")
    names = list(names)
    if other := [name for name in names if not isinstance(name, str | Integral) or isinstance(name, bool)]:
        raise ValueError(f"the list of class names has {other[0]!r}; names are text or whole numbers")
    return tuple(map(str, names))
