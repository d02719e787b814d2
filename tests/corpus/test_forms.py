"""The same videos as a folder, tables, shards, an official dataset and behind a URL give the same rows of results."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from vivit.data.tools.prepare import prepare

from ..data.datasets.official import kinetics


@pytest.fixture
def forms(tmp_path, videos):
    """Lists of the two validation videos of a small Kinetics: the source and the options of each form."""
    kinetics(tmp_path / "raw")
    for source, video in zip(sorted(videos.glob("?.mp4")), sorted((tmp_path / "raw" / "val").rglob("*.mp4"))):
        shutil.copy(source, video)
    root = tmp_path / "small"
    prepare(str(tmp_path / "raw"), str(root), dataset="kinetics400", splits=("val",), shard_mib=1, workers=1)
    shutil.copytree(tmp_path / "raw" / "annotations", root / "annotations")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([name] for name in names)])
    (root / "list.jsonl").write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    parquet.write_table(pyarrow.table({"path": names}), root / "list.parquet")
    return {
        "folder": (root, {}),
        "csv": (root / "list.csv", {}),
        "jsonl": (root / "list.jsonl", {}),
        "parquet": (root / "list.parquet", {}),
        "shards": (root / "shards", {}),
        "dataset": (root, {"dataset": "kinetics400"}),
        "url of a folder": (f"file://{root}", {}),
        "url of a csv": (f"file://{root}/list.csv", {}),
        "url of a parquet": (f"file://{root}/list.parquet", {}),
        "url of shards": (f"file://{root}/shards", {}),
    }


def test_every_form_of_a_list_gives_the_same_rows(run, forms):
    results = {}
    for form, (source, options) in forms.items():
        done = run(out=f"out {form}", source=source, workers=1, **options)
        found = list(csv.DictReader(done.table.read_text(encoding="utf-8").splitlines()))
        results[form] = sorted([Path(row.pop("path")).name, *row.values()][:1] + [*row.values()][1:] for row in found)
    assert len(results["folder"]) == 2
    assert {row[-1] for row in results["folder"]} == {""}
    for form, rows in results.items():
        assert rows == results["folder"], form
