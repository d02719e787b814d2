"""Pixels as the processors of transformers make them: mean, std and crop, from every file that holds them."""

import json

import numpy as np
import pytest
import torch
import transformers as T

import vivit
from vivit.weights.huggingface import read_processor

from .test_contradictions import save

PROCESSORS = ("CLIPImageProcessor", "BitImageProcessor", "ViTImageProcessor", "DeiTImageProcessor")
PROCESSORS += ("SiglipImageProcessor", "DINOv3ViTImageProcessor", "VideoMAEImageProcessor")
VIDEO_PROCESSORS = ("VideoMAEVideoProcessor", "VJEPA2VideoProcessor", "VivitVideoProcessor")


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_a_file_leaves_out_is_what_its_processor_does(name):
    """A file with nothing but the type, against the processor of that type, on grey frames of its own size."""
    processor = getattr(T, name)()
    fields, notes = read_processor("here", {"image_processor_type": name})
    pixels = np.full((3, 300, 400), 77, np.uint8)
    theirs = torch.as_tensor(np.asarray(processor(pixels, return_tensors="np")["pixel_values"][0]))
    theirs = theirs.reshape(-1, 3, *theirs.shape[-2:])[0, :, 5, 5].float()
    ours = (77 / 255 - torch.tensor(fields["mean"])) / torch.tensor(fields["std"])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert any("does not say both" in note for note in notes)


@pytest.mark.filterwarnings("ignore:.*maps pixels to .-3, 1")  # which test_video_models has
@pytest.mark.parametrize("name", [*PROCESSORS, *VIDEO_PROCESSORS])
def test_the_crop_is_that_of_the_saved_processor(name, tmp_path):
    processor = getattr(T, name)()
    processor.save_pretrained(tmp_path)
    (file,) = tmp_path.iterdir()
    fields, _ = read_processor("here", json.loads(file.read_text()))
    size = dict(processor.size)
    side = size.get("shortest_edge") or size["height"]
    expected = processor.crop_size["height"] / side if getattr(processor, "do_center_crop", None) else 1.0
    assert fields["crop_fraction"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, 0.875),
        ({"size": 224, "do_center_crop": True}, 1.0),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": False}, 1.0),
        ({"size": {"height": 224, "width": 224}}, 1.0),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 192, "width": 192}}, 0.75),
        ({}, None),
    ],
)
def test_the_crop_fraction_of_settings_of_every_age(settings, expected):
    assert read_processor("here", settings)[0].get("crop_fraction") == expected


def test_mean_and_std_keep_their_digits():
    fields, _ = read_processor(
        "here", {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954] * 3}
    )
    assert fields["mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert fields["std"] == (0.26862954,) * 3


def test_an_offset_means_nothing_to_other_processors_than_vivits():
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "offset": True}
    assert read_processor("here", grey | {"image_processor_type": "ViTImageProcessor"})[0]["mean"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("part", ["image_processor", "video_processor"])
def test_a_processor_inside_the_common_file_is_read_and_comes_first(part, tmp_path):
    save("vit", tmp_path)
    inner = {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "rescale_factor": 1 / 255}
    (tmp_path / "processor_config.json").write_text(json.dumps({part: inner, "processor_class": "AnyProcessor"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(inner | {"image_mean": [0.9] * 3}))
    assert vivit.from_pretrained(tmp_path).config.preprocessing.mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("kind", "mean"),
    [("vit", 0.5), ("vivit", 0.5), ("dinov2", 0.485), ("dinov3", 0.485), ("videomae", 0.485), ("vjepa2", 0.485)],
)
def test_without_any_processor_pixels_are_the_usual_ones_and_the_report_says_so(kind, mean, tmp_path):
    save(kind, tmp_path)
    model = vivit.from_pretrained(tmp_path)
    assert model.config.preprocessing.mean[0] == mean
    assert any(note.startswith(f"pixels: mean ({mean}, ") for note in model.load_report.notes)
