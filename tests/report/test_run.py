import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import av
import pytest
import torch
from markupsafe import escape

from vivit.config import Config, EvalConfig, ModelConfig, OptimConfig, to_dict
from vivit.data.sample import Sample
from vivit.engine.evaluation import Evaluation
from vivit.engine.run import environment
from vivit.files import write_json
from vivit.inference.predict import Prediction
from vivit.model.vivit import ViViT
from vivit.report.charts import ticks
from vivit.report.examples import answers, choose_examples, confidence, is_wrong
from vivit.report.html import jpeg
from vivit.report.run import chance, explain_shuffling, write_report

from ..data.videos import counter_frames, write_video

NOUNS, VERBS = ("<b>&\"'", "cup", "door"), ("open", "clo</title>se")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects the text, the attributes that load something, and the table's rows."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.loads, self.rows = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "xlink:href", "action")]
        assert tag not in ("script", "iframe", "link")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):  # <path/> of SVG
        assert "svg" in self.open

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that has ended, and two videos."""
    folder = tmp_path_factory.mktemp("run")
    for number in range(2):
        write_video(folder / f"{number}.mp4", counter_frames(8 + number, 32, 48))
    model = ModelConfig(classes={"noun": NOUNS})
    config = Config(model=model, optim=OptimConfig(batch_size=10, epochs=4), run=str(folder), seed=17)
    write_json(folder / "config.json", to_dict(config))
    write_json(folder / "environment.json", environment())
    lines = [{"step": 10, "epoch": 2.0, "loss": 2.5, "clips_per_second": 1.0, "lr": 0.1}]
    lines += [{"step": 10, "epoch": 2.0, "val/noun/top1": 0.5, "val/verb/top1": 0.25, "val/action/top1": 0.125}]
    lines += [{"step": 20, "epoch": 4.0, "loss": float("nan"), "clips_per_second": 0.5, "lr": 0.1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def build(classes: dict[str, tuple[str, ...]]) -> ViViT:
    sizes = {"num_frames": 4, "image_size": (16, 24), "tubelet_size": (2, 8, 8)}
    return ViViT(ModelConfig(classes=classes, **sizes, embed_dim=16, depth=1, temporal_depth=1, num_heads=2))


def evaluation(folder: Path, label_sets: int = 2, *, videos: int = 24, right: float = 0.8, **changes) -> Evaluation:
    """Random labels; each answer is right with probability `right`."""
    classes = dict(list({"noun": NOUNS, "verb": VERBS}.items())[:label_sets])
    labels = torch.stack([torch.randint(len(names), (videos,)) for names in classes.values()], dim=1)
    logits = []
    for names, label in zip(classes.values(), labels.unbind(1)):
        said = torch.where(torch.rand(videos) < right, label, torch.randint(len(names), (videos,)))
        logits.append(torch.nn.functional.one_hot(said, len(names)) * 3.0 + torch.rand(videos, len(names)))
    samples = [
        Sample(str(folder / f"{i % 2}.mp4"), {name: classes[name][j] for name, j in zip(classes, row)})
        for i, row in enumerate(labels.tolist())
    ]
    multi = torch.cat(logits, dim=1)
    protocol, missing = EvalConfig(temporal_views=4, spatial_views=3), {}
    result = Evaluation(protocol, classes, samples, labels, multi.roll(1, 0), multi, missing, list_hash="0123abcd")
    return replace(result, **changes)


def write(folder: Path, result: Evaluation, **more) -> str:
    path = folder / "new" / "report.html"
    model = build(result.classes)
    written = write_report(path, title="A <title> & more", run=folder, model=model, evaluation=result, **more)
    assert written == path
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("label_sets", [1, 2])
@pytest.mark.parametrize("with_shuffled", [False, True])
def test_the_page_is_balanced_html_that_loads_nothing(folder, label_sets, with_shuffled):
    result = evaluation(folder, label_sets)
    more = {"shuffled": evaluation(folder, label_sets, right=0)} if with_shuffled else {}
    html = write(folder, result, **more)
    page = Page(html)
    assert page.loads
    assert all(value.startswith("data:image/jpeg;base64,") for value in page.loads)
    assert not re.search(r"https?:|url\(|@import|javascript:", html)
    assert len(html) < 5e6
    assert ("frames shuffled" in html) == with_shuffled


def test_names_are_escaped_and_shown(folder):
    result = evaluation(folder)
    prediction = Prediction(result.samples[0].path, {"noun": [(NOUNS[0], 0.625)], "verb": [(VERBS[1], 0.9375)]})
    html = write(folder, result, prediction=prediction, next_lines=["vivit <train>", "vivit predict & smile"])
    for name in (*NOUNS, *VERBS, "A <title> & more", "vivit <train>\nvivit predict & smile"):
        assert escape(name) in html
        assert name in "".join(Page(html).text)
    assert NOUNS[0] not in html
    assert VERBS[1] not in html


def test_the_table_shows_the_numbers_of_the_evaluations(folder):
    result, shuffled = evaluation(folder), evaluation(folder, right=0.3)
    rows = Page(write(folder, result, shuffled=shuffled)).rows
    for name, shown in (("noun", "noun3 classes"), ("verb", "verb2 classes"), ("action", "actionevery label right")):
        (row,) = [row for row in rows if row[0] == shown]
        tests = result.single_view_accuracy[name], result.accuracy[name], shuffled.accuracy[name]
        for cell, accuracy in zip(row[1:4], tests, strict=True):
            assert cell.startswith(f"{accuracy['top1']:.1%}{accuracy['top1'] * 24:.0f} of 24")
            assert cell.endswith(f"top-5 {accuracy['top5']:.1%}") == (name == "action")
        assert row[4] == f"{chance(result)[name]:.1%}"


def test_the_matrices_show_the_counts_of_the_evaluation(folder):
    result = evaluation(folder)
    html = write(folder, result)
    for label_set, names in result.classes.items():
        for i, row in enumerate(result.confusion(label_set).tolist()):
            for j, count in enumerate(row):
                assert f"<title>{escape(names[i])} → {escape(names[j])}: {count}</title>" in html


def test_many_classes_are_shown_as_their_most_frequent_confusions(folder):
    names = tuple(f"class {i}" for i in range(30))
    labels = torch.arange(24)[:, None]
    logits = torch.eye(30)[[1, *range(1, 24)]]
    samples = [Sample(str(folder / "0.mp4"), {"what": names[i]}) for i in range(24)]
    result = evaluation(folder, classes={"what": names}, samples=samples, labels=labels, single=logits, multi=logits)
    html = write(folder, result)
    assert "<li>class 0 → class 1 <b>1</b></li>" in html
    assert html.count("→") == 1
    Page(html)


def test_missing_videos_are_listed(folder):
    missing = {3: "lost.mp4: not <found>", 5: "cut.mp4: no frames"}
    text = "".join(Page(write(folder, evaluation(folder, missing=missing))).text)
    assert "2 videos could not be read" in text
    assert all(problem in text for problem in missing.values())


def test_a_test_without_any_readable_video_makes_a_page(folder):
    empty = evaluation(folder, videos=0, missing={0: "lost.mp4: not found"})
    assert "lost.mp4: not found" in "".join(Page(write(folder, empty, shuffled=empty)).text)


def test_the_summary_follows_from_the_steps_and_rates(folder):
    text = "".join(Page(write(folder, evaluation(folder))).text)
    # 10 steps of 10 clips at 1 clip a second, 10 more at half of it; 200 clips are 4 epochs of 50 videos
    assert "trained on 50 videos for 4 epochs in 5.0 minutes, tested on 24 other videos" in text
    assert "seed 17" in text
    assert "0123abcd" in text


def test_chance_is_the_share_of_the_most_frequent_answer(folder):
    labels = torch.tensor([[0, 0], [0, 1], [0, 1], [2, 1]])
    result = evaluation(folder, videos=4, labels=labels)
    assert chance(result) == {"noun": 0.75, "verb": 0.75, "action": 0.5}


def test_shuffling_proves_motion_only_where_accuracy_falls(folder):
    labels = torch.tensor([[i % 3, i // 3 % 2] for i in range(24)])
    noun, verb = (torch.nn.functional.one_hot(x) * 1.0 for x in labels.unbind(1))
    result = evaluation(folder, labels=labels, multi=torch.cat((noun, verb), 1))
    shuffled = evaluation(folder, labels=labels, multi=torch.cat((noun, torch.ones_like(verb)), 1))
    assert explain_shuffling(result, shuffled) == (
        "With the frames of each clip in random order, noun stays at 100.0%, so single frames are enough; "
        "verb falls from 100.0% to 50.0% (chance: 50.0%), so it is read from motion."
    )
    assert "nothing" in explain_shuffling(shuffled := replace(shuffled, multi=torch.ones(24, 5)), shuffled)


def test_examples_show_errors_first_and_then_every_class(folder):
    result = evaluation(folder)
    errors = [is_wrong(answer) for answer in answers(result)]
    chosen = choose_examples(result)
    assert len(set(chosen)) == 8
    assert [errors[i] for i in chosen] == [True] * 4 + [False] * 4
    confidences = [confidence(answer) for answer in answers(result)]
    assert [confidences[i] for i in chosen[:4]] == sorted(confidences, reverse=True)[:4]
    assert choose_examples(result) == chosen
    assert {result.samples[i].labels["noun"] for i in chosen[4:]} == set(NOUNS)
    one_wrong = evaluation(folder, right=1)
    one_wrong.multi[7, :3] = torch.tensor([5.0, 0.0, 0.0]).roll(int(one_wrong.labels[7, 0]) + 1)
    assert choose_examples(one_wrong)[0] == 7
    assert not any(is_wrong(answers(one_wrong)[i]) for i in choose_examples(one_wrong)[1:])
    assert len(choose_examples(evaluation(folder, right=0, videos=5))) == 5


def test_pictures_are_jpeg_files_close_to_their_pixels():
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(45), indexing="ij")
    picture = torch.stack((rows * 8, columns * 5, rows * 2 + columns * 3)).to(torch.uint8)
    address = jpeg(picture)
    with av.open(BytesIO(b64decode(address.removeprefix("data:image/jpeg;base64,")))) as file:
        (frame,) = file.decode(video=0)
    shown = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    assert (shown.float() - picture.float()).abs().max() < 12


@pytest.mark.parametrize("top", [0.001, 0.3, 1, 1.05, 7, 30, 4000])
def test_ticks_are_round_and_reach_nearly_to_the_top(top):
    values = ticks(top)
    assert 3 <= len(values) <= 6
    assert values[0] == 0
    assert top - values[1] < values[-1] <= top * (1 + 1e-9)
    assert all(re.fullmatch(r"[125]0*|0\.0*[125]|[125]e-\d+", f"{values[1]:g}") for _ in values)


@pytest.mark.parametrize(("start", "top", "expected"), [(0.89, 1, [0.85, 0.9, 1]), (0.991, 1, [0.99, 0.992, 1])])
def test_ticks_may_start_at_the_round_number_below_the_values(start, top, expected):
    values = ticks(top, start)
    assert [values[0], values[1], values[-1]] == pytest.approx(expected)
    assert len(values) <= 7


def test_a_model_that_gives_nan_has_no_answers_on_the_page_and_no_nan(folder):
    result = evaluation(folder)
    spoilt = result.multi.clone()
    spoilt[:5, -1] = torch.nan
    page = write(folder, replace(result, multi=spoilt))
    assert "no answer: the logits are not finite" in page
    assert "5 videos with logits that are not finite: in no cell, and wrong." in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page))
