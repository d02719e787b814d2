"""Clips from cached frames, against the same clips decoded each time."""

import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from vivit.config import AugmentConfig, DataConfig, ModelConfig, Preprocessing
from vivit.data import frame_cache
from vivit.data.dataset import EvalDataset, TrainDataset, TrainViews, time_limit
from vivit.data.frame_cache import FrameCache
from vivit.data.loader import open_loader, train_loader
from vivit.data.sample import Sample
from vivit.data.video.decoder import Video
from vivit.data.video.frame_folder import FrameFolder
from vivit.engine.evaluate import SINGLE_VIEW
from vivit.engine.interruption import remove_stale_files
from vivit.errors import VideoError

from .videos import counter_frames, write_video

MODEL = ModelConfig(
    num_frames=4, image_size=(16, 24), tubelet_size=(2, 8, 8), preprocessing=Preprocessing(frame_stride=3)
)
AUGMENT = AugmentConfig(color_jitter=0.5)


@pytest.fixture
def samples(tmp_path):
    """A rotated file, two segments of another one, frames of varying duration, a folder of images."""
    turned = write_video(tmp_path / "turned.mp4", counter_frames(30), rotation=90)
    long = write_video(tmp_path / "long.mkv", counter_frames(60), codec="libx265", keyint=12)
    slow = write_video(tmp_path / "slow.mp4", counter_frames(20), pts=[*range(10), *range(10, 60, 5)])
    (tmp_path / "images").mkdir()
    for i, image in enumerate(counter_frames(12)):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:03}.png")
    return [
        Sample(str(turned)),
        Sample(str(long), start=0.4, end=1.2),
        Sample(str(long), start=1.4),
        Sample(str(slow)),
        Sample(str(tmp_path / "images"), fps=10),
    ]


def cache_in(folder, max_video_bytes=2**28):
    return FrameCache(folder / "frames", max_video_bytes)


def clips_of(samples, cache, model=MODEL):
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    return TrainDataset(
        samples, labels, model=model, data=DataConfig(workers=0), augment=AUGMENT, seed=3, frame_cache=cache
    )


def no_decoding(*args, **kwargs):
    raise AssertionError("decoded again")


def items(dataset, keys):
    return [(item.video, item.problem) for item in (dataset[key] for key in keys)]


def equal(a, b):
    return all(p == q and (x is y is None or x.equal(y)) for (x, p), (y, q) in zip(a, b, strict=True))


def test_clips_and_views_are_those_that_are_decoded_and_no_video_is_decoded_twice(samples, tmp_path, monkeypatch):
    keys = [(epoch, index) for epoch in range(5) for index in range(len(samples))]
    labels = torch.zeros(len(samples), 1, dtype=torch.int64)
    timed = replace(MODEL, preprocessing=Preprocessing(clip_seconds=0.5))
    given = {"data": DataConfig(), "augment": AUGMENT, "seed": 3, "count": 4, "numbers": range(len(samples))}

    def everything(cache):
        views = TrainViews(samples, labels, model=MODEL, frame_cache=cache, **given)
        single = EvalDataset(samples, labels, model=MODEL, protocol=SINGLE_VIEW, frame_cache=cache)
        found = [items(clips_of(samples, cache, model), keys) for model in (MODEL, timed)]
        return [*found, items(views, range(len(samples))), items(single, range(len(samples)))]

    expected = everything(None)
    assert all(problem is None for part in expected for _, problem in part)
    cache = cache_in(tmp_path)
    assert all(map(equal, everything(cache), expected))
    assert len(os.listdir(cache.folder)) == len(samples)
    monkeypatch.setattr(Video, "_decode", no_decoding)
    monkeypatch.setattr(FrameFolder, "images", no_decoding)
    assert all(map(equal, everything(cache), expected))


def test_workers_fill_one_cache_together(samples, tmp_path):
    cache = cache_in(tmp_path)

    def batches(clips, workers):
        clips.data = DataConfig(workers=workers)
        with open_loader(train_loader(clips, batch_size=3, first_step=0, steps=9)) as loaded:
            return [batch.video.clone() for batch in loaded]

    for a, b in zip(batches(clips_of(samples, cache), 2), batches(clips_of(samples, None), 0), strict=True):
        assert a.equal(b)
    assert sorted(name[-4:] for name in os.listdir(cache.folder)) == [".rgb"] * len(samples)


def test_a_video_above_its_share_is_decoded_each_time(samples, tmp_path):
    frame_bytes = 48 * 64 * 3
    cache = cache_in(tmp_path, 20 * frame_bytes)  # turned has 30 frames, the first segment of long 20
    clips = clips_of(samples[:2], cache)
    expected = items(clips_of(samples[:2], None), [(0, 0), (0, 1)])
    for _ in range(2):
        assert equal(items(clips, [(0, 0), (0, 1)]), expected)
        assert len(os.listdir(cache.folder)) == 1


def test_a_cache_is_only_made_where_videos_get_a_share_worth_having(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "frames"
    assert FrameCache.within(folder, 0, videos=3) is None
    assert FrameCache.within(folder, 2**32, videos=240_000) is None
    assert FrameCache.within(folder, 2**32, videos=2**10) == FrameCache(folder, 2**22)
    assert FrameCache.within(folder, 2**32, videos=1).max_video_bytes == 2**28
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 2**24))
    assert FrameCache.within(folder, 2**32, videos=4).max_video_bytes == 2**21
    assert not folder.parent.exists()


def test_a_file_that_changes_is_decoded_again(tmp_path):
    cache, path = cache_in(tmp_path), tmp_path / "clip.mp4"
    for frames in (counter_frames(20), counter_frames(20)[::-1]):
        write_video(path, frames)
        for _ in range(2):
            assert cache.open(Sample(str(path))).frames(range(20)).equal(Video(path).frames(range(20)))
    assert len(os.listdir(cache.folder)) == 2


@pytest.mark.parametrize("size", [0, 7, 12, 1000, -1])
def test_a_file_that_a_crash_of_the_machine_cut_off_is_not_used(tmp_path, size):
    cache, path = cache_in(tmp_path), write_video(tmp_path / "clip.mp4", counter_frames(20))
    cache.open(Sample(str(path)))
    [file] = cache.folder.iterdir()
    os.truncate(file, size if size >= 0 else file.stat().st_size - 1)
    assert cache.open(Sample(str(path))).frames(range(20)).equal(Video(path).frames(range(20)))


def test_frames_outside_the_cached_segment_are_refused(samples, tmp_path):
    video = cache_in(tmp_path).open(samples[1])  # frames 10 to 29
    assert video.frames([10, 29]).equal(Video(samples[1].path).frames([10, 29]))
    for number in (9, 30):
        with pytest.raises(ValueError, match=f"frame {number} of .*long.mkv is outside"):
            video.frames([number])


def test_damaged_videos_give_the_clips_and_errors_that_they_give_without_a_cache(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", counter_frames(80), keyint=10)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size // 8))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    samples = [Sample(str(path)), Sample(str(tmp_path / "broken.mp4")), Sample(str(path), start=60.0)]
    keys = [(epoch, index) for epoch in range(30) for index in range(3)]
    expected = items(clips_of(samples, None), keys)
    problems = [problem for _, problem in expected[::3]]
    assert 0 < sum(map(bool, problems)) < len(problems)  # some clips hold a damaged frame
    whole, images = [], Video.images
    monkeypatch.setattr(
        Video, "images", lambda self, wanted: (whole.append(1) if len(wanted) > 4 else None) or images(self, wanted)
    )
    assert equal(items(clips_of(samples, cache_in(tmp_path)), keys), expected)
    assert len(whole) == 1  # the attempt to cache it is not repeated


def test_where_nothing_can_be_written_videos_are_decoded_and_one_warning_says_so(
    samples, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(frame_cache, "_unwritable", set())
    (tmp_path / "file").write_text("")
    cache = FrameCache(tmp_path / "file" / "frames", 2**28)
    keys = [(0, index) for index in range(len(samples))] * 2
    assert equal(items(clips_of(samples, cache), keys), items(clips_of(samples, None), keys))
    assert len(caplog.messages) == 1
    assert "further videos are decoded for each clip" in caplog.text


def test_a_video_that_takes_long_to_decode_as_a_whole_is_decoded_for_each_clip(samples, tmp_path):
    cache = FrameCache(tmp_path / "frames", 2**28, max_seconds=0.0)
    keys = [(epoch, 0) for epoch in range(3)]
    assert equal(items(clips_of(samples, cache), keys), items(clips_of(samples, None), keys))
    assert [file.stat().st_size for file in cache.folder.iterdir()] == [0]


def test_a_video_that_is_stuck_is_not_left_out_of_the_cache_for_good(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, "_unwritable", set())
    cache = cache_in(tmp_path)

    def stuck(self, wanted):
        time.sleep(60)
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Video, "_decode", stuck)
        with pytest.raises(VideoError, match="still being decoded after 0.2 s"), time_limit("x", seconds=0.2):
            cache.open(samples[0])
    assert os.listdir(cache.folder) == []
    assert cache.open(samples[0]).frames([0]).equal(Video(samples[0].path).frames([0]))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def write_over_and_over(folder, sample, ready):
    cache = cache_in(folder)
    while True:
        shutil.rmtree(cache.folder, ignore_errors=True)
        cache.open(sample)
        ready.set()


def test_kills_leave_complete_files_or_none(tmp_path):
    path = write_video(tmp_path / "clip.mp4", counter_frames(60, 256, 256))
    context = multiprocessing.get_context("spawn")
    for wait in (0.01, 0.05, 0.09):
        ready = context.Event()
        process = context.Process(target=write_over_and_over, args=(tmp_path, Sample(str(path)), ready))
        process.start()
        assert ready.wait(120)
        time.sleep(wait)
        process.kill()
        process.join()
        files = list((tmp_path / "frames").glob("*.rgb"))
        assert [file.stat().st_size for file in files] in ([], [12 + 60 * 256 * 256 * 3])
    remove_stale_files(tmp_path)
    assert list((tmp_path / "frames").glob(".*")) == []
