"""Clips of one recording stay together."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivit.data.datasets.folder import read_folder
from vivit.data.groups import source_groups
from vivit.data.sample import Sample


def groups(*paths: str) -> list[int]:
    return source_groups([Sample(path, {"label": path.split("/")[0]}) for path in paths]).tolist()


def names(pattern: str) -> list[str]:
    """Two classes of three recordings of two clips."""
    return [pattern.format(c=c, r=r, k=k) for c in ("run", "jump") for r in (1, 2, 3) for k in (1, 2)]


@pytest.mark.parametrize(
    "pattern",
    ["{c}/v_{c}_g0{r}_c0{k}.avi", "{c}/game{r}/{k}.mp4", "{c}/match{r}-clip_{k}.mp4", "{c}/{r}a part {k}.mp4"],
)
def test_clips_of_a_recording_are_one_group(pattern: str) -> None:
    assert groups(*names(pattern)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("pattern", ["{c}/IMG_00{r}{k}.mp4", "{c}/{r}{k}.mp4", "{c}/clip{r}{k}.mp4"])
def test_numbers_alone_are_no_recordings(pattern: str) -> None:
    assert groups(*names(pattern)) == list(range(12))


def test_two_groups_of_a_class_are_no_recordings() -> None:
    """A fifth is to be held out, not a half."""
    paths = [f"{c}/{performer}{tone}.mp4" for c in ("run", "jump", "row") for performer in "mn" for tone in range(6)]
    assert groups(*paths) == list(range(36))


def test_segments_of_a_file_are_one_group() -> None:
    samples = [Sample("a.mp4", {"label": "x"}, start=float(i), end=i + 1.0) for i in range(3)] + [Sample("b.mp4")]
    assert source_groups(samples).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("table", [False, True])
def test_a_recording_is_held_out_as_a_whole(tmp_path: Path, table: bool) -> None:
    paths = [f"{c}/{c}_g{r:02}_c{k:02}.mp4" for c in ("run", "jump") for r in range(10) for k in range(3)]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    root = tmp_path
    if table:
        root = tmp_path / "labels.csv"
        root.write_text("\n".join(["path,label", *(f"{path},{path.split('/')[0]}" for path in paths)]))
    recordings = {split: {Path(s.path).name[:-8] for s in read_folder(root, split)} for split in ("train", "val")}
    assert not recordings["train"] & recordings["val"]
    assert (len(recordings["train"]), len(recordings["val"])) == (16, 4)
