"""python -m benchmarks gpu: the whole command at tiny sizes, its time boxes, and what it makes of its rows."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import correctness, gpu, wheels
from benchmarks.goals import goals
from benchmarks.gpu import Step, rows_in_time
from benchmarks.measure import Clock
from benchmarks.models import config_of
from benchmarks.page import HEADINGS, NOTES, add_runs, page

ROOT = Path(__file__).parents[1]


def measured(tmp_path, *options):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--tiny", "--device", "cpu", "--out", str(tmp_path)]
    command += ["--minutes", "60", *options]  # for a machine that does much else
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [run] = json.loads((tmp_path / "benchmarks.json").read_text())["runs"]
    assert [row for row in run["rows"] if "error" in row] == []
    return run


@pytest.mark.slow
def test_the_command_measures_some_steps_at_tiny_sizes(tmp_path):
    run = measured(tmp_path, "--only", "attention")
    assert "attention" in {row["case"] for row in run["rows"]}
    assert (tmp_path / "benchmarks.md").read_text() == page({"runs": [run]})


@pytest.mark.drill
def test_the_command_measures_everything_at_tiny_sizes(tmp_path):
    pytest.importorskip("transformers")
    run = measured(tmp_path)
    assert {row["case"] for row in run["rows"]} == set(HEADINGS) & {
        "goals", "correct", "limits", "attention", "train", "profile", "predict", "timeline", "loader", "learn",
    }  # fmt: skip
    assert {row["right"] for row in run["rows"] if row["case"] == "correct"} == {"yes"}
    assert {row["way"] for row in run["rows"] if row["case"] == "correct"} == {"eager", "FSDP", "compiled"}
    assert any(row["name"].startswith("transformers") for row in run["rows"] if row["case"] == "train")
    assert (tmp_path / "benchmarks.md").read_text() == page({"runs": [run]})


def fails(seconds, device):
    """A step that gives a row and then fails."""
    yield {"case": "correct", "name": "before"}
    raise ValueError("no such thing\nin two lines")


def dies(seconds, device):
    """A step whose process is killed."""
    yield {"case": "correct", "name": "before"}
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(seconds, device, note):
    """A step that never ends, in a child of its own as well."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note.write_text(str(child.pid))
    yield {"case": "correct", "name": "before"}
    time.sleep(600)


@pytest.mark.slow
def test_a_step_that_fails_dies_or_hangs_is_a_row_and_leaves_no_process(tmp_path, monkeypatch):
    def rows(run):
        return rows_in_time(Step("correct", "it", 60, run), "cpu", time.monotonic() + 600)

    before = {"case": "correct", "name": "before"}
    assert list(rows(fails)) == [before, {"case": "correct", "name": "it", "error": "ValueError: no such thing"}]
    assert list(rows(dies)) == [
        before,
        {"case": "correct", "name": "it", "error": "the process ended with exit code -9"},
    ]
    hanging = rows(partial(hangs, note=tmp_path / "pid"))
    assert next(hanging) == before
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 600))
    [last] = hanging
    assert last["error"].startswith("stopped after 6")
    with pytest.raises(ProcessLookupError):
        wait_for_the_end_of(int((tmp_path / "pid").read_text()))


def wait_for_the_end_of(pid):
    """Raise ProcessLookupError as soon as there is no such process; return after a minute."""
    for _ in range(600):
        os.kill(pid, 0)
        if " Z " in Path(f"/proc/{pid}/stat").read_text():  # ended, and not yet waited for
            raise ProcessLookupError
        time.sleep(0.1)


def test_a_wrong_gradient_is_not_right(monkeypatch):
    check = partial(correctness.check_case, "m4", "eager", precision="float32", clock=Clock(1), backend="eager")
    assert check()["right"] == "yes"
    monkeypatch.setattr(correctness, "gradient", lambda *args, **how: torch.full((3,), float("nan")))
    assert check()["right"] == "NO"


def train_row(name, batch, share, **more):
    return {"case": "train", "name": name, "batch": batch, "of ceiling": share, **more}


def test_goals_are_met_missed_or_not_measured():
    rows = [
        {"case": "correct", "name": "m1", "way": "eager", "precision": "float32", "right": "yes"},
        {"case": "correct", "name": "m4", "error": "stopped after 30 s"},
        train_row("ViViT-B/16x2", 8, 0.4, **{"clips/s": 10.0, "memory MiB": 100}),
        train_row("ViViT-B/16x2 compiled", 8, 0.7, **{"clips/s": 11.0, "memory MiB": 90}),
        train_row("transformers ViViT-B/16x2", 8, 0.3, **{"clips/s": 6.0, "memory MiB": 250}),
        train_row("ViViT-B/16x2", 16, 0.5, **{"clips/s": 100.0, "memory MiB": 200}),
        train_row("ViViT-B/16x2 FE", 16, 0.5, **{"clips/s": 50.0, "memory MiB": 200}),
        {"case": "loader", "name": "loader", "clips/s": 100.0},
        {"case": "attention", "name": "all: cuDNN", "precision": "bfloat16", "time / ours": 0.8},
    ]
    found = {row["name"]: row for row in goals(rows)}
    assert found["all four models are right"]["met"] == "no"
    assert "m4" in found["all four models are right"]["look first at"]
    assert found["training of ViViT-B/16x2, share of the ceiling"]["reached"] == 0.7
    assert found["training of ViViT-B/16x2 FE, share of the ceiling"]["met"] == "no"
    assert found["training of ViViT-L/16x2, share of the ceiling"]["met"] == "not measured"
    against = found["training of Model 1 B against transformers, same batch"]
    assert (against["reached"], against["met"]) == (round(11 / 6, 3), "no")  # compiled, of batch 8, not 16
    assert found["memory of transformers over that of Model 1 B, same batch"]["reached"] == round(250 / 90, 3)
    assert found["clips that the loader reads for each that training of Model 2 B takes"]["reached"] == 2.0
    assert found["all: cuDNN, bfloat16: its time / ours"]["reached"] == 0.8


def test_results_get_into_the_documentation(tmp_path):
    docs, out = tmp_path / "docs", tmp_path / "out"
    for folder in (docs, out):
        folder.mkdir()
    for name in ("benchmarks.json", "benchmarks.md"):
        (docs / name).write_bytes((ROOT / "docs" / name).read_bytes())
    earlier = json.loads((docs / "benchmarks.json").read_text())["runs"]
    assert (docs / "benchmarks.md").read_text() == page({"runs": earlier})
    run = earlier[0] | {
        "command": "python -m benchmarks gpu",
        "rows": [{"case": "limits", "name": "copy", "GB/s": 3.0}],
    }
    run["conditions"] = run["conditions"] | {"device": "cuda", "attention": "CUDNN_ATTENTION"}
    (out / "benchmarks.json").write_text(json.dumps({"runs": [run]}))
    add_runs(out, docs=docs)
    add_runs(out, docs=docs)  # again: in place of the first time
    text = (docs / "benchmarks.md").read_text()
    assert "| copy | 3 |" in text
    assert "CUDA: not yet measured" not in text
    assert json.loads((docs / "benchmarks.json").read_text())["runs"] == [*earlier, run]
    assert set(NOTES) == set(HEADINGS)


def test_small_models_are_presets_with_fewer_pixels_and_layers():
    small, real = config_of("ViViT-Ti/16x2 FE small"), config_of("ViViT-Ti/16x2 FE")
    assert (small.encoder, small.embed_dim) == (real.encoder, real.embed_dim)
    assert (small.num_frames, small.image_size, small.depth) == (4, (32, 32), 2)


def test_the_wheels_are_those_that_pytorch_does_not_bring():
    names = wheels.needed(("vivit",)) - wheels.needed(wheels.PROVIDED)
    assert {"av", "einops", "tyro", "typeguard", "msgpack", "safetensors", "huggingface-hub", "rich"} <= names
    assert not names & {"torch", "torchvision", "numpy", "pillow", "jinja2", "sympy"}
