"""Settings: what is allowed, what is said when it is not, and the trip through JSON."""

import ast
import inspect
import json
import re
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

from vivit.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    Preprocessing,
    differences,
    from_dict,
    replace,
    to_dict,
)
from vivit.recipes import RECIPES
from vivit.settings import OLD_NAMES


def through_json(config):
    return from_dict(type(config), json.loads(json.dumps(to_dict(config))))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_equal_after_a_trip_through_json(name):
    config = RECIPES[name]()
    assert through_json(config) == config


def test_a_config_with_every_kind_of_value_is_equal_after_a_trip_through_json():
    config = Config(
        model=ModelConfig(
            classes={"verb": ("läuft", "steht"), "noun": ("a",)},
            tokenizer="uniform_frames",
            tubelet_size=(1, 16, 16),
            sampled_frames=5,
            preprocessing=Preprocessing(clip_seconds=2.5, std=(0.1, 0.2, 0.3)),
        ),
        data=DataConfig(workers=0),
        augment=AugmentConfig(scale_jitter=(1.0, 1.0)),
        optim=OptimConfig(grad_clip=None),
        init="weights.safetensors",
    )
    assert through_json(config) == config
    assert asdict(through_json(config)) == asdict(config)


def test_paths_and_numbers_of_numpy_are_the_same_settings_as_text_and_numbers():
    given = Config(data=DataConfig(Path("mv")), init=Path("init"), run=Path("runs/a"), seed=np.int64(3))
    given = replace(given, optim=OptimConfig(lr=np.float32(0.25)))
    plain = Config(data=DataConfig("mv"), init="init", run="runs/a", seed=3, optim=OptimConfig(lr=0.25))
    assert given == plain
    assert through_json(given) == plain
    assert type(given.data.root) is str
    assert ModelConfig(image_size=[np.int64(64), 32]).image_size == (64, 32)
    assert ModelConfig(image_size=64).image_size == (64, 64)


def test_the_config_of_a_run_of_an_earlier_version_loads_with_the_new_names():
    old = json.loads((Path(__file__).parent / "golden" / "old_run" / "config.json").read_text())
    config = from_dict(Config, old)
    assert (config.final_weights, config.linear_probe, config.keep_checkpoints) == ("best", True, 3)
    assert config.parallel == ParallelConfig(strategy="fsdp", micro_batch=4, compile=False)
    assert config.augment == AugmentConfig(
        mixup=0.2,
        cutmix=1.0,
        repeats=2,
        color_jitter=0.8,
        grayscale=0.3,
        random_erasing=0.25,
    )
    assert config.optim.max_nonfinite_steps == 7
    assert through_json(config) == config
    untouched = {"model", "data", "eval", "init", "kernel_init", "run", "seed", "precision"}
    assert {name: to_dict(config)[name] for name in untouched} == {
        name: from_json(Config, name, old[name]) for name in untouched
    }


def from_json(cls, name, value):
    """The field as `to_dict` gives it: JSON has no tuples."""
    return to_dict(from_dict(cls, {name: value}))[name]


def test_a_setting_has_only_its_new_name_outside_of_files():
    with pytest.raises(ValueError, match="unknown setting 'probe'"):
        replace(Config(), probe=True)


def test_every_old_name_stands_for_a_setting_that_exists():
    classes = {cls.__name__: cls for cls in (Config, ParallelConfig, AugmentConfig, OptimConfig)}
    assert {*OLD_NAMES} == {*classes}
    for name, renamed in OLD_NAMES.items():
        settings = {f.name for f in fields(classes[name])}
        assert {*renamed.values()} <= settings
        assert not {*renamed} & settings


def settings_without_help(cls):
    body = next(node for node in ast.walk(ast.parse(inspect.getsource(cls))) if isinstance(node, ast.ClassDef)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(node, ast.AnnAssign) and not documented:
            yield ast.unparse(node.target)


def test_every_setting_has_a_help_text():
    classes = (Preprocessing, ModelConfig, DataConfig, AugmentConfig, OptimConfig, EvalConfig, ParallelConfig, Config)
    assert [(cls.__name__, name) for cls in classes for name in settings_without_help(cls)] == []


def test_missing_keys_take_the_defaults():
    assert from_dict(Config, {"optim": {"lr": 0.3}}) == Config(optim=OptimConfig(lr=0.3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: replace(ModelConfig(), num_head=3), "unknown setting 'num_head'; did you mean 'num_heads'?"),
        (lambda: from_dict(Config, {"optim": {"bach_size": 1}}), "unknown setting 'optim.bach_size'; did you mean"),
        (
            lambda: from_dict(Config, {"zzz": 1}),
            "unknown setting 'zzz'; allowed: augment, budget, data, deterministic",
        ),
        (lambda: ModelConfig(encoder="factorized_encoder"), "did you mean 'factorised_encoder'?"),
        (lambda: Config(precision="float16"), "precision is 'float16'"),
        (lambda: EvalConfig(spatial_views=2), "spatial_views is 2; allowed: 1, 3"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 31}, "tubelet depth 2 does not divide num_frames 31; use num_frames 30 or 32"),
        ({"image_size": (230, 224)}, "tubelet height 16 does not divide image height 230; use image height 224 or 240"),
        ({"image_size": (224, 7)}, "tubelet width 16 does not divide image width 7; use image width 16"),
        ({"embed_dim": 100}, "num_heads 12 does not divide embed_dim 100; use embed_dim 96 or 108"),
        ({"encoder": "factorised_self_attention"}, "use pool='mean'"),
        ({"encoder": "factorised_dot_product", "pool": "mean", "num_heads": 3}, "num_heads 3 is odd"),
        ({"norm_after_pool": True}, "it belongs to pool='mean'"),
        ({"tokenizer": "uniform_frames"}, "needs sampled_frames between 1 and num_frames=32, got None"),
        ({"tokenizer": "uniform_frames", "sampled_frames": 33}, "got 33"),
        ({"tokenizer": "uniform_frames", "sampled_frames": 8}, "use tubelet_size=(1, 16, 16), got (2, 16, 16)"),
        ({"sampled_frames": 8}, "belongs to tokenizer='uniform_frames'"),
        ({"tubelet_size": (0, 16, 16)}, "tubelet_size is (0, 16, 16); it is (frames, H, W), whole numbers above 0"),
        ({"tubelet_size": 16}, "tubelet_size is 16; it is (frames, H, W), whole numbers above 0"),
        ({"image_size": (64,)}, "image_size is (64,); it is (H, W), whole numbers above 0"),
        ({"num_frames": 8.0}, "num_frames is 8.0; it is a whole number"),
        ({"depth": 0}, "depth is 0; it must be above 0"),
        ({"temporal_depth": -1}, "temporal_depth is -1"),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be in [0, 1)"),
        ({"classes": {"verb": ("run", "sit", "run")}}, "'verb' has 'run' more than once"),
        ({"classes": {"verb": ()}}, "'verb' has no class"),
        ({"classes": {0: "run", 1: "jump"}}, "classes maps 0 to 'run'; it maps the name of each label set to a list"),
        ({"classes": {"verb": (0, 1)}}, "classes maps 'verb' to (0, 1); it maps"),
        ({"classes": {"all": ("a", "b")}}, "'all' is the name of all label sets together"),
    ],
)
def test_values_that_do_not_belong_together_are_an_error_that_says_what_does(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ModelConfig(**values)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: OptimConfig(lr=0),
        lambda: OptimConfig(warmup_epochs=30, epochs=30),
        lambda: OptimConfig(label_smoothing=1),
        lambda: OptimConfig(weight_decay=-0.1),
        lambda: OptimConfig(momentum=1.0),
        lambda: AugmentConfig(scale_jitter=(1.2, 1.0)),
        lambda: AugmentConfig(flip=1.1),
        lambda: AugmentConfig(mixup=-0.1),
        lambda: AugmentConfig(rand_augment_magnitude=31),
        lambda: AugmentConfig(repeats=0),
        lambda: DataConfig(workers=-1),
        lambda: EvalConfig(temporal_views=0),
        lambda: Preprocessing(crop_fraction=0),
        lambda: Preprocessing(std=(0.5, 0.0, 0.5)),
        lambda: Preprocessing(clip_seconds=-1),
        lambda: Config(seed=-1),
        lambda: Config(log_every=0),
    ],
)
def test_values_out_of_range_are_an_error(wrong):
    with pytest.raises(ValueError, match=r" is .*; "):
        wrong()


def test_differences_names_each_differing_field_with_both_values():
    a = Config()
    b = replace(a, seed=3, optim=replace(a.optim, lr=0.2))
    assert differences(a, a) == []
    assert differences(a, b) == ["optim.lr: 0.1 -> 0.2", "seed: 0 -> 3"]


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ({}, (16, 14, 14)),
        ({"tubelet_size": (4, 16, 8), "image_size": (96, 64)}, (8, 6, 8)),
        ({"tokenizer": "uniform_frames", "tubelet_size": (1, 16, 16), "sampled_frames": 7}, (7, 14, 14)),
    ],
)
def test_the_token_grid_counts_tubelets(values, grid):
    assert ModelConfig(**values).grid == grid
