"""Fine-tuning from each family of `vivit starts` by the command line: stopped, resumed, and used for everything."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import transformers as T

from vivit.engine import heads, probe, stages
from vivit.engine import train as train_module
from vivit.engine.optim import learning_rate

from ..engine.tiny import write_table
from ..weights.prism import their_model
from ..weights.random_weights import randomise
from ..weights.test_contradictions import IMAGE, JEPA

DINO = IMAGE | {"hidden_size": 32, "num_register_tokens": 2}
# Family → (recipe, its model with random weights)
STARTS = {
    "VideoPrism, probe": ("videoprism-probe", lambda: their_model("vision")),
    "VideoPrism, all layers": ("videoprism-finetune", lambda: their_model("video-text")),
    "VideoPrism": ("finetune", lambda: their_model("vision")),
    "V-JEPA 2": ("finetune", lambda: randomise(T.VJEPA2Model(T.VJEPA2Config(**JEPA)))),
    "V-JEPA 2 with a probe": ("finetune", lambda: randomise(T.VJEPA2ForVideoClassification(T.VJEPA2Config(**JEPA)))),
    "DINOv3": ("finetune", lambda: randomise(T.DINOv3ViTModel(T.DINOv3ViTConfig(**DINO)))),
    "CLIP": ("finetune", lambda: randomise(T.CLIPVisionModel(T.CLIPVisionConfig(**IMAGE)))),
    "SigLIP 2": ("finetune", lambda: randomise(T.SiglipVisionModel(T.SiglipVisionConfig(**IMAGE)))),
}
ALWAYS = ("VideoPrism, probe", "V-JEPA 2 with a probe", "SigLIP 2")  # the others in `make drill`
CPU = ("--device", "cpu")


@pytest.fixture
def stop_at(monkeypatch):
    """Send this process a signal during a step of the training."""

    def arm(step):
        def rate_and_signal(at, **how):
            if at == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return learning_rate(at, **how)

        monkeypatch.setattr(train_module, "learning_rate", rate_and_signal)

    return arm


def probabilities(printed):
    """Class → probability, of what `vivit predict --json` prints of one video."""
    [classes] = json.loads(printed)["classes"].values()
    return {row["name"]: row["probability"] for row in classes}


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.drill) for name in STARTS]
)
def test_a_start_is_trained_resumed_and_used_by_every_command(family, vivit, stop_at, monkeypatch, tmp_path):
    monkeypatch.setattr(heads, "STEPS", 20)
    monkeypatch.setattr(heads, "FEWEST_STEPS", 5)
    monkeypatch.setattr(probe, "PENALTIES", (1.0,))
    monkeypatch.setattr(stages, "EPOCHS", 2)
    recipe, build = STARTS[family]
    build().save_pretrained(tmp_path / "start")
    table, run = write_table(tmp_path, label_sets=1), tmp_path / "run"
    train = ("train", recipe, "--data.root", table, "--init", tmp_path / "start", "--run", run, "--data.workers", "0")
    train += ("--optim.epochs", "3", "--optim.warmup-epochs", "0.5", "--optim.batch-size", "4", *CPU)

    stop_at(4)
    code, _, err = vivit(*train)
    assert code == 128 + signal.SIGTERM, err
    assert not (run / "weights").exists()
    stop_at(-1)
    code, _, err = vivit(*train)
    assert code == 0, err
    [resumed] = json.loads((run / "environment.json").read_text())["continued"]
    assert resumed["step"] > 0
    steps = [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert steps[-1] == 6

    video = tmp_path / "videos" / "val0.mp4"
    code, _, err = vivit("eval", run, "--run", tmp_path / "eval", "--data.workers", "0", *CPU)
    assert code == 0, err
    assert (tmp_path / "eval" / "results.json").exists()
    code, out, err = vivit("predict", run, video, "--json", *CPU)
    assert code == 0, err
    assert probabilities(out).keys() == {"red", "green"}
    code, rows, err = vivit("timeline", run, video, *CPU)
    assert code == 0, err
    assert list(csv.DictReader(rows.splitlines()))
    for level in ("clip", "token"):
        code, _, err = vivit("features", run, video, "--out", tmp_path / level, "--level", level, *CPU)
        assert code == 0, err
        assert np.isfinite(np.load(tmp_path / level / "val0.npy")).all()
    code, _, err = vivit("export", run, tmp_path / "model.onnx", "--videos", video)
    assert code == 0, err
    code, exported, err = vivit("predict", tmp_path / "model.onnx", video, "--json")
    assert code == 0, err
    assert probabilities(exported) == pytest.approx(probabilities(out), abs=1e-3)
