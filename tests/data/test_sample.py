"""What a sample takes, and what it refuses before a video is blamed."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import vivit
from vivit import Sample
from vivit.data.sample_table import SampleTable

from ..model import tiny
from .videos import counter_frames, write_video


def test_a_path_of_any_kind_is_text():
    for path in (Path("a/x.mp4"), b"a/x.mp4", np.str_("a/x.mp4")):
        sample = Sample(path, {"label": "run"})
        assert sample == Sample("a/x.mp4", {"label": "run"})
        assert SampleTable.of([sample])[0] == sample
    assert Sample(b"\xff.mp4").path == "\udcff.mp4"  # as os names a file whose name is no UTF-8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "path is 3; it takes a file or folder"),
        (("x.mp4", "run"), r"labels is 'run'; it takes class names by label set, such as {\"label\": \"run\"}"),
        (("x.mp4", {"label": 1}), r"labels is {'label': 1}; it takes"),
        (("x.mp4", {1: "run"}), r"labels is {1: 'run'}; it takes"),
        (("x.mp4", None), "labels is None; it takes"),
        (("x.mp4", {}, "1"), "start is '1'; it takes a number or None"),
        (("x.mp4", {}, None, "2"), "end is '2'; it takes a number or None"),
        (("x.mp4", {}, None, None, "", "25"), "fps is '25'; it takes a number or None"),
    ],
)
def test_fields_of_another_kind_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sample(*arguments)


def test_seconds_are_numbers_of_any_kind():
    for seconds in (1, 1.0, np.float32(1), np.int64(1), Fraction(1)):
        assert Sample("x.mp4", {}, seconds).start == 1


@pytest.mark.parametrize("read", [vivit.predict, vivit.timeline, vivit.features, vivit.explain])
def test_what_takes_a_path_and_seconds_takes_a_sample_with_its_own(read, tmp_path):
    file = write_video(tmp_path / "a.mp4", counter_frames(24, height=24, width=32), fps=12)
    model = tiny.model()
    given, expected = (
        repr(read(model, *one[0], **one[1]))
        for one in (
            ((Sample(str(file), start=0.5, end=1.5),), {}),
            ((file,), {"start": 0.5, "end": 1.5}),
        )
    )
    assert given == expected
    with pytest.raises(
        ValueError, match="start 1 and end None are given with a Sample, which has its own; set them there"
    ):
        read(model, Sample(str(file)), start=1)
    with pytest.raises(ValueError, match="start is '1'; it takes a number or None"):
        read(model, file, start="1")
