"""The public names of `import vivit`."""

import json
import subprocess
import sys

import pandas
import pytest
import torch

import vivit
from vivit.config import Config, EvalConfig, ModelConfig, OptimConfig, Preprocessing, to_dict
from vivit.data.sample_table import SampleTable
from vivit.data.tools.synthetic import render, write_video
from vivit.engine.evaluate import evaluate as evaluate_samples

from .model import tiny

PROTOCOL = EvalConfig(temporal_views=1, spatial_views=1)


@pytest.fixture
def videos(tmp_path):
    """Write a folder with two validation videos of each of the classes a and b."""
    for i, name in enumerate("aabb"):
        folder = tmp_path / "videos" / "val" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{i}.mp4", render(0, "val", i, num_frames=8)[0])
    return tmp_path / "videos"


def page(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200).stdout


def test_help_of_the_package_is_a_page_with_the_main_functions_and_no_warning():
    text = page("import vivit; help(vivit)")
    for name in vivit.__all__:
        assert f"\n    {name}(" in text
    assert "__getattr__" not in text
    assert "torch.nn.modules.module" not in text  # no class with all that it inherits
    assert len(text.splitlines()) <= 215


def test_every_public_name_is_in_dir_and_resolves_and_nothing_else_is():
    names = [name for name in dir(vivit) if not name.startswith("__")]
    assert set(vivit.__all__) <= set(names)
    assert names == sorted({*vivit._MODULES, *vivit._SUBMODULES})
    assert all(getattr(vivit, name) is not None for name in dir(vivit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vivit.nothing  # noqa: B018


def test_the_docstring_names_every_class_module_and_error():
    missing = [name for name in dir(vivit) if name[0] != "_" and name not in vivit.__all__ + [*vivit.__doc__.split()]]
    assert [name for name in missing if name not in vivit.__doc__] == []


def test_the_version_is_that_of_the_distribution():
    assert vivit.__version__ == page("from importlib.metadata import version; print(version('vivit'), end='')")


def test_errors_have_one_base_class():
    names = ("DataError", "VideoError", "WeightsError", "FolderInUse", "ProcessLost", "Stopped", "WorkerDied")
    kinds = [getattr(vivit, name) for name in names]
    assert all(issubclass(kind, vivit.VivitError) for kind in kinds)
    assert vivit.errors.DataError is vivit.DataError


def test_the_repr_of_a_config_names_only_what_differs_from_the_defaults():
    assert repr(Config()) == "Config()"
    assert repr(Config(seed=1, optim=OptimConfig(lr=0.5))) == "Config(optim=OptimConfig(lr=0.5), seed=1)"
    model = ModelConfig(classes={"a": tuple(map(str, range(400)))}, preprocessing=Preprocessing(frame_stride=4))
    assert "preprocessing=Preprocessing(frame_stride=4)" in repr(model)
    assert len(repr(model)) < 200


def test_models_evaluations_and_tables_are_shown_in_one_short_line(videos):
    model = tiny.model(classes={"label": ("a", "b")})
    result = vivit.evaluate(model, videos, protocol=PROTOCOL)
    table = SampleTable.of([vivit.Sample("x.mp4", {"verb": "run"}), vivit.Sample("y.mp4", {"verb": "jump"})])
    assert repr(table) == "SampleTable(2 samples: verb (2 classes))"
    assert repr(model).startswith("ViViT(factorised_encoder: 6 frames of 16x24 pixels → 2 classes; ")
    assert repr(result).startswith("Evaluation(4 videos, 0 missing; top-1 label ")
    for value in (model, result, table):
        assert "\n" not in repr(value)
        assert len(repr(value)) < 120


def test_predict_takes_the_name_of_weights_in_place_of_a_model(videos, tmp_path):
    model = tiny.model()
    folder = model.save_pretrained(tmp_path / "weights")
    file = next(videos.rglob("*.mp4"))
    expected = vivit.predict(model, file)
    assert vivit.predict(folder, file) == expected
    assert vivit.predict(str(folder), file) == expected


def test_evaluate_takes_a_model_or_weights_and_any_form_of_data(videos, tmp_path):
    model = tiny.model(classes={"label": ("a", "b")})
    folder = model.save_pretrained(tmp_path / "weights")
    protocol = EvalConfig(temporal_views=2, spatial_views=1)
    data = vivit.DataConfig(str(videos), workers=0)
    expected = evaluate_samples(model, vivit.evaluate(model, data).samples, protocol=protocol)
    for weights in (model, folder, str(folder)):
        for source in (data, videos, str(videos), expected.samples, Config(data=data, eval=protocol)):
            result = vivit.evaluate(weights, source, protocol=None if isinstance(source, Config) else protocol)
            assert result.multi.equal(expected.multi)
            assert result.accuracy == expected.accuracy
    with pytest.raises(ValueError, match="needs `data`: only a run folder knows its videos"):
        vivit.evaluate(folder)


@pytest.mark.parametrize("kind", ["compiled", "reduced", "reduced and compiled"])
def test_evaluate_takes_compiled_models_and_those_on_fewer_tokens(kind, videos):
    model = tiny.model("spatiotemporal", classes={"label": ("a", "b")})
    if "reduced" in kind:
        model = vivit.reduce_tokens(model, merge_tokens=1)
    samples = vivit.evaluate(model, videos, protocol=PROTOCOL).samples
    expected = [vivit.predict(model, sample, temporal_views=1, spatial_views=1).classes["label"] for sample in samples]
    torch.compiler.reset()
    given = torch.compile(model, backend="eager") if "compiled" in kind else model
    found = vivit.evaluate(given, samples, protocol=PROTOCOL).multi.softmax(dim=1)
    for probabilities, classes in zip(found.tolist(), expected):
        assert probabilities == pytest.approx([dict(classes)[name] for name in "ab"], abs=1e-5)
    with pytest.raises(ValueError, match="needs `data`: only a run folder knows its videos"):
        vivit.evaluate(given)


def test_evaluate_leaves_the_random_numbers_of_the_caller_alone(videos):
    model, before = tiny.model(classes={"label": ("a", "b")}), torch.get_rng_state()
    vivit.evaluate(model, videos, protocol=PROTOCOL)
    assert torch.get_rng_state().equal(before)


def test_evaluate_names_data_that_it_does_not_take():
    samples = [vivit.Sample("x.mp4", {"label": "a"})]
    wrong = {"list of str": ["x.mp4"], "DataFrame": pandas.DataFrame({"path": ["x.mp4"]}), "Sample": samples[0]}
    for name, data in (
        wrong | {"generator": (one for one in samples), "list of tuple": [*samples, ("x", "a")]}
    ).items():
        with pytest.raises(
            ValueError, match=f"data is a {name}; give a folder or table of videos, .* or a list of Sample"
        ):
            vivit.evaluate(tiny.model(), data)


def test_a_run_folder_gives_its_config_metrics_weights_and_results(videos, tmp_path):
    config = Config(model=tiny.config(), data=vivit.DataConfig(str(videos)), run=str(tmp_path / "run"))
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"not the folder of a run: it has no config\.json and no metrics"):
        vivit.load_run(folder)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    (folder / "environment.json").write_text("{}")
    run = vivit.load_run(str(folder))
    assert run.config == config
    assert run.metrics == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert run.results == {}
    with pytest.raises(FileNotFoundError, match="has not finished"):
        _ = run.weights
    weights = tiny.model(classes={"label": ("a", "b")}).save_pretrained(folder / "best")
    (folder / "results.json").write_text('{"videos": 4}')
    run = vivit.load_run(folder)
    assert run.weights == weights
    assert len(repr(run)) < 800
    assert run.results == {"videos": 4}
    result = vivit.evaluate(folder)  # the run's own videos and protocol
    assert (result.protocol, len(result.samples)) == (config.eval, 4)
