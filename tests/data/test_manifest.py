"""Validate manifests like any other input; a manifest never changes the training videos."""

import json
import os

import pytest

from vivit.data import manifest as manifest_module
from vivit.data.datasets.registry import read_annotations, read_samples
from vivit.data.manifest import FILE_COLUMNS, parse_manifest, read_file_info
from vivit.data.sample_table import list_hash
from vivit.data.tools.check import check
from vivit.errors import DataError

from .tools.test_check import folder, quick_check, write_videos  # noqa: F401  (a fixture)

COLUMNS = ["file", "split", "start", "end", "fps", "group", "label"]


def text(header=None, file=None, sample=None, tail=""):
    """A manifest of one file and one sample, changed."""
    facts = {"path": "a/1.mp4", "bytes": 10, "mtime_ns": 5, "duration": 1.0, "width": 8, "height": 8, "fps": 25.0}
    facts |= {"num_frames": 25, "problem": None, "sha256": None, "packets": "", "offset": None, "thorough": False}
    row = {"file": 0, "split": "train", "start": None, "end": None, "fps": None, "group": "", "label": "a"}
    head = {
        "manifest": 3,
        "dataset": "folder",
        "file_columns": list(FILE_COLUMNS),
        "files": 1,
        "sample_columns": COLUMNS,
    }
    head |= {"samples": 1, "splits": ["train"], "classes": {"label": ["a"]}, "missing": {}, "stamps": {}, "labels": []}
    lines = (head | (header or {}), list((facts | (file or {})).values()), list((row | (sample or {})).values()))
    return "".join(json.dumps(line) + "\n" for line in lines) + tail


def test_a_sound_manifest_is_read():
    [sample] = parse_manifest(text(), base="root", name="m").samples("train")
    assert (sample.path, sample.labels) == ("root/a/1.mp4", {"label": "a"})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"file": {"path": path}} for path in ("/etc/passwd", "../x.mp4", "a/../../x", "", "a\0b", 7, None, "\ud800")),
        *({"file": {"bytes": value}} for value in (-1, 1.5, "1", True, 10**30, [1])),
        *({"file": {"num_frames": value}} for value in (-1, 10**30, None, float("nan"))),
        *({"file": {"duration": value}} for value in (float("nan"), float("inf"), -1.0, "1", None)),
        *(
            {"file": {"problem": 7}},
            {"file": {"packets": None}},
            {"file": {"mtime_ns": 2**70}},
            {"file": {"thorough": 1}},
        ),
        *({"sample": {"file": value}} for value in (-1, 1, 0.0, None, True, 10**30)),
        *({"sample": {"start": value}} for value in (float("nan"), float("-inf"), -1, "0", [0])),
        *({"sample": {"split": value}} for value in ("val", 0, None)),
        *({"sample": {"label": value}} for value in (None, 3, ["a"], "\ud800")),
        *({"sample": {"group": value}} for value in (None, 3, ["a"], "\ud800")),
        *({"sample": {"start": 2, "end": 1}}, {"sample": {"fps": 0}}, {"sample": {"more": 1}}),
        *({"header": {"files": value}} for value in (-1, 2, 10**12, "1", None)),
        *({"header": {"samples": value}} for value in (-1, 2, 10**12, 0.5)),
        *({"header": {"splits": value}} for value in ([], None, [1], "train")),
        *({"header": {"stamps": value}} for value in ([], {"../x": []}, {"/etc/passwd": []})),
        *({"header": {"missing": value}} for value in ([], {"train": "x"}, {"train": [1]})),
        *({"header": {"file_columns": value}} for value in ([], ["path"], [*FILE_COLUMNS, "more"], None)),
        *(
            {"header": {"sample_columns": value}}
            for value in ([], COLUMNS[:3], COLUMNS[:5] + ["label"], [*COLUMNS[:6], "x", "x"])
        ),
        *({"header": {"manifest": value}} for value in (0, 99, None, "2", {})),
        {"header": {"dataset": 7}},
    ],
    ids=str,
)
def test_what_cannot_be_true_is_an_error_that_names_the_file_and_what_to_do(wrong, tmp_path):
    with pytest.raises(DataError, match=r"m\.jsonl: not a manifest, or a damaged one .*; run vivit data check again"):
        parse_manifest(text(**wrong), base="root", name="m.jsonl")
    (tmp_path / "m.jsonl").write_text(text(**wrong))
    if "file" in wrong:
        assert read_file_info(tmp_path / "m.jsonl") == {}


@pytest.mark.parametrize(
    "body", ["", "[]", "7", '"x"', "{", "[" * 100_000, "null", "\ufeff{}", "{}\n\0\0", '{"manifest": 3}']
)
def test_no_manifest_at_all_is_the_same_error(body, tmp_path):
    with pytest.raises(DataError, match="run vivit data check again"):
        parse_manifest(body, base="root", name="m.jsonl")
    (tmp_path / "m.jsonl").write_text(body)
    assert read_file_info(tmp_path / "m.jsonl") == {}


def test_bytes_that_are_no_text_are_the_same_error(folder):  # noqa: F811
    (folder / "manifest.folder.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="run vivit data check again"):
        read_samples("folder", str(folder), "train")


def test_a_manifest_of_the_first_format_is_not_used_and_an_index_of_shards_still_is(folder, caplog):  # noqa: F811
    quick_check(folder)
    path = folder / "manifest.folder.jsonl"
    path.write_text(path.read_text().replace('"manifest":3', '"manifest":1'))
    plain = read_annotations("folder", str(folder), "train")[0]
    assert list(read_samples("folder", str(folder), "train")) == list(plain)
    assert "is not used: it is of an older version; vivit data check brings it up to date" in caplog.text
    assert quick_check(folder).opened == 5
    head, facts, sample = (json.loads(line) for line in text(header={"manifest": 1}).splitlines())
    del head["labels"]
    head["file_columns"].remove("thorough")
    without_group(head, sample)
    old = "\n".join(map(json.dumps, (head, facts[:-1], sample)))
    assert len(parse_manifest(old, base="root", name="m").samples("train")) == 1


def without_group(head, *samples):
    place = head["sample_columns"].index("group")
    for row in (head["sample_columns"], *samples):
        del row[place]


@pytest.mark.parametrize("of_table", [False, True])
def test_a_manifest_without_groups_is_used_where_there_can_be_none(folder, of_table, caplog):  # noqa: F811
    root = folder
    if of_table:
        root = folder / "labels.csv"
        root.write_text("path,label,group,split\ntrain/cat/1.mp4,cat,x,train\ntrain/dog/3.mp4,dog,y,val\n")
    quick_check(root)
    path = folder / ("manifest.labels.jsonl" if of_table else "manifest.folder.jsonl")
    head, *rows = map(json.loads, path.read_text().splitlines())
    without_group(head, *rows[head["files"] :])
    path.write_text("".join(json.dumps(row) + "\n" for row in (head | {"manifest": 2}, *rows)))
    samples = read_samples("folder", str(root), "train")
    plain = read_annotations("folder", str(root), "train")[0]
    assert list_hash(samples, ordered=True) == list_hash(plain, ordered=True)
    assert ("is not used: it is of an older version" in caplog.text) == of_table
    assert [s.group for s in samples] == (["x"] if of_table else [""] * 3)
    assert all(s.index for s in samples) != of_table
    assert quick_check(root).opened == 0


def test_a_label_set_may_have_the_name_of_another_column():
    head, facts, sample = (json.loads(line) for line in text(sample={"group": "g"}).splitlines())
    head["sample_columns"] += ["group", "file"]
    lines = (head, facts, [*sample, "red", "raw"])
    [read] = parse_manifest("\n".join(map(json.dumps, lines)), base="root", name="m").samples("train")
    assert (read.group, read.labels) == ("g", {"label": "a", "group": "red", "file": "raw"})
    assert read.path == "root/a/1.mp4"


def test_a_file_that_was_unreadable_and_has_been_replaced_is_trained_on(folder):  # noqa: F811
    video = folder / "train/cat/1.mp4"
    sound = video.read_bytes()
    video.write_bytes(b"no video")
    quick_check(folder)
    assert len(read_samples("folder", str(folder), "train").readable()[0]) == 2
    with video.open("r+b") as file:  # in place: the date of the folder stays
        file.write(sound)
    assert len(read_samples("folder", str(folder), "train").readable()[0]) == 3


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.tsv", "folder.csv"])
def test_the_manifest_of_another_table_or_folder_with_its_name_is_not_used(folder, name, caplog):  # noqa: F811
    """labels.csv and labels.jsonl share a manifest, and so do folder.csv and the folder that it is in."""
    checked, other = folder / "labels.csv", folder / name
    if name == "folder.csv":
        checked, other = other, folder
    else:
        row = {"path": "train/cat/1.mp4", "label": "red", "split": "train"}
        other.write_text(json.dumps(row) if name == "labels.jsonl" else "\t".join(row) + "\n" + "\t".join(row.values()))
    checked.write_text("path,label,split\ntrain/cat/1.mp4,blue,train\ntrain/dog/3.mp4,green,train\n")
    quick_check(checked)
    plain = read_annotations("folder", str(other), "train")[0]
    assert read_samples("folder", str(other), "train") == plain
    assert "is not used: it is of another table or folder" in caplog.text
    assert all(s.index for s in read_samples("folder", str(checked), "train"))


def test_a_video_in_a_folder_that_was_empty_is_noticed(folder):  # noqa: F811
    (folder / "train/cat/later").mkdir()
    quick_check(folder)
    os.utime(folder / "train/cat/later", (1, 1))
    quick_check(folder)
    write_videos(folder, {"train": ("cat/later/7",)})
    plain = read_annotations("folder", str(folder), "train")[0]
    assert list_hash(read_samples("folder", str(folder), "train"), ordered=True) == list_hash(plain, ordered=True)


def test_a_list_of_classes_that_appears_is_noticed(folder, caplog):  # noqa: F811
    table = folder / "labels.csv"
    table.write_text("path,x,y,split\ntrain/cat/1.mp4,a,b,train\n")
    check(str(table), splits=("train",), workers=1)
    (folder / "classes.json").write_text('{"y": ["b"]}')
    assert read_samples("folder", str(table), "train")[0].labels == {"y": "b"}
    assert "classes.json has changed since" in caplog.text


def test_names_that_begin_with_two_dots_stay_inside(tmp_path):
    write_videos(tmp_path, {"train": ("a/..1", "b/2")})
    (tmp_path / "labels.csv").write_text("path,label\ntrain/a/..1.mp4,a\n")
    quick_check(tmp_path / "labels.csv", splits=("train",))
    assert manifest_module.load_manifest(tmp_path / "manifest.labels.jsonl", str(tmp_path / "labels.csv"))
