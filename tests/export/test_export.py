"""Exported models compute what the weights compute, in a process without PyTorch too; what does not is not kept."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import vivit
from vivit.cli.predict import Predict, load_any
from vivit.errors import WeightsError
from vivit.export import export as exporting
from vivit.export.export import export
from vivit.export.proof import Agreement, compare_logits, peak_memory, relative_difference
from vivit.export.quantize import set_metadata
from vivit.inference.exported import PARTS, load_graph, open_exported, part_path

from ..data.videos import counter_frames, write_video
from ..model import tiny
from .models import MODELS, weights

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Runs the command line where importing PyTorch fails.
WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is refused")

sys.meta_path.insert(0, Refuse())
from vivit.cli.main import main
sys.argv = ["vivit", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", counter_frames(40))


@pytest.fixture(scope="module")
def model_2(tmp_path_factory, video):
    """(weights, exported file) of a Model 2."""
    folder = tmp_path_factory.mktemp("model")
    source = weights("Model 2, class token", folder / "weights")
    export(str(source), folder / "model.onnx", videos=[str(video)])
    return source, folder / "model.onnx"


def run_without_torch(*args):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Model 2, class token"])
def test_onnx_of_every_model_gives_the_logits_of_the_weights_for_any_batch(name, tmp_path):
    source = weights(name, tmp_path / "weights")
    rows = export(str(source), tmp_path / "model.onnx")
    exported, model = open_exported(tmp_path / "model.onnx"), vivit.from_pretrained(source)
    assert exported.config == model.config
    for batch in (1, 3):
        video = tiny.video(model, batch)
        with torch.no_grad():
            expected = model(video).numpy()
        np.testing.assert_allclose(exported.run(video.numpy()), expected, atol=1e-5 * np.abs(expected).max())
    assert exported.shares_positions == name.startswith("Model 2")
    assert [row.name for row in rows][:2] == ["eager PyTorch", "onnx: clip"]
    assert all(row.seconds > 0 and row.megabytes > 0 for row in rows)


def test_prediction_and_timeline_without_pytorch_are_those_of_the_weights(model_2, video, capsys):
    source, file = model_2
    found = json.loads(run_without_torch("predict", file, video, "--json"))
    expected = vivit.predict(str(source), str(video)).to_dict()
    assert found.keys() == expected.keys()
    for label_set, top in expected["classes"].items():
        assert [one["name"] for one in found["classes"][label_set]] == [one["name"] for one in top]
        for a, b in zip(found["classes"][label_set], top):
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)

    rows = list(csv.DictReader(run_without_torch("timeline", file, video, "--hop", "0.16").splitlines()))
    timeline = vivit.timeline(str(source), str(video), hop=0.16)
    assert [float(row["center"]) for row in rows] == pytest.approx(timeline.center, abs=5e-4)
    for label_set, names in timeline.classes.items():
        shown = [[float(row[f"{label_set}: {name}"]) for name in names] for row in rows]
        np.testing.assert_allclose(shown, timeline.probabilities(label_set), atol=1e-5)
    assert len(run_without_torch("stream", file, video, "--hop", "0.16").splitlines()) == len(rows)


def test_a_timeline_encodes_each_position_once_and_does_without_the_parts(model_2, video, monkeypatch):
    source, file = model_2
    expected = vivit.timeline(str(source), str(video), hop=0.16)
    exported, encoded = open_exported(file), []
    encode = exported.encode
    counting = exporting.ExportedModel(
        **vars(exported) | {"encode": lambda x: encoded.append(len(x)) or encode(x)}  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(vivit.timeline(counting, str(video), hop=0.16).logits, expected.logits, atol=1e-5)
    assert sum(encoded) == 12  # 40 frames are 20 samples of 10 positions; one repeats the first frame, one the last
    clips_only = exporting.ExportedModel(exported.path, exported.config, exported.weights, exported.run)
    np.testing.assert_allclose(vivit.timeline(clips_only, str(video), hop=0.16).logits, expected.logits, atol=1e-5)


def test_an_exported_model_needs_less_memory_than_pytorch_with_the_weights(model_2):
    source, file = model_2
    eager, exported = peak_memory(source), peak_memory(file)
    assert eager is not None
    assert exported is not None
    assert 20 < exported < eager - 100  # MB; PyTorch alone has more


def test_the_part_over_time_does_not_hold_the_weights_of_the_one_over_space(tmp_path):
    source = weights("Model 2, class token", tmp_path / "weights")
    export(str(source), tmp_path / "model.pt2", format="torch-export")
    model = vivit.from_pretrained(source)
    own = [tensor for part in (model.encoder.temporal, model.head) for tensor in part.state_dict().values()]
    held = torch.export.load(part_path(tmp_path / "model.pt2", "window")).state_dict.values()
    assert sum(tensor.nbytes for tensor in held) == sum(tensor.nbytes for tensor in own)


def test_parts_of_other_weights_are_not_taken(model_2, tmp_path):
    _, file = model_2
    copy = tmp_path / "model.onnx"
    copy.write_bytes(file.read_bytes())
    assert not open_exported(copy).shares_positions
    for part in PARTS:
        part_path(copy, part).write_bytes(part_path(file, part).read_bytes())
    assert open_exported(copy).shares_positions
    about = load_graph(part_path(copy, "window"))[1]
    set_metadata(part_path(copy, "window"), about | {"weights": "others"})
    assert not open_exported(copy).shares_positions
    with pytest.raises(WeightsError, match="only a part of a model; give the file of the complete one, model.onnx"):
        open_exported(part_path(copy, "window"))
    set_metadata(copy, {})
    with pytest.raises(WeightsError, match="not written by vivit export"):
        open_exported(copy)


def test_an_export_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    source = weights("Model 1, mean", tmp_path / "weights")
    graph = exporting.graphs_of

    def wrong(model):
        found = graph(model)
        found["clip"].pixels.bias[0] += 1
        return found

    monkeypatch.setattr(exporting, "graphs_of", wrong)
    dest = tmp_path / "out" / "model.onnx"
    dest.parent.mkdir()
    dest.write_text("an earlier export")
    with pytest.raises(WeightsError, match=r"model.onnx is not kept: its logits differ .* \(allowed: 0.0001\)"):
        export(str(source), dest)
    assert [path.name for path in dest.parent.iterdir()] == ["model.onnx"]
    assert dest.read_text() == "an earlier export"


def test_a_comparison_finds_a_wrong_logit_another_class_and_a_batch_that_mixes_clips():
    config = tiny.config()
    clips = [np.full((1, 2), i, dtype=np.float32) for i in range(3)]

    def first(x):
        return np.concatenate([x[:, :1] + 1, x[:, :1], -x[:, :1]], axis=1)

    assert compare_logits(config, first, first, clips) == Agreement(3, 0.0, 3)
    assert compare_logits(config, first, lambda x: first(x) + 0.5, clips).difference == pytest.approx(0.5)
    swapped = compare_logits(config, first, lambda x: first(x)[:, ::-1], clips)
    assert swapped.same_top1 == 0
    mixed = compare_logits(config, first, lambda x: first(x[::-1]), clips)
    assert mixed.same_top1 == 3
    assert mixed.difference == pytest.approx(2.0)
    assert relative_difference(np.zeros(2), np.zeros(2)) == 0
    assert relative_difference(np.zeros(2), np.ones(2)) == float("inf")
    assert relative_difference(np.ones(2), np.array([1, np.nan])) == float("inf")


def test_what_cannot_be_exported_is_said_before_the_work(tmp_path):
    with pytest.raises(
        ValueError, match=r"--format onnx writes .onnx files; use .*model.onnx, or --format torch-export"
    ):
        export("weights", tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"--format onnx writes .onnx files; use .*model.onnx$"):
        export("weights", tmp_path / "model.bin")
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(ValueError, match="an exported model, which computes on the CPU as it was exported"):
        load_any(Predict(str(tmp_path / "model.onnx"), precision="bfloat16"))
    with pytest.raises(WeightsError, match="model.onnx: cannot be loaded"):
        open_exported(tmp_path / "model.onnx")
