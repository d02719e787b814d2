"""Write files so that a reader sees all of a file or nothing, also after a crash."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", **open_arguments: Any) -> Iterator[IO[Any]]:
    """Open a temporary file in the folder of `path`; rename it to `path` when the block ends without an error.

    The data are on the disk (fsync) before the rename. After an error the temporary file is removed and `path` is as
    it was. Text is UTF-8 unless `encoding` says otherwise. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        open_arguments.setdefault("encoding", "utf-8")
    tmp = path.with_name(f".{path.name[:100]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with tmp.open(mode, **open_arguments) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except BaseException:
        with suppress(FileNotFoundError):
            tmp.unlink()
        raise
