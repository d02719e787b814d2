"""Read and write files behind URLs with fsspec: s3://, gs://, http:// and whatever else it has a driver for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import VideoError


def is_url(root: str) -> bool:
    """Return whether fsspec must open `root`, such as s3://bucket/folder."""
    return "://" in root


def filesystem_of(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path in it. Raises ImportError without its driver."""
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise ImportError(f"{url} needs fsspec: pip install 'vivit[cloud]'") from error
    return core.url_to_fs(url)


def read_range(path: str, url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read the bytes from `start` to `end` of the file at `url`. Raises VideoError, which names the video `path`."""
    try:
        filesystem, place = filesystem_of(url)
        return filesystem.cat_file(place, start=start, end=end)
    except ImportError:
        raise
    except Exception as error:  # every kind of storage has errors of its own
        raise VideoError(
            path, f"cannot be read ({type(error).__name__}: {error})", "a file that its storage gives"
        ) from error


@lru_cache(maxsize=1)
def read_video(url: str) -> bytes:
    """Read all of a file; the last one is kept for the next segment of it. Raises VideoError."""
    return read_range(url, url)


@contextmanager
def local_folder(place: str, fetch: str = "") -> Iterator[Path]:
    """Yield a folder for new files: `place` itself, or for a URL a temporary one, uploaded if no error ends the block.

    Files below the URL that match `fetch`, such as "*.json", are downloaded into it first, and uploaded only if they
    have changed. Raises OSError.
    """
    if not is_url(place):
        yield Path(place)
        return
    filesystem, root = filesystem_of(place)
    root = root.rstrip("/")
    with TemporaryDirectory() as name:
        folder = Path(name, root.rpartition("/")[2])
        folder.mkdir()
        if fetch:
            with as_os_error(f"{place}: cannot be read"):
                names = [path for path in filesystem.find(root) if Path(path).match(fetch)]
                filesystem.get(names, [f"{folder}/{path.removeprefix(f'{root}/')}" for path in names])
        dates = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        yield folder
        for path in sorted(folder.rglob("*")):
            if path.is_file() and dates.get(path) != path.stat().st_mtime_ns:
                below = path.relative_to(folder).as_posix()
                with as_os_error(f"{place}/{below}: cannot be written"):
                    filesystem.put_file(str(path), f"{root}/{below}")


@contextmanager
def as_os_error(problem: str) -> Iterator[None]:
    """Turn an exception of a storage, of which every kind has its own, into an OSError that begins with `problem`."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{problem} ({type(error).__name__}: {error})") from error
