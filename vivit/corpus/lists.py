"""Read the list of a corpus: a folder, a table, tar shards or an official dataset; labels are not needed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..data.datasets.find_videos import VIDEO_SUFFIXES, find_videos
from ..data.datasets.label_table import read_rows
from ..data.datasets.registry import read_samples
from ..data.datasets.rows import parse_fps, parse_segment
from ..data.reading import show_reading
from ..data.remote import as_os_error, filesystem_of, is_url
from ..data.sample import Sample
from ..data.sample_table import SampleTable
from ..data.shards import INDEX
from ..errors import DataError
from ..text import listing, printable

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")


def read_list(source: str, *, dataset: str = "", split: str = "val") -> tuple[SampleTable, np.ndarray]:
    """Return the videos and segments that `source` names, in the order of the list, each once, and their places in it.

    The places (n,) int64 count from 0, also the rows of a table that repeat others and are left out.

    Args:
        source: A folder, which is searched for videos; a table (CSV, JSON lines, Parquet) with a column `path`,
            relative to its folder or absolute, and optional `start`, `end` (seconds) and `fps` of folders of images; a
            folder of tar shards; a video. Each of them may be a URL of fsspec, and so may the paths of a table.
        dataset: A dataset of `vivit.data.datasets.registry`, whose `split` in the folder `source` is the list.
        split: Of `dataset` and of shards.

    A table may name files that do not exist. Raises DataError for a source without videos and for unusable rows,
    OSError for a storage that does not answer.
    """
    if dataset or has_index(source):
        table = read_samples(dataset or "shards", source, split)
        return table, np.arange(len(table))
    path, places = Path(source), None
    if is_url(source):
        samples, places = _remote_samples(source)
    elif path.is_dir():
        samples = [Sample(_join(source, name), where=name) for name in find_videos(source, thorough=True)]
    elif not path.is_file():
        raise DataError(f"{source}: does not exist; a list is a folder, a table, a folder of shards or a video")
    elif path.suffix.lower() in TABLES:
        samples, places = _samples(path, str(path.parent))
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        samples = [Sample(source)]
    else:
        raise DataError(f"{source}: neither a table ({', '.join(TABLES)}) nor a video by its suffix")
    if not samples:
        raise DataError(f"{source}: no video in it")
    return SampleTable.of(samples), np.arange(len(samples)) if places is None else np.array(places, np.int64)


def has_index(source: str) -> bool:
    """Say whether `source` is a folder of shards."""
    if not is_url(source):
        return os.path.isfile(os.path.join(source, INDEX))
    if _is_file(source):
        return False
    filesystem, place = filesystem_of(source)
    with as_os_error(f"{source}: cannot be read"):
        return filesystem.exists(f"{place.rstrip('/')}/{INDEX}")


def root_of(source: str) -> str:
    """Return the folder of a list, or of a video."""
    if is_url(source):
        return source.rpartition("/")[0] if _is_file(source) else source.rstrip("/")
    return os.path.dirname(source) or "." if os.path.isfile(source) else source


def path_below(sample: Sample, root: str) -> str:
    """Return the path of a sample below the folder of its list; of one elsewhere, the whole path without its root."""
    if sample.offset is not None:
        return sample.path.partition(".tar#")[2]
    if is_url(sample.path):
        below = sample.path.removeprefix(f"{root}/")
        return below.partition("://")[2] or below
    path = os.path.relpath(sample.path, root)
    return os.path.abspath(sample.path).lstrip("/") if path.startswith("..") else path


def _join(folder: str, name: str) -> str:
    """Return the path of a video of a list; in the working folder it is what the list says."""
    return name if folder == "." else os.path.join(folder, name)


def _is_file(url: str) -> bool:
    return url.lower().endswith((*TABLES, *VIDEO_SUFFIXES))


def _remote_samples(source: str) -> tuple[list[Sample], list[int] | None]:
    """Return the samples of a table, a video or a folder of videos behind a URL, and the places of those of a table.

    Raises DataError and OSError.
    """
    if source.lower().endswith(VIDEO_SUFFIXES):
        return [Sample(source)], None
    filesystem, place = filesystem_of(source)
    if _is_file(source):
        with TemporaryDirectory() as folder:
            table = Path(folder, source.rpartition("/")[2])
            with as_os_error(f"{source}: cannot be read"):
                filesystem.get_file(place, str(table))
            return _samples(table, root_of(source))
    with as_os_error(f"{source}: cannot be read"):
        names = sorted(path.removeprefix(place).lstrip("/") for path in filesystem.find(place))
    names = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
    return [Sample(f"{root_of(source)}/{name}", where=name) for name in names], None


def _samples(table: Path, folder: str) -> tuple[list[Sample], list[int]]:
    """Return the samples of a table, whose paths are relative to `folder`, and the places of their rows.

    Of equal ones the first, with a warning.

    Raises DataError for unusable rows.
    """
    rows = _parquet_rows(table) if table.suffix.lower() == ".parquet" else read_rows(table)
    found: dict[tuple[str, float | None, float | None], tuple[Sample, int]] = {}
    problems: list[str] = []
    for place, (number, row) in enumerate(show_reading(rows, f"rows of {printable(table.name)}")):
        wrong: list[str] = []
        name = str(row.get("path") or "").strip()
        if not name:
            wrong.append("path is empty" if "path" in row else "no column path")
        start, end = parse_segment(row.get("start"), row.get("end"), wrong)
        fps = parse_fps(row.get("fps"), wrong)
        problems += [f"{table.name}:{number}: {one}" for one in wrong]
        path = name if is_url(name) else _join(folder, name)
        found.setdefault((path, start, end), (Sample(path, {}, start, end, f"{table.name}:{number}", fps), place))
    if problems:
        raise DataError(listing(f"{table}: rows that cannot be used", problems))
    if len(found) < len(rows):
        logging.getLogger("vivit").warning("%s: %d rows repeat others and are left out", table, len(rows) - len(found))
    return [sample for sample, _ in found.values()], [place for _, place in found.values()]


def _parquet_rows(table: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError(f"{table} needs pyarrow: pip install 'vivit[parquet]'") from error
    try:
        names = [name for name in parquet.read_schema(table).names if name in ("path", "start", "end", "fps")]
        return list(enumerate(parquet.read_table(table, columns=names).to_pylist(), start=1))
    except ArrowException as error:
        raise DataError(f"{table}: not a readable Parquet table: {error}") from error


def hash_list(samples: Iterable[Sample], places: np.ndarray) -> str:
    """Return the SHA-256 of the paths and segments of a list, in its order, and of the places if some are left out."""
    digest = hashlib.sha256()
    for one in samples:
        digest.update(f"{one.path}\0{one.start}\0{one.end}\0{one.fps}\n".encode("utf-8", "surrogateescape"))
    if (places != np.arange(len(places))).any():
        digest.update(places.astype("<i8").tobytes())
    return digest.hexdigest()
