"""Features of a video are what the model computes of independently decoded clips, at the right times."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import vivit
from vivit.config import Preprocessing
from vivit.errors import DataError, VideoError, WeightsError
from vivit.inference.feature_files import as_dtype
from vivit.inference.features import features
from vivit.model.token_reduction import reduce_tokens

from ..data.videos import counter_frames, write_video
from ..model import tiny
from .test_timeline import FPS, MODELS, clip_of

FRAMES = 90
MODEL_2 = {
    "class token": tiny.model,
    "mean": partial(tiny.model, pool="mean"),
    "motion": partial(tiny.model, motion_pool=True),
    "uniform frames": MODELS["uniform frames"],
    "stride 3": partial(tiny.model, preprocessing=Preprocessing(frame_stride=3)),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", counter_frames(FRAMES), fps=FPS)


def sampled(model):
    """The numbers of all frames that the model's clips are made of, with a loop."""
    stride, found = model.config.preprocessing.frame_stride, []
    while math.floor(len(found) * stride) < FRAMES:
        found.append(math.floor(len(found) * stride))
    return found


def depth_of(model):
    return 1 if model.config.tokenizer == "uniform_frames" else model.config.tubelet_size[0]


def windows(model, hop):
    """The frame numbers of windows every `hop` positions, until one reaches the end; then the last frame repeats."""
    frames, c, found, first = sampled(model), model.config, [], 0
    while True:
        found.append([frames[min(first + k, len(frames) - 1)] for k in range(c.num_frames)])
        if first + c.num_frames >= len(frames):
            return found
        first += hop * depth_of(model)


def close(found, expected):
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("hop", [1, 4])
def test_a_clip_has_the_features_of_an_independent_clip_of_its_frames(file, name, hop):
    model = MODELS[name]()
    seconds = hop * depth_of(model) * model.config.preprocessing.frame_stride / FPS
    found = features(model, file, level="clip", hop=seconds)
    rows = windows(model, hop)
    with torch.no_grad():
        expected = torch.cat([model.features(clip_of(file, model, row, 1)) for row in rows])
    assert found.values.shape == expected.shape
    close(found.values, expected)
    np.testing.assert_allclose(found.start, [row[0] / FPS for row in rows], atol=1e-9)
    np.testing.assert_allclose(found.end, [(row[-1] + 1) / FPS for row in rows], atol=1e-9)
    assert (found.padded == [row[-1] == row[-2] for row in rows]).all()


@pytest.mark.parametrize("name", MODEL_2)
@pytest.mark.parametrize("batch", [None, 7])
def test_a_position_has_the_output_of_the_spatial_encoder_for_its_frames(file, name, batch):
    """Clips of t positions each are decoded on their own and go through `tokenize` and `encode_space`."""
    model = MODEL_2[name]()
    c, frames = model.config, sampled(model)
    found = features(model, file, level="position", batch=batch)
    if c.tokenizer == "uniform_frames":  # a position is one frame: a clip of equal frames gives it in all positions
        clips = [[frame] * c.num_frames for frame in frames]
    else:
        frames += [frames[-1]] * (-len(frames) % c.num_frames)
        clips = [frames[i : i + c.num_frames] for i in range(0, len(frames), c.num_frames)]
    with torch.no_grad():
        each = [model.encoder.encode_space(model.tokenize(clip_of(file, model, clip, 1)))[0] for clip in clips]
    expected = torch.stack([one[0] for one in each]) if c.tokenizer == "uniform_frames" else torch.cat(each)
    assert len(found) == -(-len(sampled(model)) // depth_of(model))
    close(found.values, expected[: len(found)])


def test_each_position_is_encoded_exactly_once(file):
    model, counted = tiny.model(), []
    model.encoder.spatial.register_forward_pre_hook(lambda module, args: counted.append(len(args[0])))
    assert len(features(model, file, level="position")) == sum(counted) == 23


@pytest.mark.parametrize("encoder", tiny.NAMES)
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_tokens_are_what_the_encoder_averages_of_independent_clips(file, encoder, pool):
    if pool == "cls" and tiny.config(encoder).pool == "mean":
        pytest.skip("has no class token")
    model, seen = tiny.model(encoder, pool=pool), []
    found = features(model, file, level="token")
    transformer, model.encoder.deduplicate = getattr(model.encoder, "spatial", model.encoder), False
    transformer.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    transformer.forward_last_block = lambda x, bits: transformer.blocks[-1](x, bits)  # of all tokens
    with torch.no_grad():
        for row in windows(model, 3):
            model.features(clip_of(file, model, row, 1))
    tokens = torch.cat([one[:, 1:] if pool == "cls" else one for one in seen]).reshape(-1, 6, 16)
    assert found.values.shape == (23, 6, 16)
    close(found.values, tokens[:23])


@pytest.mark.parametrize("level", ["clip", "position", "token"])
@pytest.mark.parametrize("name", MODEL_2)
@pytest.mark.parametrize("hop", [0.1, 0.5, 1])
def test_actionformer_computes_the_same_seconds_from_the_strides(file, level, name, hop):
    model = MODEL_2[name]()
    found = features(model, file, level=level, hop=hop if level == "clip" else None)
    theirs = (np.arange(len(found)) * found.feat_stride + 0.5 * found.num_frames) / found.fps
    inside = ~found.padded
    assert inside.sum() >= len(found) - 1
    last = len(found) - 1 if FRAMES % model.config.preprocessing.frame_stride else len(found)
    np.testing.assert_allclose(found.seconds[:last][inside[:last]], theirs[:last][inside[:last]], atol=1e-9)
    assert (found.seconds <= theirs + 1e-9).all()
    assert found.duration == FRAMES / FPS


def test_rows_have_the_time_stamps_of_a_variable_rate(tmp_path):
    pts = [*range(20), *range(20, 60, 2)]
    path = write_video(tmp_path / "v.mp4", counter_frames(40), pts=pts)
    found = features(tiny.model(), path, level="position")
    shown = np.array([*pts, 62]) / 25  # the last frame lasts as long as the one before
    np.testing.assert_allclose(found.start, shown[0:40:4], atol=1e-9)
    np.testing.assert_allclose(found.end, shown[3:43:4], atol=1e-9)
    follows = [*shown[4:40:4], found.duration]
    np.testing.assert_allclose(found.seconds, (shown[0:40:4] + follows) / 2, atol=1e-9)


@pytest.mark.parametrize("level", ["clip", "position", "token"])
def test_a_segment_has_the_features_of_its_own_frames(file, level):
    """Frames 25 to 49 alone, as a video of 25 frames that begins one second later."""
    model = tiny.model()
    found = features(model, file, level=level, start=1, end=2)
    frames = list(range(25, 50, 2))
    frames += [frames[-1]] * 5
    assert found.start[0] == 1
    assert found.end[-1] == 2
    with torch.no_grad():
        if level == "clip":
            expected = model.features(clip_of(file, model, frames[:6], 1))[0]
        else:
            clip = clip_of(file, model, frames[:6], 1)
            expected = model.encoder.encode_space(model.tokenize(clip))[0, 0]
    if level != "token":
        close(found.values[0], expected)
    assert len(found) == {"clip": 3, "position": 7, "token": 7}[level]


def test_a_video_shorter_than_a_clip_has_one_row(tmp_path):
    path = write_video(tmp_path / "v.mp4", counter_frames(1))
    for level in ("clip", "position", "token"):
        found = vivit.features(tiny.model(), path, level=level)
        assert (len(found), found.padded.tolist()) == (1, [True])
        assert (found.start[0], found.end[0], found.seconds[0]) == pytest.approx((0, 0.04, 0.02))


def test_a_model_with_fewer_tokens_has_features_of_clips(file):
    model = tiny.model("spatiotemporal")
    found = features(reduce_tokens(model, drop_static=0.0), file, level="clip")
    expected = features(model, file, level="clip").values
    np.testing.assert_allclose(found.values[:-1], expected[:-1], rtol=1e-4, atol=1e-5)  # the last clip repeats frames
    with pytest.raises(ValueError, match="TokenReducedViViT: take level clip"):
        features(reduce_tokens(model, drop_static=0.0), file, level="token")


def test_errors_say_which_levels_a_model_has(file, tmp_path):
    for model, level, message in (
        (tiny.model(), "frame", "level is 'frame'; allowed are clip, position, token"),
        (tiny.model("spatiotemporal"), "position", "needs Model 2 .* this model is spatiotemporal: take level clip"),
        (MODELS["a CNN baseline"](), "position", "this model is R3D18"),
        (MODELS["a CNN baseline"](), "token", "this model is R3D18: take level clip"),
        (MODELS["uniform frames, Model 1"](), "token", "needs the tokenizer tubelet"),
    ):
        with pytest.raises(ValueError, match=message):
            features(model, file, level=level)
    with pytest.raises(ValueError, match="has a row for each temporal position; leave the hop out"):
        features(tiny.model(), file, level="position", hop=1)
    with pytest.raises(ValueError, match="hop is -1"):
        features(tiny.model(), file, hop=-1)
    with pytest.raises(VideoError, match=r"none\.mp4"):
        features(tiny.model(), tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="no frame between 9 s"):
        features(tiny.model(), file, start=9)


def test_numbers_that_are_not_finite_or_too_large_for_float16_are_refused(file):
    model = tiny.model()
    with torch.no_grad():
        model.encoder.spatial.norm.bias[0] = math.nan
    with pytest.raises(WeightsError, match=r"no result, because 1 of 16 positions are not finite"):
        features(model, file, level="position")
    with pytest.raises(DataError, match=r"a feature is 70000, above the range of float16; take float32"):
        as_dtype(np.array([1, -70000], np.float32), "float16", "v.mp4")
