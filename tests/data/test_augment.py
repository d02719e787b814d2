"""Color, RandAugment and erasing against torchvision's operations, and what they share: one draw per clip."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vivit.config import AugmentConfig
from vivit.data import augment
from vivit.data.augment import GEOMETRIC, OFFICIAL, augment_clip, color, erase, rand_augment, recolor, warp


def noise(low=0, high=256, size=(3, 3, 20, 26)):
    return torch.randint(low, high, size, dtype=torch.uint8)


def tall(clip):
    """All frames of a clip as one image (3, T·H, W), as the official code looks at them."""
    return clip.transpose(0, 1).flatten(1, 2)


def done(name, clip, magnitude=15.0, seed=0):
    out = clip.clone()
    rand_augment(out, [name], magnitude, np.random.default_rng(seed))
    return out


def recolored(clip, **change):
    out = clip.clone()
    recolor(out, color(**change))
    return out


def assert_close(a, b, levels):
    assert a.dtype == b.dtype == torch.uint8
    assert (a.int() - b.int()).abs().max() <= levels


def test_brightness_saturation_and_contrast_are_torchvisions_where_nothing_clips():
    clip = noise(90, 150)
    assert_close(recolored(clip, brightness=30.4), (clip.float() + 30.4).round().byte(), 0)
    for factor in (0.6, 1.0, 1.4):
        assert_close(recolored(clip, saturation=factor), F.adjust_saturation(clip, factor), 1)
        assert_close(recolored(clip, contrast=factor), F.adjust_contrast(clip, factor), 1)


def test_hue_turns_the_colour_plane_of_yiq():
    clip = noise(110, 140)
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    for hue in (-0.2, 0.05, 0.2):
        y, i, q = torch.einsum("ij,tjhw->ithw", to_yiq, clip.float())
        angle = torch.tensor(2 * torch.pi * hue)
        turned = torch.complex(i, q) * torch.exp(1j * angle)
        expected = torch.linalg.solve(to_yiq, torch.stack([y, turned.real, turned.imag]).flatten(1))
        expected = expected.unflatten(1, y.shape).transpose(0, 1).round().byte()
        assert_close(recolored(clip, hue=hue), expected, 1)  # sums in another order


def test_all_changes_of_colour_at_once_are_one_after_the_other_where_nothing_clips():
    clip = noise(110, 140)
    steps = {"brightness": -20.0, "saturation": 0.7, "contrast": 1.3, "hue": 0.1}
    expected = clip
    for name, value in steps.items():
        expected = recolored(expected, **{name: value})
    assert_close(recolored(clip, **steps), expected, 2)  # rounded once, there four times


def test_colours_are_cut_off_at_black_and_white():
    clip = torch.tensor([0, 250], dtype=torch.uint8).repeat(2, 3, 4, 2)
    assert recolored(clip, brightness=32.0).unique().tolist() == [32, 255]
    assert recolored(clip, brightness=-32.0).unique().tolist() == [0, 218]


def test_dropped_colour_is_the_grey_level():
    clip = noise()
    out = clip.clone()
    recolor(out, color(), drop=True)
    assert_close(out, F.rgb_to_grayscale(clip, num_output_channels=3), 1)


ENHANCED = 1.8 * 1.5 + 0.1
TORCHVISION = {  # at magnitude 15: the operation on an image, and by how many levels it may differ
    "identity": (lambda x: x, 0),
    "auto_contrast": (F.autocontrast, 0),
    "equalize": (F.equalize, 0),
    "invert": (F.invert, 0),
    "posterize": (lambda x: F.posterize(x, 6), 0),
    "solarize": (lambda x: x, 0),
    "color": (lambda x: F.adjust_saturation(x, ENHANCED), 3),  # which cuts off the grey level, and then the result
    "contrast": (lambda x: F.adjust_contrast(x, ENHANCED), 2),  # the same
    "brightness": (lambda x: F.adjust_brightness(x, ENHANCED), 0),
    "solarize_add": (lambda x: torch.where(x < 128, (x.int() + 165).clamp(max=255), x.int()).byte(), 0),
}


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("levels", [(0, 256), (40, 200), (128, 129)])
def test_an_operation_is_torchvisions_on_all_frames_together(name, levels):
    expected, tolerance = TORCHVISION[name]
    clip = noise(*levels)
    clip[:, 1] //= 2  # channels differ
    assert_close(tall(done(name, clip)), expected(tall(clip)), tolerance)


def test_sharpness_is_torchvisions_on_each_frame():
    clip = noise()
    assert_close(done("sharpness", clip), F.adjust_sharpness(clip, ENHANCED), 1)


@pytest.mark.parametrize(("magnitude", "bits", "threshold"), [(5, 2, 128), (8, 3, 204), (20, 8, 255), (30, 8, 255)])
def test_magnitudes_are_those_of_the_official_code(magnitude, bits, threshold):
    clip = noise(0, 255)
    assert_close(done("posterize", clip, magnitude), F.posterize(clip, bits), 0)
    assert_close(done("solarize", clip, magnitude), F.solarize(clip, threshold), 0)


def test_cutout_is_a_black_box_of_120_pixels_of_224_around_a_point_of_the_frame():
    clip = noise(1, 256, (2, 3, 224, 224))
    sizes = []
    for seed in range(30):
        black = done("cutout", clip, seed=seed) == 0
        assert bool((black == black[:1, :1]).all())
        rows, columns = (black[0, 0].any(axis).nonzero().flatten() for axis in (1, 0))
        assert black[0, 0].sum() == len(rows) * len(columns)
        sizes += [len(rows), len(columns)]
    assert max(sizes) == 120
    assert min(sizes) >= 60


def sheared(x, angle, axis):
    shear = [angle, 0.0] if axis == "x" else [0.0, angle]
    return F.affine(x, 0.0, [0, 0], 1.0, shear, InterpolationMode.NEAREST, fill=128, center=[0, 0])


@pytest.mark.parametrize(
    ("name", "torchvision"),
    [
        ("rotate", lambda x, sign: F.rotate(x, sign * 45.0, InterpolationMode.NEAREST, fill=128)),
        ("shear_x", lambda x, sign: sheared(x, sign * np.degrees(np.arctan(0.45)), "x")),
        ("shear_y", lambda x, sign: sheared(x, sign * np.degrees(np.arctan(0.45)), "y")),
        ("translate_x", lambda x, sign: F.affine(x, 0.0, [sign * 21, 0], 1.0, [0.0, 0.0], fill=128)),
        ("translate_y", lambda x, sign: F.affine(x, 0.0, [0, sign * 17], 1.0, [0.0, 0.0], fill=128)),
    ],
)
def test_what_moves_pixels_is_torchvisions_in_one_of_both_directions(name, torchvision):
    clip = noise(size=(2, 3, 25, 31))
    same = np.zeros(2)
    for seed in range(8):
        out = done(name, clip, seed=seed)
        equal = [(out == torchvision(clip, sign)).float().mean().item() for sign in (1, -1)]
        same = np.maximum(same, equal)
    assert min(same) > 0.97  # the rest lies half-way between two pixels or on the border


def test_a_warp_by_whole_pixels_is_exact():
    clip = noise()
    moved = clip.clone()
    warp(moved, np.eye(2), (2, 1))
    assert bool((moved[..., :-1, :-2] == clip[..., 1:, 2:]).all())
    assert moved[..., -1, :].unique().tolist() == moved[..., -2:].unique().tolist() == [128]


def test_several_operations_are_one_after_the_other():
    rng = np.random.default_rng(0)
    names = [n for n in OFFICIAL + GEOMETRIC if n != "cutout"]
    for _ in range(40):
        chosen = rng.choice(names, size=3).tolist()
        clip, together = noise(), None
        together = clip.clone()
        rand_augment(together, chosen, 9.0, np.random.default_rng(1))
        one_rng = np.random.default_rng(1)
        for name in chosen:
            rand_augment(clip, [name], 9.0, one_rng)
        assert bool((together == clip).all()), chosen


def test_erasing_puts_noise_into_one_box_of_all_frames():
    shares, aspects = [], []
    for seed in range(300):
        clip = torch.zeros(4, 3, 60, 80, dtype=torch.uint8)
        erase(clip, np.random.default_rng(seed))
        touched = clip.amax((0, 1)) > 0
        rows, columns = (touched.any(axis).nonzero().flatten() for axis in (1, 0))
        inside = clip[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.count_nonzero() == clip.count_nonzero() > 0.98 * inside.numel()
        assert inside.float().mean() == pytest.approx(127.5, abs=8)
        shares.append(len(rows) * len(columns) / 4800)
        aspects.append(len(rows) / len(columns))
    assert 0.015 < min(shares) < 0.04
    assert 0.28 < max(shares) < 0.35
    assert 0.28 < min(aspects) < 0.4
    assert 2.5 < max(aspects) < 3.6


EVERYTHING = AugmentConfig(
    color_jitter=0.8, grayscale=0.1, rand_augment_layers=2, rand_augment_geometry=True, random_erasing=0.0
)


def test_all_frames_of_a_clip_are_changed_alike():
    frame = noise(size=(1, 3, 20, 26))
    for seed in range(60):
        out = augment_clip(frame.repeat(3, 1, 1, 1), EVERYTHING, np.random.default_rng(seed))
        assert bool((out == out[:1]).all())


def test_the_same_draws_give_the_same_clip_and_others_another():
    clip = noise(size=(2, 3, 16, 16))
    augment = AugmentConfig(color_jitter=1.0, rand_augment_layers=2, random_erasing=0.5)
    outs = [augment_clip(clip.clone(), augment, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert bool((outs[0] == outs[1]).all())
    assert len({tuple(out.flatten().tolist()) for out in outs}) == 4


def test_each_thing_happens_as_often_as_asked(monkeypatch):
    clip, seen = noise(size=(1, 3, 16, 16)), []
    monkeypatch.setattr(augment, "recolor", lambda clip, change, drop: seen.append(("drop", drop)))
    monkeypatch.setattr(augment, "random_color", lambda rng: seen.append(("jitter", True)))
    monkeypatch.setattr(augment, "rand_augment", lambda clip, names, m, rng: seen.extend(names))
    monkeypatch.setattr(augment, "erase", lambda clip, rng: seen.append("erase"))
    config = AugmentConfig(color_jitter=0.8, grayscale=0.1, rand_augment_layers=2, random_erasing=0.25)
    for seed in range(2000):
        augment_clip(clip, config, np.random.default_rng(seed))
    share = {thing: seen.count(thing) / 2000 for thing in set(seen)}
    assert share[("jitter", True)] == pytest.approx(0.8, abs=0.04)
    assert share[("drop", True)] == pytest.approx(0.1, abs=0.03)
    assert share["erase"] == pytest.approx(0.25, abs=0.04)
    for name in OFFICIAL:
        assert share[name] == pytest.approx(2 / 12, abs=0.04)
    assert not set(GEOMETRIC) & set(share)


def test_nothing_asked_for_leaves_the_clip_itself_and_draws_nothing():
    clip, rng = noise(), np.random.default_rng(0)
    assert augment_clip(clip, AugmentConfig(), rng) is clip
    assert rng.uniform() == np.random.default_rng(0).uniform()
