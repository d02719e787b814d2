"""`vivit timeline`: the table, the files, what a kill leaves, and errors."""

import csv
import io
import time

import numpy as np
import pytest

import vivit as package
from vivit.inference import timeline as timeline_module
from vivit.inference.resume import PartialRows
from vivit.inference.segments import segments
from vivit.inference.timeline import Timeline

from ..data.videos import counter_frames, write_video
from ..model import tiny
from .conftest import start_vivit

CPU = ["--device", "cpu"]


@pytest.fixture
def videos(tmp_path):
    """a.mp4, deep/a.mp4 and a file that is no video."""
    root = tmp_path / "videos"
    (root / "deep").mkdir(parents=True)
    write_video(root / "a.mp4", counter_frames(60))
    write_video(root / "deep" / "a.mp4", counter_frames(20))
    return root


def test_the_table_has_the_rows_of_the_python_function(vivit, weights, videos):
    code, out, err = vivit("timeline", weights, videos, "--hop", 0.3, "--crops", 3, *CPU)
    assert code == 0
    assert "hop 0.32 s: 2 positions of 0.16 s; windows of 0.48 s; 8 rows" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "start", "end", "center", "padded", "a", "b", "c"]
    model = package.from_pretrained(weights)
    for path in (videos / "a.mp4", videos / "deep" / "a.mp4"):
        expected = package.timeline(model, path, hop=0.3, crops=3)
        found = [row for row in rows if row["path"] == str(path)]
        assert len(found) == len(expected)
        for name in ("start", "end", "center", "padded"):
            np.testing.assert_allclose([float(row[name]) for row in found], getattr(expected, name), atol=5e-4)
        scores = [[float(row[name]) for name in "abc"] for row in found]
        np.testing.assert_allclose(scores, expected.probabilities("label"), atol=1e-6)


def test_several_label_sets_have_their_names_in_the_header(vivit, tmp_path, videos):
    folder = tiny.model(classes={"noun": ("a",), "verb": ("b, c", "d")}).save_pretrained(tmp_path / "two")
    _, out, _ = vivit("timeline", folder, videos / "a.mp4", "--start", 1, "--end", 1.2, *CPU)
    [header, row] = csv.reader(io.StringIO(out))
    assert header[5:] == ["noun: a", "verb: b, c", "verb: d"]
    assert row[5] == "1.000000"


def test_a_folder_gets_a_file_per_video_and_finished_ones_are_kept(vivit, weights, videos, tmp_path):
    out = tmp_path / "scores"
    (videos / "broken.mp4").write_bytes(b"no video")
    code, printed, err = vivit("timeline", weights, videos, "--out", out, *CPU)
    assert (code, printed) == (1, "")
    assert "broken.mp4" in err
    assert f"2 of 3 timelines in {out}" in err
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["a.mp4.npz", "deep/a.mp4.npz"]
    expected = package.timeline(str(weights), videos / "a.mp4")
    np.testing.assert_array_equal(Timeline.load(out / "a.mp4.npz").logits, expected.logits)

    before = (out / "a.mp4.npz").stat()
    _, _, err = vivit("timeline", weights, videos / "a.mp4", "--out", out, *CPU)
    assert "a.mp4.npz is finished already" in err
    assert (out / "a.mp4.npz").stat() == before
    for change in (["--hop", 0.2], ["--crops", 3], ["--start", 1], ["--precision", "bfloat16"]):
        assert "finished already" not in vivit("timeline", weights, videos / "a.mp4", "--out", out, *change, *CPU)[2]
    other = tiny.model().save_pretrained(tmp_path / "other")
    assert "finished already" not in vivit("timeline", other, videos / "a.mp4", "--out", out, *CPU)[2]


def test_after_ctrl_c_the_same_command_resumes_with_the_same_bits(vivit, weights, videos, tmp_path, monkeypatch):
    command = ["timeline", weights, videos / "a.mp4", "--hop", 0.16, *CPU, "--out"]
    vivit(*command, tmp_path / "at_once.npz")
    compute_rows, computed = timeline_module.compute_rows, []

    def interrupted(*args, **kwargs):
        for count, row in enumerate(compute_rows(*args, **kwargs)):
            if count == 5:
                raise KeyboardInterrupt
            computed.append(row[0])
            yield row

    monkeypatch.setattr(timeline_module, "compute_rows", interrupted)
    for kept in (5, 10):
        code, _, err = vivit(*command, tmp_path / "in_parts.npz")
        assert code == 130
        assert f"{kept} of 15 rows are kept; the same command resumes" in err
    with open(tmp_path / "in_parts.npz.partial", "ab") as file:
        file.write(b"half a record")
    monkeypatch.setattr(timeline_module, "compute_rows", compute_rows)
    code, _, err = vivit(*command, tmp_path / "in_parts.npz")
    assert code == 0
    assert "resuming after 10 of 15 rows" in err
    assert computed == list(range(10))
    for name in ("start", "end", "center", "padded", "logits"):
        parts, whole = (getattr(Timeline.load(tmp_path / f"{file}.npz"), name) for file in ("in_parts", "at_once"))
        np.testing.assert_array_equal(parts, whole)
    assert (tmp_path / "in_parts.npz").read_bytes() == (tmp_path / "at_once.npz").read_bytes()
    assert not (tmp_path / "in_parts.npz.partial").exists()


def test_a_killed_process_loses_no_row(vivit, weights, tmp_path):
    video = write_video(tmp_path / "long.mp4", np.tile(counter_frames(200), (4, 1, 1, 1)))
    command = ["timeline", weights, video, "--hop", 0.16, *CPU, "--out", tmp_path / "killed.npz"]
    partial = tmp_path / "killed.npz.partial"
    process = start_vivit(*command, log=tmp_path / "log.txt")
    deadline = time.monotonic() + 600
    while not partial.exists() or partial.stat().st_size < 1500:
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (tmp_path / "killed.npz").exists()
    code, _, err = vivit(*command)
    assert code == 0
    assert "resuming after" in err
    expected = package.timeline(str(weights), video, hop=0.16)
    np.testing.assert_array_equal(Timeline.load(tmp_path / "killed.npz").logits, expected.logits)


def test_rows_of_something_else_and_damaged_records_are_not_taken(tmp_path):
    path, rows = tmp_path / "rows.partial", np.arange(12, dtype=np.float32).reshape(4, 3)
    with PartialRows(path, "this", 3) as kept:
        for row in rows:
            kept.append(row)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # in the third record
    path.write_bytes(data)
    with PartialRows(path, "this", 3) as kept:
        assert kept.count == 2
        np.testing.assert_array_equal(kept.rows(), rows[:2])
        with pytest.raises(package.FolderInUse, match="in use by another process"), PartialRows(path, "this", 3):
            pass
    with PartialRows(path, "that", 3) as kept:
        assert kept.count == 0
        kept.append(rows[3])
        np.testing.assert_array_equal(kept.rows(), rows[3:])


def test_errors_say_what_to_do(vivit, weights, videos, tmp_path):
    for words, message in (
        ([], "no video to score; usage: vivit timeline WEIGHTS VIDEO"),
        ([videos / "a.mp4", "--hop", 0], "hop is 0"),
        ([videos / "a.mp4", "--start", 2, "--end", 1], "must be after start=2"),
        ([videos / "a.mp4", "--batch", 0], "batch is 0"),
        ([videos, "--out", tmp_path / "x.npz"], "takes the scores of one video, and there are 2"),
        ([videos / "a.mp4", "--out", videos / "a.mp4"], "a.mp4 is a file; --out takes a folder"),
        ([tmp_path / "none"], "does not exist"),
    ):
        code, _, err = vivit("timeline", weights, *words, *CPU)
        assert (code, message in err) == (2, True), err
    code, _, err = vivit("timeline", weights, videos / "a.mp4", "--start", 9, *CPU)
    assert code == 1
    assert "no frame between 9.0 s and the end; the video lasts 2.40 s" in err


def test_segments_pages_and_scores_come_from_one_run(vivit, weights, videos, tmp_path):
    """The files are those of the Python functions; the ground truth is what the thresholds find, so all is right."""
    table, page = tmp_path / "events.csv", tmp_path / "page.html"
    code, printed, err = vivit("timeline", weights, videos / "a.mp4", "--segments", table, "--html", page, *CPU)
    assert (code, printed) == (0, "")
    assert f"open {page}" in err
    model = package.from_pretrained(weights)
    expected = segments(package.timeline(model, videos / "a.mp4"), "label")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(float(row["start"]), row["label"]) for row in rows] == [(s.start, s.label) for s in expected]
    assert expected
    assert "<svg" in page.read_text()
    fitted = tmp_path / "thresholds.json"
    arguments = ["--truth", table, "--fit", table, "--thresholds", fitted]
    code, printed, err = vivit("timeline", weights, videos / "a.mp4", *arguments, *CPU)
    assert code == 0
    assert "F1@50" in printed
    assert "thresholds in" in err
    assert fitted.is_file()


def test_a_finished_timeline_has_the_path_of_the_command_that_takes_it(vivit, weights, videos, tmp_path, monkeypatch):
    """Computed in one folder, read in another: the segments name the video that is there."""
    monkeypatch.chdir(videos)
    vivit("timeline", weights, "a.mp4", "--out", tmp_path / "scores", *CPU)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "truth.csv").write_text("path,start,end,label\nvideos/a.mp4,0,1,b\n")
    words = ["--out", tmp_path / "scores", "--segments", "events.csv", "--truth", tmp_path / "truth.csv"]
    code, printed, err = vivit("timeline", weights, "../videos/a.mp4", *words, *CPU)
    assert "is finished already" in err
    assert (code, "1 in the ground truth" in printed) == (0, True), err
    [path] = {row["path"] for row in csv.DictReader((tmp_path / "elsewhere" / "events.csv").read_text().splitlines())}
    assert path == str(videos / "a.mp4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--segments", "out.csv"], "the format csv holds one label set, got noun, verb"),
        (["--segments", "srt", "--format", "srt"], "videos with the same name"),
        (["--segments", "x.json", "--format", "activitynet", "--label-set", "verb"], "both have the id 'a'"),
        (["--truth", "of_others.csv"], "no row of the ground truth is about"),
        (["--truth", "other_column.csv"], "name the one to compare"),
        (["--segments", "x.jsonl", "--thresholds", "thresholds.json"], "unknown class 'absent'"),
        (["--segments", "file/x.jsonl"], "file is a file, not a folder"),
        (["--segments", "folder.jsonl"], "folder.jsonl is a folder"),
        (["--segments", "x.jsonl", "--background", "absent"], "unknown class 'absent'"),
        (["--segments", "x.jsonl", "--label-set", "absent"], "unknown label set 'absent'"),
    ],
)
def test_what_cannot_be_made_of_the_scores_is_said_before_they_are_computed(
    vivit, videos, tmp_path, monkeypatch, words, message
):
    weights = tiny.model(classes={"noun": ("a", "b"), "verb": ("c", "d")}).save_pretrained(tmp_path / "weights")
    monkeypatch.chdir(videos)
    files = {
        "of_others.csv": "path,start,end,verb\nb.mp4,0,1,c\n",
        "other_column.csv": "path,start,end,label\na.mp4,0,1,c\n",
        "thresholds.json": '{"segments": {"classes": {"absent": {"on": 0.4, "off": 0.2}}}}',
        "file": "",
        "b.mp4": "",
    }
    for name, text in files.items():
        (videos / name).write_text(text)
    (videos / "folder.jsonl").mkdir()
    code, out, err = vivit("timeline", weights, "a.mp4", "deep/a.mp4", *words, *CPU)
    assert (code, out, message in err) == (2, "", True), err
    assert "windows of" not in err  # no video was opened


def test_what_cannot_be_written_is_said_before_the_video_is_read(vivit, weights, videos, tmp_path):
    code, _, err = vivit("timeline", weights, videos / "a.mp4", "--segments", tmp_path / "x.json", *CPU)
    assert code == 2
    assert "activitynet, epic, labelstudio" in err
    epic = ["--segments", tmp_path / "x.json", "--format", "epic"]
    code, _, err = vivit("timeline", weights, videos / "a.mp4", *epic, *CPU)
    assert (code, "the format epic needs the label sets verb and noun, the model has label" in err) == (2, True), err
    assert "windows of" not in err  # no video was opened
    code, _, err = vivit("timeline", weights, videos / "a.mp4", "--fit", tmp_path / "none.csv", *CPU)
    assert code == 2
    assert "none.csv" in err
