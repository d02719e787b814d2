"""Index arithmetic against plain loops."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from vivit.data.clips import clip_frames, clip_span, frame_range, random_start, view_starts

CASES = list(product((1, 2, 5, 16, 30, 61, 62, 63, 64, 250), (1, 4, 32), (1, 2, 2.5, 0.5, 7)))


def frames_with_a_loop(start, num_video_frames, num_frames, frame_stride):
    """Walk through the video frame by frame and begin again at its end."""
    frames, frame, walked = [], start, 0
    for k in range(num_frames):
        while walked < math.floor(k * frame_stride):
            frame, walked = frame + 1, walked + 1
            if frame == num_video_frames:
                frame = 0
        frames.append(frame)
    return frames


def places(num_video_frames, num_frames, frame_stride):
    """Every start from which the clip does not run over the end; the first frame where there is none."""
    last = math.floor((num_frames - 1) * frame_stride)
    return [s for s in range(num_video_frames) if s + last < num_video_frames] or [0]


@pytest.mark.parametrize(("n", "num_frames", "frame_stride"), CASES)
def test_clips_are_where_a_walk_through_the_video_puts_them(n, num_frames, frame_stride):
    how = {"num_frames": num_frames, "frame_stride": frame_stride}
    fits = places(n, **how)
    assert clip_span(**how) == frames_with_a_loop(0, 10**6, **how)[-1] + 1
    for start in {*fits[:2], *fits[-2:]}:
        assert clip_frames(start, n, **how) == frames_with_a_loop(start, n, **how)
    for views in (1, 2, 3, 4, 10):
        starts = view_starts(n, **how, views=views)
        assert len(starts) == views
        assert set(starts) <= set(fits)
        if views > 1:
            assert (starts[0], starts[-1]) == (fits[0], fits[-1])
            exact = [fits[-1] * i / (views - 1) for i in range(views)]
            assert all(abs(s - e) <= 0.5 for s, e in zip(starts, exact))


def test_four_views_of_250_frames_are_the_papers():
    assert view_starts(250, num_frames=32, frame_stride=2, views=4) == [0, 62, 125, 187]


def test_one_view_lies_in_the_middle():
    (start,) = view_starts(251, num_frames=32, frame_stride=2, views=1)
    assert start == 251 - 63 - start  # as many frames before the clip as after it


def test_a_short_video_loops_from_its_beginning():
    assert view_starts(3, num_frames=4, frame_stride=2, views=4) == [0, 0, 0, 0]
    assert clip_frames(0, 3, num_frames=4, frame_stride=2) == [0, 2, 1, 0]
    assert clip_frames(0, 1, num_frames=3, frame_stride=2) == [0, 0, 0]


@pytest.mark.parametrize(("n", "num_frames", "frame_stride"), [(10, 4, 2), (4, 4, 1), (3, 4, 2), (64, 32, 2)])
def test_a_random_start_reaches_every_place_equally_often_and_no_other(n, num_frames, frame_stride):
    how = {"num_frames": num_frames, "frame_stride": frame_stride}
    fits = places(n, **how)
    many = 1000 * len(fits)
    counts = Counter(random_start(n, **how, u=(i + 0.5) / many) for i in range(many))
    assert counts == dict.fromkeys(fits, 1000)
    assert random_start(n, **how, u=math.nextafter(1, 0)) == fits[-1]


def frames_with_milliseconds(stamps, duration, start, end):
    """In whole milliseconds, frame by frame: those that appear in the part, else the one that is on display."""
    inside = [i for i, stamp in enumerate(stamps) if start <= stamp < end]
    shown = [i for i, stamp in enumerate(stamps) if stamp <= start < duration and start < end]
    return inside or shown[-1:]


@pytest.mark.parametrize("late", [0, 2000])
def test_the_frames_of_a_part_appear_in_it_or_are_on_display_there(late):
    rng = np.random.default_rng(late)
    for _ in range(300):
        stamps = late + np.cumsum([0, *rng.choice([1, 40, 40, 33, 900], size=rng.integers(0, 12))])
        duration = int(stamps[-1]) + 40
        start, end = (int(rng.choice([rng.integers(-100, duration + 100), *stamps, duration])) for _ in range(2))
        got = frame_range(stamps / 1000, duration / 1000, start / 1000, end / 1000)
        assert list(got) == frames_with_milliseconds(stamps.tolist(), duration, start, end)


def test_a_time_that_is_rounded_finds_its_frame():
    times = np.arange(300) * (1001 / 30000)
    for i in (0, 1, 7, 100, 298):
        start, end = round(float(times[i]), 6), round(float(times[i + 1]), 6)
        assert list(frame_range(times, 10.1, start, end)) == [i]


def test_a_part_without_start_or_end_reaches_to_the_ends_of_the_video():
    times = np.array([2.0, 2.5, 3.0])
    assert frame_range(times, 3.5, None, None) == range(3)
    assert frame_range(times, 3.5, 2.5, None) == range(1, 3)
    assert frame_range(times, 3.5, None, 2.5) == range(1)
    for start, end in ((None, 2.0), (0.0, 1.0), (3.5, None), (9.0, 10.0), (2.7, 2.7), (2.8, 2.6), (math.nan, None)):
        assert not frame_range(times, 3.5, start, end)
