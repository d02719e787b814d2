"""The training videos on a run's page that look wrongly labelled."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vivit.config import Config, DataConfig, ModelConfig, to_dict
from vivit.data.sample import Sample
from vivit.engine.run import environment
from vivit.engine.setup import Data
from vivit.engine.stages import write_doubtful
from vivit.files import write_json
from vivit.report.doubtful import SHOWN, doubtful_examples

from ..data.videos import counter_frames, write_video
from .test_run import Page, build, evaluation, write

LABELS = {"noun": ("cup", "door")}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on one file of two segments, both labelled "cup", of which heads take the second for "door"."""
    write_video(tmp_path / "0.mp4", counter_frames(12, 32, 48))
    (tmp_path / "1.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    table = "path,start,end,noun,split\n0.mp4,,0.2,cup,train\n0.mp4,0.2,0.4,cup,train\n1.mp4,,,door,val\n"
    (tmp_path / "labels.csv").write_text(table)
    model = ModelConfig(classes=LABELS)
    config = Config(model=model, data=DataConfig(root=str(tmp_path / "labels.csv")), run=str(tmp_path))
    write_json(tmp_path / "config.json", to_dict(config))
    write_json(tmp_path / "environment.json", environment())
    samples = [Sample(str(tmp_path / "0.mp4"), {"noun": "cup"}, start, end) for start, end in ((None, 0.2), (0.2, 0.4))]
    labels, logits = torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[4.0, 0.0], [0.0, 3.0]])
    data = Data(samples, labels, [], labels, {})
    write_doubtful(tmp_path / "doubtful.csv", data, logits, model, torch.arange(2), torch.arange(2))
    return tmp_path


def config_of(run: Path, root: str) -> Config:
    return replace(Config(data=DataConfig(root=root)), run=str(run))


def test_the_page_shows_them_with_pictures(run: Path) -> None:
    text = " ".join(" ".join(Page(write(run, evaluation(run, 1))).text).split())
    section = text.split("Training videos that look wrongly labelled")[1]
    assert "contradict 1 label;" in section
    assert "noun cup , predicted door 95" in section
    assert str(run / "0.mp4") in section


def test_the_pictures_are_those_of_the_segment(run: Path) -> None:
    model = build(LABELS)
    [example], count = doubtful_examples(run, config_of(run, str(run / "labels.csv")), model)
    assert count == 1
    assert example.clip.problem == ""
    assert example.badges[0].probability == pytest.approx(1 / (1 + torch.e**-3), abs=1e-3)
    other = run / "first.csv"  # the same line about the first segment shows other frames
    other.write_text((run / "doubtful.csv").read_text().replace(",0.2,0.4,", ",,0.2,"))
    other.replace(run / "doubtful.csv")
    [first], _ = doubtful_examples(run, config_of(run, str(run / "labels.csv")), model)
    assert first.clip.problem == ""
    assert first.clip.sheet != example.clip.sheet


def test_a_run_without_stages_has_none(run: Path) -> None:
    (run / "doubtful.csv").unlink()
    assert doubtful_examples(run, config_of(run, str(run / "labels.csv")), build(LABELS)) == ([], 0)
    assert "look wrongly labelled" not in write(run, evaluation(run, 1))


def test_videos_that_are_gone_are_named_without_pictures(run: Path) -> None:
    [example], _ = doubtful_examples(run, config_of(run, str(run / "moved.csv")), build(LABELS))
    assert "does not exist" in example.clip.problem


def test_at_most_some_are_shown(run: Path) -> None:
    with (run / "doubtful.csv").open(newline="") as file:
        head, row = csv.reader(file)
    with (run / "doubtful.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *[row] * (SHOWN + 3)])
    examples, count = doubtful_examples(run, config_of(run, str(run / "labels.csv")), build(LABELS))
    assert (len(examples), count) == (SHOWN, SHOWN + 3)
