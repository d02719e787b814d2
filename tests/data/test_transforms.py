"""Crops and sizes against torchvision, frame by frame."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vivit.data.transforms import (
    Box,
    center_box,
    crop,
    draw_train_crop,
    eval_boxes,
    has_direction,
    random_box,
    resize_for_eval,
    shuffle_frames,
)

SIZES = [(48, 64), (64, 48), (40, 40), (17, 90), (90, 17), (300, 20)]  # of the video
IMAGE_SIZES = [(32, 32), (16, 48)]  # of the model


def noise(t, height, width):
    return torch.randint(0, 256, (t, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_frame_of_a_training_clip_gets_the_same_torchvision_crop(height, width, image_size):
    clip = noise(3, height, width)
    how = {"image_size": image_size, "crop_fraction": 0.875, "scale_jitter": (0.9, 1.33)}
    for seed in range(4):
        box, fit = draw_train_crop(height, width, **how, flip=0.5, rng=np.random.default_rng(seed))
        got = fit(crop(clip, box))
        rng = np.random.default_rng(seed)
        top, left, h, w = random_box(height, width, **how, rng=rng)
        reference = v2.Compose(
            [
                v2.Lambda(lambda x, box=(top, left, h, w): F.crop(x, *box)),
                v2.Resize(list(image_size), antialias=True),
                v2.RandomHorizontalFlip(p=float(rng.uniform() < 0.5)),
            ]
        )
        assert got.dtype == torch.uint8
        torch.testing.assert_close(got, torch.stack([reference(frame) for frame in clip]), atol=0, rtol=0)


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize(("height", "width"), [*SIZES, (1, 1), (2, 1000)])
def test_random_boxes_stay_inside_the_frame_and_reach_all_of_it(height, width, image_size):
    rng = np.random.default_rng(0)
    seen = np.zeros((height, width), bool)
    for _ in range(2000):
        box = random_box(height, width, image_size=image_size, crop_fraction=0.8, scale_jitter=(0.5, 4.0), rng=rng)
        assert 0 <= box.top <= box.top + box.height <= height
        assert 0 <= box.left <= box.left + box.width <= width
        assert min(box.height, box.width) > 0
        seen[box.top : box.top + box.height, box.left : box.left + box.width] = True
    assert seen.mean() > 0.5


def test_a_random_box_has_the_models_aspect_and_the_drawn_scale():
    rng = np.random.default_rng(0)
    fixed = {"crop_fraction": 0.875, "scale_jitter": (1.0, 1.0)}
    for _ in range(20):  # resized to a short side of 256, 224 x 224 are cut out
        box = random_box(512, 900, image_size=(224, 224), **fixed, rng=rng)
        assert (box.height, box.width) == (448, 448)
    shares = [
        random_box(10_000, 20_000, image_size=(224, 224), crop_fraction=0.875, scale_jitter=(0.9, 1.33), rng=rng).height
        for _ in range(2000)
    ]
    assert max(shares) == pytest.approx(8750 / 0.9, rel=0.01)
    assert min(shares) == pytest.approx(8750 / 1.33, rel=0.01)


def test_flipping_happens_as_often_as_asked():
    clip = noise(1, 32, 32)
    how = {"image_size": (32, 32), "crop_fraction": 1.0, "scale_jitter": (1.0, 1.0)}
    results = [
        draw_train_crop(32, 32, **how, flip=0.3, rng=np.random.default_rng(seed))[1](clip) for seed in range(500)
    ]
    flipped = [bool((r == clip.flip(-1)).all()) for r in results]
    assert all(f or bool((r == clip).all()) for f, r in zip(flipped, results))
    assert 0.2 < np.mean(flipped) < 0.4


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_test_frames_are_resized_so_that_the_crop_covers_its_fraction(height, width, image_size):
    clip = noise(2, height, width)
    got = resize_for_eval(clip, image_size=image_size, crop_fraction=0.5)
    scale = [g / h for g, h in zip(got.shape[-2:], (height, width))]
    assert scale[0] == pytest.approx(scale[1], abs=0.6 / min(height, width))
    covered = max(want / have for want, have in zip(image_size, got.shape[-2:]))
    assert covered == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(got, v2.Resize(list(got.shape[-2:]), antialias=True)(clip), atol=0, rtol=0)
    pillow = Image.fromarray(clip[0].permute(1, 2, 0).numpy()).resize(got.shape[:-3:-1], Image.Resampling.BILINEAR)
    torch.testing.assert_close(got[0], torch.from_numpy(np.array(pillow)).permute(2, 0, 1), atol=1, rtol=0)


def test_a_video_of_the_models_size_is_not_touched_when_the_crop_is_all_of_it():
    clip = noise(2, 32, 48)
    torch.testing.assert_close(resize_for_eval(clip, image_size=(32, 48), crop_fraction=1.0), clip)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (256, 340, [(16, 0), (16, 58), (16, 116)]),  # wide: left, centre, right
        (340, 256, [(0, 16), (58, 16), (116, 16)]),  # tall: top, centre, bottom
        (256, 256, [(16, 0), (16, 16), (16, 32)]),  # square: left, centre, right
        (224, 224, [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_three_crops_lie_at_both_ends_and_the_centre_of_the_longer_side(height, width, expected):
    boxes = eval_boxes(height, width, image_size=(224, 224), views=3)
    assert boxes == [Box(top, left, 224, 224) for top, left in expected]
    assert eval_boxes(height, width, image_size=(224, 224), views=1) == [boxes[1]]


@pytest.mark.parametrize(("height", "width"), [(256, 341), (257, 300), (224, 999)])
def test_the_centre_crop_is_torchvisions_up_to_half_a_pixel(height, width):
    frame = noise(1, height, width)
    (box,) = eval_boxes(height, width, image_size=(224, 224), views=1)
    shifted = [Box(box.top - dy, box.left - dx, 224, 224) for dy in (0, 1) for dx in (0, 1)]
    center = v2.CenterCrop(224)(frame)
    assert any(crop(frame, b).shape == center.shape and bool((crop(frame, b) == center).all()) for b in shifted)


def test_shuffling_keeps_the_frames_and_changes_their_order():
    clip = torch.arange(16).view(16, 1, 1, 1)
    shuffled = [shuffle_frames(clip, np.random.default_rng(seed)).flatten().tolist() for seed in range(5)]
    assert all(sorted(order) == list(range(16)) for order in shuffled)
    assert len({tuple(order) for order in shuffled}) == 5
    assert shuffle_frames(clip, np.random.default_rng(0)).flatten().tolist() == shuffled[0]


def test_videos_whose_class_says_left_or_right_are_directed():
    classes = {
        "action": ("Pushing something from left to right", "Putting something upright", "turn_left", "Leftover food"),
        "light": ("dark", "Right-handed"),
    }
    labels = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [1, 1]])
    assert has_direction(labels, classes).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("size", [*SIZES, (1080, 1920), (2160, 3840), (720, 300), (100, 1600), (1600, 100), (1, 1)])
def test_the_middle_part_of_a_usual_frame_is_all_of_it(size):
    assert center_box(*size, image_size=(224, 224)) == Box(0, 0, *size)


def test_the_middle_part_of_a_thin_frame_is_16_times_as_long_as_the_models():
    assert center_box(2, 1920, image_size=(224, 224)) == Box(0, 944, 2, 32)
    assert center_box(1920, 2, image_size=(224, 224)) == Box(944, 0, 32, 2)
    assert center_box(10, 1000, image_size=(32, 64)) == Box(0, 340, 10, 320)
