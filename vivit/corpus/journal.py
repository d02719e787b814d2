"""Keep the results of a corpus in a file while they come, so that the same command resumes after a kill."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..data.reading import show_reading
from ..errors import DataError


class Journal:
    """Results of the rows of a list in the order in which they ended, one line each with a checksum.

    The first line says what they were made from; alone, without a result, it is replaced. A line is on its way to
    the disk as soon as `append` returns, so a kill of the process loses none. A line that is cut off or damaged
    ends the file: what follows is done again. One process writes at a time; `vivit.files.exclusive_lock` sees to
    it. Of several results of a row the last one counts.
    """

    def __init__(self, path: Path, made_from: dict[str, Any], size: int):
        self.path, self.made_from = path, made_from
        self.place = np.full(size, -1, np.int64)
        """(size,) where the line of each row begins; -1: the row is not done."""
        self.failed = np.zeros(size, bool)
        """(size,) whether the result of a row is an error."""
        self.num_done = self.num_failed = 0
        self.file: BinaryIO

    def __enter__(self) -> Journal:
        """Read what is there. Raises DataError for the results of something else."""
        self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            self.end = self._read()
        except BaseException:
            self.file.close()
            raise
        self.file.truncate(self.end)
        if not self.end:
            self._write(self.made_from)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def append(self, row: int, cells: list[list[Any]], error: str = "") -> None:
        """Write the result of a row of the list: the cells of its rows in the table, or an error."""
        self._note(row, self.end, bool(error))
        self._write([row, cells, error])

    def results(self) -> Iterator[tuple[int, list[list[Any]], str]]:
        """Yield (row, cells, error) of the rows that are done, in the order of the list."""
        with open(self.path, "rb") as file:
            for row in np.flatnonzero(self.place >= 0).tolist():
                file.seek(self.place[row])
                _, cells, error = json.loads(file.readline()[9:])
                yield row, cells, error

    def todo(self, *, failed_too: bool = False) -> np.ndarray:
        """Return the rows (n,) int64 that are not done, or also those that ended with an error."""
        return np.flatnonzero((self.place < 0) | (self.failed & failed_too))

    def _note(self, row: int, place: int, failed: bool) -> None:
        self.num_done += int(self.place[row] < 0)
        self.num_failed += int(failed) - int(self.failed[row])
        self.place[row], self.failed[row] = place, failed

    def _write(self, value: Any) -> None:
        text = json.dumps(value).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        if self.file.write(line) != len(line):
            raise OSError(f"{self.path}: the disk took only a part of a line; free some space and run it again")
        self.end += len(line)

    def _read(self) -> int:
        """Read all intact lines; return where they end."""
        self.file.seek(0)
        end = 0
        with open(self.path, "rb") as file:
            for line in show_reading(file, f"results in {self.path.name}"):
                if line[-1:] != b"\n" or line[:9] != b"%08x " % zlib.crc32(line[9:-1]):
                    break
                value = json.loads(line[9:])
                if not end:
                    if os.fstat(file.fileno()).st_size == len(line) and value != self.made_from:
                        break
                    self._compare(value)
                else:
                    row, _, error = value
                    self._note(row, end, bool(error))
                end += len(line)
        return end

    def _compare(self, found: dict[str, Any]) -> None:
        differing = [name for name, value in self.made_from.items() if found.get(name) != value]
        if differing:
            changes = "; ".join(f"{name} was {found.get(name)}, is {self.made_from[name]}" for name in differing)
            raise DataError(
                f"{self.path.parent} holds the results of another job ({changes}); give another --out, or delete it"
            )
