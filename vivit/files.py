"""Write files all or nothing, and lock a folder against other processes."""

import errno
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import FolderInUse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_held: set[int] = set()  # file descriptors of the locks of this process


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: str = "w", *, sync: bool = True, **open_arguments: Any
) -> Iterator[IO[Any]]:
    """Open a temporary file in the folder of `path`; rename it to `path` when the block ends without an error.

    The data are on the disk (fsync) before the rename; without `sync`, for what can be made again, the file may be cut
    off after a crash of the machine. After an error the temporary file is removed and `path` is as it was. Text is
    UTF-8 unless `encoding` says otherwise. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        open_arguments.setdefault("encoding", "utf-8")
    tmp = path.with_name(f".{path.name[:50]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with tmp.open(mode, **open_arguments) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(tmp, path)
    except BaseException:
        with suppress(FileNotFoundError):
            tmp.unlink()
        raise


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file, all or nothing. Raises OSError."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=indent) + "\n")


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive_lock(folder: str | os.PathLike[str], *, what: str) -> Iterator[None]:
    """Let only one process at a time work in `folder`, which is created if needed; `what` it does goes into messages.

    Raises FolderInUse, which says who holds the lock and since when. The operating system releases the lock when the
    process ends, however it ends; processes that it forked do not keep it. The file `.lock` stays in the folder. Where
    the file system has no locks, a warning says so and the block runs without one. Raises OSError if the folder cannot
    be written to.
    """
    path = Path(folder, LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    _held.add(number)
    try:
        if _lock(number, path, what):
            os.ftruncate(number, 0)
            since = time.strftime("%Y-%m-%d %H:%M:%S %z")
            os.pwrite(number, f"{what} by process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
        yield
    finally:
        if number in _held:  # a forked child has closed it
            _held.discard(number)
            os.close(number)


def _lock(number: int, path: Path, what: str) -> bool:
    """Take the lock without waiting; False where there are no locks."""
    problem = "this system has no file locks"
    if fcntl is not None:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = os.pread(number, 1000, 0).decode("utf-8", "replace").strip() or "another process"
                raise FolderInUse(
                    f"{path.parent} is in use: {holder}; {what} needs it alone: wait for that process to end, "
                    "stop it, or give another folder"
                ) from None
            problem = f"its file system has no locks ({error.strerror})"
    logging.getLogger("vivit").warning(
        "%s: %s; do not start a second %s in this folder while this one runs", path.parent, problem, what
    )
    return False


def _release_in_child() -> None:
    """Close the locks in a forked process, so that it does not hold them after its parent was killed."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
