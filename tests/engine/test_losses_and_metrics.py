"""Losses and metrics against torch's own, plain loops and the official code's arrays."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vivit.engine import metrics
from vivit.engine.losses import cross_entropy
from vivit.engine.metrics import (
    accuracies,
    calibration_error,
    class_accuracies,
    compute_metrics,
    confusion,
    joint_name,
    joint_rank,
    most_confused,
    rank,
    worst_classes,
)

from ..parity.official import GOLDEN


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [[7], [3, 5], [2, 2, 4]])
def test_the_loss_of_a_clip_is_the_mean_of_each_label_sets_cross_entropy(sizes, label_smoothing):
    logits = torch.randn(6, sum(sizes), requires_grad=True)
    labels = torch.stack([torch.randint(0, n, (6,)) for n in sizes], dim=1)
    expected, first = torch.zeros(6), 0
    for i, n in enumerate(sizes):
        log_p = logits[:, first : first + n].log_softmax(dim=1)
        target = F.one_hot(labels[:, i], n) * (1 - label_smoothing) + label_smoothing / n
        expected = expected - (target * log_p).sum(dim=1) / len(sizes)
        first += n
    loss = cross_entropy(logits, labels, sizes, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, expected)
    weights = torch.rand(6)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), logits) for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_loss_of_half_precision_logits_is_computed_in_float32():
    logits, labels = torch.randn(4, 5).bfloat16(), torch.zeros(4, 1, dtype=torch.int64)
    loss = cross_entropy(logits, labels, [5])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), labels[:, 0], reduction="none"))


def naive_rank(scores, label):
    """The place of `label` after sorting from the highest score down; among equals the first class stands first."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i)).index(label)


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_places_in_the_sorted_scores(ties):
    scores = torch.randint(0, 4, (50, 9)).float() if ties else torch.randn(50, 9)
    labels = torch.randint(0, 9, (50,))
    expected = [naive_rank(s, label) for s, label in zip(scores.tolist(), labels.tolist())]
    assert rank(scores, labels).tolist() == expected


@pytest.mark.parametrize("at_once", [1, 7 * 24, 2**24])
def test_joint_ranks_are_places_among_all_combinations_by_product_of_probabilities(monkeypatch, at_once):
    monkeypatch.setattr(metrics, "MOST_COMBINATIONS", at_once)
    sizes = 3, 4, 2
    parts = [torch.randn(30, n, dtype=torch.float64) for n in sizes]
    labels = torch.stack([torch.randint(0, n, (30,)) for n in sizes], dim=1)
    for row, got in enumerate(joint_rank(parts, labels).tolist()):
        p = [np.exp(x[row].numpy()) / np.exp(x[row].numpy()).sum() for x in parts]
        combinations = list(product(*(range(n) for n in sizes)))
        scores = [np.prod([p[i][c] for i, c in enumerate(combination)]) for combination in combinations]
        assert got == naive_rank(scores, combinations.index(tuple(labels[row].tolist())))


def test_the_accuracy_of_two_label_sets_together_is_the_official_one():
    with np.load(GOLDEN / "two_head_metrics.npz") as arrays:
        logits = torch.from_numpy(arrays["logits"])
        labels = torch.from_numpy(np.stack([arrays["labels_first"], arrays["labels_second"]], axis=1))
        first, second = arrays["split"].tolist()
        expected = {"top1": float(arrays["joint_top1"]), "top5": float(arrays["joint_top5"])}
    classes = {"verb": [str(i) for i in range(first)], "noun": [str(i) for i in range(second)]}
    got = accuracies(logits, labels, classes)
    assert list(got) == ["verb", "noun", "action"]
    assert got["action"] == pytest.approx(expected)
    for name, scores, column in zip(("verb", "noun"), logits.split([first, second], dim=1), labels.T):
        for k in (1, 5):
            hits = [label in np.argsort(-s)[:k] for s, label in zip(scores.numpy(), column.tolist())]
            assert got[name][f"top{k}"] == pytest.approx(np.mean(hits))


def test_one_label_set_has_no_accuracy_of_all_together():
    assert list(accuracies(torch.randn(3, 4), torch.zeros(3, 1, dtype=torch.int64), {"label": "abcd"})) == ["label"]


def logits_that_are_not_finite(rows: int, bad: float, classes: int) -> torch.Tensor:
    """Random logits; every third row has one `bad` number, mostly beside a clear and right answer."""
    logits = torch.randn(rows, classes)
    for row in range(0, rows, 3):
        logits[row, row % classes] = bad
    return logits


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("sizes", [{"label": 2}, {"label": 7}, {"verb": 2, "noun": 3}, {"a": 3, "b": 1, "c": 4}])
def test_a_video_whose_logits_are_not_finite_is_wrong_in_every_number(sizes, bad):
    """A naive loop over the videos, which gives such a video no answer."""
    classes = {name: [str(i) for i in range(n)] for name, n in sizes.items()}
    logits = logits_that_are_not_finite(40, bad, sum(sizes.values()))
    labels = torch.stack([torch.randint(0, n, (40,)) for n in sizes.values()], dim=1)
    has_answer = [all(map(math.isfinite, row)) for row in logits.tolist()]
    parts = logits.split(list(sizes.values()), dim=1)
    ours, right = compute_metrics(logits, labels, classes), metrics.correct(logits, labels, classes)
    joint = [True] * 40
    for i, (name, part) in enumerate(zip(classes, parts)):
        ordered = [sorted(range(len(row)), key=lambda c, row=row: -row[c]) for row in part.tolist()]
        hits = [ok and order[0] == label for ok, order, label in zip(has_answer, ordered, labels[:, i].tolist())]
        top5 = [ok and label in order[:5] for ok, order, label in zip(has_answer, ordered, labels[:, i].tolist())]
        by_class = [[hit for hit, label in zip(hits, labels[:, i].tolist()) if label == c] for c in range(sizes[name])]
        counts = torch.zeros(sizes[name], sizes[name], dtype=torch.int64)
        for ok, order, label in zip(has_answer, ordered, labels[:, i].tolist()):
            counts[label, order[0]] += ok
        assert right[name].tolist() == hits
        assert ours[name]["top1"] == pytest.approx(np.mean(hits))
        assert ours[name]["top5"] == pytest.approx(np.mean(top5))
        assert ours[name]["mean_class"] == pytest.approx(np.mean([np.mean(c) for c in by_class if c]))
        assert torch.equal(confusion(metrics.split_logits(logits, classes)[i], labels[:, i], sizes[name]), counts)
        answered = [i for i, ok in enumerate(has_answer) if ok]
        confidence = [part[i].softmax(0).max().item() for i in answered]
        expected = naive_calibration_error(confidence, [hits[i] for i in answered])
        assert ours[name]["calibration_error"] == pytest.approx(expected, abs=1e-6)
        joint = [a and b for a, b in zip(joint, hits)]
    if len(sizes) > 1:
        assert right[joint_name(classes)].tolist() == joint
        assert ours[joint_name(classes)]["top1"] == pytest.approx(np.mean(joint))
        assert ours[joint_name(classes)]["top5"] <= np.mean(has_answer)


@pytest.mark.parametrize(
    "classes", [{"verb": "abcdef", "noun": "abcdefg"}, {"verb": "ab", "noun": "ab"}, {"what": "abc"}]
)
def test_a_model_that_gives_nan_is_never_right(classes):
    """Also in the first five of fewer than five classes."""
    logits = torch.full((4, sum(map(len, classes.values()))), torch.nan)
    got = accuracies(logits, torch.zeros(4, len(classes), dtype=torch.int64), classes)
    assert all(value == 0 for scores in got.values() for value in scores.values())


def test_of_equal_logits_the_first_class_is_the_answer_in_every_number():
    logits, labels = torch.zeros(6, 3), torch.tensor([0, 0, 1, 1, 2, 0])[:, None]
    got = compute_metrics(logits, labels, {"what": "abc"})["what"]
    assert got["top1"] == pytest.approx(3 / 6)
    assert got["mean_class"] == pytest.approx(1 / 3)
    assert confusion(logits, labels[:, 0], 3)[:, 0].tolist() == [3, 2, 1]


def test_the_confusion_matrix_counts_right_and_predicted_classes():
    logits, labels = torch.randn(40, 5), torch.randint(0, 5, (40,))
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for scores, label in zip(logits.tolist(), labels.tolist()):
        expected[label, scores.index(max(scores))] += 1
    assert bool((confusion(logits, labels, 5) == expected).all())


def naive_calibration_error(confidence, right, bins=15):
    """Guo et al. 2017, equations 1 to 3: bins ((m - 1) / M, m / M], the first one with its lower edge."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / bins < p <= m / bins or (m == 1 and p == 0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return error


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize("spread", [0.2, 1, 5])
def test_the_calibration_error_is_the_papers_sum_over_bins(bins, spread):
    confidence = torch.rand(200, dtype=torch.float64) ** spread
    confidence[:4] = torch.tensor([0.0, 1.0, 0.5, 1 / 15])
    right = torch.rand(200) < confidence
    expected = naive_calibration_error(confidence.tolist(), right.tolist(), bins)
    assert calibration_error(confidence, right, bins=bins) == pytest.approx(expected)


def test_a_model_that_is_as_often_right_as_it_says_has_no_calibration_error():
    confidence = torch.tensor([0.25] * 4 + [1.0] * 3 + [0.5] * 2)
    right = torch.tensor([1, 0, 0, 0] + [1] * 3 + [0, 1]).bool()
    assert calibration_error(confidence, right) == pytest.approx(0)
    assert calibration_error(confidence, ~right) == pytest.approx((4 * 0.5 + 3 * 1) / 9)


def test_the_numbers_of_all_label_sets_use_the_product_of_their_confidences():
    classes = {"verb": "abc", "noun": "defg"}
    logits = torch.randn(60, 7) * 2
    labels = torch.stack([torch.randint(0, 3, (60,)), torch.randint(0, 4, (60,))], dim=1)
    got = compute_metrics(logits, labels, classes)
    p = [part.softmax(1).max(1) for part in logits.split([3, 4], dim=1)]
    right = [best.indices == column for best, column in zip(p, labels.T)]
    for name, confidence, hits in (
        ("verb", p[0].values, right[0]),
        ("noun", p[1].values, right[1]),
        ("action", p[0].values * p[1].values, right[0] & right[1]),
    ):
        expected = naive_calibration_error(confidence.tolist(), hits.tolist())
        assert got[name]["calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert {name: {k: v for k, v in x.items() if "top" in k} for name, x in got.items()} == accuracies(
        logits, labels, classes
    )


def test_the_mean_class_accuracy_counts_each_class_once_and_leaves_out_those_without_a_video():
    logits, labels = torch.randn(50, 6), torch.randint(0, 5, (50,))
    predicted = logits.argmax(dim=1)
    shares = [(predicted[labels == i] == i).float().mean().item() for i in range(5)]
    got = class_accuracies(confusion(logits, labels, 6)).tolist()
    assert got[:5] == pytest.approx(shares)
    assert np.isnan(got[5])
    mean = compute_metrics(logits, labels[:, None], {"label": "abcdef"})["label"]["mean_class"]
    assert mean == pytest.approx(np.mean(shares))


def test_worst_classes_and_confusions_are_sorted_and_leave_out_what_is_right():
    counts = torch.tensor([[5, 0, 0, 0], [2, 2, 0, 0], [1, 7, 8, 0], [0, 0, 0, 0]])
    assert worst_classes(counts) == [2, 1]  # both half right: the one with more videos first
    assert worst_classes(counts, 1) == [2]
    assert most_confused(counts) == [(2, 1, 7), (1, 0, 2), (2, 0, 1)]
    assert most_confused(counts, 2) == [(2, 1, 7), (1, 0, 2)]


def official_top_k(verb_scores, noun_scores, verbs, nouns, k):
    """The steps of the official EPIC-Kitchens evaluation: 100 best verbs and nouns, 100 best products, the first k."""
    hits = []
    for v, n, verb, noun in zip(verb_scores, noun_scores, verbs, nouns):
        top_v, top_n = np.argsort(v)[::-1][:100], np.argsort(n)[::-1][:100]
        products = np.exp(v[top_v])[:, None] / np.exp(v).sum() * np.exp(n[top_n]) / np.exp(n).sum()
        best = np.argsort(products.ravel())[::-1][:100][:k]
        pairs = zip(top_v[best // len(top_n)], top_n[best % len(top_n)])
        hits.append((verb, noun) in {(int(a), int(b)) for a, b in pairs})
    return np.mean(hits)


@pytest.mark.parametrize("noun_first", [False, True])
def test_the_action_accuracy_of_epic_kitchens_follows_the_official_steps(noun_first):
    rng = np.random.default_rng(0)
    verbs, nouns = rng.integers(0, 97, 80), rng.integers(0, 300, 80)
    v, n = rng.normal(size=(80, 97)) + 2 * np.eye(97)[verbs], rng.normal(size=(80, 300)) + 2.5 * np.eye(300)[nouns]
    sets = {"verb": (v, verbs, range(97)), "noun": (n, nouns, range(300))}
    order = ["noun", "verb"] if noun_first else ["verb", "noun"]
    logits = torch.from_numpy(np.concatenate([sets[name][0] for name in order], axis=1))
    labels = torch.from_numpy(np.stack([sets[name][1] for name in order], axis=1))
    classes = {name: [str(i) for i in sets[name][2]] for name in order}
    got = accuracies(logits, labels, classes)["action"]
    for k in (1, 5):
        assert got[f"top{k}"] == pytest.approx(official_top_k(v, n, verbs.tolist(), nouns.tolist(), k))
    assert 0.1 < got["top1"] < got["top5"] < 0.9


def test_only_verb_and_noun_together_are_called_action():
    assert joint_name(["noun", "verb"]) == "action"
    assert joint_name(["verb"]) == joint_name(["verb", "noun", "hand"]) == joint_name(["colour", "light"]) == "all"
