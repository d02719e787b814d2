"""Pack videos into tar files and read them from there, on a disk or behind a URL.

The layout is that of WebDataset: `train-000000.tar` holds videos/a.mp4 and videos/a.json, and so on. index.jsonl in the
same folder is a manifest (`vivit.data.manifest`) that says where in which tar file each video begins. So one request
reads any sample, and the order of training is the same function of the seed as with plain files.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError, VideoError
from ..files import atomic_write
from .manifest import FileInfo, Manifest, parse_manifest, write_manifest
from .remote import filesystem_of, is_url, read_range
from .sample import Classes, Sample, container_file
from .sample_table import SampleTable

INDEX = "index.jsonl"
BLOCK = 512  # tar files are made of these


def read_shards(root: str, split: str) -> SampleTable:
    """Read the samples of a split, as they were when they were packed."""
    manifest = _index(root)
    if split not in manifest.header["splits"]:
        raise DataError(f"{root}: no split {split!r}; there are {', '.join(manifest.header['splits'])}")
    return manifest.samples(split)


def shard_classes(root: str) -> dict[str, tuple[str, ...]]:
    """Read the classes and their order, as they were when the videos were packed."""
    return {name: tuple(names) for name, names in _index(root).header["classes"].items()}


def read_packed(path: str, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset` on of the tar file named before "#" in `path`. Raises VideoError."""
    shard = container_file(path)
    if is_url(shard):
        data = read_range(path, shard, offset, offset + size)
    else:
        try:
            with open(shard, "rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(offset)
                data = file.read(min(size, max(end - offset, 0)))  # an index may claim any size
        except OSError as error:
            raise VideoError(path, f"cannot be read ({error.strerror})", "a tar file of the index") from error
    if len(data) != size:
        raise VideoError(path, f"ends after {len(data)} of {size} bytes", "the tar files that the index was made with")
    return data


def pack(
    dest: Path,
    *,
    base: str,
    files: Sequence[FileInfo],
    samples: Mapping[str, Sequence[Sample]],
    number: Mapping[str, int],
    classes: Classes,
    shard_mib: int,
) -> list[str]:
    """Write the readable files, relative to `base`, into tar files of about `shard_mib` MiB, and the index.

    Every file goes to the split of its first sample. Tar files of an earlier call are removed. Returns the names of
    the new ones.
    """
    dest.mkdir(parents=True, exist_ok=True)
    (dest / INDEX).unlink(missing_ok=True)
    for path in dest.glob("*.tar"):
        if re.fullmatch(r".+-\d{6}", path.stem):
            path.unlink()
    rows: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for split, table in samples.items():
        for s in table:
            row = {"split": split, "labels": s.labels, "start": s.start, "end": s.end}
            rows[number[s.path]].append(row | ({"group": s.group} if s.group else {}))
    packed, names = list(files), list[str]()
    for split in samples:
        mine = [i for i in rows if rows[i][0]["split"] == split and files[i].num_frames]
        for shard, group in enumerate(_groups(mine, files, shard_mib * 2**20)):
            names.append(f"{split}-{shard:06d}.tar")
            for i, offset in zip(group, _write_tar(dest / names[-1], base, [files[i] for i in group], rows, group)):
                member = f"{names[-1]}#{files[i].path}"
                packed[i] = files[i]._replace(path=member, mtime_ns=0, offset=offset)
    kept = [i for i in range(len(files)) if packed[i].offset is not None]
    place = {i: k for k, i in enumerate(kept)}
    write_manifest(
        dest / INDEX,
        dataset="shards",
        files=[packed[i] for i in kept],
        samples={split: [s for s in table if number[s.path] in place] for split, table in samples.items()},
        classes=classes,
        missing={},
        stamps={},
        number={path: place[i] for path, i in number.items() if i in place},
    )
    return names


def _groups(mine: Sequence[int], files: Sequence[FileInfo], most: int) -> Iterator[list[int]]:
    """Yield groups of consecutive files with at most `most` bytes in sum, or a single file."""
    group, size = list[int](), 0
    for i in mine:
        if group and size + (files[i].bytes or 0) > most:
            yield group
            group, size = [], 0
        group.append(i)
        size += files[i].bytes or 0
    if group:
        yield group


def _write_tar(
    path: Path, base: str, files: Sequence[FileInfo], rows: Mapping[int, list[dict[str, Any]]], numbers: Sequence[int]
) -> list[int]:
    """Write one tar file atomically; return where each video begins."""
    offsets = []
    with atomic_write(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, i in zip(files, numbers):
            data = Path(base, info.path).read_bytes()
            _add(tar, info.path, data)
            offsets.append(tar.offset - -(-len(data) // BLOCK) * BLOCK)  # type: ignore[attr-defined]
            _add(tar, f"{os.path.splitext(info.path)[0]}.json", json.dumps({"samples": rows[i]}).encode())
    return offsets


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _index(root: str) -> Manifest:
    path = f"{root.rstrip('/')}/{INDEX}"
    if is_url(root):
        return _remote_index(root, path)
    try:
        info = os.stat(path)
    except OSError as error:
        raise DataError(f"no {path}; data.root of the dataset 'shards' is a folder or URL with {INDEX}") from error
    return _local_index(root, path, info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=1)
def _local_index(root: str, path: str, size: int, mtime_ns: int) -> Manifest:
    return _parse(Path(path).read_bytes(), root, path)


@lru_cache(maxsize=1)
def _remote_index(root: str, path: str) -> Manifest:
    filesystem, place = filesystem_of(path)
    try:
        content = filesystem.cat_file(place)
    except FileNotFoundError as error:
        raise DataError(f"no {path}; data.root of the dataset 'shards' is a folder or URL with {INDEX}") from error
    return _parse(content, root, path)


def _parse(content: bytes, root: str, path: str) -> Manifest:
    """Parse an index and check that every entry is inside a tar file below `root`. Raises DataError."""
    try:
        manifest = parse_manifest(content.decode(), base=root, name=path)
        _check_index(manifest)
        return manifest
    except DataError:
        raise
    except Exception as error:  # it may hold anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{path}: not an index of shards, or a damaged one ({reason}); pack the shards again"
        ) from error


def _check_index(manifest: Manifest) -> None:
    """Raise ValueError for an entry that training cannot use, or that leads out of the folder of the shards."""
    header, files, file = manifest.header, manifest.columns.files, manifest.columns.file
    if not _strings(header["splits"]) or not all(_strings(names) for names in header["classes"].values()):
        raise ValueError("splits or classes are not lists of names")
    if files.offsets is None or (files.offsets < 0).any() or (files.sizes <= 0).any():
        raise ValueError("a video without an offset or a size")
    if len(file) and not 0 <= file.min() <= file.max() < len(files.sizes):
        raise ValueError(f"a sample of file {file.max()}; there are {len(files.sizes)}")
    for i in range(len(files.sizes)):
        shard, found, _ = files.paths[i].partition(".tar#")
        if not found or is_url(shard) or shard.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", shard):
            raise ValueError(f"{files.paths[i]!r} is no member of a tar file below the index")


def _strings(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
