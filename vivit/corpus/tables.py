"""Write the table of a corpus: Parquet or CSV, row by row."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..files import atomic_write

ROW_GROUP = 65536  # rows of Parquet that are held in memory


def choose_format(name: str = "") -> str:
    """Return `name`, or parquet where pyarrow is installed, else csv. Raises ImportError without pyarrow."""
    has_pyarrow = importlib.util.find_spec("pyarrow") is not None
    if name == "parquet" and not has_pyarrow:
        raise ImportError("--format parquet needs pyarrow: pip install 'vivit[parquet]', or --format csv")
    return name or ("parquet" if has_pyarrow else "csv")


def write_table(path: Path, columns: Mapping[str, type], rows: Iterable[list[Any]]) -> int:
    """Write rows to a .parquet or .csv file, all or nothing; return how many. Raises OSError.

    `columns` are int, float or str; None is an empty cell. A CSV holds numbers with all their digits.
    """
    return (_write_parquet if path.suffix == ".parquet" else _write_csv)(path, columns, iter(rows))


def _write_csv(path: Path, columns: Mapping[str, type], rows: Iterable[list[Any]]) -> int:
    count = 0
    with atomic_write(path, newline="", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _write_parquet(path: Path, columns: Mapping[str, type], rows: Iterable[list[Any]]) -> int:
    import pyarrow
    from pyarrow import parquet

    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, types[of]) for name, of in columns.items()])
    count, rows = 0, iter(rows)
    with atomic_write(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            cells = [[_text(cell) for cell in column] for column in zip(*group)]
            writer.write_table(pyarrow.table(dict(zip(columns, cells)), schema=schema))
            count += len(group)
    return count


def _text(cell: Any) -> Any:
    """Replace bytes of a path that are not UTF-8, which Parquet cannot hold."""
    return os.fsencode(cell).decode("utf-8", "replace") if isinstance(cell, str) else cell
