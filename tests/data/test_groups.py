"""Clips of one recording stay together."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from vivit.data.datasets.folder import held_out, read_folder
from vivit.data.groups import source_groups
from vivit.data.sample import Sample
from vivit.data.tools.prepare import prepare
from vivit.errors import DataError

from .videos import counter_frames, write_video


def groups(*paths: str) -> list[int]:
    return source_groups([Sample(path, {"label": path.split("/")[0]}) for path in paths]).tolist()


def names(pattern: str) -> list[str]:
    """Two classes of four recordings of two clips."""
    return [pattern.format(c=c, r=r, k=k) for c in ("run", "jump") for r in (1, 2, 3, 4) for k in (1, 2)]


@pytest.mark.parametrize(
    "pattern",
    ["{c}/v_{c}_g0{r}_c0{k}.avi", "{c}/game{r}/{k}.mp4", "{c}/match{r}-clip_{k}.mp4", "{c}/{r}a part {k}.mp4"],
)
def test_clips_of_a_recording_are_one_group(pattern: str) -> None:
    assert groups(*names(pattern)) == [i // 2 for i in range(16)]


@pytest.mark.parametrize("pattern", ["{c}/IMG_00{r}{k}.mp4", "{c}/{r}{k}.mp4", "{c}/clip{r}{k}.mp4"])
def test_numbers_alone_are_no_recordings(pattern: str) -> None:
    assert groups(*names(pattern)) == list(range(16))


@pytest.mark.parametrize("performers", ["mn", "fmn"])
def test_two_or_three_groups_of_a_class_are_no_recordings(performers: str) -> None:
    """A fifth is to be held out, not a half or a third."""
    paths = [f"{c}/{p}{tone}.mp4" for c in ("run", "jump", "row") for p in performers for tone in range(6)]
    assert groups(*paths) == list(range(len(paths)))


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


def naive_recordings(samples: list[Sample]) -> list[int]:
    """Join the sets of rows that share a file or a group until nothing changes."""
    numbers = list(range(len(samples)))
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(samples):
            for j, b in enumerate(samples):
                joined = a.path == b.path or (a.group and a.group == b.group)
                if joined and numbers[i] != numbers[j]:
                    numbers[i] = numbers[j] = min(numbers[i], numbers[j])
                    changed = True
    return numbers


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_one_group_or_file_are_one_recording(seed: int) -> None:
    """Files whose segments have different groups join these; some rows have none; a group may be called as a file."""
    rng = np.random.default_rng(seed)
    samples = [
        Sample(f"game{rng.integers(3)}/{rng.integers(25)}.mp4", group=rng.choice(["", "", *"abcdefgh", "game1/1.mp4"]))
        for _ in range(40)
    ] + [Sample("x.mp4", group="only")]
    numbers = source_groups(samples).tolist()
    truth = naive_recordings(samples)
    assert numbers == [list(dict.fromkeys(truth)).index(number) for number in truth]


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_on_both_sides_and_a_fifth_of_each_class_is_held_out(seed: int) -> None:
    """Names and folders contradict the column, and some rows have no group."""
    rng = np.random.default_rng(seed)
    samples = [
        Sample(f"{c}/game{rng.integers(4)}/{i}_{rng.integers(10**9)}.mp4", {"label": c}, group=group)
        for c in ("run", "jump", "row")
        for i, group in enumerate(
            ["" if k < 2 else f"{c}{k}" for k in range(rng.integers(12, 30)) for _ in range(1 if k < 2 else 4)]
        )
    ]
    samples = [samples[i] for i in rng.permutation(len(samples))]
    sides = defaultdict(set)
    by_class: dict[str, list[bool]] = defaultdict(list)
    for s, held in zip(samples, held_out(samples), strict=True):
        sides[s.group or s.path].add(held)
        by_class[s.labels["label"]].append(held)
    assert all(len(side) == 1 for side in sides.values())
    assert all(0.13 < np.mean(held) < 0.29 for held in by_class.values())


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_column_of_a_table_is_read_unless_it_is_a_label(tmp_path: Path, suffix: str) -> None:
    rows = [("a.mp4", "x", "walk 1"), ("b.mp4", "y", " walk 1 "), ("c.mp4", "x", ""), ("d.mp4", "y", "7")]
    for path, _, _ in rows:
        (tmp_path / path).write_bytes(b"")
    table = tmp_path / f"labels.{suffix}"
    if suffix == "csv":
        table.write_text("path,split,label,Group\n" + "".join(f"{p},train,{c},{g}\n" for p, c, g in rows))
    else:
        cells = [{"path": p, "split": "train", "label": c, "Group": g or None} for p, c, g in rows]
        cells[-1]["Group"] = 7
        table.write_text("\n".join(map(json.dumps, cells)))
    samples = read_folder(table, "train")
    assert [s.group for s in samples] == ["walk 1", "walk 1", "", "7"]
    assert source_groups(samples).tolist() == [0, 0, 1, 2]


def test_a_column_that_data_labels_chooses_is_no_group(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    table = tmp_path / "labels.csv"
    table.write_text("path,split,label,Group\na.mp4,train,x,1\nb.mp4,train,y,2\n")
    samples = read_folder(table, "train", labels=["group"])
    assert [(s.group, s.labels) for s in samples] == [("", {"Group": "1"}), ("", {"Group": "2"})]


def test_a_group_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    table = tmp_path / "labels.jsonl"
    table.write_text(r'{"path": "a.mp4", "label": "x", "group": "\ud800"}')
    with pytest.raises(DataError, match=r"labels.jsonl:1: group is not UTF-8"):
        read_folder(table, "train")


@pytest.mark.parametrize("name", ["{c}/{c}_g{r:02}_c{k:02}.mp4", "{c}_g{r:02}_c{k:02}.mp4", "{c}/game{r}/{k}.mp4"])
def test_the_shard_of_a_video_says_nothing_of_its_recording(name: str) -> None:
    rows = [(c, r, k) for c in ("run", "jump") for r in range(5) for k in range(4)]
    samples = [
        Sample(f"/data/train-{i // 6:06d}.tar#{name.format(c=c, r=r, k=k)}", {"label": c})
        for i, (c, r, k) in enumerate(rows)
    ]
    assert source_groups(samples).tolist() == [i // 4 for i in range(len(rows))]


SEGMENTS = [("video", ""), ("group", "game"), ("chain", "game"), ("name", "")]


@pytest.mark.parametrize(("kind", "group"), SEGMENTS)
def test_segments_in_files_of_their_own_are_of_the_recordings_of_their_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, group: str
) -> None:
    """Known by the file, by the column group, by both ("chain": groups that share a file) or by the names of files."""
    monkeypatch.setattr("vivit.data.tools.prepare.SECONDS", 0.0)
    rows = ["path,label,start,end,split,group"]
    for i in range(8):
        path = f"v_g{i // 2}_c{i % 2}.mp4" if kind == "name" else f"{'abcdefgh'[i]}.mp4"
        write_video(tmp_path / path, counter_frames(20))
        for k in range(4):
            named = f"{group}{i // 2 + (k == 3 and kind == 'chain')}" if group and (i, k) != (7, 0) else ""
            rows.append(f"{path},{'x' if k % 2 else 'y'},{k * 0.2:g},{k * 0.2 + 0.2:g},train,{named}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    done = prepare(str(tmp_path / "labels.csv"), str(tmp_path / "new"), splits=("train",), segments=True, workers=1)
    old, new = (read_folder(table, "train") for table in (tmp_path / "labels.csv", done.table))
    assert source_groups(new).tolist() == source_groups(old).tolist()
    assert len({*source_groups(new)}) == {"video": 8, "group": 4, "chain": 1, "name": 4}[kind]
