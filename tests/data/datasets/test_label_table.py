"""Tables as other tools write them: encodings, delimiters, paths, headers, and which columns are labels."""

import json
import os
import unicodedata

import numpy as np
import pytest

from vivit.data.datasets.folder import read_folder
from vivit.data.datasets.label_table import read_table
from vivit.data.datasets.registry import read_samples
from vivit.data.sample import Sample
from vivit.data.sample_table import class_names, encode_labels, list_hash
from vivit.data.video.frame_folder import FrameFolder
from vivit.errors import DataError

from .test_folder import problems, table, touch

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def rows(root, split="train"):
    return [(os.path.relpath(s.path, root.parent), s.labels["label"], s.start, s.end) for s in read_folder(root, split)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_excel_and_others_write_the_same_table(tmp_path, encoding, delimiter, newline):
    touch(tmp_path, "v/ä, 1.mp4", "v/2.mp4")
    lines = [
        ["path", "label", "start", "split"],
        ["v/ä, 1.mp4", "走る", "1", "train"],
        ["v/2.mp4", "b;c", "0", "train"],
    ]
    text = newline.join(delimiter.join(f'"{cell}"' for cell in line) for line in lines) + newline
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert rows(tmp_path / "t.csv") == [("v/ä, 1.mp4", "走る", 1.0, None), ("v/2.mp4", "b;c", 0.0, None)]
    assert [s.where for s in read_folder(tmp_path / "t.csv", "train")] == ["t.csv:2", "t.csv:3"]


def test_decimal_commas_and_the_separator_line_of_excel_are_read(tmp_path):
    root = table(tmp_path, "sep=;\npath;label;start;end;split\na.mp4;x;0,5;1,25;train\na.mp4;x;2;3.5;train\n", "a.mp4")
    assert rows(root) == [("a.mp4", "x", 0.5, 1.25), ("a.mp4", "x", 2.0, 3.5)]
    assert [s.where for s in read_folder(root, "train")] == ["labels.csv:3", "labels.csv:4"]
    root = table(tmp_path, 'path,label,start\na.mp4,x,"0,5"\n', "a.mp4")
    assert "start is '0,5'" in problems(root)


@pytest.mark.parametrize(
    "text", ["Path, Label , START,Split\na.mp4,x,1,Training\n", " PATH ;Label;Start;SPLIT\na.mp4;x;1;TRAIN\n"]
)
def test_capitals_and_spaces_in_the_header_and_spellings_of_splits_do_not_matter(tmp_path, text):
    [sample] = read_folder(table(tmp_path, text, "a.mp4"), "train")
    assert (sample.labels, sample.start) == ({"Label": "x"}, 1.0)
    assert read_folder(tmp_path / "labels.csv", "training") == [sample]


def test_paths_of_windows_and_absolute_paths_inside_the_folder_are_found(tmp_path):
    lines = ["v\\a.mp4", ".\\v\\b.mp4", f"{tmp_path}/v/c.mp4", f"../{tmp_path.name}/v/d.mp4", "v//e.mp4"]
    text = "path,label,split\n" + "".join(f"{line},x,train\n" for line in lines)
    root = table(tmp_path, text, *(f"v/{name}.mp4" for name in "abcde"))
    assert [row[0] for row in rows(root)] == [f"v/{name}.mp4" for name in "abcde"]


def test_absolute_paths_through_a_link_to_the_folder_are_found(tmp_path):
    real = tmp_path / "real"
    table(real, f"path,label,split\n{real}/a.mp4,x,train\n", "a.mp4")
    (tmp_path / "link").symlink_to(real)
    assert rows(tmp_path / "link" / "labels.csv") == [("a.mp4", "x", None, None)]


@pytest.mark.parametrize("path", ["../a.mp4", "/etc/passwd", "..\\a.mp4", "v/../../a.mp4"])
def test_no_path_leaves_the_folder_of_the_table(tmp_path, path):
    touch(tmp_path, "a.mp4")
    root = table(tmp_path / "t", f"path,label\n{path},x\n", "v/b.mp4")
    assert f"{path} is outside {tmp_path}/t" in problems(root).replace("\\\\", "\\")


@pytest.mark.parametrize(("on_disk", "written"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_composed_differently_in_table_and_on_the_disk_are_the_same(tmp_path, on_disk, written):
    text = f"path,label,split\n{written}/{written}.mp4,{COMPOSED},train\n{written}/b.mp4,{DECOMPOSED},val\n"
    root = table(tmp_path, text, f"{on_disk}/{on_disk}.mp4", f"{on_disk}/b.mp4")
    assert rows(root) == [(f"{on_disk}/{on_disk}.mp4", COMPOSED, None, None)]
    assert encode_labels(read_folder(root, "val"), class_names(read_folder(root, "train"))).tolist() == [[0]]


def test_class_lists_of_earlier_runs_may_be_composed_differently():
    samples = [Sample("1.mp4", {"label": COMPOSED})]
    assert encode_labels(samples, {"label": ("a", DECOMPOSED)}).tolist() == [[1]]


def test_a_wrong_suffix_or_capital_is_suggested(tmp_path):
    message = problems(table(tmp_path, "path,label\na,x\nB.MP4,x\n", "a.mp4", "b.mp4"))
    assert "labels.csv:2: no file" in message
    assert "did you mean a.mp4?" in message
    assert "did you mean b.mp4?" in message


def test_names_that_are_not_utf_8_are_found_and_such_labels_are_named(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    touch(tmp_path, name)
    (tmp_path / "t.csv").write_bytes(b"path,label,split\ncaf\xe9.mp4,x,train\n")
    [sample] = read_folder(tmp_path / "t.csv", "train")
    assert sample.path == f"{tmp_path}/{name}"
    list_hash([sample])
    (tmp_path / "t.csv").write_bytes(b"path,label,split\ncaf\xe9.mp4,\xe9,train\n")
    assert "t.csv:2: label is not UTF-8: '\\udce9'" in problems(tmp_path / "t.csv")


def test_escapes_of_json_that_are_no_text_are_named(tmp_path):
    lines = [
        {"path": "a\0.mp4", "label": "x"},
        {"path": "\ud800.mp4", "label": "x"},
        {"path": "a.mp4", "label": "\ud800"},
    ]
    message = problems(table(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "a.mp4", name="t.jsonl"))
    assert "t.jsonl:1: no file" in message
    assert "t.jsonl:2: no file" in message
    assert "t.jsonl:3: label is not UTF-8" in message
    message.encode()


def test_a_folder_without_images_is_named_as_such(tmp_path):
    root = table(tmp_path, "path,label\nsub,x\nlink,x\n", "sub/notes.txt")
    (tmp_path / "link").symlink_to("nowhere")
    lines = problems(root).splitlines()[1:]
    assert lines[0].strip() == f"labels.csv:2: {tmp_path}/sub is a folder without images"
    assert lines[1].strip() == f"labels.csv:3: {tmp_path}/link cannot be opened (No such file or directory)"


# Which columns are labels


@pytest.mark.parametrize(
    ("header", "labels", "chosen"),
    [
        ("path,label,camera,num_frames,video_id,width,height,duration", (), ("label",)),
        ("path,verb,noun,narration,Participant ID", (), ("verb", "noun")),
        ("path,Action,room", (), ("Action",)),
        ("path,kind,camera", (), ("kind",)),
        ("path,colour,light", (), ("colour", "light")),
        ("path,verb,noun,camera", ("noun", "camera"), ("noun", "camera")),
        ("path,Verb Class,camera", ("verb class",), ("Verb Class",)),
        ("path,label,camera", ("label",), ("label",)),
    ],
)
def test_label_columns_are_chosen_by_name_or_by_data_labels(tmp_path, header, labels, chosen):
    columns = header.split(",")
    root = table(tmp_path, f"{header}\na.mp4{',1' * (len(columns) - 1)}\n", "a.mp4")
    read_columns = read_table(root, labels)
    assert read_columns.label_sets == chosen
    for name in columns[1:]:
        assert name in read_columns.choice
    [sample] = read_samples("folder", str(root), "train", labels=labels)
    assert tuple(sample.labels) == chosen


def test_classes_json_says_which_columns_are_labels(tmp_path):
    root = table(tmp_path, "path,kind,room\na.mp4,x,1\n", "a.mp4")
    (tmp_path / "classes.json").write_text('{"room": ["1"]}')
    assert read_folder(root, "train")[0].labels == {"room": "1"}


def test_a_cell_of_a_column_that_is_no_label_may_be_empty(tmp_path):
    root = table(tmp_path, "path,label,camera\na.mp4,x,\n", "a.mp4")
    assert read_folder(root, "train")[0].labels == {"label": "x"}


def test_a_file_knows_its_rate_whatever_the_table_says(tmp_path):
    root = table(tmp_path, "path,label,fps\na.mp4,x,30000/1001\n", "a.mp4")
    assert read_folder(root, "train")[0].fps is None


@pytest.mark.parametrize(
    ("header", "labels", "message"),
    [
        ("path,camera", (), "no label column besides path, camera; camera are not taken for labels"),
        ("path", (), "Where the label is the name of the video's folder, give that folder's parent"),
        ("path,verb,noun", ("nuon",), "data.labels names no column 'nuon'; there are verb, noun; did you mean 'noun'"),
    ],
)
def test_a_table_without_the_labels_says_what_to_do(tmp_path, header, labels, message):
    root = table(tmp_path, f"{header}\na.mp4{',1' * header.count(',')}\n", "a.mp4")
    with pytest.raises(DataError) as error:
        read_samples("folder", str(root), "train", labels=labels)
    assert message in str(error.value)


def test_data_labels_chooses_among_the_label_sets_of_any_data_set(tmp_path):
    touch(tmp_path, "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4")
    with pytest.raises(DataError, match="data.labels names no label set 'verb'; there are label"):
        read_samples("folder", str(tmp_path), "train", labels=("verb",))


# Cells that are no text


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            'v1.mp4,"fast,train\nv2.mp4,slow,train\n',
            "labels.csv: not a readable table, line 2: a quote opens and never closes",
        ),
        ('v0.mp4,x,train\nv1.mp4,"fast,train\nv2.mp4,slow",train\n', "labels.csv:3: label has a line break: 'fast,tr"),
        ('v1.mp4,"a ""b""\n c",train\n', "labels.csv:2: label has a line break"),
    ],
)
def test_a_quote_that_is_not_closed_is_named_with_the_line_on_which_it_opens(tmp_path, cells, message):
    assert message in problems(table(tmp_path, f"path,label,split\n{cells}", "v0.mp4", "v1.mp4", "v2.mp4"))


def test_quotes_with_spaces_around_them_and_notes_of_several_lines_are_read(tmp_path):
    root = table(
        tmp_path, 'path,label,note,split\n"a.mp4" , "x" ,"two\nlines ""here""",train\nb.mp4,y,,oops\n', "a.mp4", "b.mp4"
    )
    assert rows(root) == [("a.mp4", "x", None, None)]
    assert read_folder(root, "oops")[0].where == "labels.csv:4"


@pytest.mark.parametrize("label", [["run", "jump"], {"id": 3}])
def test_lists_and_objects_are_no_labels(tmp_path, label):
    lines = [{"path": "a.mp4", "label": "x"}, {"path": "b.mp4", "label": label}]
    root = table(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "a.mp4", "b.mp4", name="t.jsonl")
    assert f"t.jsonl:2: label is {label}; it takes one text" in problems(root)


def test_nan_is_an_empty_cell_as_pandas_writes_it(tmp_path):
    lines = [{"path": f"{i}.mp4", "label": "x", "start": np.nan, "group": np.nan} for i in range(10)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    root = table(tmp_path, text, *(f"{i}.mp4" for i in range(10)), name="t.jsonl")
    assert len(rows(root, "val")) == 2  # each row is a recording of its own
    assert {s.group for s in read_folder(root, "train")} == {""}
    assert "t.jsonl:1: label is empty" in problems(table(tmp_path, text.replace('"x"', "NaN"), name="t.jsonl"))
    text = "".join(json.dumps(line | {"split": np.nan if i else "val"}) + "\n" for i, line in enumerate(lines))
    assert "t.jsonl:2: split is empty" in problems(table(tmp_path, text, name="t.jsonl"))


@pytest.mark.parametrize("gap", ["NA", "nan", "NaN", "N/A", "NULL", "None", "<NA>"])
def test_a_group_that_pandas_reads_as_a_gap_is_none_and_a_class_may_be_called_so(tmp_path, gap):
    text = "path,label,group\n" + "".join(f"{i}.mp4,{gap},{gap}\n" for i in range(10))
    root = table(tmp_path, text, *(f"{i}.mp4" for i in range(10)))
    assert len(rows(root, "val")) == 2
    assert {(s.labels["label"], s.group) for s in read_folder(root, "train")} == {(gap, "")}


@pytest.mark.parametrize(("fps", "wrong"), [(1e-6, False), (5e-4, False), (1e6, False), (9e-7, True), (1.1e6, True)])
def test_the_rate_of_images_has_the_bounds_of_a_folder_of_images(tmp_path, fps, wrong):
    root = table(tmp_path, f"path,label,fps\nframes,x,{fps}\n", "frames/1.jpg", "frames/2.jpg")
    if wrong:
        assert f"fps is '{fps}'; it takes images a second, 1e-06 to 1e+06" in problems(root)
    else:
        [sample] = read_folder(root, "train")
        assert FrameFolder(sample.path, fps=sample.fps).fps == fps
