"""Labels to the files of other tools and back: nothing is lost, and times move by half a frame at most."""

import csv
import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from vivit.corpus.label_formats import FORMATS
from vivit.corpus.labels import export_labels, import_labels
from vivit.corpus.stamps import Stamps, read_stamps
from vivit.data.datasets.registry import read_samples
from vivit.errors import DataError

from ..data.videos import counter_frames, write_video

IN_SECONDS = ("via", "activitynet", "epic", "csv")
TARGETS = {"cvat": "folder", "epic": "folder"}
CLASSES = {"verb": ["open", "close it", "wash, dry", 'ü"<&>'], "noun": ["cup", "a/b", "0", "plate"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four videos: constant rate, variable rate, one that begins late, and one in a folder of another name."""
    root = tmp_path_factory.mktemp("videos")
    (root / "P 02").mkdir()
    irregular = np.cumsum([0, *np.random.default_rng(0).integers(1, 9, 29)]).tolist()
    write_video(root / "P01_01.mp4", counter_frames(40))
    write_video(root / "P01_02.mkv", counter_frames(30), fps=50, pts=irregular)
    write_video(root / "late.mkv", counter_frames(20), pts=[10 + i for i in range(20)])
    write_video(root / "P 02" / "ü ä.mp4", counter_frames(25), fps=30)
    return root


def random_table(root, rng, *, label_sets, on_frames):
    """Write labels.csv with random segments of the videos; returns its rows with the seconds that they mean."""
    rows = set()
    videos = {path: read_stamps(str(root / path)) for path in ("P01_01.mp4", "P01_02.mkv", "late.mkv", "P 02/ü ä.mp4")}
    for path, stamps in videos.items():
        for _ in range(rng.randint(1, 6)):
            bounds = stamps.bounds
            if on_frames:
                first, stop = sorted(rng.sample(range(len(bounds)), 2))
                start, end = float(bounds[first]), float(bounds[stop])
            else:
                start = rng.uniform(bounds[0], bounds[-1] - 0.3)
                end = rng.uniform(start + 0.25, bounds[-1])
            rows.add((path, *stamps.open_ends(start, end)))
    table = [(*row, *(rng.choice(CLASSES[name]) for name in label_sets)) for row in sorted(rows, key=str)]
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", *label_sets])
        writer.writerows([["" if cell is None else cell for cell in row] for row in table])
    return table, videos


def read(path, label_sets):
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [[float(row[name]) if row[name] else None for name in ("start", "end")] for row in rows]
    return [(row["path"], *time, *(row[name] for name in label_sets)) for row, time in zip(rows, times)]


def by_label(row):
    """Return a key to sort rows by their labels, then by their start."""
    return row[0], row[3:], row[1] or 0.0


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_segments_of_whole_frames_come_back_as_they_were(root, tmp_path, name, seed):
    label_sets = ["verb", "noun"] if name == "epic" or seed % 2 else ["verb"]
    table, _ = random_table(root, random.Random(seed), label_sets=label_sets, on_frames=True)
    out = tmp_path / TARGETS.get(name, "file")
    assert export_labels(root / "labels.csv", name, out) == len(table) * len(label_sets)
    samples = import_labels(out, name, root, root / "again.csv")
    again = read(root / "again.csv", label_sets)
    assert [(row[0], *row[3:]) for row in sorted(again, key=str)] == [
        (row[0], *row[3:]) for row in sorted(table, key=str)
    ]
    for mine, theirs in zip(sorted(again, key=str), sorted(table, key=str)):
        assert mine[1:3] == pytest.approx(theirs[1:3], abs=1e-6)
    assert len(samples) == len(table)


@pytest.mark.parametrize("name", FORMATS)
def test_other_segments_move_by_half_a_frame_at_most_and_only_once(root, tmp_path, name):
    label_sets = ["verb", "noun"]
    table, videos = random_table(root, random.Random(name), label_sets=label_sets, on_frames=False)
    out = tmp_path / TARGETS.get(name, "file")
    export_labels(root / "labels.csv", name, out)
    import_labels(out, name, root, root / "again.csv")
    again = read(root / "again.csv", label_sets)
    for mine, theirs in zip(sorted(again, key=by_label), sorted(table, key=by_label), strict=True):
        assert (mine[0], *mine[3:]) == (theirs[0], *theirs[3:])
        stamps = videos[mine[0]]
        for moved, time in zip(stamps.closed(*mine[1:3]), stamps.closed(*theirs[1:3])):
            frame = np.clip(np.searchsorted(stamps.bounds, time, side="right"), 1, len(stamps.times))
            half = (stamps.bounds[frame] - stamps.bounds[frame - 1]) / 2
            assert abs(moved - time) <= (1e-6 if name in IN_SECONDS else half + 1e-6)
    (root / "labels.csv").write_bytes((root / "again.csv").read_bytes())
    export_labels(root / "labels.csv", name, tmp_path / "second")
    import_labels(tmp_path / "second", name, root, root / "third.csv")
    assert (root / "third.csv").read_bytes() == (root / "again.csv").read_bytes()


def test_frames_are_those_that_a_naive_loop_finds(root):
    stamps = read_stamps(str(root / "P01_02.mkv"))
    edges = [*stamps.times.tolist(), stamps.duration]
    rng = random.Random(0)
    for _ in range(200):
        start, end = sorted(rng.uniform(-0.1, stamps.duration + 0.1) for _ in range(2))
        first, last = stamps.frames(start, end)
        nearest = [min(range(len(edges)), key=lambda i: abs(edges[i] - time)) for time in (start, end)]
        assert first == min(nearest[0], len(edges) - 2)
        assert last == max(nearest[1], first + 1) - 1


def test_epic_is_read_by_the_reader_of_the_dataset(root, tmp_path):
    table, _ = random_table(root, random.Random(5), label_sets=["verb", "noun"], on_frames=True)
    table = [row for row in table if row[0] == "P01_01.mp4"]
    export_labels(root / "labels.csv", "epic", tmp_path)
    (tmp_path / "P01_01.mp4").symlink_to(root / "P01_01.mp4")
    found = read_samples("epic_kitchens", str(tmp_path), "train")
    stamps = read_stamps(str(root / "P01_01.mp4"))
    expected = [(*stamps.closed(*row[1:3]), {"verb": row[3], "noun": row[4]}) for row in table]
    assert [(s.start, s.end, s.labels) for s in found] == [
        (pytest.approx(start, abs=1e-6), pytest.approx(end, abs=1e-6), labels) for start, end, labels in expected
    ]


def test_the_files_have_the_form_of_the_tools(root, tmp_path):
    """Frames by hand: 25 a second, from 0.4 s (frame 10) to 0.8 s (frame 19 is the last)."""
    (root / "labels.csv").write_text("path,start,end,label\nP01_01.mp4,0.4,0.8,open\n")
    for name in FORMATS.keys() - {"epic"}:
        export_labels(root / "labels.csv", name, tmp_path / name)
    [task] = json.loads((tmp_path / "label-studio").read_text())
    [region] = task["annotations"][0]["result"]
    assert (task["data"]["fps"], region["value"]["ranges"]) == (25.0, [{"start": 11, "end": 20}])
    boxes = ElementTree.parse(tmp_path / "cvat" / "P01_01.mp4.xml").findall("track/box")
    assert [(b.get("frame"), b.get("outside")) for b in boxes] == [("10", "0"), ("19", "0"), ("20", "1")]
    found = json.loads((tmp_path / "fiftyone").read_text())
    assert found["labels"]["P01_01"][0]["support"] == [11, 20]
    [one] = json.loads((tmp_path / "via").read_text())["metadata"].values()
    assert one["z"] == [0.4, 0.8]
    [one] = json.loads((tmp_path / "activitynet").read_text())["database"]["P01_01"]["annotations"]
    assert (one["segment"], one["label"]) == ([0.4, 0.8], "open")
    [row] = csv.DictReader((tmp_path / "csv").read_text().splitlines())
    assert (row["start_frame"], row["end_frame"]) == ("10", "19")


def test_what_other_versions_of_the_tools_write_is_read_too(root, tmp_path):
    """Predictions of `vivit timeline`, a track with a box per frame, seconds in FiftyOne, an absolute path."""
    region = {"type": "timelinelabels", "from_name": "timeline", "value": {"timelinelabels": ["open"]}}
    region["value"]["ranges"] = [{"start": 11, "end": 20}]
    task = {"data": {"video": f"/data/local-files/?d={root}/P01_01.mp4", "fps": 25}}
    files = {
        "label-studio": json.dumps([task | {"annotations": [], "predictions": [{"result": [region]}]}]),
        "cvat": "<annotations><meta><task><name>P01_01</name></task></meta><track label='open'>"
        + "".join(f"<box frame='{i}' outside='{int(i == 20)}'/>" for i in range(10, 21))
        + "</track></annotations>",
        "fiftyone": json.dumps({"classes": ["open"], "labels": {"P01_01": [{"label": 0, "timestamps": [0.4, 0.8]}]}}),
        "activitynet": json.dumps(
            {"database": {"P01_01": {"annotations": [{"label": "open", "segment": [0.4, 0.8]}]}}}
        ),
        "csv": "path;label;start_frame;end_frame\nP01_01.mp4;open;10;19\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        [sample] = import_labels(tmp_path / name, name, root, root / "again.csv")
        assert (sample.labels, sample.start, sample.end) == ({"label": "open"}, pytest.approx(0.4), pytest.approx(0.8))


def test_problems_are_listed_together(root, tmp_path):
    rows = [("P01_01", "a", 3, 99), ("nothing", "a", 1, 2), ("P01_01", "a", 1, 2), ("P01_01", "b", 1, 2)]
    labels = {}
    for video, label, *support in rows:
        labels.setdefault(video, []).append({"label": label, "support": support})
    (tmp_path / "file").write_text(json.dumps({"classes": [], "labels": labels}))
    with pytest.raises(DataError) as error:
        import_labels(tmp_path / "file", "fiftyone", root, root / "again.csv")
    assert "'a' is from frames 2 to 98 of a video with 40 frames" in str(error.value)
    assert "nothing: no video of this name below" in str(error.value)
    assert "two labels from 0 s to 0.08 s, 'a' and 'b'; one is allowed" in str(error.value)
    for text, problem in (
        ("{", "not JSON"),
        ("[]", "object is expected"),
        ('{"labels": {"a": [{}]}}', "KeyError: 'label'"),
    ):
        (tmp_path / "file").write_text(text)
        with pytest.raises(DataError, match=problem):
            import_labels(tmp_path / "file", "fiftyone", root, root / "again.csv")
    (root / "labels.csv").write_text("path,start,end,label\nP01_01.mp4,0.4,0.8,open\n")
    with pytest.raises(DataError, match="takes the label sets verb and noun"):
        export_labels(root / "labels.csv", "epic", tmp_path / "epic")


VIA = {
    "file": {"1": {"fname": "P01_01.mp4"}},
    "view": {"1": {"fid_list": ["1"]}},
    "attribute": {"1": {"aname": "label", "options": {"0": "run", "1": "sit, down", "2": "jump"}}},
}


@pytest.mark.parametrize(
    ("options", "value", "expected"),
    [
        (True, "1", "sit, down"),
        (True, "0,2", "two labels from 0.4 s to 0.8 s, 'run' and 'jump'; one is allowed"),
        (True, "", "P01_01.mp4: an empty label from 0.4 s to 0.8 s"),
        (True, "7", "P01_01.mp4: label is option '7' of 0, 1, 2"),
        (False, "a, b", "a, b"),
        (False, " ", "P01_01.mp4: an empty label from 0.4 s to 0.8 s"),
    ],
)
def test_a_value_of_via_is_one_of_its_options_or_listed(root, tmp_path, options, value, expected):
    attribute = VIA["attribute"]["1"] if options else {"aname": "label", "options": {}}
    metadata = {"1_a": {"vid": "1", "z": [0.4, 0.8], "av": {"1": value}}}
    (tmp_path / "file").write_text(json.dumps(VIA | {"metadata": metadata, "attribute": {"1": attribute}}))
    if ":" in expected or "two labels" in expected:
        with pytest.raises(DataError, match=re.escape(expected)):
            import_labels(tmp_path / "file", "via", root, root / "again.csv")
    else:
        [sample] = import_labels(tmp_path / "file", "via", root, root / "again.csv")
        assert sample.labels == {"label": expected}


def test_a_cancelled_annotation_of_label_studio_has_no_label(root, tmp_path):
    def annotation(label, **flags):
        value = {"timelinelabels": [label], "ranges": [{"start": 11, "end": 20}]}
        return {"result": [{"type": "timelinelabels", "from_name": "label", "value": value}], **flags}

    kept, skipped = annotation("open", was_cancelled=False), annotation("close", was_cancelled=True)
    task = {"data": {"video": "P01_01.mp4", "fps": 25}, "predictions": [annotation("close")]}
    (tmp_path / "file").write_text(json.dumps([task | {"annotations": [skipped, kept]}]))
    [sample] = import_labels(tmp_path / "file", "label-studio", root, root / "again.csv")
    assert sample.labels == {"label": "open"}
    (tmp_path / "file").write_text(json.dumps([task | {"annotations": [skipped]}]))
    with pytest.raises(DataError, match="no label in it"):
        import_labels(tmp_path / "file", "label-studio", root, root / "again.csv")


def import_one(tmp_path, root, name, video):
    """Return the path below `root` on which the label of a file with one label of `video` lands."""
    label = {"label": "run", "support": [1, 2], "segment": [0, 0.08]}
    content = {"fiftyone": {"classes": [], "labels": {video: [label]}}}
    content["activitynet"] = {"database": {video: {"annotations": [label]}}}
    text = json.dumps(content[name]) if name in content else f"path,start,end,label\n{video},0,0.08,run\n"
    (tmp_path / "file").write_text(text)
    [sample] = import_labels(tmp_path / "file", name, root, root / "labels.csv")
    return str(Path(sample.path).relative_to(root))


@pytest.mark.parametrize(
    ("files", "name", "video", "expected"),
    [
        ("105.mp4", "fiftyone", "5", "5: no video of this name"),
        ("105.mp4", "activitynet", "5", "5: no video of this name"),
        ("5.mp4 105.mp4", "fiftyone", "5", "5.mp4"),
        ("5.mp4 105.mp4", "activitynet", "5", "5.mp4"),
        ("a.mp4 sub/a.mp4", "fiftyone", "a", "a.mp4"),
        ("a.mp4 sub/a.mp4", "fiftyone", "sub/a", "sub/a.mp4"),
        ("a.mp4 sub/a.mp4", "csv", "a.mp4", "a.mp4"),
        ("a.mp4 sub/a.mp4", "csv", "{root}/a.mp4", "a.mp4"),
        ("a.mp4 sub/a.mp4", "csv", "/elsewhere/a.mp4", "2 videos (a.mp4, sub/a.mp4) of this name"),
        ("a.mp4 sub/a.mp4", "csv", "C:\\data\\sub\\a.mp4", "sub/a.mp4"),
        ("a.mp4 sub/a.mp4", "activitynet", "a", "2 videos (a.mp4, sub/a.mp4) of this name"),
        ("a.mp4 a.mkv", "fiftyone", "a", "2 videos (a.mkv, a.mp4) of this name"),
        ("v_x.mp4", "activitynet", "x", "v_x.mp4"),
        ("x.mp4", "activitynet", "v_x", "x.mp4"),
        ("v_x.mp4 x.mp4", "activitynet", "v_x", "v_x.mp4"),
        ("v_x.mp4 x.mp4", "activitynet", "x", "x.mp4"),
    ],
)
def test_a_label_lands_on_the_video_that_its_tool_names_or_on_none(tmp_path, files, name, video, expected):
    root = tmp_path / "videos"
    for file in files.split():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / file, counter_frames(4))
    video = video.format(root=root)
    if "of this name" in expected:
        with pytest.raises(DataError, match=re.escape(expected)):
            import_one(tmp_path, root, name, video)
        assert not (root / "labels.csv").exists()
    else:
        assert import_one(tmp_path, root, name, video) == expected


def test_a_clock_tells_frames_of_variable_rate_apart():
    stamps = Stamps(np.array([0.0, 0.02, 0.5, 0.54]), 1.0, (8, 8))
    ticks = np.round(stamps.bounds * stamps.clock_rate)
    assert len(set(ticks.tolist())) == len(ticks)
    assert [stamps.snap(tick / stamps.clock_rate) for tick in ticks] == stamps.bounds.tolist()
