"""Windows of a timeline are what the model says of the same frames as a clip of their own, at the right times."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import vivit
from vivit.config import Preprocessing
from vivit.data.transforms import center_box, crop, eval_boxes, resize_for_eval
from vivit.data.video.decoder import Video
from vivit.data.video.live import Source
from vivit.errors import DataError, VideoError, WeightsError
from vivit.inference.explain import read_clip
from vivit.inference.features import features
from vivit.inference.steps import TorchSteps
from vivit.inference.stream import stream
from vivit.inference.timeline import Timeline, compute_rows, plan_timeline, timeline
from vivit.model.cnn_baselines import R3D18
from vivit.model.token_reduction import reduce_tokens

from ..data.videos import counter_frames, write_video
from ..model import tiny

FPS = 25


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", counter_frames(90), fps=FPS)


def clip_of(path, model, frames, crops):
    """The frames with these numbers as clips (crops, T, C, H, W), through the plain interface of `Video`."""
    c, video = model.config, Video(path)
    clip = video.frames(
        frames,
        box=center_box(video.height, video.width, image_size=c.image_size),
        transform=partial(resize_for_eval, image_size=c.image_size, crop_fraction=c.preprocessing.crop_fraction),
    )
    return torch.stack([crop(clip, box) for box in eval_boxes(*clip.shape[-2:], image_size=c.image_size, views=crops)])


def naive(path, model, *, hop, crops=1, num_frames=90):
    """Logits of every window, each as an independent clip; `hop` in positions. With loops, from the definition."""
    c = model.config
    depth = 1 if c.tokenizer == "uniform_frames" else c.tubelet_size[0]
    stride, samples = c.preprocessing.frame_stride, []
    while math.floor(len(samples) * stride) < num_frames:
        samples.append(math.floor(len(samples) * stride))
    rows, center = [], 0  # in sampled frames
    while center < len(samples):
        first = center - (c.num_frames // depth // 2) * depth
        rows.append([samples[min(max(first + k, 0), len(samples) - 1)] for k in range(c.num_frames)])
        center += hop * depth
    with torch.no_grad():
        return rows, torch.stack([model(clip_of(path, model, row, crops)).mean(dim=0) for row in rows])


def baseline():
    model = R3D18(tiny.config(image_size=(32, 32), num_frames=8)).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


MODELS = {name: partial(tiny.model, name, num_frames=8) for name in tiny.NAMES} | {
    "three positions": tiny.model,
    "mean over time": partial(tiny.model, temporal_depth=0),
    "temporal skip": partial(tiny.model, temporal_skip=True),
    "uniform frames": partial(
        tiny.model, tokenizer="uniform_frames", sampled_frames=3, num_frames=8, tubelet_size=(1, 8, 8)
    ),
    "uniform frames, Model 1": partial(
        tiny.model, "spatiotemporal", tokenizer="uniform_frames", sampled_frames=2, tubelet_size=(1, 8, 8)
    ),
    "tokens of frames kept": partial(
        tiny.model, pool="mean", pool_space=False, joint_depth=1, attention_pool=True, attn_logit_cap=1.0, num_frames=8
    ),
    "stride 1.5": partial(tiny.model, preprocessing=Preprocessing(frame_stride=1.5)),
    "a CNN baseline": baseline,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("hop", "crops"), [(1, 1), (2, 3), (5, 1)])
def test_every_window_has_the_logits_of_an_independent_clip_of_its_frames(file, name, hop, crops):
    torch.manual_seed(0)
    model = MODELS[name]()
    depth = 1 if model.config.tokenizer == "uniform_frames" else 2
    seconds = depth * model.config.preprocessing.frame_stride / FPS
    found = timeline(model, file, hop=hop * seconds, crops=crops)
    rows, expected = naive(file, model, hop=hop, crops=crops)
    assert found.hop == pytest.approx(hop * seconds)
    assert found.logits.shape == (len(rows), 3)
    error = np.abs(found.logits - expected.numpy()).max(axis=1) / np.abs(expected.numpy()).max(axis=1)
    assert error.max() < 1e-5
    assert (found.logits.argmax(axis=1) == expected.numpy().argmax(axis=1)).all()
    np.testing.assert_allclose(found.start, [row[0] / FPS for row in rows], atol=1e-9)
    ends = [90 if row[-1] == row[-2] else row[-1] + 1 for row in rows]  # where a window repeats, the video's
    np.testing.assert_allclose(found.end, np.array(ends) / FPS, atol=1e-9)
    center = (np.arange(len(rows)) * hop + model.config.num_frames // depth % 2 / 2) * seconds
    np.testing.assert_allclose(found.center, np.minimum(center, rows[-1][-1] / FPS), atol=1.5 / FPS)
    span = math.floor((model.config.num_frames - 1) * model.config.preprocessing.frame_stride)
    whole = np.array([abs(row[-1] - row[0] - span) <= 1 and len(set(row)) == len(row) for row in rows])
    assert (found.padded == ~whole).all()
    assert found.padded[0]
    assert not found.padded.all()


def test_model_2_encodes_each_position_exactly_once(file):
    model, counted = tiny.model(num_frames=8), []
    model.encoder.spatial.register_forward_pre_hook(lambda module, args: counted.append(len(args[0])))
    found = timeline(model, file, hop=0.16, crops=1)
    samples = 45  # of 90 frames, every second
    repeats = 1  # of the first frame; the last position is the last frame twice, like those after the video
    assert sum(counted) == math.ceil(samples / 2) + repeats
    assert len(found) == 23
    counted.clear()
    timeline(model, file, hop=4 * 0.16)
    assert sum(counted) <= math.ceil(samples / 2) + repeats


@pytest.mark.parametrize("readout", ["logits", "features", "positions"])
def test_windows_read_together_as_on_a_gpu_are_those_read_one_by_one(readout):
    steps = TorchSteps(tiny.model(), "float32", readout)
    frames = torch.randint(256, (6, 2, 2, 3, 16, 24), dtype=torch.uint8)  # of 6 positions in 2 crops
    positions = steps.encode(list(frames))
    windows = [positions[i : i + (1 if readout == "positions" else 3)] for i in range(4)]
    alone = steps.read(windows, most=4)
    steps.reads_together = True
    for windows_of_a_batch in (4, 3):
        together = steps.read(windows[:windows_of_a_batch], most=4)
        assert len(together) == windows_of_a_batch
        for one, other in zip(together, alone):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_positions_that_no_window_reads_are_not_encoded(file):
    model, counted = tiny.model(num_frames=4), []
    model.encoder.spatial.register_forward_pre_hook(lambda module, args: counted.append(len(args[0])))
    found = timeline(model, file, hop=5 * 0.16)
    assert len(found) == 5
    assert sum(counted) == 2 * 5  # two positions a window


def test_the_middle_window_is_the_single_view_of_predict(tmp_path):
    """19 frames: the middle clip of 11 begins at frame 4, which is position 1."""
    path = write_video(tmp_path / "v.mp4", counter_frames(19))
    for name in tiny.NAMES:
        model = tiny.model(name)
        expected = dict(vivit.predict(model, path, temporal_views=1, spatial_views=1).classes["label"])
        found = vivit.timeline(model, path, hop=0.16)
        [row] = [i for i in range(len(found)) if found.start[i] == pytest.approx(4 / FPS)]
        scores = dict(zip(found.classes["label"], found.probabilities("label")[row].tolist()))
        assert scores == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [None, 1, 3, 32])
def test_start_and_end_choose_rows_of_the_complete_timeline_to_the_bit(file, batch):
    model = tiny.model(num_frames=8)
    everything = timeline(model, file, hop=0.16, batch=batch)
    for start, end in ((1.0, 2.0), (None, 0.5), (3.2, None), (0.0, 0.01), (1.7, 1.71)):
        part = timeline(model, file, hop=0.16, start=start, end=end, batch=batch)
        low, high = start or 0, math.inf if end is None else end
        rows = np.flatnonzero((everything.center >= low - 1e-6) & (everything.center < high - 1e-6))
        if not len(rows):  # between two centers: the row before
            rows = np.flatnonzero(everything.center < low)[-1:]
        for name in ("start", "end", "center", "padded", "logits"):
            np.testing.assert_array_equal(getattr(part, name), getattr(everything, name)[rows])


@pytest.mark.parametrize("batch", [1, 3, 8, 32])
@pytest.mark.parametrize("name", ["factorised_encoder", "uniform frames", "spatiotemporal"])
def test_rows_from_the_middle_are_computed_in_the_batches_of_the_complete_timeline(file, name, batch):
    """So that a resumed run gives the same bits also where a batch of another size rounds differently."""
    model, batches = MODELS[name](), []
    if name != "spatiotemporal":
        model.encoder.spatial.register_forward_pre_hook(lambda module, args: batches.append(args[0].sum().item()))
    plan = plan_timeline(model, file, hop=0.32)
    everything = dict(compute_rows(model, plan, batch=batch))
    all_batches = batches.copy()
    assert list(everything) == list(plan.rows)
    for first in (1, 4, 9, len(plan.rows) - 1):
        batches.clear()
        rest = dict(compute_rows(model, plan, rows=plan.rows[first:], batch=batch))
        assert list(rest) == list(plan.rows)[first:]
        assert all(torch.equal(rest[row], everything[row]) for row in rest)
        assert all_batches[len(all_batches) - len(batches) :] == batches
    one_by_one = timeline(model, file, hop=0.32).logits
    np.testing.assert_allclose(torch.stack(list(everything.values())), one_by_one, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_close_and_a_model_in_training_mode_does_not_change(file):
    model = tiny.model(num_frames=8, dropout=0.5).train()
    exact = timeline(model, file)
    assert model.training
    half = timeline(model, file, precision="bfloat16").logits
    assert 0 < np.abs(half - exact.logits).max() < 0.1 * np.abs(exact.logits).max()
    np.testing.assert_array_equal(timeline(model.eval(), file).logits, exact.logits)


def test_a_model_on_fewer_tokens_has_a_timeline_too(file):
    model = tiny.model("spatiotemporal")
    found = timeline(reduce_tokens(model, drop_static=0.0), file)
    np.testing.assert_allclose(found.logits, timeline(model, file).logits, rtol=1e-4)


def test_a_timeline_is_saved_and_loaded_and_knows_probabilities(file, tmp_path):
    classes = {"noun": ("a", "b"), "verb": ("c", "d", "e")}
    found = timeline(tiny.model(classes=classes), file)
    probabilities = found.probabilities("verb")
    exponentials = np.exp(found.logits[:, 2:])
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-5)
    found.save(tmp_path / "scores.npz")
    again = Timeline.load(tmp_path / "scores.npz")
    assert (again.path, again.hop, again.classes) == (found.path, found.hop, found.classes)
    assert again.classes == {"noun": ["a", "b"], "verb": ["c", "d", "e"]}
    for name in ("start", "end", "center", "padded", "logits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    np.savez(tmp_path / "other.npz", logits=found.logits)
    with pytest.raises(DataError, match="is not a timeline"):
        Timeline.load(tmp_path / "other.npz")


def test_errors_say_what_is_wrong(file, tmp_path):
    model = tiny.model()
    for wrong, message in (
        ({"hop": 0}, "hop is 0; it takes seconds above 0"),
        ({"hop": math.nan}, "hop is nan"),
        ({"crops": 2}, "crops is 2; it is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            timeline(model, file, **wrong)
    with pytest.raises(VideoError, match=r"no frame between 9 s and the end; the video lasts 3.60 s"):
        timeline(model, file, start=9)
    with pytest.raises(VideoError, match="no such file"):
        timeline(model, tmp_path / "none.mp4")
    torch.nn.init.constant_(model.head.weight, math.nan)
    with pytest.raises(WeightsError, match="3 of 3 logits are not finite"):
        timeline(model, file)


def test_clip_seconds_samples_by_the_clock(tmp_path):
    """Of a video whose second half has half the frame rate, positions cover the same time."""
    pts = [*range(40), *range(40, 100, 2)]
    path = write_video(tmp_path / "variable.mp4", counter_frames(70), pts=pts)
    model = tiny.model(preprocessing=Preprocessing(clip_seconds=0.6))
    found = timeline(model, path, hop=0.2)
    np.testing.assert_allclose(found.center, found.center[0] + np.arange(len(found)) * found.hop, atol=2 / FPS)
    assert found.center[-1] > 3.7
    by_frames = timeline(tiny.model(), path, hop=0.2)
    assert np.diff(by_frames.center)[-4:-1] == pytest.approx(2 * np.diff(by_frames.center)[:3], rel=0.01)


@pytest.fixture(scope="module")
def pauses(tmp_path_factory):
    """A video that stands still from 1.96 s to 12 s, without the frames that repeat and with them."""
    folder, images = tmp_path_factory.mktemp("pauses"), counter_frames(101)
    pts = [*range(50), *range(300, 351)]
    shown = [max(i for i, p in enumerate(pts) if p <= t) for t in range(351)]
    return write_video(folder / "without.mkv", images, pts=pts), write_video(folder / "with.mkv", images[shown])


def test_with_clip_seconds_a_pause_has_rows_whether_its_frames_are_in_the_file_or_not(pauses):
    model = tiny.model("spatiotemporal", preprocessing=Preprocessing(clip_seconds=2.0))
    without, with_frames = (timeline(model, path, hop=0.5) for path in pauses)
    tick = 1 / Video(pauses[0]).fps
    np.testing.assert_allclose(np.diff(without.center)[:-1], without.hop, atol=1.1 * tick)
    assert without.center[-1] == pytest.approx(with_frames.center[-1], abs=0.5)
    assert (without.end - without.start <= 2 + 2 * tick).all()
    for start, end in ((4.0, 6.0), (9.5, 11.0)):
        part, expected = (timeline(model, path, hop=0.5, start=start, end=end) for path in pauses)
        assert ((part.center >= start) & (part.center < end)).all()
        assert len(part) == pytest.approx((end - start) / without.hop, abs=1)
        np.testing.assert_allclose(part.logits, expected.logits[:1].repeat(len(part), axis=0), atol=0.05)


def test_with_clip_seconds_features_and_streams_have_the_times_of_a_pause_too(pauses):
    model = tiny.model(preprocessing=Preprocessing(clip_seconds=2.0))
    expected = timeline(model, pauses[0], hop=0.5)
    rows = list(stream(model, Source(str(pauses[0])), hop=0.5))
    np.testing.assert_array_equal(np.stack([row.logits for row in rows]), expected.logits)
    for field in ("start", "end", "center", "padded"):
        np.testing.assert_array_equal([getattr(row, field) for row in rows], getattr(expected, field))
    without, with_frames = (features(model, path, level="clip", hop=0.5) for path in pauses)
    assert (np.diff(without.seconds) > 0.3).all()
    assert without.seconds[-1] == pytest.approx(with_frames.seconds[-1], abs=0.7)
    assert without.end[-1] == with_frames.end[-1] == pytest.approx(351 / FPS)
    clip = read_clip(pauses[0], model.config).seconds
    assert (np.diff(clip) > 0.1).all()
    assert clip.mean() == pytest.approx(351 / FPS / 2, abs=0.5)
