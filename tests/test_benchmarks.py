"""python -m benchmarks: what it counts and claims, on the smallest models; not how fast this machine is."""

import json
import math
import shlex
import statistics

import pytest
import torch
from torch import nn

from benchmarks import attention, bench, export, models, pipeline, serve, training
from benchmarks.measure import Clock, Times, interleave, spread
from benchmarks.page import page, table
from benchmarks.videoprism import videoprism
from vivit.config import Config, EvalConfig, ModelConfig
from vivit.engine.memory import saved_bytes
from vivit.model import layers
from vivit.model.vivit import ViViT

ONCE = Clock(rounds=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """ViViT-Ti on 4 x 32 x 32 in place of every preset, and a small ceiling."""
    real = models.preset
    size = {"image_size": (32, 32), "num_frames": 4, "depth": 2}
    monkeypatch.setattr(models, "preset", lambda name, **how: real(name, **how, **size))
    x = torch.randn(64, 64)
    monkeypatch.setattr(models, "matrix_product", lambda *_: (lambda: x @ x, 2.0 * 64**3))


def test_every_second_round_runs_backwards_after_one_call_to_warm_up():
    calls = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, Clock(rounds=3))
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert all(len(t.seconds) == 3 for t in times.values())


def test_ratios_are_medians_over_the_rounds_and_the_spread_is_half_of_what_lies_between_the_quartiles():
    slow, fast = Times((2.0, 30.0, 4.0)), Times((1.0, 10.0, 1.0))
    assert fast.over(slow) == statistics.median([2, 3, 4])
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert spread(values) == pytest.approx((4 - 2) / 2 / 3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_transformers_vivit_gives_the_same_logits_from_the_same_weights(precision):
    pytest.importorskip("transformers")
    ours, theirs = models.forward("ViViT-Ti/16x2", precision=precision, batch_size=2, compiled=False, clock=ONCE)
    assert theirs["name"] == "transformers ViViT-Ti/16x2"
    assert theirs["differs by"] < (1e-5 if precision == "float32" else 5e-2)
    if precision == "bfloat16":  # ours differs from float32 as well, by about as much
        assert 0 < ours["differs by"] < 2 * theirs["differs by"] + 1e-3
    assert ours["batch"] == theirs["batch"] == 2


def test_fewer_tokens_are_less_work_and_options_that_do_nothing_are_none(monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS", 1)
    monkeypatch.setattr(pipeline, "SIZE", (36, 48))
    how = {"trained": False, "precision": "float32", "batch_size": 2, "clock": ONCE}
    plain, off, nothing, _ = models.shortened("ViViT-Ti/16x2", merge_tokens=0, drop_static=0, **how)
    assert plain["case"] == "shorten"
    assert plain["same top-1"] is None
    assert (off["differs by"], off["same top-1"]) == (0, 1)
    assert nothing["differs by"] < 1e-5
    monkeypatch.setattr(models, "measure", lambda case, contenders, **_: [c.operations for c in contenders.values()])
    plain, merged, dropped, both = models.shortened("ViViT-Ti/16x2", merge_tokens=1, drop_static=1, **how)
    assert plain > merged > dropped > both > 0  # of 8 tubelets dropping leaves 4


def test_trained_weights_can_stand_in_for_a_preset_and_other_models_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "SECONDS", 1)
    monkeypatch.setattr(pipeline, "SIZE", (36, 48))
    model, _ = models.build(models.preset("ViViT-Ti/16x2", classes={"a": ("x", "y")}), device=ONCE.device, batch_size=1)
    weights = str(model.save_pretrained(tmp_path / "weights"))
    names = [row["name"] for row in bench(("shorten",), weights=weights, rounds=1, merge_tokens=1)["rows"]]
    assert names[0] == weights
    assert [name.removeprefix(weights) for name in names[1:]] == [
        ", 1 merged per layer",
        ", static dropped at 0.01",
        ", both",
    ]
    assert bench(("shorten",), preset=("ViViT-Ti/16x2 FE",), rounds=1)["rows"] == []


def test_agreement_is_the_share_of_clips_with_the_same_best_class():
    a = torch.tensor([[1.0, 2], [2, 1], [3, 1], [0, 1]])
    assert models.agreement(a, a) == 1
    assert models.agreement(a, -a) == 0
    assert models.agreement(a, torch.tensor([[5.0, 6], [6, 5], [6, 5], [6, 5]])) == 0.75


def test_operations_are_those_of_the_formula():
    """A linear layer is n · in · out multiply-adds, attention n² · D for each of its two products."""
    config = models.preset("ViViT-Ti/16x2", classes={"a": ("x",)})
    model, video = models.build(config, device=ONCE.device, batch_size=1)
    c = model.config
    n, d, pixels = math.prod(c.grid) + 1, c.embed_dim, 3 * math.prod(c.tubelet_size)
    whole = n * 3 * d * d + 2 * n * n * d + n * d * d + 2 * n * d * 4 * d
    last = n * 2 * d * d + d * d + 2 * n * d + d * d + 2 * d * 4 * d  # one query, and what follows of one token
    assert models.operations_of(model, video) == 2 * ((n - 1) * pixels * d + whole * (c.depth - 1) + last + d)


def test_a_training_step_lowers_the_loss_of_the_clip_it_sees():
    model, video = models.build(
        models.preset("ViViT-Ti/16x2 FE", classes={"a": ("x", "y")}), device=ONCE.device, batch_size=1
    )
    step = training.step(model, video, "float32")
    losses = [step().item() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_an_image_vit_stands_beside_model_2_only():
    pytest.importorskip("timm")
    rows = models.forward("ViViT-Ti/16x2 FE", precision="float32", batch_size=1, compiled=False, clock=ONCE)
    assert [row["name"] for row in rows] == ["ViViT-Ti/16x2 FE", "timm ViT on 2 images"]
    rows = models.forward("ViViT-Ti/16x2 FDP", precision="float32", batch_size=1, compiled=False, clock=ONCE)
    assert [row["name"] for row in rows] == ["ViViT-Ti/16x2 FDP"]


def test_the_views_of_a_video_decode_each_frame_once_and_one_to_begin_with(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS", 3)
    monkeypatch.setattr(pipeline, "SIZE", (36, 48))
    [sample] = pipeline.kinetics_like(tmp_path, 1)
    config = ModelConfig(num_frames=8, image_size=(32, 32), classes={"a": ("x",)})
    decoded, needed, views = pipeline.frames_counted(sample, config, EvalConfig())
    assert views.shape[:2] == (13, 8)
    assert needed <= (1 + 4) * 8  # the middle clip, and the clips that three crops share
    assert decoded <= 3 * pipeline.RATE + 1  # the file once, and its first frame for the size


def test_json_and_page_hold_every_row_and_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "train", "--out", "here.json", "forward", "--docs", "x.md"])
    out, docs = tmp_path / "benchmarks.json", tmp_path / "benchmarks.md"
    bench(("train", "forward"), preset=("ViViT-Ti/16x2 FE",), rounds=1, out=out, docs=docs)
    everything = json.loads(out.read_text())
    [results] = everything["runs"]
    assert [row["case"] for row in results["rows"]][:2] == ["train", "forward"]
    assert {"date", "hardware", "versions", "threads"} <= set(results["conditions"])
    text = docs.read_text()
    assert text == page(everything)
    assert "`python -m benchmarks train forward`" in text
    assert "not yet measured" in text
    assert all(row["name"] in text for row in results["rows"])
    assert shlex.split(results["command"])[:3] == ["python", "-m", "benchmarks"]
    assert "of ceiling" in capsys.readouterr().out
    for argv in (["benchmarks", "evaluation"], ["benchmarks", "train", "forward"]):  # another, and again
        monkeypatch.setattr("sys.argv", argv)
        bench((), out=out, docs=docs)
        bench(("forward",), preset=("ViViT-Ti/16x2 FE",), rounds=1, out=out)
    runs = json.loads(out.read_text())["runs"]
    assert [run["command"] for run in runs] == ["python -m benchmarks evaluation", "python -m benchmarks train forward"]
    assert [row["case"] for row in runs[1]["rows"]] == ["forward", "forward"]


def test_a_column_without_a_value_is_left_out():
    lines = table(
        [{"case": "x", "name": "a", "memory": None, "seconds": 1.5}, {"case": "x", "name": "b", "seconds": 2}]
    )
    assert lines[0] == "| name | seconds |"
    assert lines[2:] == ["| a | 1.5 |", "| b | 2 |"]


def test_models_that_hold_less_need_fewer_bytes():
    model = nn.Linear(1024, 256, bias=False)
    assert models.held(model) == 1
    assert models.held(model.to(torch.bfloat16)) == 0.5


def test_training_keeps_what_the_plan_counts_and_transformers_keeps_more():
    pytest.importorskip("transformers")
    name = "ViViT-Ti/16x2"
    ours, theirs = training.train(name, precision="bfloat16", batch_size=2, compiled=False, clock=ONCE)
    config = Config(model=models.preset(name, classes=models.CLASSES), precision="bfloat16")
    assert ours["activations MiB"] == round(saved_bytes(config, 2) / 2**20)
    assert theirs["name"] == f"transformers {name}"
    assert theirs["activations MiB"] > ours["activations MiB"]


@pytest.mark.parametrize("name", ["ViViT-Ti/16x2", "ViViT-Ti/16x2 FE", "ViViT-Ti/16x2 FSA", "ViViT-Ti/16x2 FDP"])
def test_attention_is_timed_at_the_sizes_at_which_the_model_calls_it(name, monkeypatch):
    config, seen = models.preset(name, classes=models.CLASSES), []
    real = layers.attention

    def note(q, k, v, bias=None, logit_cap=None):
        seen.append((q.shape[0], k.shape[2], *q.shape[1::2]))
        return real(q, k, v, bias)

    monkeypatch.setattr(layers, "attention", note)
    ViViT(config)(torch.zeros(3, config.num_frames, 3, *config.image_size))
    assert set(attention.shapes(config, 3).values()) == {shape for shape in seen if shape[1:2] != (3,)}  # not over time
    rows = list(attention.attentions([name], precision="float32", batch_size=1, clock=ONCE))
    assert len(rows) == 2 * len(attention.shapes(config, 1))
    assert all(row["differs by"] < 1e-5 for row in rows if row["differs by"] is not None)


def test_the_server_is_timed_with_one_client_and_several(monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS", 1)
    monkeypatch.setattr(pipeline, "SIZE", (36, 48))
    monkeypatch.setattr(serve, "REQUESTS", 4)
    rows = serve.serving("ViViT-Ti/16x2 FE", clock=ONCE)
    assert [row["clients"] for row in rows] == [1, 4, 8]
    for row in rows:
        assert row["requests"] == 4
        assert 0 < row["p50 ms"] <= row["p95 ms"] <= row["p99 ms"]
        assert 0 <= row["waiting p95 ms"] < row["p99 ms"]
    assert rows[0]["waiting p95 ms"] < rows[1]["waiting p95 ms"]


def test_a_prediction_is_timed_beside_the_same_views_through_transformers(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(pipeline, "SECONDS", 1)
    monkeypatch.setattr(pipeline, "SIZE", (36, 48))
    rows = models.prediction("ViViT-Ti/16x2", clock=ONCE)
    assert [row["name"] for row in rows] == ["vivit.predict, ViViT-Ti/16x2", "transformers ViViT-Ti/16x2"]
    assert rows[1]["time / ours"] > 0
    assert len(models.prediction("ViViT-Ti/16x2 FE", clock=ONCE)) == 1


def test_videoprism_gives_the_logits_of_transformers():
    small = {"image_size": 32, "num_frames": 2, "tubelet_size": (1, 8, 8), "hidden_size": 48, "intermediate_size": 96}
    small |= {"num_attention_heads": 4, "num_spatial_layers": 2, "num_temporal_layers": 1}
    ours, theirs = videoprism(precision="float32", clock=ONCE, **small)
    assert theirs["name"] == "transformers VideoPrism-B"
    assert theirs["differs by"] < 1e-5
    assert ours["clips/s"] > 0


@pytest.mark.slow
def test_an_export_has_a_row_for_each_form_beside_eager_pytorch():
    pytest.importorskip("onnxscript")
    eager, clip = export.exported("ViViT-Ti/16x2", formats=("onnx",), clock=Clock(1))
    assert eager["name"] == "ViViT-Ti/16x2, eager PyTorch"
    assert eager["time / eager"] == 1
    assert clip["name"] == "ViViT-Ti/16x2, onnx: clip"
    assert clip["same top-1"] == "4 of 4"
    assert clip["differs by"] < 1e-4
    assert clip["time / eager"] == pytest.approx(clip["seconds"] / eager["seconds"], abs=0.05)
    columns = ["name", "MB", "memory MB", "seconds", "time / eager", "differs by", "same top-1"]
    assert table([eager, clip])[0] == f"| {' | '.join(columns)} |"
