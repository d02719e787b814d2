"""Order the images of a folder by the numbers in their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

NUMBER = re.compile(r"\d+(?:\.\d+)*")
DATE = re.compile(  # 2024-01-05_10-11-12, 20240105T101112, 10-11-12
    r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
    r"[-_.T ]*(?:[01]\d|2[0-3])[-_.:h]?[0-5]\d[-_.:m]?[0-5]\d(?!\d)"
    r"|(?<![\d.-])(?:[01]\d|2[0-3])[-.:h][0-5]\d[-.:m][0-5]\d(?!\d)"
)
PRESENT = 0.1  # of the numbers from the first to the last; where fewer are there, they do not count images


class Column(NamedTuple):
    """One of the numbers in each name."""

    values: list[int]
    decimal: bool
    """The numbers have a fraction, so they do not count images; `values` are multiples of the last digit."""

    @property
    def steady(self) -> bool:
        """Whether the values count images or rise in regular steps."""
        numbers = sorted(self.values)
        return not self.decimal and (counts_images(numbers) or len(numbers) > 3 and regular(numbers))

    @property
    def key(self) -> tuple[bool, bool, int]:
        return not self.steady, self.decimal, max(self.values) - min(self.values)


def order_images(names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """Return the names in order and, if the numbers in them count images, these numbers; a gap is then a missing image.

    The number that is different in each name gives the order. If there are several, one that counts images or rises in
    regular steps does, else all numbers from left to right. A time of day, with or without a date, comes first. Time
    stamps and regular steps (0, 5, 10 ...) do not count images: only their order matters. Raises ValueError if
    no number is different in each name. Every name holds a number.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    dates = [match for stem in stems if (match := DATE.search(stem))]
    if len(dates) == len(names) and len({date[0] for date in dates}) > 1:
        return _order_by_date(names, stems, dates)
    columns = [column for column in _columns(stems) if len(set(column.values)) == len(names)]
    if not columns:
        last = sorted(zip((int(re.findall(r"\d+", stem)[-1]) for stem in stems), names))
        twins = next(((a, b) for (i, a), (j, b) in pairwise(last) if i == j), (names[0], names[1]))
        raise ValueError(f"{twins[0]} and {twins[1]} have the same number")
    best = min(reversed(columns), key=lambda column: column.key)
    rows = [[int(digits) for digits in re.findall(r"\d+", stem)] for stem in stems]
    if not best.steady and not best.decimal and len({len(row) for row in rows}) == 1:
        return [name for _, name in sorted(zip(rows, names))], None
    pairs = sorted(zip(best.values, names))
    numbers = [number for number, _ in pairs]
    return [name for _, name in pairs], None if best.decimal or not counts_images(numbers) else numbers


def counts_images(numbers: Sequence[int]) -> bool:
    """Return whether ascending numbers count images (some may be missing), rather than time stamps or regular steps."""
    return not regular(numbers) and len(numbers) >= PRESENT * (numbers[-1] - numbers[0] + 1)


def regular(numbers: Sequence[int]) -> bool:
    """Return whether ascending numbers rise in steps above 1 that are equal except for rounding."""
    steps = [after - before for before, after in pairwise(numbers)]
    return len(steps) > 1 and min(steps) > 1 and max(steps) - min(steps) <= 1


def _order_by_date(
    names: Sequence[str], stems: Sequence[str], dates: Sequence[re.Match[str]]
) -> tuple[list[str], list[int] | None]:
    """Order by date, then by the numbers after it; also return the numbers after it that count images, or None."""
    tails = [stem[date.end() :] for stem, date in zip(stems, dates)]
    keys = [(re.sub(r"\D", "", date[0]), *map(int, re.findall(r"\d+", tail))) for date, tail in zip(dates, tails)]
    order = sorted(range(len(names)), key=lambda i: keys[i])
    for i, j in pairwise(order):
        if keys[i] == keys[j]:
            raise ValueError(f"{names[i]} and {names[j]} have the same date and number")
    for column in _columns(tails):
        numbers = [column.values[i] for i in order]
        if not column.decimal and all(i < j for i, j in pairwise(numbers)) and counts_images(numbers):
            return [names[i] for i in order], numbers
    return [names[i] for i in order], None


def _columns(stems: Sequence[str]) -> Iterator[Column]:
    """Yield the first, second ... number of each name; also counted from the end if names have different counts."""
    rows = [NUMBER.findall(stem) for stem in stems]
    fewest, most = min(map(len, rows)), max(map(len, rows))
    for place in [*range(fewest), *(range(-fewest, 0) if most > fewest else ())]:
        parts = [row[place].split(".") for row in rows]
        if max(map(len, parts)) == 2 and _decimal(parts):
            width = max(len(part[-1]) for part in parts if len(part) == 2)
            yield Column([int(part[0] + "".join(part[1:]).ljust(width, "0")) for part in parts], True)
        else:
            for k in range(-min(map(len, parts)), 0):
                yield Column([int(part[k]) for part in parts], False)


def _decimal(parts: Sequence[Sequence[str]]) -> bool:
    """Return whether "12.5" is one number, as in time stamps, rather than two, as in shot12.0005 or 1.9 before 1.10."""
    fractions = {"".join(part[1:]) for part in parts}
    if len({len(fraction) for fraction in fractions}) == 1:
        return len({part[0] for part in parts}) > 1
    return not any(len(fraction) > 1 and fraction.endswith("0") for fraction in fractions)
