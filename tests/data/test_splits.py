"""A folder or table without a split to validate on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vivit.config import DataConfig
from vivit.data.manifest import find_in_manifest
from vivit.data.splits import load_split, read_split
from vivit.data.tools.check import check
from vivit.errors import DataError

from .datasets.test_folder import touch


def paths(data: DataConfig, split: str) -> set[str]:
    return {str(Path(s.path).relative_to(Path(data.root).parent)) for s in read_split(data, split)}


def write_folder(root: Path) -> DataConfig:
    """Two classes of five recordings with three clips each, and a test split."""
    names = [f"{c}/g{g}_c{i}.mp4" for c in "ab" for g in range(5) for i in range(3)]
    touch(root / "videos", *(f"train/{name}" for name in names), "test/a/x.mp4", "test/b/x.mp4")
    return DataConfig(root=str(root / "videos"))


def write_table(root: Path) -> DataConfig:
    """The same as a table."""
    data = write_folder(root)
    found = sorted(path.relative_to(root) for path in Path(data.root).rglob("*.mp4"))
    rows = [f"{path},{path.parts[2]},{path.parts[1]}" for path in found]
    (root / "labels.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return DataConfig(root=str(root / "labels.csv"))


@pytest.mark.parametrize("write", [write_folder, write_table])
def test_a_fifth_of_the_training_videos_is_held_out_by_class_and_recording(tmp_path: Path, write) -> None:
    data = write(tmp_path)
    train, val = paths(data, "train"), paths(data, "val")
    assert len(train) == 24
    assert len(val) == 6
    assert not train & val
    assert Counter(Path(path).parent.name for path in val) == {"a": 3, "b": 3}
    recordings = {(Path(path).parent.name, Path(path).name[:2]) for path in val}
    assert len(recordings) == 2  # of each class one complete recording
    assert not any("test/" in path for path in train | val)
    assert len(paths(data, "test")) == 2


def test_a_manifest_of_a_table_with_groups_holds_out_the_same_videos(tmp_path: Path) -> None:
    """Every group has clips of both classes, which no name tells."""
    names = [f"{(7 * i) % 40}-{c}.mp4" for c in "ab" for i in range(40)]
    touch(tmp_path, *names)
    rows = [f"{name},{name[-5]},g{int(name[:-6]) % 10},train" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,group,split", *rows]) + "\n")
    data = DataConfig(root=str(tmp_path / "labels.csv"))
    plain = {split: paths(data, split) for split in ("train", "val")}
    check(data.root, workers=1)
    found = find_in_manifest("folder", data.root, "train")
    assert found
    assert len(found[0]) == 80
    assert {split: paths(data, split) for split in plain} == plain
    groups = {split: {int(path[:-6]) % 10 for path in found} for split, found in plain.items()}
    assert (len(groups["train"]), len(groups["val"]), len(plain["val"])) == (8, 2, 16)
    assert not groups["train"] & groups["val"]


@pytest.mark.parametrize(
    ("names", "column", "said"),
    [
        ("{c}/{i}.mp4", "group", "by class and recording, known by the column group"),
        ("{c}/game{g}/{i}.mp4", "", "by class and recording, known by their folders"),
        ("{c}/game{g}_c{i}.mp4", "", "by class and recording, known by the names of the files"),
        ("{c}/{i}.mp4", "", "by class; videos of one recording may be on both sides: a column group in a table keeps"),
    ],
)
def test_the_warning_says_what_recordings_are(tmp_path: Path, names: str, column: str, said: str, caplog) -> None:
    videos = [(names.format(c=c, g=i % 5, i=i), c, i % 5) for c in "ab" for i in range(15)]
    touch(tmp_path, *(path for path, _, _ in videos))
    rows = [f"{path},{c},{g},train" for path, c, g in videos]
    (tmp_path / "labels.csv").write_text("\n".join([f"path,label,{column or 'session'},split", *rows]) + "\n")
    data = DataConfig(root=str(tmp_path / "labels.csv"))
    read_split(data, "train")
    assert not caplog.text
    read_split(data, "val")
    assert f"6 of the 30 training videos are held out for it, {said}" in caplog.text


def test_the_split_has_the_labels_of_its_samples(tmp_path: Path) -> None:
    split = load_split(write_folder(tmp_path), "val")
    assert split.classes == {"label": ("a", "b")}
    assert [split.classes["label"][i] for i in split.labels[:, 0]] == [s.labels["label"] for s in split.samples]


def test_nothing_is_held_out_if_the_test_split_is_to_validate_on(tmp_path: Path) -> None:
    data = DataConfig(root=write_folder(tmp_path).root, eval_split="test")
    assert len(paths(data, "train")) == 30


def test_nothing_is_held_out_next_to_a_validation_split(tmp_path: Path) -> None:
    data = write_folder(tmp_path)
    touch(Path(data.root), "val/a/x.mp4", "val/b/x.mp4")
    assert len(paths(data, "train")) == 30
    assert len(paths(data, "val")) == 2


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    touch(tmp_path / "videos", *(f"{c}/{i}.mp4" for c in ("train", "car") for i in range(10)))
    data = DataConfig(root=str(tmp_path / "videos"))
    assert len(paths(data, "train")) == 16
    assert len(paths(data, "val")) == 4


def test_one_recording_per_class_cannot_be_held_out(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/x.mp4", "train/b/y.mp4", "test/a/z.mp4", "test/b/z.mp4")
    with pytest.raises(DataError, match="no class has two recordings; add"):
        read_split(DataConfig(root=str(tmp_path)), "train")


def test_one_group_per_class_cannot_be_held_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "t.csv").write_text("path,label,group,split\na.mp4,x,1,train\nb.mp4,x,1,train\n")
    with pytest.raises(DataError, match="no class has two recordings, known by the column group; add"):
        read_split(DataConfig(root=str(tmp_path / "t.csv")), "train")


@pytest.mark.parametrize(
    ("header", "cells", "labels"), [("path,name", "x", ("name",)), ("path,label,verb", ",x", ("verb",))]
)
def test_labels_are_chosen_without_a_manifest_as_with_one(tmp_path: Path, header: str, cells: str, labels) -> None:
    touch(tmp_path, *(f"v{i}.mp4" for i in range(10)))
    rows = [f"v{i}.mp4,{cells},train" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join([f"{header},split", *rows]) + "\n")
    data = DataConfig(root=str(tmp_path / "t.csv"), labels=labels)
    plain = {split: paths(data, split) for split in ("train", "val")}
    check(data.root, labels=labels, workers=1)
    assert find_in_manifest("folder", data.root, "train", labels=labels)
    assert {split: paths(data, split) for split in plain} == plain
    assert load_split(data, "val").classes == {labels[0]: ("x",)}
