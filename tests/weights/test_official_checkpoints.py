"""The official code's checkpoints through the one door, and its initialisation from an image model."""

import re

import numpy as np
import pytest
import torch

import vivit
from vivit.config import replace
from vivit.weights import scenic

from ..parity.official import CASES, GOLDEN, model_config, read_case

IMAGE = GOLDEN / "image_vit"
INITS = sorted(p.parent.name for p in GOLDEN.glob("init_*/case.json"))

# What the file does not say, per case; everything else is read from the tensors.
OVERRIDES = {
    "m1_cls": {},
    "m1_gap_rect": {"encoder": "spatiotemporal"},
    "m1_uniform": {"num_frames": 8},
    "m2_cls": {},
    "m2_gap": {},
    "m2_spatial_only": {"num_frames": 8},
    "m2_uniform": {"num_frames": 8},
    "m3_space_time": {"attention_order": "space_time"},
    "m3_time_space": {"attention_order": "time_space"},
    "m4": {"encoder": "factorised_dot_product"},
    "m4_tubelet4": {"encoder": "factorised_dot_product"},
}


def load_expected(name):
    with np.load(GOLDEN / name / "expected.npz") as arrays:
        expected = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    expected["video"] = expected.pop("video_BTHWC_uint8").movedim(-1, 2)
    return expected


@pytest.mark.parametrize("name", CASES)
def test_an_official_checkpoint_loads_with_only_what_the_file_cannot_say(name):
    case = read_case(name)
    overrides = OVERRIDES[name] | {"image_size": (case["height"], case["width"])}
    model = vivit.from_pretrained(GOLDEN / name / "checkpoint_123", **overrides).eval()
    ignore = {"classes": {}} | ({} if case["attention"] == "factorized_encoder" else {"temporal_depth": 0})
    assert replace(model.config, **ignore) == replace(model_config(case), **ignore)
    expected = load_expected(name)
    with torch.no_grad():
        torch.testing.assert_close(model(expected["video"]), expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_an_official_checkpoint_starts_a_model_of_its_config(name):
    model = vivit.create(model_config(read_case(name)), init=GOLDEN / name / "checkpoint_123").eval()
    expected = load_expected(name)
    with torch.no_grad():
        torch.testing.assert_close(model(expected["video"]), expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_missing_override_is_an_error_that_names_it(name):
    case = read_case(name)
    overrides = OVERRIDES[name] | {"image_size": (case["height"], case["width"])}
    if name == "m1_uniform":  # without num_frames the four frames' positions are not one image's
        del overrides["num_frames"]
        with pytest.raises(ValueError, match="pass num_frames="):
            vivit.from_pretrained(GOLDEN / name / "checkpoint_123", **overrides)
        return
    for missing in overrides:
        given = {key: value for key, value in overrides.items() if key != missing}
        with pytest.raises(ValueError, match=f"pass {missing}="):
            vivit.from_pretrained(GOLDEN / name / "checkpoint_123", **given)


def test_a_frame_size_that_the_positions_do_not_have_is_refused():
    with pytest.raises(ValueError, match="positions do not fit"):
        vivit.from_pretrained(GOLDEN / "m1_cls" / "checkpoint_123", image_size=(48, 24))
    with pytest.raises(ValueError, match="positions do not fit"):
        vivit.from_pretrained(GOLDEN / "m1_cls" / "checkpoint_123", image_size=(32, 32), num_frames=16)


@pytest.mark.parametrize("file", ["checkpoint_0", "vit_original_names.npz"])
def test_an_image_vit_loads_as_a_model_of_one_frame(file):
    sizes = {"image_size": (32, 32)} if file == "checkpoint_0" else {}
    model = vivit.from_pretrained(IMAGE / file, **sizes).eval()
    assert model.config.num_frames == 1
    assert model.config.tubelet_size == (1, 8, 8)
    with np.load(IMAGE / "expected.npz") as expected:
        images, logits = torch.from_numpy(expected["image_BHWC_uint8"]), torch.from_numpy(expected["logits"])
    with torch.no_grad():
        torch.testing.assert_close(model(images.movedim(-1, 1)[:, None]), logits, atol=1e-4, rtol=0)


KERNELS = {
    "central_frame_initializer": "central_frame",
    "average_frame_initializer": "filter_inflation",
    "average_arp_frame_initializer": "arp",
}


@pytest.mark.parametrize("file", ["checkpoint_0", "vit_original_names.npz"])
@pytest.mark.parametrize("name", INITS)
def test_a_video_model_starts_from_an_image_model_as_officially(name, file):
    case = read_case(name)
    config = model_config(case)
    temporal = "image" if config.encoder == "factorised_self_attention" else None
    if case.get("init_temporal_transformer") is False:
        temporal = "random"
    model = vivit.create(
        config,
        init=IMAGE / file,
        kernel_init=KERNELS[case["kernel_init_method"]],
        temporal_init=temporal,
        official=True,
    ).eval()
    expected = scenic.to_vivit(scenic.read_msgpack(GOLDEN / name / "checkpoint_123"))
    before = scenic.to_vivit(scenic.read_msgpack(GOLDEN / name / "before_init"))
    fresh = {key for key in expected if torch.equal(expected[key], before[key])}  # kept their random start
    assert len(fresh) == sum(not re.search("/(key|value)/", n) for n in case["not_initialised_from_image"])
    state = model.state_dict()
    assert set(model.load_report.names("initialised")) == fresh
    for key, value in expected.items():
        if key not in fresh:
            torch.testing.assert_close(
                state[key], value.float(), atol=1e-6, rtol=0, msg=lambda m, key=key: f"{key}: {m}"
            )

    model.load_state_dict({key: before[key] for key in fresh}, strict=False)
    arrays = load_expected(name)
    with torch.no_grad():
        torch.testing.assert_close(model(arrays["video"]), arrays["logits"], atol=1e-4, rtol=0)
