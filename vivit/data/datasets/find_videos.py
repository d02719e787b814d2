"""Find the videos below a folder: video files, and folders of images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...text import printable
from ..reading import show_reading

T = TypeVar("T")

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".webm", ".mkv", ".avi", ".divx", ".wmv", ".asf", ".flv"),
    *(".mpg", ".mpeg", ".mpe", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".ogv", ".ogm", ".mxf", ".gif"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SYSTEM_FOLDERS = {  # folders that photo tools, network drives and operating systems leave; all in lower case
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler"),
    *("system volume information", "lost+found", "__macosx"),
}
GLANCE = 64  # after this many images and nothing else a folder counts as a folder of frames


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not the user's: a dot file, or a folder that a system keeps for itself."""
    return name[0] == "." or name.lower() in SYSTEM_FOLDERS


def find_videos(root: str | Path, *, thorough: bool = False, passed_over: Counter[str] | None = None) -> list[str]:
    """Return the sorted paths, relative to `root`, of all videos: video files, and folders with only images.

    Every folder is listed once and no file is opened. Hidden files and folders are skipped. A folder of a million
    frames is not read to its end, unless `thorough`; then the stills of a video file (`_are_stills`) are skipped as
    well. `passed_over` counts everything else by suffix.
    """
    found: list[str] = []
    folders: list[tuple[str, set[str]]] = [("", set())]
    counts: Counter[str] = Counter() if passed_over is None else passed_over
    for folder, films in show_reading(_pop_all(folders), f"folders below {printable(str(root))}"):
        videos, below, images = [], [], []
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = entry.name
                suffix = name[name.rfind(".") :].lower()
                if is_hidden(name):
                    if entry.is_dir():
                        counts[f"{name}/"] += 1
                elif suffix in VIDEO_SUFFIXES and entry.is_file():
                    videos.append(name)
                elif suffix in IMAGE_SUFFIXES and not entry.is_dir():
                    images.append(name)
                    if len(images) >= GLANCE and not (videos or below or thorough):
                        break
                elif entry.is_dir():
                    if not (entry.is_symlink() and _leads_back(entry.path, str(root))):
                        below.append(f"{folder}{name}/")
                else:
                    counts[os.path.splitext(name)[1].lower() or "no suffix"] += 1
        stems = {name[: name.rfind(".")] for name in videos if name[-4:].lower() != ".gif"}
        if thorough:  # a preview next to its video
            videos = [name for name in videos if name[-4:].lower() != ".gif" or name[:-4] not in stems]
        if images and folder and not (videos or below) and not (thorough and _are_stills(folder, images, films)):
            found.append(folder[:-1])
        else:
            counts.update(os.path.splitext(name)[1].lower() for name in images)
        found += [folder + name for name in videos]
        folders += [(name, stems) for name in below]
    return sorted(found)


def _pop_all(folders: list[T]) -> Iterator[T]:
    """Yield and remove the last folder until none is left; the caller adds more."""
    while folders:
        yield folders.pop()


def _are_stills(folder: str, images: Sequence[str], films: set[str]) -> bool:
    """Return whether the images of a folder belong to video files next to it: thumbnails, a cover, extracted frames.

    They do if the folder or every image is named after one of the videos (`films`, without suffixes), or if there is
    only one image.
    """
    if not films:
        return False
    if len(images) == 1 or name_of(folder[:-1]) in films:
        return True
    return all(
        any(stem[:end] in films for end in (len(stem), *(m.start() for m in re.finditer("[-_. ]", stem))))
        for stem in (os.path.splitext(name)[0] for name in images)
    )


def has_images(folder: str | Path) -> bool:
    """Return whether a folder holds an image."""
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in entries)


def _leads_back(link: str, root: str) -> bool:
    """Return whether a link to a folder points at a folder that contains it or one of those on its path below `root`.

    The latter may be behind other links: a/x to b, and b/y to a.
    """
    target, folder = os.path.realpath(link), link
    while len(folder) > len(root):
        folder = os.path.dirname(folder)
        if os.path.commonpath([target, os.path.realpath(folder)]) == target:
            return True
    return False


def videos_by(key: Callable[[str], str], root: Path, *, order: Callable[[str], Any] = lambda path: 0) -> dict[str, str]:
    """Map `key(relative path without suffix)` to the path of each video; of several, the first in `order`."""
    paths: dict[str, str] = {}
    for path in find_videos(root):
        stem, dot, suffix = path.rpartition(".")
        name = key(stem if dot + suffix.lower() in VIDEO_SUFFIXES else path)
        if name not in paths or order(path) < order(paths[name]):
            paths[name] = path
    return {name: f"{root}/{path}" for name, path in paths.items()}


def is_file_name(path: str) -> bool:
    """Return whether a path from `find_videos` is a video file rather than a folder."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def name_of(path: str) -> str:
    """Return the last part of a relative path."""
    return path.rsplit("/", 1)[-1]


def escapes_root(path: str) -> bool:
    """Return whether a path leads out of the folder to which it is relative."""
    return os.path.isabs(path) or (".." in path and os.path.normpath(path).split(os.sep)[0] == "..")
