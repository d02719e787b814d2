"""Something-Something v2: templates to classes in the order of labels.json, and wrong rows."""

import json

import pytest

from vivit.data.datasets.registry import official_classes, read_samples
from vivit.data.sample_table import encode_labels
from vivit.errors import DataError

from .official import found, problems, ssv2, text, videos

HOLD, DROP = "Holding something behind something", "Dropping something"


def test_videos_come_in_the_order_of_the_list_and_classes_in_that_of_labels_json(tmp_path):
    ssv2(tmp_path)
    folder = "20bn-something-something-v2"
    assert found("ssv2", tmp_path, "train") == [
        (f"{folder}/78687.webm", HOLD),
        (f"{folder}/3.webm", DROP),
        (f"{folder}/41.webm", HOLD),
        (f"{folder}/10.webm", DROP),
    ]
    classes = official_classes("ssv2", str(tmp_path))
    assert classes == {"action": (HOLD, DROP)}
    assert encode_labels(read_samples("ssv2", str(tmp_path), "val"), classes).tolist() == [[1], [0]]


def test_the_newer_names_and_mp4_are_read_alike(tmp_path):
    ssv2(tmp_path)
    before = found("ssv2", tmp_path, "train")
    (tmp_path / "labels").mkdir()
    for name in ("train", "validation", "labels"):
        (tmp_path / f"something-something-v2-{name}.json").rename(tmp_path / "labels" / f"{name}.json")
    for path in tmp_path.rglob("*.webm"):
        path.unlink()
    videos(tmp_path, *(f"videos/{i}.mp4" for i in (3, 10, 41, 78687)))
    after = found("ssv2", tmp_path, "train")
    assert [label for _, label in after] == [label for _, label in before]
    assert [path for path, _ in after] == [f"videos/{i}.mp4" for i in (78687, 3, 41, 10)]
    assert read_samples("ssv2", str(tmp_path), "train")[1].where == "train.json:2"


def test_every_wrong_entry_is_listed_at_once_with_file_and_line(tmp_path):
    ssv2(tmp_path)
    rows = [
        {"id": "3", "template": "Dropping [something]"},
        {"id": "", "template": "Dropping [something]"},
        {"id": "10"},
        {"id": "10", "template": "Droping [something]"},
        {"id": "../10", "template": "Dropping [something]"},
        {"id": "3", "template": "Dropping [something]"},
        7,
    ]
    text(tmp_path, "something-something-v2-train.json", "[", ",\n".join(json.dumps(row) for row in rows), "]")
    labels = json.dumps({HOLD: "0", DROP: "2"})
    text(tmp_path, "something-something-v2-labels.json", labels)
    file = "something-something-v2-train.json"
    expected = [
        "something-something-v2-labels.json: the numbers of the 2 classes are not 0 to 1",
        f"{file}:3: id is empty",
        f"{file}:4: template is empty",
        f"{file}:5: template 'Droping something' is not among the 2 classes; did you mean 'Dropping something'?",
        f"{file}:6: id '../10' is outside {tmp_path}",
        f"{file}:7: 3 again, after {file}:2",
        f"{file}:8: got 7; expected an object",
    ]
    assert sorted(problems("ssv2", tmp_path)) == sorted(expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1}', "a list of objects is expected"), ('[{"id": "3",]', ":1: not JSON"), ("[]", "has no rows")],
)
def test_a_list_that_cannot_be_understood_says_so(content, message, tmp_path):
    ssv2(tmp_path)
    text(tmp_path, "something-something-v2-train.json", content)
    with pytest.raises(DataError, match=message):
        read_samples("ssv2", str(tmp_path), "train")


def test_files_that_are_not_there_are_named_together(tmp_path):
    got = problems("ssv2", tmp_path)
    assert got[0].startswith("the train file: no something-something-v2-train.json or train.json in")
    assert got[1].startswith("the labels file: no something-something-v2-labels.json or labels.json in")
    with pytest.raises(DataError, match="keep the labels of the test videos"):
        read_samples("ssv2", str(tmp_path), "test")
