"""In which precision a prediction is computed."""

import copy
import json

import pytest
import torch

import vivit
from vivit import cli
from vivit.data.synthetic import render, write_video
from vivit.engine import device as device_module
from vivit.engine.device import has_bfloat16_units, in_precision, uses_bfloat16

from .model import tiny

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path):
    write_video(tmp_path / "video.mp4", render(0, "val", 0, num_frames=12)[0])
    return tmp_path / "video.mp4"


def test_the_units_for_bfloat16_of_a_processor_are_found(monkeypatch):
    for units in (("_is_amx_tile_supported",), ("_is_avx512_bf16_supported",), ()):
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda name=name, units=units: name in units)
        assert has_bfloat16_units(CPU) == bool(units)


@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_bfloat16_on_a_cpu_gives_what_a_bfloat16_model_gives_and_leaves_the_model_alone(encoder):
    model = tiny.model(encoder)
    before = {name: p.clone() for name, p in model.named_parameters()}
    video = tiny.video(model, batch=32)
    with torch.no_grad():
        exact = model(video)
        half = in_precision(model, "bfloat16")(video)
        assert half.dtype == torch.bfloat16
        error, expected = ((x.float() - exact).norm() for x in (half, copy.deepcopy(model).bfloat16()(video)))
        assert 0 < error < 2 * expected
        assert bool((in_precision(model, "float32")(video) == exact).all())
    assert all(bool((before[name] == p).all()) and p.dtype == torch.float32 for name, p in model.named_parameters())


def test_auto_means_one_precision_in_training_evaluation_and_prediction(monkeypatch, file):
    """On a CPU float32, also where it has units for bfloat16, so that results do not depend on the processor."""
    monkeypatch.setattr(device_module, "has_bfloat16_units", lambda device: True)
    model = tiny.model()
    exact, auto = (vivit.predict(model, file, precision=name).classes for name in ("float32", "auto"))
    assert auto == exact
    assert not uses_bfloat16(CPU)
    for units in (True, False):
        monkeypatch.setattr(device_module, "has_bfloat16_units", lambda device, units=units: units)
        assert uses_bfloat16(torch.device("cuda")) == units
        assert uses_bfloat16(torch.device("cuda"), "bfloat16")


def test_precisions_agree_and_the_views_are_averaged_whatever_goes_through_together(file):
    model = tiny.model()
    exact = dict(vivit.predict(model, file, precision="float32").classes["label"])
    half = dict(vivit.predict(model, file, precision="bfloat16").classes["label"])
    assert half == pytest.approx(exact, abs=0.02)


def test_uniformly_sampled_frames_have_temporal_positions_too(file):
    model = tiny.model(tokenizer="uniform_frames", tubelet_size=(1, 8, 8), num_frames=8, sampled_frames=3)
    assert vivit.predict(model, file).classes["label"]


@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_views_of_model_2_that_overlap_go_together_and_others_one_by_one(encoder, tmp_path, monkeypatch):
    model = tiny.model(encoder)
    batches = []
    model.register_forward_hook(lambda module, args, out: batches.append(len(args[0])))
    for frames, together in ((6, [12]), (200, [1] * 12)):
        batches.clear()
        write_video(tmp_path / "video.mp4", render(0, "val", 0, num_frames=frames, size=(32, 40))[0])
        prediction = vivit.predict(model, tmp_path / "video.mp4", precision="float32")
        assert batches == (together if encoder == "factorised_encoder" else [1] * 12)
        with monkeypatch.context() as m:
            m.setattr("vivit.prediction.overlap", lambda model, views: False)
            apart = vivit.predict(model, tmp_path / "video.mp4", precision="float32")
        assert dict(prediction.classes["label"]) == pytest.approx(dict(apart.classes["label"]), abs=1e-5)


def test_predict_takes_the_options_for_fewer_tokens_and_gives_what_the_shortened_model_gives(
    monkeypatch, file, tmp_path, capsys
):
    model = tiny.model("spatiotemporal")
    folder = str(model.save_pretrained(tmp_path / "weights"))
    command = ["vivit", "predict", folder, str(file), "--device", "cpu", "--precision", "float32", "--json"]
    options = {"merge_tokens": 3, "drop_static": 0.1}
    shown = []
    for given in ([], ["--merge-tokens", "3", "--drop-static", "0.1"]):
        monkeypatch.setattr("sys.argv", [*command, *given])
        cli.main()
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0] == vivit.predict(model, file, precision="float32").to_dict()
    assert shown[1] == vivit.predict(vivit.shorten(model, **options), file, precision="float32").to_dict()
    assert shown[0] != shown[1]


def test_predict_refuses_fewer_tokens_for_another_encoder(monkeypatch, file, tmp_path, capsys):
    tiny.model("factorised_encoder").save_pretrained(tmp_path / "weights")
    monkeypatch.setattr("sys.argv", ["vivit", "predict", str(tmp_path / "weights"), str(file), "--merge-tokens", "3"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "this model is factorised_encoder" in capsys.readouterr().err
