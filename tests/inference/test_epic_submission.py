"""The file for the EPIC-Kitchens-100 challenge: the form of its public code, and the logits of an evaluation."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vivit.config import Config, DataConfig, EvalConfig
from vivit.data.dataset import eval_views
from vivit.data.datasets.epic_kitchens import read_epic_test
from vivit.errors import DataError
from vivit.inference.epic_submission import write_epic_test

from ..cli.conftest import vivit  # noqa: F401
from ..data.datasets.official import epic_kitchens, text
from ..model import tiny

NOUNS, VERBS = (tuple(f"{kind} {i}" for i in range(n)) for kind, n in (("noun", 300), ("verb", 97)))
HEADER = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame"
ROWS = ("P01_01_0,P01,P01_01,00:00:00.00,00:00:01.00,1,60", "P02_101_7,P02,P02_101,00:00:00.25,00:00:02.00,12,100")
ONE_VIEW = ("--eval.temporal-views", 1, "--eval.spatial-views", 1, "--data.workers", 0, "--device", "cpu")


@pytest.fixture
def epic(tmp_path):
    """The miniature, with lists of 97 verbs and 300 nouns and two test actions."""
    root = tmp_path / "epic"
    epic_kitchens(root)
    for name, names in (("verb", VERBS), ("noun", NOUNS)):
        text(root, f"EPIC_100_{name}_classes.csv", "id,key", *(f"{i},{one}" for i, one in enumerate(names)))
    text(root, "EPIC_100_test_timestamps.csv", HEADER, *ROWS)
    return root


@pytest.fixture
def weights(tmp_path):
    model = tiny.model(classes={"noun": NOUNS, "verb": VERBS})
    return model.save_pretrained(tmp_path / "weights")


def submitted(folder):
    with zipfile.ZipFile(folder / "epic_test.zip") as archive:
        assert archive.namelist() == ["test.json"]
        return json.loads(archive.read("test.json"))


def test_the_scores_are_the_logits_of_an_evaluation_of_the_same_actions(vivit, epic, weights, tmp_path):  # noqa: F811
    where = ("--data.dataset", "epic_kitchens", "--data.root", epic, "--run", tmp_path / "out", *ONE_VIEW)
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "datasets.md").read_text(encoding="utf-8")
    [line] = re.findall("^vivit (eval .* test .*)$", guide, flags=re.MULTILINE)
    paths = {"runs/epic": weights, "epic": epic}
    code, out, err = vivit(*(paths.get(word, word) for word in line.split()), "--run", tmp_path / "out", *ONE_VIEW)
    assert (code, err) == (0, "")
    assert f"2 actions, 0 without scores; to submit: {tmp_path / 'out' / 'epic_test.zip'}" in out
    found = submitted(tmp_path / "out")
    levels = {"sls_pt": 2, "sls_tl": 3, "sls_td": 3}
    assert {k: v for k, v in found.items() if k != "results"} == levels | {
        "version": "0.2",
        "challenge": "action_recognition",
    }
    assert list(found["results"]) == ["P01_01_0", "P02_101_7"]
    for scores in found["results"].values():
        assert list(scores) == ["verb", "noun"]
        assert list(scores["verb"]) == [str(i) for i in range(97)]
        assert list(scores["noun"]) == [str(i) for i in range(300)]
    # The training split has the same two segments as its first and its last row.
    assert vivit("eval", weights, "--data.eval-split", "train", *where)[0] == 0
    with np.load(tmp_path / "out" / "predictions.npz") as arrays:
        logits = arrays["multi_view"][[0, 3]]
    ours = [[*scores["noun"].values(), *scores["verb"].values()] for scores in found["results"].values()]
    np.testing.assert_allclose(ours, logits, rtol=1e-5)


def test_an_exported_model_computes_instead_of_the_weights(epic, tmp_path):
    exported = tiny.model(classes={"noun": NOUNS, "verb": VERBS}).eval()
    config = Config(data=DataConfig(root=str(epic), dataset="epic_kitchens", workers=0), eval=EvalConfig(1, 1))
    write_epic_test("model.onnx", config, levels=(0, 0, 0), folder=tmp_path, exported=exported)
    [action, _] = read_epic_test(epic).values()
    logits = exported(eval_views(action, exported.config, config.eval)).detach()[0]
    scores = submitted(tmp_path)["results"]["P01_01_0"]
    np.testing.assert_allclose([*scores["noun"].values(), *scores["verb"].values()], logits, rtol=1e-5, atol=1e-6)


def test_an_action_whose_video_cannot_be_read_is_named_and_has_zeros(vivit, epic, weights, tmp_path, caplog):  # noqa: F811
    (epic / "P02/videos/P02_101.MP4").write_bytes(b"no video")
    where = ("--data.dataset", "epic_kitchens", "--data.root", epic, "--run", tmp_path / "out", *ONE_VIEW)
    assert vivit("eval", weights, "--data.eval-split", "test", *where)[0] == 0
    assert "no scores, all are 0 in the submission (1):\n  P02_101_7" in caplog.text
    scores = submitted(tmp_path / "out")["results"]
    assert {*scores["P02_101_7"]["verb"].values(), *scores["P02_101_7"]["noun"].values()} == {0.0}
    assert any(scores["P01_01_0"]["verb"].values())


def test_other_classes_and_levels_are_refused(vivit, epic, weights, tmp_path):  # noqa: F811
    few = tiny.model(classes={"noun": ("a", "b"), "verb": ("c",)}).save_pretrained(tmp_path / "few")
    where = ("--data.dataset", "epic_kitchens", "--data.root", epic, "--data.eval-split", "test", "--run", tmp_path)
    code, _, err = vivit("eval", few, *where)
    assert (code, "the 97 classes of verb and the 300 of noun, the model has 2 of noun, 1 of verb" in err) == (2, True)
    code, _, err = vivit("eval", weights, *where, "--epic-levels", 2, 3, 6)
    assert (code, "each is 0 to 5" in err) == (2, True)


def test_a_list_with_errors_names_each_of_them(epic):
    bad = "P01_01_0,P01,P01_01,00:00:01.00,00:00:00.50,60,30"
    text(epic, "EPIC_100_test_timestamps.csv", HEADER, *ROWS, bad, "P09_1_0,P09,P09_1,00:00:00.00,00:00:01.00,1,60")
    with pytest.raises(DataError) as error:
        read_epic_test(epic)
    assert "EPIC_100_test_timestamps.csv:4: stop_timestamp 0.5 is not after start_timestamp 1.0" in str(error.value)
    assert "EPIC_100_test_timestamps.csv:4: P01_01_0 again, after EPIC_100_test_timestamps.csv:2" in str(error.value)
    assert "EPIC_100_test_timestamps.csv:5: no video P09_1" in str(error.value)
