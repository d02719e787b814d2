"""Folders and tables to samples: what is found, how videos are held out, and what is said about wrong rows."""

import json
from pathlib import Path

import pytest

from vivit.data.datasets.find_videos import find_videos
from vivit.data.datasets.folder import folder_classes, read_folder
from vivit.data.datasets.registry import read_annotations, read_samples
from vivit.data.sample import Sample
from vivit.data.sample_table import class_names, encode_labels, list_hash
from vivit.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(samples: list[Sample]) -> set[str]:
    return {Path(s.path).name for s in samples}


def table(folder: Path, text: str, *videos: str, name: str = "labels.csv") -> Path:
    touch(folder, *videos)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def problems(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        read_samples("folder", str(root), split)
    return str(error.value)


# Folders


def test_each_subfolder_is_a_class_and_other_files_are_not_videos(tmp_path):
    touch(tmp_path, "cat/1.mp4", "cat/deep/2.MKV", "cat/notes.txt", "cat/._1.mp4", "dog/1.avi", ".cache/x.mp4", "a.mp4")
    samples = read_folder(tmp_path, "train") + read_folder(tmp_path, "val")
    found = sorted((Path(s.path).relative_to(tmp_path).as_posix(), s.labels["label"]) for s in samples)
    assert found == [("cat/1.mp4", "cat"), ("cat/deep/2.MKV", "cat"), ("dog/1.avi", "dog")]


def test_split_folders_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/a/2.mp4", "train/b/3.mp4", "val/a/4.mp4")
    assert names(read_folder(tmp_path, "train")) == {"1.mp4", "2.mp4", "3.mp4"}
    assert names(read_folder(tmp_path, "val")) == {"4.mp4"}
    assert "no split 'test'; the folders are train, val" in problems(tmp_path, "test")


def test_without_splits_a_fifth_of_each_class_is_held_out_and_nothing_is_in_both(tmp_path):
    touch(
        tmp_path, *(f"{c}/{i}.mp4" for c in "ab" for i in range(20)), *(f"few/{i}.mp4" for i in range(2)), "one/0.mp4"
    )
    train, val = read_folder(tmp_path, "train"), read_folder(tmp_path, "val")
    assert len(train) + len(val) == 43
    assert not {s.path for s in train} & {s.path for s in val}
    held_out = [s.labels["label"] for s in val]
    assert {c: held_out.count(c) for c in ("a", "b", "few", "one")} == {"a": 4, "b": 4, "few": 1, "one": 0}
    assert read_folder(tmp_path, "test") == val
    assert read_folder(tmp_path, "train") == train


def test_adding_a_video_moves_at_most_one_of_the_others(tmp_path):
    touch(tmp_path, *(f"a/{i}.mp4" for i in range(60)))
    before = names(read_folder(tmp_path, "val"))
    for i in range(60, 70):
        touch(tmp_path, f"a/{i}.mp4")
        after = names(read_folder(tmp_path, "val"))
        moved = (before ^ after) - {f"{i}.mp4"}
        assert len(moved) <= 1
        before = after


def test_where_the_folder_lies_does_not_change_what_is_held_out(tmp_path):
    for place in ("here", "there"):
        touch(tmp_path / place, *(f"a/{i}.mp4" for i in range(20)))
    assert names(read_folder(tmp_path / "here", "val")) == names(read_folder(tmp_path / "there", "val"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected one subfolder per class, found no folder"),
        (["videos/x.mp4", "labels.csv"], "found only videos; for the table give"),
        (["labels.csv"], "for the table give"),
        (["cat/1.mp4", "dog/readme.txt"], "dog: a class folder without videos (.mp4"),
    ],
)
def test_a_folder_that_is_no_data_set_says_what_was_expected(tmp_path, files, message):
    assert message in problems(touch(tmp_path, *files))


def test_a_folder_where_nothing_can_be_held_out_says_what_to_do(tmp_path):
    assert "--data.eval-split train" in problems(touch(tmp_path, "a/1.mp4", "b/1.mp4"), "val")


def test_an_unset_or_missing_root_and_an_unknown_reader_say_so(tmp_path):
    assert "does not exist" in problems(tmp_path / "nowhere")
    with pytest.raises(DataError, match="data.root is not set"):
        read_samples("folder", "", "train")
    with pytest.raises(DataError, match="unknown dataset 'foldr'; did you mean 'folder'"):
        read_samples("foldr", str(tmp_path), "train")
    with pytest.raises(DataError, match="shards have no annotations; give the dataset from which"):
        read_annotations("shards", str(tmp_path), "train")


def test_class_folders_that_link_to_each_other_are_read_once_by_each_name(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "a/x").symlink_to("../b")
    (tmp_path / "b/y").symlink_to("../a")
    (tmp_path / "b/self").symlink_to(".")
    assert find_videos(tmp_path) == ["a/1.mp4", "a/x/2.mp4", "b/2.mp4", "b/y/1.mp4"]
    monkeypatch.chdir(tmp_path)
    assert find_videos(".") == find_videos(tmp_path)


def test_classes_json_may_have_a_byte_order_mark(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "classes.json").write_text('\ufeff{"label": ["b", "a"]}', encoding="utf-8")
    assert folder_classes(tmp_path) == {"label": ("b", "a")}


# Tables


def test_a_csv_gives_label_sets_times_and_splits(tmp_path):
    text = (
        "path, verb, noun, start, end, split\n"
        "v/a.mp4, run, dog, 1.5, 3, train\n"
        '"v/b, c.mp4", sit, cat, , , train\n'
        "v/a.mp4, sit, dog, 3, , test\n"
    )
    root = table(tmp_path, text, "v/a.mp4", "v/b, c.mp4")
    a, b = str(tmp_path / "v/a.mp4"), str(tmp_path / "v/b, c.mp4")
    assert read_folder(root, "train") == [
        Sample(a, {"verb": "run", "noun": "dog"}, 1.5, 3.0, "labels.csv:2"),
        Sample(b, {"verb": "sit", "noun": "cat"}, None, None, "labels.csv:3"),
    ]
    assert read_folder(root, "test") == [Sample(a, {"verb": "sit", "noun": "dog"}, 3.0, None, "labels.csv:4")]
    assert "no row has split 'val'; there are test, train" in problems(root, "val")


def test_a_jsonl_gives_the_same_samples_as_the_csv(tmp_path):
    rows = [{"path": f"{i}.mp4", "label": i % 2, "start": i / 2, "split": "train"} for i in range(4)]
    csv_text = "path,label,start,split\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    as_csv = table(tmp_path, csv_text, *(row["path"] for row in rows))
    as_jsonl = table(tmp_path, "".join(json.dumps(row) + "\n\n" for row in rows), name="labels.jsonl")
    plain = [[(s.path, s.labels, s.start) for s in read_folder(root, "train")] for root in (as_csv, as_jsonl)]
    assert plain[0] == plain[1]
    assert plain[0][1] == (str(tmp_path / "1.mp4"), {"label": "1"}, 0.5)
    assert [s.where for s in read_folder(as_jsonl, "train")] == [f"labels.jsonl:{n}" for n in (1, 3, 5, 7)]


def test_a_byte_order_mark_and_letters_of_any_language_are_read(tmp_path):
    root = table(tmp_path, "\ufeffpath,label,split\nä 視.mp4,走る,train\n", "ä 視.mp4")
    assert read_folder(root, "train")[0].labels == {"label": "走る"}


def test_a_table_without_splits_holds_out_rows_whose_labels_stay_in_training(tmp_path):
    rows = [
        (f"{v}{n}{i}.mp4", v, n)
        for v, n, many in (("run", "dog", 10), ("run", "cat", 5), ("sit", "dog", 1))
        for i in range(many)
    ]
    text = "path,verb,noun\n" + "".join(f"{','.join(row)}\n" for row in rows)
    root = table(tmp_path, text, *(row[0] for row in rows))
    train, val = read_folder(root, "train"), read_folder(root, "val")
    assert len(train) + len(val) == 16
    assert names(train).isdisjoint(names(val))
    pairs = [tuple(s.labels.values()) for s in val]
    assert {pair: pairs.count(pair) for pair in set(pairs)} == {("run", "dog"): 2, ("run", "cat"): 1}
    encode_labels(val, class_names(train))


def test_every_wrong_row_is_listed_at_once_with_file_and_line(tmp_path):
    text = (
        "path,label,start,end,split\n"
        "ok.mp4,a,,,train\n"
        "gone.mp4,a,,,train\n"
        ",a,,,train\n"
        "ok.mp4,  ,,,train\n"
        "ok.mp4,a,minus one,,train\n"
        "ok.mp4,a,-1,,train\n"
        "ok.mp4,a,nan,,train\n"
        "ok.mp4,a,2,1,train\n"
        "ok.mp4,a,,,train,more\n"
        "ok.mp4\n"
        "ok.mp4,a,,,\n"
    )
    message = problems(table(tmp_path, text, "ok.mp4"))
    expected = {
        3: "no file",
        4: "path is empty",
        5: "label is empty",
        6: "start is 'minus one'; it takes seconds, 0 or more",
        7: "start is '-1'",
        8: "start is 'nan'",
        9: "end 1.0 is not after start 2.0",
        10: "more fields than the 5 columns",
        11: "label is empty",
        12: "split is empty",
    }
    lines = message.splitlines()[1:]
    for line, problem in expected.items():
        assert any(f"labels.csv:{line}: {problem}" in got for got in lines), (line, problem, message)
    assert {int(got.split(":")[1]) for got in lines} == set(expected)


def test_files_outside_the_folder_of_the_table_and_rows_that_stand_there_twice_are_listed(tmp_path):
    text = (
        "path,label,start,end,split\n"
        "v/ok.mp4,a,1,2,train\n"
        "../v/ok.mp4,a,,,train\n"
        f"{tmp_path}/../v/ok.mp4,a,,,train\n"
        "v/../v/./ok.mp4,a,1.0,2,test\n"
        "v/ok.mp4,b,2,3,train\n"
        ",,,,\n"
    )
    lines = problems(table(tmp_path, text, "v/ok.mp4")).splitlines()[1:]
    expected = [
        "labels.csv:3: ../v/ok.mp4 is outside",
        f"labels.csv:4: {tmp_path}/../v/ok.mp4 is outside",
        "labels.csv:5: the same segment of the same video as labels.csv:2",
        "labels.csv:7: path is empty",
        "labels.csv:7: label is empty",
        "labels.csv:7: split is empty",
    ]
    assert len(lines) == len(expected)
    assert all(line.strip().startswith(beginning) for line, beginning in zip(lines, expected))


def test_all_class_folders_without_videos_are_listed_at_once(tmp_path):
    message = problems(touch(tmp_path, "cat/1.mp4", "dog/readme.txt", "hen/._1.mp4"))
    assert "dog: a class folder without videos" in message
    assert "hen: a class folder without videos" in message


def test_all_parts_of_a_file_are_held_out_together_and_no_labels_leave_training(tmp_path):
    parts = [(f"{i}.mp4", verb, start) for i in range(20) for start, verb in enumerate(["run", "sit", "run"])]
    parts += [("rare.mp4", "jump", 0), ("rare.mp4", "run", 1)]
    text = "path,verb,start,end\n" + "".join(f"{p},{v},{s},{s + 1}\n" for p, v, s in parts)
    root = table(tmp_path, text, *{p for p, _, _ in parts})
    train, val = read_folder(root, "train"), read_folder(root, "val")
    assert len(train) + len(val) == len(parts)
    assert names(train).isdisjoint(names(val))
    assert 4 <= len(names(val)) <= 5  # a fifth of 20 or 21
    assert {s.labels["verb"] for s in train} == {"run", "sit", "jump"}


def test_wrong_rows_of_a_jsonl_are_listed_with_file_and_line(tmp_path):
    rows = [
        {"path": "ok.mp4", "verb": "run"},
        {"path": "ok.mp4", "verb": "run", "noun": "dog"},
        {"path": "ok.mp4", "verb": None, "noun": "dog"},
        {"path": "ok.mp4", "verb": "run", "noun": "dog", "start": [1]},
    ]
    message = problems(table(tmp_path, "".join(json.dumps(r) + "\n" for r in rows), "ok.mp4", name="t.jsonl"))
    assert "t.jsonl:1: noun is empty" in message
    assert "t.jsonl:3: verb is empty" in message
    assert "t.jsonl:4: start is [1]" in message
    assert "t.jsonl:2" not in message


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "no rows"),
        ("t.csv", "path,label\n", "no rows"),
        ("t.csv", "file,label\nok.mp4,a\n", "no column 'path'; found file, label"),
        ("t.csv", "path,start\nok.mp4,1\n", "no label column besides path, start"),
        ("t.csv", "path,label,label\nok.mp4,a,b\n", "column 'label' occurs more than once"),
        ("t.csv", "path,label,\nok.mp4,a,\n", "a column without a name"),
        ("t.jsonl", '{"path": "ok.mp4", "label": "a"}\n{"path": \n', "t.jsonl:2"),
        ("t.jsonl", '{"path": "ok.mp4", "label": "a"}\n7\n', "t.jsonl:2"),
    ],
)
def test_a_table_that_cannot_be_understood_says_what_and_where(tmp_path, name, text, message):
    assert message in problems(table(tmp_path, text, "ok.mp4", name=name))


def test_a_video_given_as_the_table_is_not_a_readable_table(tmp_path):
    (tmp_path / "v.mp4").write_bytes(bytes(range(256)))
    assert "not a readable UTF-8" in problems(tmp_path / "v.mp4")


# Labels


def test_class_names_are_sorted_and_labels_encoded_in_their_order():
    samples = [
        Sample(str(i), {"verb": v, "noun": n}) for i, (v, n) in enumerate([("sit", "b"), ("run", "a"), ("sit", "c")])
    ]
    classes = class_names(samples)
    assert classes == {"verb": ("run", "sit"), "noun": ("a", "b", "c")}
    assert encode_labels(samples, classes).tolist() == [[1, 1], [0, 0], [1, 2]]
    assert encode_labels(samples, {"noun": ("c", "b", "a")}).tolist() == [[1], [2], [0]]


def test_labels_outside_a_saved_list_are_all_listed_with_their_place():
    samples = [
        Sample("1.mp4", {"verb": "jmup"}, where="t.csv:2"),
        Sample("2.mp4", {"verb": "jump"}),
        Sample("3.mp4", {}),
    ]
    with pytest.raises(DataError) as error:
        encode_labels(samples, {"verb": ("jump", "run")})
    assert "t.csv:2: verb 'jmup' is not among the 2 classes; did you mean 'jump'?" in str(error.value)
    assert "3.mp4: no verb" in str(error.value)
    assert "2.mp4" not in str(error.value)


def test_the_hash_of_a_list_depends_on_what_it_holds_not_on_order_or_place():
    a, b = Sample("x/1.mp4", {"l": "a"}), Sample("x/2.mp4", {"l": "b"}, start=1.0)
    assert list_hash([a, b]) == list_hash([Sample("y/2.mp4", {"l": "b"}, start=1.0), a])
    assert len({list_hash(s) for s in ([a], [a, a], [a, b], [Sample("x/1.mp4", {"l": "b"})])}) == 4
