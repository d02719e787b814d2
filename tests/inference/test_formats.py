"""Files of segments and scores, read back by the libraries and by the grammar of each format."""

import csv
import json
import re
import shutil
import subprocess
from io import StringIO
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pytest
import srt
import webvtt

from vivit.data.datasets.registry import read_samples
from vivit.errors import DataError
from vivit.inference.formats.common import FormatOptions
from vivit.inference.formats.label_studio import label_studio_config
from vivit.inference.formats.write import FORMATS, format_of, write_timelines
from vivit.inference.segments import Segment, SegmentParams, Thresholds, segments
from vivit.inference.timeline import Timeline

from .test_segments import timeline_of, two_classes

LABELS = [
    'say "hi", twice',
    "it's, a; b",
    "line\nbreak",
    "up --> down",
    "tab\there",
    "<b>bold</b> & <i>x",
    "走る",
    "бег",
    "{\\an8}top",
    "a ‑ é\u0301",
]


def one_line(label):
    return " ".join(label.split())


@pytest.fixture
def video(tmp_path):
    """(timeline, segments) of a file in the folder of the test: one segment per label, to a third of a second."""
    (tmp_path / "v").mkdir()
    path = tmp_path / "v" / "ä, 1.mp4"
    path.touch()
    timeline = timeline_of(np.full((60, len(LABELS)), 0.1), classes={"label": LABELS}, path=str(path))
    found = [
        Segment(i + 1 / 3, i + 1 + i / 7, label, round(0.5 + i / 100, 2), "label") for i, label in enumerate(LABELS)
    ]
    return timeline, found


def rows_of(found):
    return [(s.label, round(s.start, 6), round(s.end, 6)) for s in found]


def test_a_table_of_segments_trains_the_next_model(video, tmp_path):
    found = [one for one in video[1] if "\n" not in one.label]  # which tables refuse
    [table] = write_timelines(tmp_path / "found.csv", [(video[0], found)])
    samples = read_samples("folder", str(table), "train")
    expected = {(one.label, round(one.start, 6), round(one.end, 6)) for one in found}
    read = {(s.labels["label"], s.start, s.end) for s in samples}
    assert {(one_line(label), *times) for label, *times in read} == {(one_line(label), *t) for label, *t in expected}
    assert {label for label, *_ in read} - {"a ‑ é\u0301"} <= set(LABELS)
    assert {s.path for s in samples} == {video[0].path}
    assert {tuple(s.labels) for s in samples} == {("label",)}


def test_the_table_has_the_columns_that_it_promises(video, tmp_path):
    [table] = write_timelines(tmp_path / "found.csv", [video])
    with table.open(newline="", encoding="utf-8") as file:
        header, first, *_ = csv.reader(file)
    assert header == ["path", "start", "end", "label", "score"]
    assert first == ["v/ä, 1.mp4", "0.333333", "1.0", LABELS[0], "0.5"]


def test_the_label_column_is_named_as_the_label_set(video, tmp_path):
    found = [Segment(0, 1, "open", 0.5, "shape"), Segment(1, 2, "shut", 0.5, "shape")]
    [table] = write_timelines(tmp_path / "found.csv", [(video[0], found)])
    assert read_samples("folder", str(table), "train")[0].labels == {"shape": "open"}


def test_one_class_of_a_segment_is_kept_and_the_others_are_counted(video, tmp_path, caplog):
    found = [Segment(0, 1, "a", 0.3, "label"), Segment(0, 1, "b", 0.6, "label"), Segment(0, 2, "a", 0.3, "label")]
    [table] = write_timelines(tmp_path / "found.csv", [(video[0], found)])
    assert [(s.labels["label"], s.end) for s in read_samples("folder", str(table), "train")] == [("b", 1), ("a", 2)]
    assert "1 segments are left out" in caplog.text


def test_several_label_sets_need_a_choice_in_a_table(video, tmp_path):
    found = [Segment(0, 1, "a", 0.3, "verb"), Segment(0, 1, "b", 0.6, "noun")]
    with pytest.raises(DataError, match="csv holds one label set, got noun, verb"):
        write_timelines(tmp_path / "found.csv", [(video[0], found)])
    assert not (tmp_path / "found.csv").exists()
    [lines] = write_timelines(tmp_path / "found.jsonl", [(video[0], found)])
    assert [json.loads(line)["label_set"] for line in lines.read_text().splitlines()] == ["verb", "noun"]


def test_a_video_elsewhere_keeps_its_absolute_path_and_a_link_its_own(video, tmp_path):
    (tmp_path / "tables").mkdir()
    link = tmp_path / "tables" / "link.mp4"
    link.symlink_to(video[0].path)
    linked = timeline_of(two_classes([0.9]), path=str(link))
    found = [Segment(0, 0.5, "c0", 0.9, "label")]
    [table] = write_timelines(tmp_path / "tables" / "found.csv", [(video[0], found), (linked, found)])
    assert [line.rsplit(",", 4)[0] for line in table.read_text().splitlines()[1:]] == [f'"{video[0].path}"', "link.mp4"]


# Subtitles


def visible(text):
    return text.replace("\u2060", "")


def test_srt_is_read_by_a_parser_with_every_label(video, tmp_path):
    [file] = write_timelines(tmp_path / "found.srt", [video])
    cues = list(srt.parse(file.read_text(encoding="utf-8")))  # raises for anything between the cues
    assert [visible(c.content) for c in cues] == [f"{one_line(s.label)} ({s.score:.0%})" for s in video[1]]
    assert [(c.start.total_seconds(), c.end.total_seconds()) for c in cues] == [
        (round(s.start, 3), round(s.end, 3)) for s in video[1]
    ]
    assert [c.index for c in cues] == list(range(1, len(cues) + 1))


def test_webvtt_is_read_by_a_parser_with_every_label(video, tmp_path):
    [file] = write_timelines(tmp_path / "found.vtt", [video])
    cues = list(webvtt.from_string(file.read_text(encoding="utf-8")))
    escaped = [one_line(s.label).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for s in video[1]]
    assert [visible(c.raw_text) for c in cues] == [f"{text} ({s.score:.0%})" for text, s in zip(escaped, video[1])]
    assert [c.start for c in cues[:2]] == ["00:00:00.333", "00:00:01.333"]


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg program")
@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_ffmpeg_reads_every_subtitle_and_shows_every_label(name, video, tmp_path):
    [file] = write_timelines(tmp_path / f"found.{name}", [video])
    command = ["ffmpeg", "-v", "error", "-i", str(file), "-f", "srt", "-c:s", "text", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    cues = list(srt.parse(done.stdout.decode()))
    assert [(c.start.total_seconds(), c.end.total_seconds()) for c in cues] == [
        (round(s.start, 3), round(s.end, 3)) for s in video[1]
    ]
    shown = [re.sub(r"\\([{}])", r"\1", visible(c.content)) for c in cues]  # as FFmpeg escapes braces
    assert shown == [f"{one_line(s.label)} ({s.score:.0%})" for s in video[1]]


def test_hours_and_short_segments_are_written_as_times_that_rise(video, tmp_path):
    found = [Segment(3661.0004, 3661.0006, "a", 0.5, "label"), Segment(-0.01, 360000.0, "b", 0.5, "label")]
    [file] = write_timelines(tmp_path / "found.srt", [(video[0], found)])
    assert re.findall(r".* --> .*", file.read_text()) == [
        "01:01:01,000 --> 01:01:01,001",
        "00:00:00,000 --> 100:00:00,000",
    ]


def test_audacity_gets_three_fields_per_label(video, tmp_path):
    [file] = write_timelines(tmp_path / "found.txt", [video])
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(float(a), float(b), label) for a, b, label in rows] == [
        (round(s.start, 6), round(s.end, 6), one_line(s.label)) for s in video[1]
    ]


def test_several_videos_become_a_file_each_in_a_folder(video, tmp_path):
    other = timeline_of(two_classes([0.9]), path=str(tmp_path / "b.mp4"))
    files = write_timelines(tmp_path / "out", [video, (other, [])], "vtt")
    assert [file.name for file in files] == ["ä, 1.vtt", "b.vtt"]
    assert files[1].read_text() == "WEBVTT\n\n"
    with pytest.raises(DataError, match="videos with the same name"):
        write_timelines(tmp_path / "out", [video, video], "srt")


# Challenges


def test_activitynet_reads_its_predictions(video, tmp_path):
    video[0].__dict__["path"] = str(tmp_path / "v_QOlSCBRmfWY.mp4")
    [file] = write_timelines(tmp_path / "found.json", [video], "activitynet")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert set(content) == {"version", "results", "external_data"}  # PREDICTION_FIELDS of the official code
    [(video_id, rows)] = content["results"].items()
    assert video_id == "QOlSCBRmfWY"
    assert [(row["label"], *row["segment"]) for row in rows] == rows_of(video[1])
    assert [row["score"] for row in rows] == [s.score for s in video[1]]
    with pytest.raises(DataError, match="both have the id 'QOlSCBRmfWY'"):
        write_timelines(tmp_path / "found.json", [video, video], "activitynet")


def test_epic_kitchens_gets_class_numbers_levels_and_version(tmp_path, caplog):
    classes = {"noun": ["tap", "cup + lid", "lid"], "verb": ["take", "put + cup"]}
    scores = [np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]] * 20), np.array([[0.1, 0.9]] * 40)]
    timeline = timeline_of(scores, classes=classes, path=str(tmp_path / "P01_101.MP4"))
    found = segments(timeline, "action", SegmentParams(Thresholds(0.5, 0.5, 0.0, 0.0)))
    options = FormatOptions(epic_levels=(2, 3, 4))
    [file] = write_timelines(tmp_path / "found.json", [(timeline, found)], "epic", options)
    content = json.loads(file.read_text())
    assert {k: v for k, v in content.items() if k != "results"} == {
        "version": "0.2",
        "challenge": "action_detection",
        "sls_pt": 2,
        "sls_tl": 3,
        "sls_td": 4,
    }
    rows = content["results"]["P01_101"]
    assert len(rows) == len(found) == 40
    assert rows[0] == {
        "verb": 1,
        "noun": 0,
        "action": "1,0",
        "score": pytest.approx(0.72, abs=1e-6),
        "segment": [0.0, 0.5],
    }
    assert [(row["verb"], row["noun"]) for row in rows] == [(1, 0), (1, 1)] * 20
    assert "the model has 2 verbs and 3 nouns, EPIC-Kitchens-100 has 97 and 300" in caplog.text


def test_epic_kitchens_takes_actions_only(video, tmp_path):
    with pytest.raises(DataError, match="needs the label sets verb and noun, the model has label"):
        write_timelines(tmp_path / "found.json", [video], "epic")
    both = timeline_of([two_classes([0.9])] * 2, classes={"verb": ["a", "b"], "noun": ["c", "d"]})
    with pytest.raises(DataError, match="takes segments of 'action', got verb"):
        write_timelines(tmp_path / "found.json", [(both, [Segment(0, 1, "a", 0.5, "verb")])], "epic")
    with pytest.raises(ValueError, match="each is 0 to 5"):
        FormatOptions(epic_levels=(0, 6, 0))


# Label Studio


def test_label_studio_gets_frames_from_one_and_a_configuration_that_knows_the_labels(video, tmp_path):
    timeline, found = video
    found = [Segment(0.0, 0.4, LABELS[0], 0.5, "label"), Segment(0.4, 0.401, LABELS[5], 0.75, "label")]
    [file] = write_timelines(tmp_path / "t.json", [(timeline, found)], "labelstudio", FormatOptions(fps=10))
    [task] = json.loads(file.read_text(encoding="utf-8"))
    assert task["data"] == {"video": "/data/local-files/?d=v/%C3%A4%2C%201.mp4", "fps": 10}
    [prediction] = task["predictions"]
    values = [region["value"] for region in prediction["result"]]
    assert values[0] == {"ranges": [{"start": 1, "end": 4}], "timelinelabels": [LABELS[0]]}  # frames 1 to 4 are 0.4 s
    assert values[1] == {"ranges": [{"start": 5, "end": 5}], "timelinelabels": [LABELS[5]]}
    assert prediction["score"] == 0.625
    view = ElementTree.fromstring(label_studio_config(LABELS))
    control, media = view.find("TimelineLabels"), view.find("Video")
    assert [label.get("value") for label in control] == LABELS
    for region in prediction["result"]:
        assert (region["type"], region["from_name"], region["to_name"]) == (
            control.tag.lower(),
            control.get("name"),
            media.get("name"),
        )
    assert control.get("toName") == media.get("name")
    assert media.get("value") == "$video"
    assert media.get("frameRate") == "$fps"
    assert len({region["id"] for region in prediction["result"]}) == 2


# Scores


def scored(tmp_path, seed, name):
    rng = np.random.default_rng(seed)
    classes = {"verb": ["a,\n", "b"], "noun": ["走", "/", "x"]}
    scores = [rng.dirichlet([1] * 2, 7), rng.dirichlet([1] * 3, 7)]
    return timeline_of(scores, classes=classes, path=str(tmp_path / name))


def test_npz_gives_back_the_timeline(tmp_path):
    timeline = scored(tmp_path, 0, "b\udcff.mp4")
    [file] = write_timelines(tmp_path / "scores.npz", [(timeline, [])])
    read = Timeline.load(file)
    assert (read.path, read.classes, read.hop) == (timeline.path, timeline.classes, timeline.hop)
    for name in ("start", "end", "center", "padded", "logits"):
        np.testing.assert_array_equal(getattr(read, name), getattr(timeline, name))
        assert getattr(read, name).dtype == getattr(timeline, name).dtype
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match="is not a timeline"):
        Timeline.load(file)


def test_parquet_has_a_column_per_class(tmp_path):
    timelines = [scored(tmp_path, seed, f"{seed}.mp4") for seed in range(3)]
    [file] = write_timelines(tmp_path / "scores.parquet", [(t, []) for t in timelines])
    table = pyarrow.parquet.read_table(file)
    assert table.column_names == [
        *("path", "start", "end", "center", "padded"),
        *("verb/a,\n", "verb/b", "noun/走", "noun//", "noun/x"),
    ]
    assert table["path"].to_pylist() == [f"{seed}.mp4" for seed in range(3) for _ in range(7)]
    for i, timeline in enumerate(timelines):
        part = table.slice(7 * i, 7)
        np.testing.assert_array_equal(part["center"].to_numpy(), timeline.center)
        shares = np.stack([part[name].to_numpy() for name in table.column_names[-3:]], axis=1)
        np.testing.assert_allclose(shares, timeline.probabilities("noun"), atol=1e-7)


# The table of formats


def test_the_suffix_says_the_format_unless_several_have_it():
    assert {format_of(f"x{one.suffix}") for one in FORMATS.values() if one.suffix != ".json"} == set(FORMATS) - {
        *("activitynet", "epic", "labelstudio"),
    }
    with pytest.raises(DataError, match="name the format of the file: activitynet, epic, labelstudio"):
        format_of("x.json")
    with pytest.raises(DataError, match="name the format of the file: csv, jsonl, srt"):
        format_of("x.doc")
    with pytest.raises(DataError, match="unknown format 'strt'; did you mean 'srt'"):
        format_of("x", "strt")


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if not one.binary])
def test_names_that_are_not_utf8_make_a_file_that_can_be_read(name, tmp_path):
    timeline = timeline_of([two_classes([0.9])] * 2, classes={"verb": ["a", "b"], "noun": ["c", "d"]})
    timeline.__dict__["path"] = str(tmp_path / "b\udcff.mp4")
    found = segments(timeline, "action")
    [file] = write_timelines(tmp_path / "found", [(timeline, found)], name)
    content = file.read_text(encoding="utf-8", errors="surrogateescape")
    if name == "csv":
        assert next(csv.DictReader(StringIO(content)))["path"] == "b\udcff.mp4"
    elif name in ("jsonl", "activitynet", "epic", "labelstudio"):
        name_there = "b%FF" if name == "labelstudio" else "b\udcff"  # an address
        assert name_there in json.dumps(json.loads(content), ensure_ascii=False)
    else:  # one video per file, which does not name it
        assert name in ("srt", "vtt", "audacity")
        assert content.encode("utf-8")
        assert [content.count(one.label) for one in found] == [1]
