"""int8 of the trained demo on 512 videos that it has not seen: the gate of `vivit export`, and the accuracy of both."""

import json

import pytest

from vivit.cli.demo import demo
from vivit.data.tools.synthetic import write_dataset
from vivit.export.export import export
from vivit.export.quantize import MAX_LOSS, MIN_CLIPS

from ..cli.conftest import vivit

__all__ = ["vivit"]
VIDEOS = 544  # 32 to calibrate on, 512 to test on


@pytest.mark.drill
def test_int8_of_the_trained_demo_loses_at_most_half_a_point(tmp_path, vivit, capsys):
    demo(str(tmp_path / "demo"))
    compare_int8(tmp_path / "demo" / "run" / "weights", tmp_path, vivit, capsys)


def compare_int8(weights, folder, vivit, capsys):
    """Export weights in int8 and hold their accuracy against float32, on videos of another seed than the demo's."""
    table = write_dataset(folder / "new", seed=1, train=0, val=VIDEOS)
    videos = sorted(map(str, (folder / "new" / "videos").glob("*.mp4")))
    capsys.readouterr()
    export(str(weights), folder / "small.onnx", videos=videos, int8=True)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("int8 with")]
    correct = {}
    for name, model in (("float32", weights), ("int8", folder / "small.onnx")):
        views = ["--eval.temporal-views", 1, "--eval.spatial-views", 1]
        code, out, err = vivit("eval", model, "--data.root", table, *views, "--run", folder / name)
        assert code == 0, err
        assert f"computed in {name} on cpu" in out
        results = json.loads((folder / name / "results.json").read_text())
        assert results["videos"] >= MIN_CLIPS
        correct[name] = results["single_view"]
    with capsys.disabled():
        print("\n".join(["", *said, json.dumps(correct, indent=1)]))
    for label_set in correct["float32"]:
        lost = correct["float32"][label_set]["top1"] - correct["int8"][label_set]["top1"]
        assert 100 * lost <= MAX_LOSS, label_set
