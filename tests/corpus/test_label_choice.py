"""What to label next, and doubtful labels: against naive loops, a bound, and planted errors."""

import csv
import itertools
import random
from pathlib import Path

import pytest
import torch

import vivit as package
from vivit.corpus.label_choice import (
    choose_next,
    encode,
    rank_doubtful,
    uncertainties,
    write_doubtful,
    write_next,
)
from vivit.data.datasets.registry import read_samples
from vivit.data.sample import Sample
from vivit.engine import stages
from vivit.errors import DataError
from vivit.model_config import ModelConfig

from ..model import tiny


def standardised(features):
    return (features - features.mean(0)) / features.std(0, correction=0)


def test_uncertainty_is_the_missing_margin_of_each_label_set():
    logits = torch.randn(20, 5)
    expected = []
    for row in logits.double():
        margins = []
        for part in (row[:3], row[3:]):
            p = sorted((part.exp() / part.exp().sum()).tolist(), reverse=True)
            margins.append(p[0] - p[1])
        expected.append(1 - sum(margins) / 2)
    assert uncertainties(logits, [3, 2]).tolist() == pytest.approx(expected)
    assert (
        choose_next(torch.randn(20, 4), torch.tensor(expected), 3, strategy="uncertainty")
        == sorted(range(20), key=lambda i: -expected[i])[:3]
    )


@pytest.mark.parametrize("strategy", ["coverage", "mixed"])
@pytest.mark.parametrize("known", [0, 3])
def test_each_choice_is_the_farthest_as_a_naive_loop_finds(strategy, known):
    features, labelled = torch.randn(30, 4).double(), torch.randn(known, 4).double()
    uncertainty = torch.rand(30).double()
    chosen = choose_next(features, uncertainty, 8, strategy=strategy, labelled=labelled if known else None)
    x = standardised(torch.cat((features, labelled)))
    for place in range(0 if known else 1, 8):
        centres = [*range(30, 30 + known), *chosen[:place]]
        value = {
            i: min((x[i] - x[c]).norm().item() for c in centres) * (uncertainty[i].item() if strategy == "mixed" else 1)
            for i in range(30)
            if i not in chosen[:place]
        }
        assert chosen[place] == max(value, key=lambda i: value[i])
    assert len(set(chosen)) == 8


def test_coverage_is_within_twice_the_best_radius():
    """Gonzalez' bound, with the best radius by trying all sets."""
    for seed in range(5):
        features = torch.randn(11, 2, generator=torch.Generator().manual_seed(seed)).double()
        distances = torch.cdist(standardised(features), standardised(features))
        best = min(distances[:, list(c)].min(1).values.max() for c in itertools.combinations(range(11), 3))
        chosen = choose_next(features, torch.ones(11), 3, strategy="coverage")
        assert distances[:, chosen].min(1).values.max() <= 2 * best + 1e-9


def test_asking_for_more_than_there_is_gives_each_once():
    assert sorted(choose_next(torch.zeros(4, 2), torch.zeros(4), 9)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="strategy is 'luck'; allowed are mixed, uncertainty, coverage"):
        choose_next(torch.zeros(4, 2), torch.zeros(4), 1, strategy="luck")


@pytest.mark.parametrize("seed", range(2))
def test_four_in_five_planted_errors_are_in_the_first_tenth(seed):
    """Ten classes of two label sets as Gaussian clusters, 400 videos, of which 20 have a wrong label."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.stack((torch.arange(400) % 10, torch.arange(400) % 4), dim=1)
    centres = [torch.randn(10, 16, generator=rng), torch.randn(4, 16, generator=rng)]
    features = torch.cat([c[labels[:, i]] for i, c in enumerate(centres)], dim=1)
    features = features + 0.7 * torch.randn(400, 32, generator=rng)
    planted = random.Random(seed).sample(range(400), 20)
    for i in planted:
        labels[i, 0] = (labels[i, 0] + 1 + i % 9) % 10
    order, probabilities = rank_doubtful(features, labels, [10, 4], torch.arange(400))
    assert probabilities.shape == (400, 14)
    assert sorted(order.tolist()) == list(range(400))
    assert len(set(planted) & set(order[:40].tolist())) >= 16


def test_the_table_of_what_to_label_next_has_suggestions_and_no_labelled_video(weights, videos, tmp_path, caplog):
    model = package.from_pretrained(weights)
    (tmp_path / "labelled.csv").write_text("path\nvideos/1.mp4\n")
    count = write_next(
        model, str(videos), tmp_path / "next.csv", labelled=[str(tmp_path / "labelled.csv")], count=3, workers=0
    )
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    assert count == len(rows) == 3
    assert "videos/1.mp4" not in [row["path"] for row in rows]
    assert "broken.mp4" in caplog.text
    for row in rows:
        best = package.predict(model, tmp_path / row["path"], temporal_views=1, spatial_views=1).classes["label"][0]
        assert (row["label"], row["label_suggested"]) == ("", best[0])
        assert float(row["label_probability"]) == pytest.approx(best[1], abs=1e-4)
    (tmp_path / "more.csv").write_text("path\nvideos/0.mp4\nvideos/2.mp4\nvideos/3.mp4\nvideos/broken.mp4\n")
    both = [str(tmp_path / name) for name in ("labelled.csv", "more.csv")]
    assert write_next(model, str(videos), tmp_path / "next.csv", labelled=both, workers=0) == 1
    assert "\nvideos/4.mp4," in (tmp_path / "next.csv").read_text()
    (tmp_path / "more.csv").write_text("path\n" + "".join(f"videos/{i}.mp4\n" for i in (*range(5), "broken")))
    with pytest.raises(DataError, match=r"every video of it is in .*labelled.csv, .*more.csv"):
        write_next(model, str(videos), tmp_path / "next.csv", labelled=both, workers=0)


def test_a_table_to_fill_in_is_above_its_videos_as_training_needs_it(weights, videos, tmp_path, monkeypatch):
    model = package.from_pretrained(weights)
    (tmp_path / "proj").mkdir()
    monkeypatch.chdir(tmp_path / "proj")
    with pytest.raises(
        DataError, match=r"\.\./videos/0\.mp4 is outside .*/proj, the folder of next\.csv; give an --out"
    ):
        write_next(model, "../videos", Path("next.csv"), workers=0)
    assert not Path("next.csv").exists()
    assert write_next(model, "../videos", Path("../next.csv"), count=1, workers=0) == 1
    table = (tmp_path / "next.csv").read_text().replace(",,,,", ",,,a,")
    (tmp_path / "next.csv").write_text(table)
    assert [s.labels for s in read_samples("folder", "../next.csv", "train")] == [{"label": "a"}]


def test_doubtful_labels_are_ranked_with_the_answer_of_the_others(weights, videos, tmp_path):
    model = package.from_pretrained(weights)
    samples = [Sample(str(videos / f"{i}.mp4"), {"label": "ab"[i % 2]}) for i in range(5)]
    assert write_doubtful(model, samples, tmp_path / "doubtful.csv", workers=0) == 5
    rows = list(csv.DictReader((tmp_path / "doubtful.csv").read_text().splitlines()))
    belief = [float(row["probability_of_label"]) for row in rows]
    assert belief == sorted(belief)
    assert {row["path"]: row["label"] for row in rows} == {f"videos/{i}.mp4": "ab"[i % 2] for i in range(5)}
    features = encode(model, samples, workers=0).features
    order, p = rank_doubtful(features, torch.tensor([[0], [1], [0], [1], [0]]), [3], torch.arange(5))
    assert belief == [pytest.approx(float(p[i, i % 2]), abs=1e-3) for i in order.tolist()]
    answers = [(row["answer"], float(row["probability"])) for row in rows]
    assert answers == [("abc"[p[i].argmax()], pytest.approx(float(p[i].max()), abs=1e-3)) for i in order.tolist()]
    assert [row["path"] for row in rows] == [f"videos/{i}.mp4" for i in order.tolist()]


def test_each_label_has_a_row_with_the_columns_of_the_table_of_fine_tuning(videos, tmp_path):
    torch.manual_seed(0)
    model = tiny.model(classes={"verb": ("a", "b"), "noun": ("c", "d", "e")})
    samples = [Sample(str(videos / f"{i}.mp4"), {"verb": "ab"[i % 2], "noun": "cde"[i % 3]}) for i in range(5)]
    assert write_doubtful(model, samples, tmp_path / "doubtful.csv", workers=0) == 5
    rows = list(csv.DictReader((tmp_path / "doubtful.csv").read_text().splitlines()))
    found = sorted((row["path"], row["label_set"], row["label"]) for row in rows)
    assert found == sorted((f"videos/{i}.mp4", *pair) for i, s in enumerate(samples) for pair in s.labels.items())
    belief = [float(row["probability_of_label"]) for row in rows]
    assert belief == sorted(belief)
    data = stages.Data(samples[:1], torch.zeros(1, 1, dtype=torch.int64), [], torch.zeros(0, 1), {})
    one = ModelConfig(classes={"label": ("a", "b")})
    stages.write_doubtful(tmp_path / "own.csv", data, torch.zeros(1, 2), one, torch.arange(1), torch.arange(1))
    assert (tmp_path / "own.csv").read_text().splitlines() == [",".join(rows[0])]
