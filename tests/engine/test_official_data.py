"""Each dataset as its owners ship it: two steps of training and a test, with the official classes in the weights."""

import json
import math

import pytest

from vivit.config import Config, replace
from vivit.data.datasets.registry import official_classes, read_samples
from vivit.engine.evaluate import evaluate_weights
from vivit.engine.train import train
from vivit.weights.load import from_pretrained

from ..data.datasets.official import MINIATURES, epic_kitchens
from ..data.datasets.test_epic_kitchens import to_frames
from .tiny import losses, quick, tiny_config, with_data


def frames(root):
    epic_kitchens(root)
    to_frames(root)


LAYOUTS = {dataset: (dataset, make) for dataset, make in MINIATURES.items()}
LAYOUTS["epic_kitchens as frames"] = ("epic_kitchens", frames)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_official_layout_trains_two_steps_and_is_evaluated(layout, tmp_path):
    dataset, make = LAYOUTS[layout]
    root = tmp_path / "data"
    make(root)
    number = len(read_samples(dataset, str(root), "train"))
    config: Config = with_data(tiny_config(root, tmp_path / "run"), dataset=dataset)
    config = quick(config, epochs=2 * 2 / number, batch_size=2, warmup_epochs=0)
    run = train(config)
    assert [math.isfinite(loss) for loss in losses(run)] == [True, True]
    classes = official_classes(dataset, str(root))
    assert from_pretrained(run / "weights").config.classes == classes
    evaluate_weights(str(run), replace(config, run=""))
    results = json.loads((run / "results.json").read_text())
    assert (results["videos"], results["missing"]) == (2, 0)
