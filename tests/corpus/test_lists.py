"""Lists of every kind name the same videos."""

import csv
import json
import logging

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from vivit.corpus import lists
from vivit.corpus.lists import hash_list
from vivit.data.tools.prepare import prepare
from vivit.errors import DataError

from ..data.videos import counter_frames, write_video

ROWS = [("a.mp4", 0.5, 1.25), ("deep/ü b.mp4", None, None), ("a.mp4", None, 0.5)]


def read_list(source, **options):
    return lists.read_list(source, **options)[0]


@pytest.fixture
def tables(tmp_path):
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "start", "end"), *ROWS])
    lines = [json.dumps(dict(zip(("path", "start", "end"), row))) for row in ROWS]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    columns = dict(zip(("path", "start", "end"), zip(*ROWS)))
    parquet.write_table(pyarrow.table({**columns, "other": [1, 2, 3]}), tmp_path / "list.parquet")
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_tables_need_neither_labels_nor_files(tables, suffix):
    found = read_list(str(tables / f"list.{suffix}"))
    assert [(s.path, s.start, s.end) for s in found] == [(str(tables / path), *part) for path, *part in ROWS]
    assert hash_list(found, np.arange(3)) == hash_list(*lists.read_list(str(tables / "list.csv")))


def test_a_folder_a_video_and_shards_name_their_videos(tmp_path):
    for name in ("x", "y"):
        (tmp_path / "videos" / "train" / name).mkdir(parents=True)
        write_video(tmp_path / "videos" / "train" / name / "1.mp4", counter_frames(8))
    folder = str(tmp_path / "videos")
    assert [s.path for s in read_list(folder)] == [f"{folder}/train/x/1.mp4", f"{folder}/train/y/1.mp4"]
    assert [s.path for s in read_list(f"{folder}/train/x/1.mp4")] == [f"{folder}/train/x/1.mp4"]
    assert [s.labels for s in read_list(folder, dataset="folder", split="train")] == [{"label": "x"}, {"label": "y"}]
    prepare(folder, str(tmp_path / "small"), splits=("train",), shard_mib=1, workers=1)
    packed = read_list(str(tmp_path / "small" / "shards"), split="train")
    assert [s.path.rpartition("#")[2] for s in packed] == ["train/x/1.mp4", "train/y/1.mp4"]
    assert all(s.offset is not None for s in packed)


def test_rows_that_repeat_others_are_left_out_and_wrong_ones_are_listed(tmp_path, caplog):
    table = tmp_path / "list.csv"
    table.write_text("path,start\na.mp4,1\na.mp4,1\na.mp4,2\n")
    with caplog.at_level(logging.WARNING):
        samples, places = lists.read_list(str(table))
    assert ([s.start for s in samples], places.tolist()) == ([1, 2], [0, 2])
    assert hash_list(samples, places) != hash_list(samples, np.arange(2))
    assert "1 rows repeat others" in caplog.text
    table.write_text("path,start\n,1\na.mp4,soon\n")
    with pytest.raises(DataError, match=r"list.csv:2: path is empty\n.*list.csv:3: start is 'soon'"):
        read_list(str(table))
    for name, content, problem in (
        ("none", None, "does not exist"),
        ("list.doc", "x", "neither a table"),
        ("empty.csv", "path\n", "no video in it"),
        ("bad.parquet", "x", "not a readable Parquet table"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=problem):
            read_list(str(tmp_path / name))
