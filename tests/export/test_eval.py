"""`vivit eval` takes an exported file, and the commands that need the weights say so."""

import json

import numpy as np
import pytest

from vivit.export.export import export

from ..cli.conftest import vivit
from ..data.videos import counter_frames, write_video
from .models import weights

__all__ = ["vivit"]
pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model_2(tmp_path_factory):
    """(weights, exported file) of a Model 2."""
    folder = tmp_path_factory.mktemp("model")
    source = weights("Model 2, class token", folder / "weights")
    export(str(source), folder / "model.onnx")
    return source, folder / "model.onnx"


@pytest.fixture
def labelled(tmp_path):
    """A folder with a table of six videos and their labels."""
    lines = ["path,noun,verb,split"]
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", (counter_frames(30 + i) + 40 * i).astype(np.uint8))
        lines.append(f"{i}.mp4,{'abc'[i % 3]},{'xy'[i % 2]},val")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.csv"


def test_an_evaluation_of_the_file_is_that_of_the_weights(model_2, labelled, tmp_path, vivit):
    source, file = model_2
    views = ["--eval.temporal-views", 2, "--eval.spatial-views", 3, "--data.workers", 0]
    tables = []
    for name, model in (("eager", source), ("exported", file)):
        code, out, err = vivit("eval", model, "--data.root", labelled, *views, "--run", tmp_path / name)
        assert code == 0, err
        tables.append(out[: out.index("written to")])
    assert tables[0] == tables[1]
    mine, other = (np.load(tmp_path / name / "predictions.npz", allow_pickle=False) for name in ("exported", "eager"))
    for key in mine.files:
        if mine[key].dtype.kind == "f":
            np.testing.assert_allclose(mine[key], other[key], atol=1e-5)
    results = json.loads((tmp_path / "exported" / "results.json").read_text())
    assert results["precision"] == "float32"
    assert (tmp_path / "exported" / "report.html").is_file()
    asked = ["--device", "cuda", "--model.num-frames", 4, "--model.preprocessing.frame-stride", 1]
    code, _, err = vivit("eval", file, "--data.root", labelled, *asked)
    assert (code, "leave out --model.num-frames, --model.preprocessing, --device or give the weights" in err) == (
        2,
        True,
    )


@pytest.mark.parametrize("verb", ["explain", "serve"])
def test_what_needs_the_weights_says_so(model_2, labelled, verb, vivit):
    words = [] if verb == "serve" else [labelled.with_name("0.mp4")]
    code, _, err = vivit(verb, model_2[1], *words)
    assert code == 2
    assert "model.onnx: an exported model" in err
    assert "Give the weights that it was exported from" in err
