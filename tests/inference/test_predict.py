"""In which precision a prediction is computed."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import vivit
from vivit import cli
from vivit.data.tools.synthetic import render, write_video
from vivit.engine import device as device_module
from vivit.engine.device import has_bfloat16_units, in_precision, uses_bfloat16
from vivit.errors import WeightsError
from vivit.model.rollout import attention_maps

from ..model import tiny

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


@pytest.mark.parametrize(("precision", "said"), [("auto", ""), ("float32", ""), ("bfloat16", "computing in bfloat16")])
def test_predict_says_when_it_takes_bfloat16_which_a_cpu_does_only_when_asked(
    precision, said, monkeypatch, file, tmp_path, capsys
):
    """As training and evaluation do, so that their numbers agree whatever units the processor has."""
    monkeypatch.setattr(device_module, "has_bfloat16_units", lambda device: True)
    folder = str(tiny.model().save_pretrained(tmp_path / "weights"))
    command = ["vivit", "predict", folder, str(file), "--device", "cpu", "--precision", precision]
    monkeypatch.setattr("sys.argv", command)
    cli.main()
    out, err = capsys.readouterr()
    assert str(file) in out
    assert err.startswith(said)
    assert bool(err) == bool(said)


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


@pytest.mark.parametrize("read", [vivit.predict, vivit.timeline, vivit.features, vivit.evaluate])
@pytest.mark.parametrize("precision", ["bf16", "half", "fp16", None, torch.bfloat16])
def test_an_unknown_precision_is_refused_with_what_is_allowed(read, precision, file):
    source = [vivit.Sample(str(file), {"label": "a"})] if read is vivit.evaluate else file
    with pytest.raises(
        ValueError, match=r"precision is .*; (did you mean 'bfloat16'|allowed: auto, bfloat16, float32)"
    ):
        read(tiny.model(), source, precision=precision)


@pytest.mark.parametrize("top_k", [0, -1])
def test_fewer_than_one_class_is_refused(top_k, file):
    with pytest.raises(ValueError, match=f"top_k is {top_k}; it is the number of classes, at least 1"):
        vivit.predict(tiny.model(), file, temporal_views=1, spatial_views=1, top_k=top_k)


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
            m.setattr("vivit.inference.predict.views_overlap", lambda model, views: False)
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
    assert shown[1] == vivit.predict(vivit.reduce_tokens(model, **options), file, precision="float32").to_dict()
    assert shown[0] != shown[1]


def test_predict_refuses_fewer_tokens_for_another_encoder(monkeypatch, file, tmp_path, capsys):
    tiny.model("factorised_encoder").save_pretrained(tmp_path / "weights")
    monkeypatch.setattr("sys.argv", ["vivit", "predict", str(tmp_path / "weights"), str(file), "--merge-tokens", "3"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "this model is factorised_encoder" in capsys.readouterr().err


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("encoder", tiny.NAMES)
def test_threads_that_share_a_model_get_what_one_thread_gets_and_leave_the_model_alone(
    encoder, precision, training, file
):
    model = tiny.model(encoder, dropout=0.3, drop_path=0.3).train(training)
    model.head.eval()  # one module in another mode than the rest
    modes = [module.training for module in model.modules()]
    clip = tiny.video(model, batch=1)

    def ask(i: int):
        if i % 3 == 0:
            maps = attention_maps(model, clip)
            return maps.space.tolist(), maps.time.tolist()
        return vivit.predict(model, file, temporal_views=1 + i % 2, spatial_views=1, precision=precision).to_dict()

    alone = [ask(i) for i in range(6)]
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(ask, range(24))] == alone * 4
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error_that_names_the_video_and_the_weights(
    bad, file, tmp_path, monkeypatch, capsys
):
    model = tiny.model()
    with torch.no_grad():
        model.head.bias[0] = bad
    with pytest.raises(WeightsError, match="video.mp4: no prediction, because 1 of the"):
        vivit.predict(model, file)
    monkeypatch.setattr("vivit.engine.evaluate.load_weights", lambda source: model)
    monkeypatch.setattr("sys.argv", ["vivit", "predict", "some/weights", str(file), "--json", "--precision", "float32"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    out, err = capsys.readouterr()
    assert out == ""
    assert "some/weights" in err
    assert "video.mp4" in err


def test_of_equal_logits_the_first_class_comes_first(file):
    model = tiny.model(classes={"label": tuple(f"class {i}" for i in range(40))})
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    top = vivit.predict(model, file, top_k=7, precision="float32").classes["label"]
    assert [name for name, _ in top] == [f"class {i}" for i in range(7)]


def test_a_prediction_is_printed_without_the_escape_sequences_in_its_names(file):
    model = tiny.model(classes={"label": ("\x1b[2Jred", "b\nlue")})
    shown = str(vivit.predict(model, file, precision="float32"))
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 3
