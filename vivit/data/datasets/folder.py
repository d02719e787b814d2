"""Read your own videos: a folder with one subfolder per class, or a table of labels."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import DataError
from ...text import listing, printable
from ..groups import source_groups
from ..reading import show_reading
from ..sample import Sample
from ..sample_table import unify
from ..shards import INDEX as SHARD_INDEX
from .find_videos import VIDEO_SUFFIXES, find_videos, is_hidden
from .label_table import read_table, table_samples
from .split_names import split_name, usual_split

LABEL_SET = "label"  # the name of the only label set of a folder
HELD_OUT = 5  # where no split is given, about one video of this many, per class, is held out
Rows = list[tuple[str, str]]  # (class, path of a video below the root)


def read_folder(root: Path, split: str, missing: Sequence[str] = (), labels: Sequence[str] = ()) -> list[Sample]:
    """Read the samples of `split` from a folder or table. A video is a file or a folder of images.

    * `root/<split>/<class>/*.mp4` where the folders are splits, in any usual spelling (Train, validation, testing …);
      `root/<class>/<split>/*.mp4` is read in the same way;
    * `root/<class>/*.mp4`: of each class about one video in five is held out for "val" and "test"; which ones depends
      on the file names alone, so that adding videos moves few;
    * a .csv or .jsonl file: columns `path` (relative to the file, in its folder), optional `start` and `end` in
      seconds, `fps` of folders of images and `split`, and label columns, one label set each: those in `labels`, or
      chosen by their names (`label_table.choose_labels`). Without splits one video in five is held out of each
      combination of labels, with all its parts.
    """
    split = usual_split(split) or split
    samples = _read_table(root, split, labels) if root.is_file() else _read_classes(root, split)
    if not samples:
        raise DataError(
            f"{root}: no video for split {split!r}. Of each class one video in {HELD_OUT} is held out, but none where "
            "a class has only one; add videos, or evaluate on the training videos with --data.eval-split train"
        )
    return samples


def folder_splits(root: Path, labels: Sequence[str] = ()) -> set[str]:
    """Return the names of the splits of a folder or table; none where `read_folder` divides the videos itself.

    Raises DataError as `read_folder` does.
    """
    if root.is_file():
        return set(table_samples(root, read_table(root, labels, tuple(folder_classes(root))))[1]) - {""}
    return set(_splits(root, _videos_by_folder(root)) or ())


def unused_videos(root: Path, videos: Sequence[str]) -> list[str]:
    """Return those of the sorted `videos` of a folder, below it, that are in no class or split. Raises DataError."""
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for path in videos:
        folder, separator, inside = path.partition("/")
        if separator:
            by_folder[folder].append(inside)
    splits = _splits(root, by_folder)
    if splits is None:
        return [path for path in videos if "/" not in path]
    used = {path for rows in splits.values() for _, path in rows}
    return [path for path in videos if path not in used]


def folder_classes(root: Path) -> dict[str, tuple[str, ...]]:
    """Read classes.json, {"label": ["a", "b", …]}, in the folder or next to the table; {} without one."""
    file = (root.parent if root.is_file() else root) / "classes.json"
    try:
        classes = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}") from error
    if not isinstance(classes, dict) or not all(isinstance(names, list) for names in classes.values()):
        raise DataError(f'{file}: expected the class names by label set, {{"label": ["a", "b", …]}}')
    return {name: tuple(map(str, names)) for name, names in classes.items()}


def _read_classes(root: Path, split: str) -> list[Sample]:
    videos = _videos_by_folder(root)
    splits = _splits(root, videos)
    if splits is not None:
        if split not in splits:
            names = ", ".join(sorted(splits))
            hint = ""
            if len(splits) == 1:
                folder = root / splits[names][0][1].split("/")[0]
                hint = f", or give {folder}, of which one video in {HELD_OUT} is held out"
            raise DataError(f"{root}: no split {split!r}; the folders are {names}. Name one with data.eval_split{hint}")
        rows, every = splits[split], {label for several in splits.values() for label, _ in several}
    else:
        rows = [(name, f"{name}/{path}") for name, paths in videos.items() for path in paths]
        every = {label for label, _ in rows}
    if len(every) == 1 and rows:
        _refuse_deeper(root, next(iter(every)), [path for _, path in rows])
    if splits is None:
        _refuse_no_classes(root, videos)
    by_class: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in rows:
        by_class[unify(name)].append(path)
    samples = [
        Sample(f"{root}/{path}", {LABEL_SET: label}, where=path)
        for label, paths in by_class.items()
        for path in (paths if splits is not None else sorted(paths))
    ]
    return samples if splits is not None else _part(samples, split_name(split))


def _videos_by_folder(root: Path) -> dict[str, list[str]]:
    """Find the videos of each folder in `root`; shards that `vivit data prepare` wrote there are no class."""
    names = show_reading(_subfolders(root), f"folders in {printable(str(root))}")
    videos = {name: find_videos(root / name, thorough=True) for name in names}
    return {name: paths for name, paths in videos.items() if paths or not (root / name / SHARD_INDEX).exists()}


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def _splits(root: Path, videos: Mapping[str, Sequence[str]]) -> dict[str, Rows] | None:
    """Return (class, video) by split if the folders are splits of classes or classes of splits; None if not.

    `videos` holds those of each folder in `root`. A folder called train is a split if it holds class folders; if
    it holds videos, it is a class. Raises DataError if that is ambiguous.
    """
    named = {name: usual_split(name) for name, paths in videos.items() if usual_split(name) and paths}
    others = [name for name, paths in videos.items() if paths and name not in named]
    nested = [name for name in named if _is_nested(videos[name])]
    if not named:
        return _splits_of_classes(root, videos)
    if not nested:
        if others:
            return _splits_of_classes(root, videos)  # classes that happen to be called train, val or test
        raise DataError(
            f"{root}: the videos are directly in {', '.join(named)}; expected one subfolder per class in each, "
            f"{root / next(iter(named))}/CLASS/VIDEO, or a table with the columns path, label and split"
        )
    flat = [name for name in named if name not in nested]
    classes = {path.split("/")[0] for name in nested for path in videos[name] if "/" in path}
    split_like = [name for name in others if classes & {path.split("/")[0] for path in videos[name] if "/" in path}]
    if flat or (others and len({named[name] for name in nested}) == 1 and len(split_like) < len(others)):
        unlike = ", ".join(flat or [name for name in others if name not in split_like])
        raise DataError(
            f"{root}: {', '.join(nested)} may be a split or a class: it holds folders of videos, and {unlike} next to "
            f"it does not. If it is a split, put all class folders into split folders (train, val, test) or move "
            f"{unlike} away; if it is a class, put its videos directly into it"
        )
    folders: dict[str, str] = {}
    for name in (*nested, *split_like):  # next to usual ones a split may have any name
        split = named.get(name) or name
        if split in folders:
            raise DataError(f"{root}: {folders[split]} and {name} both name the split {split}; keep one of them there")
        folders[split] = name
    empty = [
        f"{root / folder / name}: {_no_videos(root / folder / name)}"
        for folder in folders.values()
        for name in _subfolders(root / folder)
        if not any(path.startswith(f"{name}/") for path in videos[folder])
    ]
    if empty:
        raise DataError(listing(f"{root}: folders that cannot be used", empty))
    return {
        split: [(path.split("/")[0], f"{name}/{path}") for path in videos[name] if "/" in path]
        for split, name in folders.items()
    }


def _is_nested(paths: Sequence[str]) -> bool:
    """Return whether at least half of the videos of a folder are in subfolders."""
    return 2 * sum("/" in path for path in paths) >= len(paths)


def _splits_of_classes(root: Path, videos: Mapping[str, Sequence[str]]) -> dict[str, Rows] | None:
    """Return (class, video) by split if split folders are inside the class folders; None if not."""
    rows: defaultdict[str, Rows] = defaultdict(list)
    rest: list[str] = []
    for name, paths in videos.items():
        for path in paths:
            split = usual_split(path.split("/")[0]) if "/" in path else None
            if split:
                rows[split].append((name, f"{name}/{path}"))
            else:
                rest.append(f"{name}/{path}")
    if len(rows) < 2 or len(videos) < 2:
        return None
    if rest:
        raise DataError(
            f"{root}: some videos are in split folders inside their class, such as {next(iter(rows.values()))[0][1]}, "
            f"others do not, such as {rest[0]}; put all into split folders, or none"
        )
    return dict(rows)


def _refuse_no_classes(root: Path, videos: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError for a root without class folders, or with one that holds no video."""
    tables = sorted(path for suffix in ("csv", "tsv", "jsonl") for path in root.glob(f"*.{suffix}"))
    tables = [path for path in tables if not path.name.startswith("manifest.")]
    if not videos or (len(videos) == 1 and tables):
        hint = f"; for the table give {tables[0]}" if tables else ""
        found = f"only {next(iter(videos))}" if videos else "no folder"
        direct = sum(path.suffix.lower() in VIDEO_SUFFIXES for path in root.iterdir())
        if direct and not tables:
            hint = f"; {direct} videos are directly in it: put them into class folders, or list them in a table"
        raise DataError(f"{root}: expected one subfolder per class, found {found}{hint}")
    empty = [f"{root / name}: {_no_videos(root / name)}" for name, paths in videos.items() if not paths]
    if empty:
        raise DataError(listing(f"{root}: folders that cannot be used", empty))


def _no_videos(folder: Path) -> str:
    """Describe what a class folder without videos holds instead."""
    counts: Counter[str] = Counter()
    find_videos(folder, thorough=True, passed_over=counts)
    found = ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common(5)) or "nothing"
    return f"a class folder without videos ({', '.join(VIDEO_SUFFIXES[:3])} …, folders of images); it holds {found}"


def _refuse_deeper(root: Path, name: str, paths: Sequence[str]) -> None:
    """Raise DataError if the folders inside the only class look like the classes: the wrong folder was given."""
    folder = paths[0][: f"{paths[0]}/".index(f"{name}/") + len(name)]  # of the class, below the root
    below = [path[len(folder) + 1 :].split("/") for path in paths if path.startswith(f"{folder}/")]
    depth = 0
    while len({parts[depth] for parts in below}) == 1 and min(map(len, below)) > depth + 2:
        if usual_split(below[0][depth]):
            break
        depth += 1
    inside = "/".join((folder, *below[0][:depth]))
    children = sorted({parts[depth] for parts in below if len(parts) > depth + 1})
    if len(children) > 1 or (children and usual_split(children[0])):
        shown = ", ".join(f"{inside}/{child}" for child in children[:3]) + (" …" if len(children) > 3 else "")
        levels = ("two", "three", "four", "five")[min(inside.count("/"), 3)]
        raise DataError(
            f"{root}: the folder {folder} alone would be a single class. The videos are {levels} levels down, in "
            f"{shown}: "
            + (f"give {root / inside}" if folder == name else f"move these folders up, into {Path(folder).parent}")
        )


def _read_table(table: Path, split: str, labels: Sequence[str]) -> list[Sample]:
    samples, splits = table_samples(table, read_table(table, labels, tuple(folder_classes(table))))
    if not any(splits):
        return _part(samples, split_name(split))
    chosen = [s for s, name in zip(samples, splits) if name == split]
    if not chosen:
        raise DataError(f"{table}: no row has split {split!r}; there are {', '.join(sorted(set(splits)))}")
    return chosen


def _part(samples: list[Sample], split: str) -> list[Sample]:
    """Return the samples for "train", or those of the held-out recordings."""
    return [s for held, s in zip(held_out(samples), samples) if held != (split == "train")]


def held_out(samples: Sequence[Sample]) -> list[bool]:
    """Return which samples are held out, about one in HELD_OUT: all clips of a recording are on one side.

    In the order of the hashes of their names, recordings are held out as long as every combination of labels in them
    has room: each gives at most ceil(n / HELD_OUT) of its n recordings, none if it has only one.
    """
    groups = source_groups(samples).tolist()
    paths: dict[int, str] = {}
    combinations: dict[int, set[tuple[str, ...]]] = {}
    for group, s in zip(groups, samples):
        paths.setdefault(group, s.path)
        combinations.setdefault(group, set()).add(tuple(s.labels.values()))
    recordings = Counter(c for several in combinations.values() for c in several)
    room = {c: math.ceil(n / HELD_OUT) if n > 1 else 0 for c, n in recordings.items()}
    held = set()
    for group in sorted(paths, key=lambda group: _hash(os.path.basename(paths[group])) + os.fsencode(paths[group])):
        if all(room[c] for c in combinations[group]):
            held.add(group)
            room.update({c: room[c] - 1 for c in combinations[group]})
    return [group in held for group in groups]


def _hash(name: str) -> bytes:
    return hashlib.sha256(os.fsencode(name)).digest()
