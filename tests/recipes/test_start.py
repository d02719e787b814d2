"""Recipes that are meant to start from trained weights say so where there are none."""

import pytest

from vivit.config import replace
from vivit.recipes import RECIPES, missing_start


@pytest.mark.parametrize("name", RECIPES)
def test_only_a_recipe_with_init_in_its_command_asks_for_weights(name, tmp_path):
    config = RECIPES[name]()
    config = replace(config, run=str(tmp_path / "run"), data=replace(config.data, root="my videos"))
    said = missing_start(name, config)
    assert bool(said) == (name != "demo")
    if said:
        assert f"With weights: vivit train {name} --data.root 'my videos' --init " in said
    assert not missing_start(name, replace(config, init="vit.safetensors"))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # a run that resumes
    assert not missing_start(name, config)
