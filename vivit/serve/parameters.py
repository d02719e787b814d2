"""The parameters of the addresses: one table that checks requests and describes them in OpenAPI."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import suggestion

NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


class BadRequest(ValueError):
    """A request that the client can mend; the message says what was got, what is allowed and what to do."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the query: its type, what it allows, and what it does."""

    kind: type
    about: str
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[Any, ...] = ()

    def read(self, name: str, text: str) -> Any:
        """Return the value that `text` says. Raises BadRequest."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        # Python's numbers may also be " 1", "1_0" and "nan".
        if value is None or (self.kind is not str and (not NUMBER.fullmatch(text) or not math.isfinite(value))):
            raise BadRequest(f"{name} is {text[:50]!r}; it is {self.allowed()}")
        too_small = self.least is not None and value < self.least
        too_large = self.most is not None and value > self.most
        if too_small or too_large or (self.choices and value not in self.choices):
            raise BadRequest(f"{name} is {text[:50]!r}; it is {self.allowed()}")
        return value

    def allowed(self) -> str:
        """Describe the allowed values."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        noun = {int: "a whole number", float: "a number", str: "text"}[self.kind]
        limits = [f"at least {self.least:g}"] if self.least is not None else []
        limits += [f"at most {self.most:g}"] if self.most is not None else []
        return " ".join([noun, " and ".join(limits)]).strip()

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        found: dict[str, Any] = {"type": {int: "integer", float: "number", str: "string"}[self.kind]}
        extra = {
            "default": self.default,
            "minimum": self.least,
            "maximum": self.most,
            "enum": list(self.choices) or None,
        }
        return found | {name: value for name, value in extra.items() if value is not None}


PARAMETERS = {
    "start": Parameter(float, "Start of the segment, in seconds.", least=0, most=1e6),
    "end": Parameter(float, "End of the segment, in seconds; after start.", least=0, most=1e6),
    "temporal_views": Parameter(int, "Evenly spaced clips of the video.", 4, least=1, most=16),
    "spatial_views": Parameter(int, "1 center crop, or 3 crops along the longer side.", 3, choices=(1, 3)),
    "top_k": Parameter(int, "Classes of each label set in the answer.", 5, least=1, most=1000),
    "threshold": Parameter(float, "`unsure` lists label sets whose best class is less probable.", 0.0, least=0, most=1),
    "format": Parameter(
        str,
        "huggingface: a list of {label, score} of one label set.",
        "native",
        choices=("native", "huggingface"),
    ),
    "label_set": Parameter(str, "Label set of the answer in Hugging Face's shape, or of the class to explain."),
    "label": Parameter(str, "Class to explain; by default the predicted one."),
    "random_orders": Parameter(
        int, "Random orders that the map must beat to be trusted; 0: no check.", 0, least=0, most=19
    ),
    "hop": Parameter(float, "Seconds from one row to the next.", 0.5, least=0.01, most=3600),
    "crops": Parameter(int, "1 center crop, or the mean over 3 crops.", 1, choices=(1, 3)),
    "when_slow": Parameter(
        str,
        "wait: every row comes, however late; drop: rows stay recent, and positions are left out.",
        "wait",
        choices=("wait", "drop"),
    ),
}
OF_PREDICT = ("start", "end", "temporal_views", "spatial_views", "top_k", "threshold", "format", "label_set")
OF_EXPLAIN = ("start", "end", "label_set", "label", "random_orders")
OF_STREAMS = ("hop", "crops", "top_k", "when_slow")
OF_JOBS = ("start", "end", "hop", "crops", "top_k")


def read_parameters(given: Iterable[tuple[str, str]], names: Sequence[str]) -> dict[str, Any]:
    """Return the values of the parameters `names`, with defaults. Raises BadRequest, also for unknown ones."""
    values = {name: PARAMETERS[name].default for name in names}
    seen = set()
    for name, text in given:
        if name not in values:
            raise BadRequest(f"unknown parameter {name[:50]!r}{suggestion(name[:50], names)}")
        if name in seen:
            raise BadRequest(f"{name} is given more than once; give it once")
        seen.add(name)
        values[name] = PARAMETERS[name].read(name, text)
    start, end = values.get("start"), values.get("end")
    if end is not None and end <= (start or 0):
        raise BadRequest(f"end is {end:g}; it must be after start={start or 0:g}, in seconds")
    return values
