"""Find annotation files, read their rows, and parse the numbers in them; errors are collected, not raised."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...text import printable
from ..reading import show_reading

MIN_FPS, MAX_FPS = 1e-6, 1e6  # of a folder of images
END = "\0"  # a line that is put after a table, and is missing where a quote swallows it


def find_file(root: Path, names: Sequence[str], what: str, problems: list[str]) -> Path | None:
    """Find the annotation file with the first of these names (or patterns) in root, root/annotations or root/labels.

    Returns None and adds a line to `problems` if there is no such file or a pattern fits several.
    """
    places = [place for place in (root, root / "annotations", root / "labels") if place.is_dir()]
    for name in names:
        found = [path for place in places for path in sorted(place.glob(name)) if path.is_file()]
        if len(found) > 1:
            several = ", ".join(str(path.relative_to(root)) for path in found)
            problems.append(f"{what}: {several} could all be it; keep one of them in {root}")
        if found:
            return found[0] if len(found) == 1 else None
    problems.append(f"{what}: no {' or '.join(names)} in {', '.join(map(str, places)) or root}")
    return None


def csv_records(text: str, delimiter: str = ",", *, first_line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it begins, cells) of each record of a CSV, at least one; [] for an empty line.

    Raises csv.Error with the line, also for a quote that is never closed, which would swallow the rest of the table.
    """
    reader = csv.reader(io.StringIO(f"{text}\n{END}", newline=""), delimiter=delimiter, skipinitialspace=True)
    begin, after = first_line, first_line
    try:
        for cells in reader:
            if cells == [END]:
                return
            begin, after = after, reader.line_num + first_line
            yield begin, cells
    except csv.Error as error:
        raise csv.Error(f"line {after}: {error}") from error
    raise csv.Error(f"line {begin}: a quote opens and never closes; close it")


def table_rows(
    table: Path | None, columns: Sequence[str], problems: list[str], *, header: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """Yield ("table.csv:12", trimmed cells of `columns`) from a CSV; errors in the file or a row go to `problems`.

    Without a header the columns are in this order, and more may follow.
    """
    if table is None:
        return
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv_records(file.read())
            names = [name.strip() for name in next(rows)[1]] if header else list(columns)
            lacking = [name for name in columns if name not in names]
            if lacking:
                problems.append(f"{table.name}: no column {', '.join(lacking)}; the header is {','.join(names) or '-'}")
                return
            places = [names.index(name) for name in columns]
            last, empty = max(places), True
            for line, row in show_reading(rows, f"rows of {printable(table.name)}"):
                if not row:
                    continue
                empty = False
                if len(row) > last:
                    yield f"{table.name}:{line}", [row[place].strip() for place in places]
                elif any(cell.strip() for cell in row):
                    problems.append(f"{table.name}:{line}: {len(row)} fields, expected {','.join(names)}")
                else:
                    problems.append(f"{table.name}:{line}: an empty row")
            if empty:
                problems.append(f"{table.name}: no rows")
    except (UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{table.name}: not a readable UTF-8 table: {error}")


def json_rows(path: Path | None, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("list.json:12", object) from a JSON list of objects. Errors go to `problems`."""
    if path is None:
        return
    text, decoder, between = path.read_text(encoding="utf-8-sig"), json.JSONDecoder(), re.compile(r"[\s,]*")
    position, line = len(text) - len(text.lstrip()), 1
    if text[position : position + 1] != "[":
        problems.append(f"{path.name}: a list of objects is expected, it begins with {text[:20]!r}")
        return
    rest = position + 1
    while True:
        start = between.match(text, rest).end()  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        position = start
        if text[start : start + 1] == "]":
            return
        try:
            row, rest = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            problems.append(f"{path.name}:{line}: not JSON: {error.msg}")
            return
        if isinstance(row, dict):
            yield f"{path.name}:{line}", row
        else:
            problems.append(f"{path.name}:{line}: got {str(row)[:80]}; expected an object")


def parse_number(
    value: Any,
    name: str,
    wrong: list[str],
    *,
    what: str = "seconds, 0 or more",
    least: float = 0.0,
    most: float = sys.float_info.max,
) -> float | None:
    """Parse a number of a row, None for an empty cell; anything else adds a line to `wrong`."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        if str(value).strip() == "":
            return None
        number = math.nan
    if not least <= number <= most:
        wrong.append(f"{name} is {value!r}; it takes {what}")
        return None
    return number


def parse_fps(value: Any, wrong: list[str]) -> float | None:
    """Parse the rate of a folder of images; an error is added to `wrong`."""
    what = f"images a second, {MIN_FPS:g} to {MAX_FPS:g}"
    return parse_number(value, "fps", wrong, what=what, least=MIN_FPS, most=MAX_FPS)


def parse_segment(
    start: Any, end: Any, wrong: list[str], names: tuple[str, str] = ("start", "end")
) -> list[float | None]:
    """Parse [start, end] in seconds; errors are added to `wrong`."""
    first, last = parse_number(start, names[0], wrong), parse_number(end, names[1], wrong)
    if first is not None and last is not None and first >= last:
        wrong.append(f"{names[1]} {last} is not after {names[0]} {first}")
    return [first, last]


def empty_fields(names: Sequence[str], cells: Sequence[str]) -> list[str]:
    """Return an error for each empty cell."""
    return [] if all(cells) else [f"{name} is empty" for name, cell in zip(names, cells) if not cell]
