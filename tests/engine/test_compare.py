"""Comparing two evaluations: against a bootstrap by loops, the binomial distribution and known coverage."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vivit.config import EvalConfig
from vivit.data.sample import Sample
from vivit.engine.compare import compare, difference, match_videos, mcnemar
from vivit.engine.evaluation import Evaluation
from vivit.engine.metrics import correct as right_answers

VERBS, NOUNS = ("close", "open"), ("cup", "door", "pan")


def evaluation(videos=60, right=0.7, *, seed=0, folder="data", **changes) -> Evaluation:
    """Fixed videos and labels; every answer is right with probability `right`."""
    rng = np.random.default_rng(seed)
    labels = torch.tensor([[i % 2, i // 2 % 3] for i in range(videos)])
    parts = [
        F.one_hot(torch.where(torch.from_numpy(rng.uniform(size=videos) < right), column, (column + 1) % n), n).float()
        for column, n in zip(labels.T, (2, 3))
    ]
    samples = [
        Sample(f"{folder}/{VERBS[v]}/{i}.mp4", {"verb": VERBS[v], "noun": NOUNS[n]})
        for i, (v, n) in enumerate(labels.tolist())
    ]
    logits = torch.cat(parts, dim=1)
    result = Evaluation(EvalConfig(), {"verb": VERBS, "noun": NOUNS}, samples, labels, logits, logits, {}, "0123")
    return replace(result, **changes)


def part(e: Evaluation, rows: list[int]) -> Evaluation:
    tensors = {name: getattr(e, name)[rows] for name in ("labels", "single", "multi")}
    return replace(e, samples=[e.samples[i] for i in rows], **tensors)


def naive_bootstrap(right_a, right_b, files, resamples, rng):
    """Means of b - a over files drawn with replacement, one resample after the other."""
    rows = [np.flatnonzero(files == f) for f in range(files.max() + 1)]
    means = []
    for _ in range(resamples):
        drawn = np.concatenate([rows[f] for f in rng.integers(0, len(rows), len(rows))])
        means.append(right_b[drawn].mean() - right_a[drawn].mean())
    return np.array(means)


@pytest.mark.parametrize("per_file", [1, 3])
def test_the_bootstrap_is_that_of_a_loop_over_resamples(per_file):
    rng = np.random.default_rng(1)
    right_a, right_b = rng.uniform(size=150) < 0.6, rng.uniform(size=150) < 0.7
    files = np.minimum(np.arange(150) // per_file, 40)  # with 3 a file, the last one has 30
    got = difference(right_a, right_b, files, resamples=20_000, rng=rng)
    means = naive_bootstrap(right_a, right_b, files, 4000, rng)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.08 * (high - low))
    assert got.b_ahead == pytest.approx((means > 0).mean(), abs=0.04)
    assert (got.a, got.b) == (right_a.mean(), right_b.mean())
    assert (got.only_a, got.only_b) == ((right_a & ~right_b).sum(), (~right_a & right_b).sum())


def binomial_quantile(n: int, p: float, q: float) -> int:
    """The smallest k of which at most k heads in n coins has at least the probability q."""
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= q:
            return k
    return n


def test_where_a_is_never_right_the_interval_of_the_difference_is_that_of_a_binomial_share():
    n, hits = 80, 28
    right_b = np.arange(n) < hits
    got = difference(np.zeros(n, bool), right_b, np.arange(n), resamples=200_000, rng=np.random.default_rng(0))
    assert (got.low, got.high) == tuple(binomial_quantile(n, hits / n, q) / n for q in (0.025, 0.975))
    one = difference(np.zeros(n, bool), np.arange(n) < 1, np.arange(n), resamples=200_000, rng=np.random.default_rng(0))
    assert one.b_ahead == pytest.approx(1 - (1 - 1 / n) ** n, abs=0.005)


def test_the_exact_p_is_the_share_of_coin_tosses_as_unequal():
    for only_a, only_b in ((0, 0), (0, 5), (5, 0), (3, 7), (4, 4), (2, 9)):
        n = only_a + only_b
        tosses = [bin(i).count("1") for i in range(2**n)]
        as_unequal = sum(abs(2 * heads - n) >= abs(only_a - only_b) for heads in tosses)
        assert mcnemar(only_a, only_b) == pytest.approx(as_unequal / 2**n)
    assert mcnemar(1000, 4000) < 1e-100


def test_about_95_of_100_intervals_contain_the_true_difference():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        easy = rng.uniform(size=300)  # what is easy for A is easy for B, with 8 points between them
        right_a, right_b = easy + rng.normal(0, 0.2, 300) < 0.5, easy + rng.normal(0, 0.2, 300) < 0.58
        got = difference(right_a, right_b, np.arange(300), resamples=1000, rng=rng)
        inside += got.low <= 0.08 <= got.high
    assert 0.92 < inside / 400 < 0.98


def test_parts_of_one_file_that_stand_and_fall_together_count_as_one():
    rng = np.random.default_rng(0)
    right_a, right_b = rng.uniform(size=50) < 0.5, rng.uniform(size=50) < 0.5
    alone = difference(right_a, right_b, np.arange(50), resamples=20_000, rng=np.random.default_rng(0))
    many = difference(
        right_a.repeat(9), right_b.repeat(9), np.arange(50).repeat(9), resamples=20_000, rng=np.random.default_rng(0)
    )
    assert (many.low, many.high, many.b_ahead) == pytest.approx((alone.low, alone.high, alone.b_ahead))


def test_an_evaluation_compared_with_itself_differs_by_nothing():
    result = compare(evaluation(), evaluation())
    assert list(result.differences) == ["verb", "noun", "action"]
    for d in result.differences.values():
        assert (d.a - d.b, d.low, d.high, d.only_a, d.only_b, d.b_ahead, d.p) == (0, 0, 0, 0, 0, 0, 1)
        assert d.verdict == "A and B are right on the same videos"


def test_the_other_way_round_is_the_same_with_the_sign_turned():
    a, b = evaluation(seed=1), evaluation(seed=2, right=0.8)
    there, back = compare(a, b, resamples=100_000), compare(b, a, resamples=100_000)
    for name, d in there.differences.items():
        e = back.differences[name]
        assert (d.a, d.b, d.only_a, d.only_b, d.p) == (e.b, e.a, e.only_b, e.only_a, e.p)
        assert (d.low, d.high) == pytest.approx((-e.high, -e.low), abs=1 / 60 + 1e-9)


def test_the_accuracies_are_those_of_the_evaluations_in_every_label_set_and_view():
    a, b = evaluation(seed=1), evaluation(seed=2, single=evaluation(seed=3).single)
    for single_view in (False, True):
        result = compare(a, b, single_view=single_view)
        for name, d in result.differences.items():
            for e, share in ((a, d.a), (b, d.b)):
                accuracy = e.single_view_accuracy if single_view else e.accuracy
                assert share == pytest.approx(accuracy[name]["top1"])


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    a, b = evaluation(seed=1), evaluation(seed=2)
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, seed=1) != compare(a, b)


def test_videos_are_paired_by_identity_wherever_they_lie_and_in_whatever_order():
    a, b = evaluation(seed=1), evaluation(seed=2, folder="elsewhere")
    order = torch.randperm(60).tolist()[:50]
    mixed = part(b, order)
    mixed = replace(mixed, samples=[replace(s, path=s.path.replace(".mp4", ".webm")) for s in mixed.samples])
    got, expected = compare(a, mixed), compare(part(a, sorted(order)), part(b, sorted(order)))
    assert (got.videos, got.only_in) == (50, (10, 0))
    for name, d in expected.differences.items():
        assert replace(got.differences[name], low=0, high=0, b_ahead=0) == replace(d, low=0, high=0, b_ahead=0)


def matched(a: str, b: str) -> dict[str, str]:
    """Match paths, given as words."""
    pairs = match_videos(*([(path, None, None) for path in side.split()] for side in (a, b)))
    return {one: other for (one, *_), (other, *_) in pairs.items()}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("fold/val/red/0.mp4 fold/val/blue/0.mp4", "fold/test/red/0.mp4 fold/test/blue/0.mp4"),
        ("fold/red/val/0.mp4 fold/blue/val/0.mp4", "fold/red/test/0.mp4 fold/blue/test/0.mp4"),
        ("fold/validation/0.mp4", "elsewhere/Testing/0.mp4"),
        ("clips_val/0.mp4", "clips-test/0.mp4"),
        ("k/val_256/0.mp4", "k/train_256/0.mp4"),
        ("x/p1/0.mp4 x/p2/1.mp4", "x/p3/0.mp4 x/p4/1.mp4"),  # not one folder instead of another
        ("x/red/0.mp4 x/blue/1.mp4", "x/red/1.mp4 x/blue/0.mp4"),
        ("s/val-000000.tar#val/red/0.mp4", "s/test-000000.tar#test/red/0.mp4"),
    ],
)
def test_videos_of_one_name_in_other_folders_of_the_data_are_other_videos(a, b):
    assert matched(a, b) == {}
    assert matched(b, a) == {}
    for moved in (a, a.replace(".mp4", ".webm")):
        videos = moved.split()
        new = [f"/new/place/{path}" for path in videos]
        assert matched(a, " ".join(reversed(new))) == dict(zip(a.split(), new))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("data/val/red/0.mp4 data/val/blue/0.mp4", "/disk/data/val/red/0.mp4 /disk/data/val/blue/0.mp4"),
        ("old/val/0.mp4 old/val/red/1.mp4", "new/val/0.mp4 new/val/red/1.mp4"),
        ("/moved/dev/vivit/x/0.mp4", "/tmp/test/x/0.mp4"),
        ("k/val/0.mp4", "k/val_256/0.mp4"),
        ("epic/P01/videos/P01_01.MP4 epic/P02/videos/P02_01.MP4", "epic/P01/rgb/P01_01 epic/P02/rgb/P02_01"),
        ("x/red/0.mp4 x/blue/0.mp4", "s/val-000000.tar#red/0.mp4 s/val-000001.tar#blue/0.mp4"),
        ("/disk1/k/red/0.mp4 /disk2/k/blue/1.mp4", "prepared/videos/0.mp4 prepared/videos/1.mp4"),
        ("v1.1 v1.2", "moved/v1.1 moved/v1.2"),
        ("./x/0.mp4", "x/0.mp4"),
    ],
)
def test_moved_copied_and_packed_videos_match(a, b):
    expected = dict(zip(a.split(), b.split()))
    assert matched(a, b) == expected
    assert matched(b, a) == {new: old for old, new in expected.items()}


def test_equal_paths_match_first_and_parts_by_their_times():
    assert matched("x/val/0.mp4 x/val/1.mp4", "y/val/0.mp4 x/val/1.mp4") == {"x/val/1.mp4": "x/val/1.mp4"}
    parts = [("x/1.mp4", None, None), ("x/1.mp4", 1.0, None), ("x/1.mp4", None, None)]
    assert match_videos(parts, [("y/1.mp4", 1.0, None)]) == {parts[1]: ("y/1.mp4", 1.0, None)}
    assert len(match_videos(parts, parts)) == 2
    assert match_videos(parts, []) == match_videos([], []) == {}


def test_the_videos_of_two_splits_are_not_compared_and_moved_ones_are_named():
    a, b = evaluation(seed=1, folder="fold/val"), evaluation(seed=2, folder="fold/test")
    with pytest.raises(ValueError, match=r"no video was measured in both .*fold/val/close/0.mp4, fold/test/close/0"):
        compare(a, b)
    moved = evaluation(seed=2, folder="new/val")
    line = "matched by the ends of these: fold/val/close/0.mp4 in A is new/val/close/0.mp4 in B"
    assert line in str(compare(a, moved))
    assert "matched" not in str(compare(a, a))


def test_classes_in_another_order_are_the_same_labels():
    a, b = evaluation(seed=1), evaluation(seed=2)
    turned = replace(
        b, classes={"noun": NOUNS[::-1], "verb": VERBS}, labels=torch.stack((2 - b.labels[:, 1], b.labels[:, 0]), dim=1)
    )
    turned = replace(turned, multi=b.multi[:, [4, 3, 2, 0, 1]])
    got, expected = compare(a, turned), compare(a, b)
    assert got.differences == expected.differences


def test_label_sets_that_only_one_has_are_left_out():
    a, b = evaluation(seed=1), evaluation(seed=2)
    nouns = replace(b, classes={"noun": NOUNS}, labels=b.labels[:, 1:], multi=b.multi[:, 2:])
    assert list(compare(a, nouns).differences) == ["noun"]
    renamed = replace(b, classes={"what": NOUNS}, labels=b.labels[:, 1:], multi=b.multi[:, 2:])
    with pytest.raises(ValueError, match="no label set in common: A has verb, noun; B has what"):
        compare(a, renamed)


def test_other_labels_for_the_same_videos_are_refused_by_name():
    a = evaluation()
    samples = [replace(s, labels=s.labels | {"noun": "pan"}) if i < 2 else s for i, s in enumerate(a.samples)]
    with pytest.raises(ValueError, match=r"(?s)different labels.*\(2\):.*close/0.mp4: noun is 'cup' in A, 'pan' in B"):
        compare(a, replace(a, samples=samples))


def test_nothing_in_common_is_an_error_that_shows_the_videos():
    a = evaluation(10)
    b = replace(a, samples=[replace(s, path=f"y{i}.mp4") for i, s in enumerate(a.samples)])
    with pytest.raises(ValueError, match=r"no video was measured in both .*data/close/0.mp4, y0.mp4"):
        compare(a, b)
    with pytest.raises(ValueError, match="no video"):
        compare(a, part(a, []))


@pytest.mark.parametrize(
    ("only_a", "only_b", "said"),
    [
        (2, 30, "B is better, by "),
        (30, 2, "A is better, by "),
        (0, 4, "undecided: 4 videos on which only one is right are too few"),  # a bootstrap alone would be sure
        (9, 10, "undecided: B may be "),
        (0, 1, "undecided: B may be 0.0 points worse or "),
    ],
)
def test_the_verdict_says_what_interval_and_exact_test_agree_on(only_a, only_b, said):
    right_a = np.arange(100) < only_a
    right_b = (np.arange(100) >= only_a) & (np.arange(100) < only_a + only_b)
    d = difference(right_a, right_b, np.arange(100), resamples=10_000, rng=np.random.default_rng(0))
    assert d.verdict.startswith(said)
    if "better, by" in said:
        small, large = (float(x) for x in d.verdict.removeprefix(said).removesuffix(" points").split(" to "))
        assert 0 < small < large
        assert small < 28 < large


def test_the_table_names_both_their_protocols_and_warns_where_these_differ(tmp_path):
    a, b = evaluation(seed=1), evaluation(seed=2, right=0.9, protocol=EvalConfig(temporal_views=1, spatial_views=3))
    a.save(tmp_path / "run" / "predictions.npz")
    b.save(tmp_path / "b.npz")
    result = compare(tmp_path / "run", str(tmp_path / "b.npz"))
    assert replace(result, names=("", "")) == replace(compare(a, b), names=("", ""))
    text = str(result)
    assert f"A  {tmp_path / 'run'}  (4 x 3 views)" in text
    assert f"B  {tmp_path / 'b.npz'}  (1 x 3 views)" in text
    assert "the protocols differ" in text
    assert "60 videos in both; 0 only in A, 0 only in B" in text
    assert max(map(len, text.splitlines()[2:])) <= 100
    assert "the protocols differ" not in str(compare(a, b, single_view=True))
    assert json.loads(json.dumps(result.to_dict()))["differences"]["verb"]["b"] == result.differences["verb"].b
    parts = replace(a, samples=[Sample("one.mp4", s.labels, i, i + 1) for i, s in enumerate(a.samples)])
    assert "60 videos in both, parts of 1 files" in str(compare(parts, parts))


def test_a_folder_that_was_not_evaluated_says_which_command_does_it(tmp_path):
    with pytest.raises(ValueError, match=r"predictions.npz does not exist; `vivit eval` writes"):
        compare(tmp_path, evaluation())
    with pytest.raises(ValueError, match="resamples is 0; it must be at least 1"):
        compare(evaluation(), evaluation(), resamples=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_count_as_wrong_answers_and_are_said(bad):
    a, b = evaluation(seed=0), evaluation(seed=1)
    multi = b.multi.clone()
    multi[3:9, 0] = bad
    multi[3:9, 1] = 9.0
    spoilt = compare(a, replace(b, multi=multi))
    for name, found in spoilt.differences.items():
        hits = right_answers(b.multi, b.labels, b.classes)[name].clone()
        hits[3:9] = False
        assert found.b == pytest.approx(hits.float().mean().item())
        assert all(map(math.isfinite, (found.low, found.high, found.p)))
    assert "B: 6 videos with logits that are not finite count as wrong" in str(spoilt)
    assert "not finite" not in str(compare(a, b))
