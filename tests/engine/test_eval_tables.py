"""The tables of an evaluation, from given logits."""

import json
import re
from dataclasses import replace

import pytest
import torch

from vivit.config import EvalConfig
from vivit.data.sample import Sample
from vivit.engine.eval_tables import format_errors, format_evaluation
from vivit.engine.evaluation import Evaluation, load_evaluation

PROTOCOL = EvalConfig(temporal_views=3, spatial_views=3, batch_views=4)


def made(labels, logits, names, **changes):
    """An evaluation of one label set, "what", from given numbers."""
    samples = [Sample(f"{i}.mp4", {"what": names[label]}) for i, label in enumerate(labels)]
    tensors = torch.tensor(labels)[:, None], torch.as_tensor(logits), torch.as_tensor(logits)
    return Evaluation(PROTOCOL, {"what": names}, samples, *tensors, missing={}, list_hash="0123", **changes)


def test_the_worst_classes_and_most_frequent_confusions_stand_side_by_side():
    said = [1, 1, 0, 0, 1, 1, 1, 1, 2, 0, 3]
    result = made([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3], torch.eye(4)[said], ("a cup", "a door", "a pan", "x" * 30))
    assert format_errors(result).splitlines() == [
        "what: worst classes                          taken for another",
        "a cup                      50.0% of 4        2 x  a cup -> a door",
        "a pan                      50.0% of 2        1 x  a pan -> a cup",
    ]
    assert "mean class" in format_evaluation(result)  # the classes are not equally frequent
    assert format_errors(made([0, 1], torch.eye(2), ("a", "b"))) == ""


def test_classes_with_one_long_beginning_look_different():
    names = tuple(f"pretending to put something {place} something" for place in ("into", "next to", "onto"))
    result = made([0, 0, 1, 1, 2], torch.eye(3)[[1, 0, 0, 2, 2]], names)
    assert all(f" {place} something" in format_errors(result) for place in ("into", "next to", "onto"))


def test_the_printed_numbers_are_those_of_the_results():
    torch.manual_seed(0)
    result = made([0, 0, 1, 2, 2, 2], torch.randn(6, 8), tuple("abcdefgh"))
    row = next(line for line in format_evaluation(result).splitlines() if line.startswith("what"))
    keys = ("top1", "top5", "mean_class", "calibration_error")
    numbers = [result.results()[view]["what"][key] for view in ("single_view", "multi_view") for key in keys]
    assert row.split() == ["what", *(f"{number:.1%}" for number in numbers)]


def test_a_long_list_of_missing_videos_is_cut_in_print_and_whole_in_the_results():
    result = made([0], torch.eye(1), ("a",))
    result = replace(result, missing={i: f"{i}.mp4: gone" for i in range(1, 40)})
    assert format_evaluation(result).count("gone") == 10
    assert "and 29 more" in format_evaluation(result)
    assert len(result.results()["missing_videos"]) == 39


def test_numbers_that_do_not_exist_are_null_in_the_results():
    result = made([0, 0], [[torch.nan, torch.nan]] * 2, ("a", "b"))
    results = json.loads(json.dumps(result.results()), parse_constant=pytest.fail)
    assert results["per_class"]["what"]["b"] == {"videos": 0, "accuracy": None}
    assert results["multi_view"]["what"]["top1"] == 0
    assert results["multi_view"]["what"]["calibration_error"] is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_videos_with_logits_that_are_not_finite_are_counted_named_and_wrong_for_every_class(bad, tmp_path):
    logits = torch.eye(2)[[0, 0, 1, 1, 1]]
    logits[1, 1] = bad
    result = made([0, 0, 0, 1, 1], logits, ("a", "b"))
    assert result.accuracy["what"]["top1"] == pytest.approx(3 / 5)
    results = json.loads(json.dumps(result.results()), parse_constant=pytest.fail)
    assert (results["not_finite"], results["not_finite_videos"]) == (1, ["1.mp4"])
    assert results["per_class"]["what"]["a"] == {"videos": 3, "accuracy": pytest.approx(1 / 3)}
    assert results["multi_view"]["what"]["mean_class"] == pytest.approx((1 / 3 + 1) / 2)
    assert results["confusion"]["what"]["counts"] == [[1, 1], [0, 2]]
    assert "5 videos, 0 missing, 1 with logits that are not finite, wrong in every number" in format_evaluation(result)
    assert "1.mp4" in format_evaluation(result)
    assert re.search(r"a +33.3% of 3", format_errors(result))
    result.save(tmp_path / "predictions.npz")
    assert load_evaluation(tmp_path / "predictions.npz").results() == result.results()


def test_names_are_printed_without_the_escape_sequences_in_them():
    result = made([0, 0], torch.eye(2)[[0, 1]], ("red\x1b[31m", "blue\x9b2J"))
    result = replace(result, missing={2: "\x1b]0;title\x07.mp4: gone"})
    shown = format_evaluation(result) + format_errors(result)
    assert "red\\x1b[31m" in shown
    assert not set("\x1b\x9b\x07") & set(shown)
