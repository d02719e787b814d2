"""The page of many runs: groups, corrected differences, flipped videos, and how fast it opens."""

import itertools
import json
import re

import numpy as np
import pytest
import torch

from vivit.config import Config, EvalConfig, OptimConfig, to_dict
from vivit.data.sample import Sample
from vivit.data.tools.synthetic import render, write_video
from vivit.engine.evaluation import Evaluation
from vivit.engine.runs import find_runs, summarise
from vivit.studies.runs_page import compare_groups, group_runs, holm, sign_flip_p, write_runs_page

from ..cli.conftest import vivit  # noqa: F401
from ..report.browser import CHROMIUM, Browser


def write_run(folder, *, lr, seed, right=None, videos=(), steps=3):
    """A run whose test, if any, is right on the videos of the mask `right`."""
    folder.mkdir(parents=True)
    config = Config(seed=seed, run=str(folder), optim=OptimConfig(lr=lr))
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    lines = [{"step": i + 1, "epoch": i + 1.0, "loss": 2 / (i + 1) + seed / 100} for i in range(steps)]
    lines.append({"step": steps, "epoch": float(steps), "val/label/top1": 0.5 + lr + seed / 100})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if right is not None:
        logits = torch.tensor([[0.0, 1.0] if hit else [1.0, 0.0] for hit in right])
        Evaluation(
            protocol=EvalConfig(),
            classes={"label": ("a", "b")},
            samples=[Sample(str(path), {"label": "b"}) for path in videos],
            labels=torch.ones(len(videos), 1, dtype=torch.int64),
            single=logits,
            multi=logits,
            missing={},
            list_hash="x",
        ).save(folder / "predictions.npz")


def test_holm_and_the_sign_flip_test_equal_naive_ones():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 0.01·3, 0.03·2, then not below it
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    changes = np.random.default_rng(1).normal(0.4, 1, 10)
    sums = [abs(np.dot(signs, changes)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean([value >= abs(changes.sum()) - 1e-9 for value in sums])
    assert sign_flip_p(changes) == pytest.approx(exact, abs=0.015)


def test_seeds_are_one_group_and_differences_are_paired(tmp_path):
    videos = [tmp_path / f"{i}.mp4" for i in range(40)]
    for seed in range(3):
        write_run(tmp_path / "runs" / f"a{seed}", lr=0.1, seed=seed, right=[i % 2 for i in range(40)], videos=videos)
        write_run(tmp_path / "runs" / f"b{seed}", lr=0.2, seed=seed, right=[i > 1 for i in range(40)], videos=videos)
        write_run(tmp_path / "runs" / f"c{seed}", lr=0.3, seed=seed)
    groups = group_runs([summarise(path) for path in find_runs(tmp_path / "runs")])
    assert [(g.title, len(g.runs), len(g.answers)) for g in groups] == [
        ("optim.lr 0.1", 3, 3),
        ("optim.lr 0.2", 3, 3),
        ("optim.lr 0.3", 3, 0),
    ]
    [found] = compare_groups(groups)
    assert found.points == pytest.approx(38 / 40 - 0.5)
    assert found.better == [str(videos[i]) for i in range(2, 40, 2)]
    assert found.worse == [str(videos[1])]
    assert found.p == found.adjusted < 0.001
    page = write_runs_page(tmp_path / "runs", tmp_path / "page.html").read_text()
    assert "+45.0" in page
    assert "19 videos right here, wrong there" in page
    assert 'src="2.mp4"' in page
    assert "test label" in page
    assert "validation label" in page
    assert ">seed<" not in page
    cells = re.findall(r"<td([^>]*)>", page)
    assert len(cells) == 3 * 5 + 4
    assert all(re.fullmatch(r' data-label="[^"]+"', cell) for cell in cells)  # names on narrow screens
    with pytest.raises(ValueError, match="no run with a readable"):
        write_runs_page(tmp_path / "nothing", tmp_path / "page.html")


def test_the_command_writes_the_page(vivit, tmp_path):  # noqa: F811
    write_run(tmp_path / "runs" / "a", lr=0.1, seed=0)
    assert vivit("runs", tmp_path / "runs", "--html", tmp_path / "page.html")[1] == f"open {tmp_path / 'page.html'}\n"
    assert "1 run in 1 group" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium")
def test_two_hundred_runs_of_two_thousand_points_open_fast_and_a_flipped_video_plays(tmp_path):
    video = tmp_path / "a b.mp4"
    write_video(video, render(0, "val", 0, num_frames=20)[0])
    for i in range(200):
        right = [i >= 5] if i < 10 else None
        write_run(tmp_path / "runs" / f"{i:03}", lr=i // 5 + 1.0, seed=i % 5, right=right, videos=[video], steps=2000)
    page = write_runs_page(tmp_path / "runs", tmp_path / "page.html")
    assert page.stat().st_size < 1_000_000
    with Browser(tmp_path / "profile") as browser:
        seconds = []
        for _ in range(3):  # other programs run too
            browser.open(page)
            load = "performance.timing.loadEventEnd - performance.timing.navigationStart"
            browser.wait("performance.timing.loadEventEnd > 0")
            seconds.append(browser.evaluate(load) / 1000)
        print(f"200 runs of 2,000 points: {page.stat().st_size / 1000:.0f} kB, open in {min(seconds):.2f} s")
        assert min(seconds) < 2
        assert browser.evaluate("document.querySelectorAll('.curves path').length") == 200
        browser.evaluate("document.querySelector('details').open = true; document.querySelector('video').muted = true")
        browser.evaluate("document.querySelector('video').play().then(() => 1)")
        browser.wait("document.querySelector('video').currentTime > 0")
