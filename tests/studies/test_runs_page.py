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
from vivit.studies.runs_page import compare_groups, group_runs, holm, sign_flip_p, top1, write_runs_page

from ..cli.conftest import vivit  # noqa: F401
from ..report.browser import CHROMIUM, Browser


def write_run(folder, *, lr, seed=0, right=None, videos=(), steps=3, label_set="label", label="b", views=4, val=None):
    """A run whose test, if any, is right on the videos of the mask `right`."""
    folder.mkdir(parents=True)
    config = Config(seed=seed, run=str(folder), optim=OptimConfig(lr=lr))
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    lines = [{"step": i + 1, "epoch": i + 1.0, "loss": 2 / (i + 1) + seed / 100} for i in range(steps)]
    found = val or {"label": 0.5 + (lr + seed) / 100}
    lines.append({"step": steps, "epoch": float(steps)} | {f"val/{name}/top1": share for name, share in found.items()})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if right is not None:
        logits = torch.tensor([[0.0, 1.0] if hit else [1.0, 0.0] for hit in right])
        Evaluation(
            protocol=EvalConfig(temporal_views=views),
            classes={label_set: ("a", "b")},
            samples=[Sample(str(path), {label_set: label}) for path in videos],
            labels=torch.full((len(videos), 1), "ab".index(label)),
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
    [found], not_compared = compare_groups(groups)
    assert not_compared == []
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


def test_results_of_other_labels_views_or_videos_are_not_compared_and_named(tmp_path):
    videos = [f"data/val/{i}.mp4" for i in range(40)]
    runs, half = tmp_path / "runs", [i % 2 for i in range(40)]
    write_run(runs / "a", lr=0.1, right=half, videos=videos)
    write_run(runs / "b", lr=0.2, right=[1] * 40, videos=videos, label_set="noun")
    write_run(runs / "c", lr=0.3, right=[1] * 40, videos=videos, views=1)
    write_run(runs / "d", lr=0.4, right=[1] * 40, videos=[f"data/test/{i}.mp4" for i in range(40)])
    write_run(runs / "e", lr=0.5, right=half, videos=videos, label="a")
    write_run(runs / "f", lr=0.6, right=[1] * 40, videos=[f"/moved/x/data/val/{i}.mp4" for i in range(40)])
    found, not_compared = compare_groups(group_runs([summarise(path) for path in find_runs(runs)]))
    assert [(one.title, one.points) for one in found] == [("optim.lr 0.6", 0.5)]
    assert found[0].better == videos[::2]
    assert not_compared == [
        "optim.lr 0.2 (noun, 4 x 3 views; the first group: label, 4 x 3 views)",
        "optim.lr 0.3 (label, 1 x 3 views; the first group: label, 4 x 3 views)",
        "optim.lr 0.4 (no video was measured in all (the first ones: data/val/0.mp4, data/test/0.mp4))",
        "optim.lr 0.5 (data/val/0.mp4 is labelled b in one, a in another)",
    ]
    page = write_runs_page(runs, tmp_path / "page.html").read_text()
    assert "not compared: optim.lr 0.2 (noun, 4 x 3 views" in page
    charts = re.findall(r"test [^:<]*: top-1, mean and 95 % interval over seeds", page)
    assert sorted({title.split(":")[0] for title in charts}) == [
        "test label, 1 x 3 views",
        "test label, 4 x 3 views",
        "test noun, 4 x 3 views",
    ]


def test_runs_of_one_group_tested_in_different_ways_have_no_common_result(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", lr=0.1, seed=seed, right=[1], videos=["x.mp4"], views=1 + seed)
    write_run(tmp_path / "b", lr=0.2, right=[1], videos=["x.mp4"], views=1)
    groups = group_runs([summarise(path) for path in find_runs(tmp_path)])
    assert [top1(group)[1] for group in groups] == ["validation label", "test label, 1 x 3 views"]
    found, [note] = compare_groups(groups)
    assert not found
    assert "the first group: label, 1 x 3 views and label, 2 x 3 views" in note


def test_without_a_test_top1_is_that_of_all_label_sets_together(tmp_path):
    shares = {"noun": 0.5, "verb": 0.25, "action": 0.125}
    for name, kept in (("a", ("noun", "verb", "action")), ("b", ("noun", "verb")), ("c", ("verb",))):
        write_run(tmp_path / name, lr=ord(name) / 1000, val={k: shares[k] for k in kept})
    groups = group_runs([summarise(path) for path in find_runs(tmp_path)])
    assert [([*values.values()], source) for values, source in map(top1, groups)] == [
        ([0.125], "validation action"),
        ([0.5], "validation noun"),
        ([0.25], "validation verb"),
    ]


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
