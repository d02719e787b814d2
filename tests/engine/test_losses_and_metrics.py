"""Losses and metrics against torch's own, plain loops and the official code's arrays."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vivit.engine import metrics
from vivit.engine.losses import cross_entropy
from vivit.engine.metrics import accuracies, confusion, joint_rank, rank

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
    assert list(got) == ["verb", "noun", "all"]
    assert got["all"] == pytest.approx(expected)
    for name, scores, column in zip(("verb", "noun"), logits.split([first, second], dim=1), labels.T):
        for k in (1, 5):
            hits = [label in np.argsort(-s)[:k] for s, label in zip(scores.numpy(), column.tolist())]
            assert got[name][f"top{k}"] == pytest.approx(np.mean(hits))


def test_one_label_set_has_no_accuracy_of_all_together():
    assert list(accuracies(torch.randn(3, 4), torch.zeros(3, 1, dtype=torch.int64), {"label": "abcd"})) == ["label"]


def test_a_model_that_gives_nan_is_never_right():
    logits, labels = torch.full((4, 13), torch.nan), torch.zeros(4, 2, dtype=torch.int64)
    got = accuracies(logits, labels, {"verb": "abcdef", "noun": "abcdefg"})
    assert all(value == 0 for scores in got.values() for value in scores.values())


def test_the_confusion_matrix_counts_right_and_predicted_classes():
    logits, labels = torch.randn(40, 5), torch.randint(0, 5, (40,))
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for scores, label in zip(logits.tolist(), labels.tolist()):
        expected[label, scores.index(max(scores))] += 1
    assert bool((confusion(logits, labels, 5) == expected).all())
