"""The table of models against the paper's: parameters of the official code, multiply-adds of table 2."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from vivit.cli.info import Info, info
from vivit.model.cost import count_cost
from vivit.model.vivit import ViViT
from vivit.presets import PRESETS, preset

CLASSES = {"label": tuple(f"class {i}" for i in range(400))}
# name, fields beside it, parameters in millions, multiply-adds in 10^9
PAPER = [
    ("ViViT-B/16x2", {}, 88.954, 455.2),
    ("ViViT-B/16x2 FE", {}, 115.063, 284.4),
    ("ViViT-B/16x2 FE", {"temporal_depth": 0}, 86.7, 283.9),
    ("ViViT-B/16x2 FSA", {}, 117.319, 372.3),
    ("ViViT-B/16x2 FDP", {}, 88.952, 277.1),
]


@pytest.mark.parametrize(("name", "fields", "parameters", "multiply_adds"), PAPER)
def test_parameters_and_multiply_adds_are_the_papers(name, fields, parameters, multiply_adds):
    *parts, total = count_cost(preset(name, classes=CLASSES, **fields))
    decimals = len(str(parameters).split(".")[1])
    assert round(total.parameters / 1e6, decimals) == parameters
    assert total.multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.01)
    assert sum(part.parameters for part in parts) == total.parameters
    assert sum(part.multiply_adds for part in parts) == total.multiply_adds


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_model(name):
    with torch.device("meta"):
        model = ViViT(preset(name, classes={"label": ("a", "b")}))
    assert model.head.weight.shape == (2, model.config.embed_dim)


def test_patch_size_and_tubelet_depth_are_read_from_the_name():
    assert preset("ViViT-L/32x4 FE", image_size=(64, 64)).tubelet_size == (4, 32, 32)


@pytest.mark.parametrize("name", ["ViViT-B/16x2 FF", "ViViT-X/16x2", "vit_base", ""])
def test_an_unknown_preset_says_the_pattern(name):
    with pytest.raises(ValueError, match="the pattern is 'ViViT-<size>/<patch>x<depth>"):
        preset(name)


def test_a_preset_that_is_almost_right_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'ViViT-B/16x2 FE'"):
        preset("ViViT-B/16x2 EF")


def test_counting_computes_and_allocates_nothing():
    class OnlyMeta(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.numel() > 3:
                assert result.is_meta, func
            return result

    with OnlyMeta():
        count_cost(preset("ViViT-Ti/16x2 FE", classes=CLASSES))


def test_info_prints_one_line_per_part():
    lines = info(Info("ViViT-Ti/16x2 FE", num_frames=8, image_size=(32, 64))).splitlines()
    assert "tokens 4 x 2 x 4" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == [
        "tokenizer",
        "encoder.spatial",
        "encoder.temporal",
        "head",
        "total",
    ]
