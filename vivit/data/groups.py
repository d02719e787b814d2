"""Tell which videos come from one recording, so that they stay on one side of a split."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .sample import Sample

CLIP_NUMBER = re.compile(r"[-_ .]*(?:clip|part|seg(?:ment)?|scene|shot|take|rep|c|p|s|t)?[-_ .]*\d+$", re.IGNORECASE)
FEWEST = 4  # recordings that a guess from names must leave in most classes, else the names are no recordings


def source_groups(samples: Sequence[Sample]) -> np.ndarray:
    """Return (N,) int64: the recording of each sample. Segments of one file are of one recording.

    Where any sample has a `group`, samples of one group are of one recording; those without are of a recording of
    their own. Else files are of one recording if they are in one folder (`running/game1/*.mp4`) or if their names
    differ only in a clip number at the end (`g01_c03.mp4`). Either guess counts only if it leaves FEWEST recordings in
    most classes: files of one folder per class are not of one recording, nor are IMG_0001 and IMG_0002, nor m1 to m5
    and f1 to f5: of two or three recordings no fifth could be held out.
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in _recordings(samples)[0]], np.int64)


def recordings_known_by(samples: Sequence[Sample]) -> str:
    """Return how `source_groups` tells recordings, for messages; "" if it takes every file for one."""
    return _recordings(samples)[1]


def _recordings(samples: Sequence[Sample]) -> tuple[Sequence[str], str]:
    """Return the name of the recording of each sample, and how it is known."""
    samples = list(samples)  # a table makes a sample each time it is asked for
    paths = [s.path.rpartition(".tar#")[2] for s in samples]  # a shard holds videos of any recordings
    groups = [s.group for s in samples]
    if any(groups):
        return _join_files(paths, groups), "the column group"
    labels = [tuple(s.labels.values()) for s in samples]
    for guess, how in ((_by_folder, "their folders"), (_by_stem, "the names of the files")):
        names = [guess(path) for path in paths]
        if _plausible(names, labels, paths):
            return names, how
    return paths, ""


def _join_files(paths: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return a name for each sample, the same for all that a file or group connects, also over several steps."""
    parents: dict[str, str] = {}

    def top(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = parents[parent]
            name = parent
        return name

    for path, group in zip(paths, groups):
        if group:
            parents[top(path)] = top(f"group\0{group}")  # no path has a null byte
    return [top(path) for path in paths]


def _by_folder(path: str) -> str:
    return os.path.dirname(path)


def _by_stem(path: str) -> str:
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0]
    return os.path.join(folder, CLIP_NUMBER.sub("", stem) or stem)


def _plausible(names: Sequence[str], labels: Sequence[tuple[str, ...]], paths: Sequence[str]) -> bool:
    """Whether the guess joins files, and leaves FEWEST recordings in most classes."""
    files = len(set(paths))
    by_class: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for name, label in zip(names, labels):
        by_class[label].add(name)
    enough = sum(len(group) >= FEWEST for group in by_class.values())
    return len(set(names)) < files and enough > len(by_class) / 2
