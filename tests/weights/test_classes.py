"""What `classes` of create and from_pretrained may be."""

import numpy as np
import pandas
import pytest

import vivit
from vivit.config import replace

from .models import CONFIGS

WITHOUT = replace(CONFIGS["model 2"], classes={})


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["run", "jump"], {"label": ("run", "jump")}),
        (3, {"label": ("0", "1", "2")}),
        (np.int64(2), {"label": ("0", "1")}),
        ([0, 1, 2], {"label": ("0", "1", "2")}),
        (np.array([7, 3]), {"label": ("7", "3")}),
        (pandas.Series(["run", "jump", "run"]).unique(), {"label": ("run", "jump")}),
        ({"noun": np.array([0, 1]), "verb": ("take",)}, {"noun": ("0", "1"), "verb": ("take",)}),
        ({"noun": ["ball", "cup"], "verb": ["take"]}, {"noun": ("ball", "cup"), "verb": ("take",)}),
        ({}, {}),
    ],
)
def test_classes_are_a_list_a_number_or_label_sets(classes, expected):
    model = vivit.create(WITHOUT, classes=classes)
    assert model.config.classes == expected
    assert model.head.out_features == sum(map(len, expected.values()))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, 'which classes. pass classes=."run", "jump".'),
        (0, "classes is 0; a number of classes is 1 or more"),
        ("run", r"classes is 'run'; pass a list of class names, \['run'\]"),
        ([], "label set 'label' has no class"),
        ({0: "run", 1: "jump"}, r"classes maps 0 to 'run'; .*list\(id2label\.values\(\)\)"),
        ({"run": 0, "jump": 1}, r"classes maps 'run' to 0; "),
        ({"label": {0: "run"}}, r"classes maps 'label' to \{0: 'run'\}; "),
        ({0: ["run", "jump"]}, r"classes maps 0 to .'run', 'jump'."),
        ({"run", "jump"}, "a set has no order"),
        (["run", None], "class names has None; names are text or whole numbers"),
        (["run", 1.5], "class names has 1.5"),
        ([True, False], "class names has True"),
        (2.0, "classes is 2.0; pass a list of class names"),
    ],
)
def test_no_classes_are_an_error_that_shows_how_to_pass_them(classes, message):
    with pytest.raises(ValueError, match=message):
        vivit.create(WITHOUT, classes=classes)


@pytest.mark.parametrize("classes", [{0: "run", 1: "jump", 2: "sit"}, {"run": 0, "jump": 1, "sit": 2}])
def test_an_id2label_does_not_replace_a_trained_head(classes, tmp_path):
    vivit.create(CONFIGS["model 2"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="classes maps"):
        vivit.from_pretrained(tmp_path, classes=classes)


def test_a_video_model_brings_its_classes_and_from_pretrained_takes_a_list(tmp_path):
    vivit.create(CONFIGS["model 2"]).save_pretrained(tmp_path)
    assert vivit.create(WITHOUT, init=tmp_path).config.classes == CONFIGS["model 2"].classes
    assert vivit.from_pretrained(tmp_path, classes=["run", "sit"]).config.classes == {"label": ("run", "sit")}
