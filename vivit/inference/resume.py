"""Keep the rows of an unfinished timeline, or of features, in a file, so that the same command resumes after a kill."""

from __future__ import annotations

import errno
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from ..data.video.decoder import Video
from ..errors import FolderInUse, VideoError
from .timeline import Plan

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CHUNK = 2**24  # bytes of rows in memory
VERSION = 2  # of the computation; higher when the same weights and video give other bits or times


def made_from(plan: Plan, weights: str, *, precision: str, batch: int, device: str) -> str:
    """Return as JSON what the logits of a plan depend on: the file, the hash of the weights, all settings."""
    path = plan.video.path
    try:
        facts = os.stat(path)
    except OSError as error:
        raise VideoError(path, f"cannot be opened ({error.strerror})") from error
    depends = {
        "version": VERSION,
        "path": os.path.abspath(path),
        "size": facts.st_size if isinstance(plan.video, Video) else plan.video.num_frames,
        "mtime_ns": facts.st_mtime_ns,
        "weights": weights,
        "preprocessing": repr(plan.config.preprocessing),
        "windows": repr(plan.windows),
        "rows": [plan.rows.start, plan.rows.stop],
        "crops": plan.crops,
        "precision": precision,
        "batch": batch,
        "device": device,
    }
    return json.dumps(depends, sort_keys=True)


def is_finished(path: Path, made_from: str) -> bool:
    """Say whether the timeline at `path` exists and was computed from this."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return json.loads(str(file["about"])).get("made_from") == made_from
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


class PartialRows:
    """The rows of unfinished work, `size` numbers of a `dtype` each, one record with a checksum, behind a line of JSON.

    Rows are on their way to the disk as soon as `append` returns; a kill loses none, and a record that is cut off or
    damaged ends the file. A file that was made from something else is started again.
    """

    def __init__(self, path: Path, made_from: str, size: int, dtype: str = "<f4"):
        self.path, self.size, self.dtype = path, size, np.dtype(dtype)
        self.header = made_from.encode() + b"\n"
        self.file: BinaryIO

    def __enter__(self) -> PartialRows:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open_and_lock()
        while not self._is_current():  # another process finished and deleted the file before the lock was taken
            self.file.close()
            self._open_and_lock()
        self.count = self._count_intact()
        self.file.truncate(len(self.header) + self.count * self._record_size if self.count else 0)
        if not self.count:
            self.file.write(self.header)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def append(self, row: np.ndarray) -> None:
        """Write the next row."""
        payload = np.ascontiguousarray(row, dtype=self.dtype).tobytes()
        self.file.write(zlib.crc32(payload).to_bytes(4, "little") + payload)
        self.count += 1

    def rows(self) -> np.ndarray:
        """Return all rows, (n, size)."""
        return np.concatenate([np.empty((0, self.size), self.dtype), *self.chunks()])

    def chunks(self, most_bytes: int = CHUNK) -> Iterator[np.ndarray]:
        """Yield the rows in order, (n, size), in pieces of about this many bytes."""
        at_once = max(most_bytes // self._record_size, 1)
        for first in range(0, self.count, at_once):
            self.file.seek(len(self.header) + first * self._record_size)
            n = min(at_once, self.count - first)
            records = np.frombuffer(self.file.read(n * self._record_size), dtype=np.uint8)
            yield records.reshape(n, self._record_size)[:, 4:].copy().view(self.dtype)

    def remove(self) -> None:
        """Delete the file, once the result is saved."""
        self.path.unlink(missing_ok=True)

    def _is_current(self) -> bool:
        """Say whether the open file is the one at the path."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _open_and_lock(self) -> None:
        """Keep other processes from appending; the lock ends with the process, however it ends."""
        self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            if fcntl is not None:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return  # a file system without locks
            self.file.close()
            raise FolderInUse(
                f"{self.path} is in use by another process; wait for it to end, or write to another place"
            ) from None

    @property
    def _record_size(self) -> int:
        return 4 + self.dtype.itemsize * self.size

    def _count_intact(self) -> int:
        self.file.seek(0)
        if self.file.read(len(self.header)) != self.header:
            return 0
        count = 0
        while len(record := self.file.read(self._record_size)) == self._record_size:
            if zlib.crc32(record[4:]) != int.from_bytes(record[:4], "little"):
                break
            count += 1
        return count
