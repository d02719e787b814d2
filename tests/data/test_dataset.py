"""Samples to clips, on real files, against one decode, resize and crop per view."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vivit.config import AugmentConfig, DataConfig, EvalConfig, ModelConfig, Preprocessing
from vivit.data.clips import view_starts
from vivit.data.dataset import EvalDataset, TrainDataset, candidate_frames, eval_views
from vivit.data.sample import Sample
from vivit.data.transforms import MAX_ASPECT, crop, eval_boxes, resize_for_eval
from vivit.data.video.decoder import Video
from vivit.errors import VideoError

from .videos import counter_frames, read_all, read_counter, write_video

MODEL = ModelConfig(
    num_frames=4, image_size=(16, 24), tubelet_size=(2, 8, 8), preprocessing=Preprocessing(frame_stride=3)
)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames at 25 a second."""
    return write_video(tmp_path_factory.mktemp("dataset") / "video.mp4", counter_frames(40))


@pytest.fixture(scope="module")
def slowing(tmp_path_factory):
    """20 frames 1/50 s apart, then 10 frames 1/10 s apart."""
    pts = [*range(20), *range(20, 70, 5)]
    path = tmp_path_factory.mktemp("dataset") / "slowing.mp4"
    return write_video(path, counter_frames(30), fps=50, pts=pts), np.array(pts) / 50


def naive_views(path, first, last, model, temporal, spatial):
    """One view after the other: its frames from a full decode, resized, cropped."""
    everything = torch.from_numpy(read_all(path)).permute(0, 3, 1, 2)[first:last]
    stride = int(model.preprocessing.frame_stride)
    starts = view_starts(len(everything), num_frames=model.num_frames, frame_stride=stride, views=temporal)
    for start in starts:
        clip = torch.stack([everything[(start + k * stride) % len(everything)] for k in range(model.num_frames)])
        clip = resize_for_eval(clip, image_size=model.image_size, crop_fraction=model.preprocessing.crop_fraction)
        for box in eval_boxes(*clip.shape[-2:], image_size=model.image_size, views=spatial):
            yield crop(clip, box)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"), [(None, None, 0, 40), (0.4, 1.2, 10, 30), (1.4, None, 35, 40)]
)
@pytest.mark.parametrize(("temporal", "spatial"), [(4, 3), (2, 1), (1, 3)])
def test_views_are_those_of_a_plain_decode_resize_and_crop_each(video, start, end, first, last, temporal, spatial):
    sample = Sample(str(video), start=start, end=end)
    views = eval_views(sample, MODEL, EvalConfig(temporal_views=temporal, spatial_views=spatial))
    expected = [
        *naive_views(video, first, last, MODEL, 1, 1),  # the single view comes first
        *naive_views(video, first, last, MODEL, temporal, spatial),
    ]
    torch.testing.assert_close(views, torch.stack(expected), atol=0, rtol=0)


def test_the_single_view_protocol_gives_the_single_view_alone(video):
    views = eval_views(Sample(str(video)), MODEL, EvalConfig(temporal_views=1, spatial_views=1))
    torch.testing.assert_close(views, torch.stack([*naive_views(video, 0, 40, MODEL, 1, 1)]), atol=0, rtol=0)


def test_shuffled_views_hold_the_same_frames_in_another_order(video):
    sample, protocol = Sample(str(video)), EvalConfig(temporal_views=2, spatial_views=1)
    plain = eval_views(sample, MODEL, protocol)
    for seed in range(3):
        shuffled = eval_views(sample, MODEL, replace(protocol, shuffle_frames=True), seed=seed)
        for a, b in zip(plain, shuffled):
            assert sorted(frame.sum().item() for frame in a) == sorted(frame.sum().item() for frame in b)
    orders = {
        tuple(eval_views(sample, MODEL, replace(protocol, shuffle_frames=True), seed=s).flatten().tolist())
        for s in range(5)
    }
    assert len(orders) == 5


def shown(clip):
    """The numbers of the counter frames that a clip of whole frames shows."""
    return [read_counter(frame.permute(1, 2, 0).numpy()) for frame in clip]


WHOLE = replace(MODEL, image_size=(48, 64), preprocessing=Preprocessing(frame_stride=3, crop_fraction=1.0))
PLAIN = AugmentConfig(scale_jitter=(1.0, 1.0), flip=0.0)


def clips_of(path, model=WHOLE, augment=PLAIN, seed=0, **part):
    labels = torch.zeros(1, 1, dtype=torch.int64)
    return TrainDataset([Sample(str(path), **part)], labels, model=model, data=DataConfig(), augment=augment, seed=seed)


def test_training_clips_have_the_stride_and_start_anywhere_inside_the_part(video):
    clips = clips_of(video, start=0.4, end=1.2)  # frames 10 to 29
    starts = set()
    for epoch in range(100):
        frames = shown(clips[epoch, 0].video)
        assert frames == [frames[0] + 3 * k for k in range(4)]
        starts.add(frames[0])
    assert starts == set(range(10, 21))


def test_a_clip_is_a_function_of_seed_epoch_and_index(video):
    augment = AugmentConfig()
    a, b = clips_of(video, MODEL, augment), clips_of(video, MODEL, augment)
    torch.rand(3), np.random.default_rng().random(3)
    assert bool((a[3, 0].video == b[3, 0].video).all())
    different = [a[3, 0], a[4, 0], clips_of(video, MODEL, augment, seed=1)[3, 0]]
    assert len({tuple(clip.video.flatten().tolist()) for clip in different}) == 3


def test_on_an_even_clock_seconds_and_frames_agree(video):
    seconds = replace(WHOLE, preprocessing=Preprocessing(clip_seconds=12 / 25, crop_fraction=1.0))
    for model in (WHOLE, seconds):
        frame_ids, stride = candidate_frames(Video(video), Sample(str(video)), model)
        assert frame_ids.tolist() == list(range(40))
        assert stride == pytest.approx(3)


def test_with_seconds_every_tick_shows_the_frame_of_its_time_whatever_the_rate(slowing):
    path, stamps = slowing
    model = replace(WHOLE, preprocessing=Preprocessing(clip_seconds=0.8, crop_fraction=1.0))
    video = Video(path)
    np.testing.assert_allclose(video.times, stamps)
    frame_ids, stride = candidate_frames(video, Sample(str(path)), model)
    tick = stamps[-1] / 29  # the mean distance of two frames
    assert stride * model.num_frames * tick == pytest.approx(0.8)
    for k, frame in enumerate(frame_ids):
        nearby = [i for i, s in enumerate(stamps) if s <= (k + 0.5) * tick + 1e-9]
        assert frame == nearby[-1]
    assert len(frame_ids) == 30


def test_without_seconds_frames_are_counted_as_they_stand_in_the_file(slowing):
    path, _ = slowing
    assert candidate_frames(Video(path), Sample(str(path)), WHOLE)[0].tolist() == list(range(30))


def test_a_part_of_a_variable_rate_video_is_cut_by_time(slowing):
    path, stamps = slowing
    frame_ids, _ = candidate_frames(Video(path), Sample(str(path), start=0.3, end=0.9), WHOLE)
    assert frame_ids.tolist() == [i for i, s in enumerate(stamps) if 0.3 <= s < 0.9]
    seconds = replace(WHOLE, preprocessing=Preprocessing(clip_seconds=0.5))
    frame_ids, _ = candidate_frames(Video(path), Sample(str(path), start=0.3, end=0.9), seconds)
    assert set(frame_ids.tolist()) <= {i for i, s in enumerate(stamps) if 0.3 <= s < 0.9}


def test_a_part_without_frames_and_an_unreadable_file_are_named_not_raised(video, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    samples = [Sample(str(video), start=5.0), Sample(str(tmp_path / "broken.mp4"))]
    labels = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(VideoError, match="no frame between 5.0 s and the end; the video lasts 1.60 s"):
        eval_views(samples[0], MODEL, EvalConfig())
    train = TrainDataset(samples, labels, model=MODEL, data=DataConfig(), augment=PLAIN, seed=0)
    test = EvalDataset(samples, labels, model=MODEL, protocol=EvalConfig())
    for clip, path in [(c, s.path) for i, s in enumerate(samples) for c in (train[0, i], test[i])]:
        assert clip.video is None
        assert path in clip.problem


def test_a_video_shorter_than_the_clip_loops(tmp_path):
    path = write_video(tmp_path / "short.mp4", counter_frames(5))
    assert shown(clips_of(path)[0, 0].video) == [0, 3, 1, 4]
    one = write_video(tmp_path / "one.mp4", counter_frames(1))
    assert shown(clips_of(one)[0, 0].video) == [0, 0, 0, 0]


def test_a_video_whose_class_says_left_is_mirrored_only_on_demand(video):
    model = replace(WHOLE, classes={"action": ("push left", "push")})
    samples = [Sample(str(video)), Sample(str(video))]
    plain, always = replace(PLAIN, flip=0.0), replace(PLAIN, flip=1.0)
    labels = torch.tensor([[0], [1]])
    how = {"model": model, "data": DataConfig(), "seed": 0}
    for augment, mirrored in ((always, [False, True]), (replace(always, flip_directed=True), [True, True])):
        flipped, kept = (TrainDataset(samples, labels, augment=a, **how) for a in (augment, plain))
        got = [bool((flipped[0, i].video == kept[0, i].video.flip(-1)).all()) for i in range(2)]
        assert got == mirrored


def test_a_part_in_which_no_frame_appears_shows_the_one_on_display(tmp_path):
    path = write_video(tmp_path / "slides.mp4", counter_frames(3), fps=25, pts=[0, 100, 150])  # at 0, 4 and 6 s
    for start, end, frame in ((4.5, 5.5, 1), (0.1, 3.9, 0), (6.01, None, 2)):
        assert set(shown(clips_of(path, start=start, end=end)[0, 0].video)) == {frame}
        views = eval_views(Sample(str(path), start=start, end=end), WHOLE, EvalConfig(1, 1))
        assert set(shown(views[0])) == {frame}
    assert "no frame between 9.0 s and 10.0 s" in clips_of(path, start=9.0, end=10.0)[0, 0].problem


@pytest.mark.parametrize("error", [IndexError("list index out of range"), MemoryError(), ValueError("odd"), OSError(5)])
def test_every_exception_of_a_sample_names_its_file_and_ends_nothing(video, monkeypatch, error):
    def fail(*args, **how):
        raise error

    monkeypatch.setattr(Video, "frames", fail)
    samples, labels = [Sample(str(video))], torch.zeros(1, 1, dtype=torch.int64)
    test = EvalDataset(samples, labels, model=MODEL, protocol=EvalConfig())
    with pytest.raises(VideoError, match=type(error).__name__) as raised:
        eval_views(samples[0], MODEL, EvalConfig())
    assert raised.value.__cause__ is error
    for problem in (clips_of(video)[0, 0].problem, test[0].problem, str(raised.value)):
        assert problem.startswith(f"{video}: cannot be read ({type(error).__name__}")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_request_to_stop_is_no_fault_of_the_video(video, monkeypatch, stop):
    def interrupted(*args, **how):
        raise stop

    monkeypatch.setattr(Video, "frames", interrupted)
    with pytest.raises(stop):
        clips_of(video)[0, 0]


def test_a_clock_with_too_many_ticks_is_an_error_that_says_why(video):
    model = replace(WHOLE, preprocessing=Preprocessing(clip_seconds=1.0))
    absurd = Video(video)
    absurd.times, absurd.duration = absurd.times * 1e12, 2e12
    with pytest.raises(VideoError, match=r"40 frames spread over 1.56e\+12 s.* expected at most 4194304"):
        candidate_frames(absurd, Sample(str(video)), model)


@pytest.mark.parametrize("size", [(2, 1920), (1920, 2), (4, 600)])
def test_extremely_wide_and_tall_videos_show_their_middle_at_the_usual_cost(tmp_path, size):
    frames = np.zeros((3, *size, 3), np.uint8)
    path = write_video(tmp_path / "thin.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    model = replace(WHOLE, image_size=(32, 32))
    sizes = []
    plain = Video.frames

    def frames_of(self, indices, *, transform, **how):
        def counted(x):
            sizes.append(transform(x).numel() / len(x))
            return transform(x)

        return plain(self, indices, transform=counted, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Video, "frames", frames_of)
        assert eval_views(Sample(str(path)), model, EvalConfig()).shape == (13, 4, 3, 32, 32)
    assert max(sizes) <= 3 * 32 * 32 * MAX_ASPECT
    assert clips_of(path, model)[0, 0].video.shape == (4, 3, 32, 32)
