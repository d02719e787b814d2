"""Run every command and every block of docs/guides/export.md word for word."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import vivit
from vivit.cli.main import main
from vivit.errors import DataError, WeightsError
from vivit.export import export as exporting
from vivit.export.export import short_names
from vivit.export.proof import evenly_spaced
from vivit.export.quantize import Gate, calibration_clips, folder_labels, gate, linear_layers
from vivit.inference.exported import open_exported

from ..data.videos import counter_frames, write_video
from ..model import tiny
from .models import weights

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "export.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines() if line[:6] == "vivit "]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs/finetune, some_video.mp4, long_video.mp4 and my_videos/<class>/*.mp4."""
    folder = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    model = tiny.model(depth=1)
    model.save_pretrained(folder / "runs" / "finetune")
    write_video(folder / "some_video.mp4", counter_frames(30))
    write_video(folder / "long_video.mp4", counter_frames(120))
    for i in range(9):
        name = "abc"[i % 3]
        (folder / "my_videos" / name).mkdir(parents=True, exist_ok=True)
        write_video(folder / "my_videos" / name / f"{i}.mp4", counter_frames(30 + 3 * i))
    return folder


def run(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    main()


def test_the_commands_of_the_guide_run_and_its_program_too(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    float32, predict, timeline, evaluate, openvino, pt2, int8 = COMMANDS
    run(float32, monkeypatch)
    out = capsys.readouterr().out
    assert out.split()[:9] == ["MB", "memory", "MB", "s", "per", "clip", "of", "eager", "differs"]
    assert "onnx: position + window" in out
    run(predict, monkeypatch)
    assert capsys.readouterr().out.startswith("some_video.mp4\n  label")
    run(timeline, monkeypatch)
    assert capsys.readouterr().out.startswith("path,start,end,center,padded,a,b,c\n")
    run(evaluate, monkeypatch)
    assert "computed in float32 on cpu" in capsys.readouterr().out
    names = {}
    exec(next(text for language, text in BLOCKS if language == "python"), names)
    assert names["logits"].shape == (1, 3)
    monkeypatch.setattr(exporting, "MAX_LOSS", 100)  # random weights have classes that hardly differ
    run(int8, monkeypatch)
    check_int8(capsys.readouterr().err)

    weights("Model 1, mean", home / "runs" / "finetune")  # one graph in place of three
    expected = str(vivit.predict("runs/finetune", "some_video.mp4"))
    for command, name in ((openvino, "model.xml"), (pt2, "model.pt2")):
        run(command, monkeypatch)
        assert str(vivit.predict(name, "some_video.mp4")) == expected
    parts = {"model.onnx", "model.position.onnx", "model.window.onnx"}
    assert {path.name for path in home.glob("model*")} == parts | {"model.xml", "model.bin", "model.pt2"}


def check_int8(said):
    """The file has int8 weights, float32 pixels and head, and nearly the logits of float32."""
    assert re.search(
        r"int8 with pixels, head in float32: top-1 [\d.]+ % in float32 .* on 7 videos, all there are", said
    )
    assert onnx.TensorProto.INT8 in {t.data_type for t in onnx.load("small.onnx").graph.initializer}
    layers = linear_layers(onnx.load("model.onnx"))
    assert {"pixels", "encoder.spatial.blocks.0.mlp.fc2", "head"} <= set(layers.values())
    exported, quantized = open_exported("model.onnx"), open_exported("small.onnx")
    assert quantized.shares_positions
    clip = tiny.video(tiny.model(), 3).numpy()
    expected, found = exported.run(clip), quantized.run(clip)
    assert 0 < abs(found - expected).max() < 0.3 * abs(expected).max()


def test_int8_that_loses_too_much_is_not_kept(home, tmp_path, monkeypatch, capsys):
    source = weights("Model 1, mean", tmp_path / "weights")
    monkeypatch.setattr(exporting, "MAX_LOSS", -101)
    monkeypatch.setattr(exporting, "FLOAT_LAYERS", ((), ("mlp.fc2",)))
    with pytest.raises(WeightsError, match=r"int8 is not kept: it loses .* points of top-1"):
        exporting.export(str(source), tmp_path / "small.onnx", videos=[str(home / "some_video.mp4")], int8=True)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    err = capsys.readouterr().err
    assert "int8 with pixels, head in float32" in err
    assert "int8 with pixels, encoder.blocks.*.mlp.fc2, head in float32" in err
    assert "the best class is that of float32 on" in err
    with pytest.raises(ValueError, match="int8 needs --format onnx, and --videos"):
        exporting.export(str(source), tmp_path / "small.onnx", int8=True)


def test_videos_that_cannot_be_read_are_counted_and_none_that_can_is_an_error(tmp_path):
    videos = [str(write_video(tmp_path / f"{i}.mp4", counter_frames(30))) for i in range(8)]
    config = tiny.config()

    def best(x):
        return x[:, :3, 0, 0, 0].astype("float32")

    for path in videos[:2]:
        Path(path).write_bytes(b"no video")
    found = gate(config, best, [best], videos)
    assert (found.clips, found.unreadable, found.loss) == (6, 2, 0.0)
    with pytest.raises(DataError, match=r"no clip to test int8 on: none of the 2 videos can be read"):
        gate(config, best, [best], videos[:2])
    for path in videos:
        Path(path).write_bytes(b"no video")
    with pytest.raises(DataError, match=r"no clip to calibrate int8 on: none of the 2 videos can be read"):
        calibration_clips(videos, config)


def test_the_gate_counts_labels_or_agreement_and_says_how_many_videos_it_had(tmp_path):
    config = tiny.config()
    assert folder_labels(["x/a/1.mp4", "x/c/2.mp4"], config) == {"x/a/1.mp4": 0, "x/c/2.mp4": 2}
    assert folder_labels(["x/a/1.mp4", "x/d/2.mp4"], config) is None
    assert Gate(1000, True, 800, 794).loss == pytest.approx(0.6)
    assert str(Gate(1000, True, 800, 794)) == "top-1 80.0 % in float32 and 79.4 % in int8 on 1000 videos"
    assert str(Gate(9, False, 9, 8)).endswith("on 8 of 9 videos, all there are; 500 would say more")
    assert str(Gate(600, False, 600, 599, unreadable=3)).endswith("on 599 of 600 videos; 3 more cannot be read")
    assert evenly_spaced([str(i) for i in range(10)], 4) == ["0", "3", "6", "9"]
    assert short_names(["pixels", "a.blocks.0.mlp.fc2", "a.blocks.11.mlp.fc2"]) == ["pixels", "a.blocks.*.mlp.fc2"]
