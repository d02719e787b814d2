"""What `vivit eval` writes for people: a page and a table of answers, against the stored predictions."""

import csv
import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from torch import nn

from vivit import cli
from vivit.engine.evaluation import load_evaluation
from vivit.engine.train import train
from vivit.report import evaluation as evaluation_module
from vivit.report import examples as examples_module
from vivit.report.evaluation import write_eval_report, write_predictions_csv
from vivit.weights.load import from_pretrained

from ..engine.tiny import CLASSES, tiny_config, write_table


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run whose evaluation has been written by the command."""
    folder = tmp_path_factory.mktemp("eval")
    config = tiny_config(write_table(folder / "data", train=8, val=6), folder / "run", eval_every=1, save_every=1)
    train(replace(config, optim=replace(config.optim, epochs=1, warmup_epochs=0)))
    evaluate(str(folder / "run"))
    return folder / "run"


def evaluate(*words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vivit", "eval", *words])
        cli.main()


def figures(page: str) -> int:
    return page.count('class="film"')


def test_the_table_holds_the_answers_of_the_stored_logits(run):
    stored = load_evaluation(run / "predictions.npz")
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [sample.path for sample in stored.samples]
    parts = dict(zip(CLASSES, stored.multi.split([len(names) for names in CLASSES.values()], dim=1)))
    for i, row in enumerate(rows):
        assert (row["start"], row["end"]) == ("", "")
        for name, names in CLASSES.items():
            probabilities = parts[name][i].exp() / parts[name][i].exp().sum()
            assert row[f"{name}_truth"] == stored.samples[i].labels[name]
            assert row[f"{name}_answer"] == names[int(probabilities.argmax())]
            assert float(row[f"{name}_probability"]) == pytest.approx(float(probabilities.max()), rel=1e-4)


def test_the_page_of_a_run_shows_its_training_and_the_most_confident_errors_first(run):
    page = unescape((run / "report.html").read_text())
    assert f"Evaluation of {run}" in page
    assert "Learning curves" in page
    assert "where the model looks" in page
    assert figures(page) == 6
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    errors = {
        row["path"]: max(
            float(row[f"{name}_probability"]) for name in CLASSES if row[f"{name}_answer"] != row[f"{name}_truth"]
        )
        for row in rows
        if any(row[f"{name}_answer"] != row[f"{name}_truth"] for name in CLASSES)
    }
    worst = sorted(errors, key=lambda path: -errors[path])
    places = [page.index(f"<code>{path}</code>") for path in worst]
    assert places == sorted(places)
    assert all(places[-1] < page.index(f"<code>{row['path']}</code>") for row in rows if row["path"] not in errors)


def test_bare_weights_have_a_page_without_training(run, tmp_path):
    evaluate(str(run / "weights"), "--data.root", str(run.parent / "data" / "labels.csv"), "--run", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "Learning curves" not in page
    assert "where the model looks" in page
    assert (tmp_path / "predictions.csv").is_file()


class PlainNetwork(nn.Module):
    """As much of a CNN as the page needs."""

    def __init__(self, config):
        super().__init__()
        self.config = config


def test_a_model_without_attention_has_its_clips_and_no_maps(run, tmp_path):
    model = PlainNetwork(from_pretrained(run / "weights").config)
    stored = load_evaluation(run / "predictions.npz")
    page = write_eval_report(tmp_path, weights="some.safetensors", model=model, evaluation=stored).read_text()
    assert "attention" not in page.lower()
    assert figures(page) == 6


def test_maps_that_take_too_long_are_left_out_and_the_clips_stay(run, tmp_path, monkeypatch):
    monkeypatch.setattr(examples_module, "ATTENTION_SECONDS", -1.0)
    stored, model = load_evaluation(run / "predictions.npz"), from_pretrained(run / "weights").eval()
    page = write_eval_report(tmp_path, weights=str(run), model=model, evaluation=stored).read_text()
    assert "attention in frame" not in page
    assert figures(page) == 6


def test_a_video_that_is_gone_since_the_test_is_named_on_the_page(run, tmp_path):
    stored, model = load_evaluation(run / "predictions.npz"), from_pretrained(run / "weights").eval()
    gone = replace(stored, samples=[replace(stored.samples[0], path="gone.mp4"), *stored.samples[1:]])
    page = write_eval_report(tmp_path, weights=str(run), model=model, evaluation=gone).read_text()
    assert "No picture: " in page
    assert "gone.mp4" in page
    assert figures(page) == 5


def test_a_page_that_fails_leaves_the_results_and_is_named(run, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("out of paint")

    monkeypatch.setattr(evaluation_module, "write_report", fail)
    evaluate(str(run), "--run", str(tmp_path))
    assert "report.html is not written: RuntimeError: out of paint" in caplog.text
    assert not (tmp_path / "report.html").exists()
    assert json.loads((tmp_path / "results.json").read_text())["videos"] == 6
    assert (tmp_path / "predictions.csv").is_file()


def test_an_answer_that_is_not_finite_is_empty_in_the_table_and_odd_names_survive(run, tmp_path):
    stored = load_evaluation(run / "predictions.npz")
    logits = stored.multi.clone()
    logits[0] = torch.nan
    odd = replace(stored.samples[1], path='a "b",\nc\udcff.mp4', start=0.5, end=1.25)
    result = replace(stored, multi=logits, samples=[stored.samples[0], odd, *stored.samples[2:]])
    path = write_predictions_csv(result, tmp_path / "answers.csv")
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["colour_answer"], rows[0]["light_probability"]) == ("", "")
    assert rows[0]["colour_truth"] == stored.samples[0].labels["colour"]
    assert (rows[1]["path"], rows[1]["start"], rows[1]["end"]) == (odd.path, "0.5", "1.25")
