"""The numbers in the names of images, as cameras and tools write them, give the order in which they were taken."""

import random
from datetime import datetime, timedelta

import pytest

from vivit.data.video.frame_names import counts_images, order_images

SECONDS = 1305031102.175304


def stamps(step, n=30, jitter=0.1):
    rng = random.Random(0)
    return [SECONDS + step * (i + jitter * rng.random()) for i in range(n)]


def dates(pattern, step, n=30):
    return [(datetime(2024, 1, 5, 23, 59, 50) + timedelta(seconds=step * i)).strftime(pattern) for i in range(n)]


ORDERED = {
    "seconds": [f"{t:.6f}.png" for t in stamps(1 / 30)],
    "few decimals": [f"{t}.png" for t in (0.0, 0.04, 0.08, 0.1, 0.12, 1.0, 1.5, 9.75, 10.0, 10.25)],
    "seconds without a fraction among others": ["9.5.png", "10.png", "10.5.png", "11.png"],
    "milliseconds": [f"{int(t * 1e3)}.jpg" for t in stamps(1 / 30)],
    "nanoseconds": [f"{int(t * 1e9)}.png" for t in stamps(0.05)],
    "milliseconds since the start": [f"{i * 1000 // 30}.jpg" for i in range(300)],
    "stamp after an index": [f"{i:04d}_{t:.6f}.png" for i, t in enumerate(stamps(1 / 30))],
    "index after a stamp": [f"{t:.6f}-{i}.png" for i, t in enumerate(stamps(1 / 30))],
    "camera at the end": [f"img_{i:04d}_cam2.jpg" for i in range(12)],
    "camera at the front": [f"cam2-shot 7_{i}.PNG" for i in range(12)],
    "count after the number": [f"frame{i}_of_300.jpg" for i in range(1, 12)],
    "date and index": [f"2024-01-05_10-11-12_{i:04d}.jpg" for i in range(12)],
    "date alone": [f"{d}.jpg" for d in dates("%Y-%m-%d_%H-%M-%S", 7)],
    "date as a phone writes it": [f"IMG_{d}.jpg" for d in dates("%Y%m%d_%H%M%S", 7)],
    "date and index that begins again": [f"{d}_{i % 3}.jpg" for i, d in enumerate(dates("%Y%m%dT%H%M%S", 1 / 3))],
    "date and milliseconds": [f"{d[:-3]}.jpg" for d in dates("%Y%m%d_%H%M%S_%f", 0.4)],
    "time of day alone": [f"{d}.jpg" for d in dates("%H-%M-%S", 0)][:1] + ["23-59-55.jpg", "23-59-59.jpg"],
    "time across a minute": ["t 10:11:50.png", "t 10:12:10.png", "t 10:12:30.png"],
    "hours, minutes, seconds, milliseconds": ["00_00_50_900.png", "00_01_10_100.png", "00_01_10_500.png"],
    "time with a fraction": [f"{d}.png" for d in dates("%d_%H-%M-%S.%f", 0.3)],
    "score before every fifth frame": [f"{s}_frame{i}.png" for i, s in zip((0, 5, 10, 15), (0.98, 0.5, 0.7, 0.3))],
    "version before a number": [f"v1.2_{i}.png" for i in range(8, 12)],
    "number after a dot": [f"shot1.{i:04d}.png" for i in range(8, 12)],
    "number without zeros after a dot": [f"shot1.{i}.png" for i in range(8, 12)],
    "dots only": [f"2024.1.5.{i}.png" for i in range(8, 12)],
    "score after a number": [f"frame_{i}_score_{s}.png" for i, s in enumerate((0.98, 0.5, 0.75, 0.1))],
    "hash after a number": [f"{i:04d}_{h}.png" for i, h in enumerate(("3fa9c", "a77", "09e12d1", "5"))],
    "hash before a number": [f"{h}_{i:04d}.png" for i, h in enumerate(("3fa9c", "a77", "09e12d1", "5"))],
    "mixed suffixes": ["1.png", "2.JPG", "3.jpeg", "10.png"],
    "beyond 64 bits": [f"i{n}.png" for n in (2 * 10**18, 3 * 10**18, 10**19, 10**40)],
    "one image": ["cam2_7.png"],
}


@pytest.mark.parametrize("case", ORDERED)
def test_images_come_in_the_order_in_which_they_were_taken(case):
    names = ORDERED[case]
    for seed in range(3):
        assert order_images(random.Random(seed).sample(names, len(names)))[0] == names


STAMPS = ["seconds", "few decimals", "milliseconds", "nanoseconds", "milliseconds since the start", "date alone"]


@pytest.mark.parametrize("case", [*STAMPS, "date as a phone writes it", "date and milliseconds", "beyond 64 bits"])
def test_time_stamps_count_no_images(case):
    assert order_images(ORDERED[case])[1] is None


@pytest.mark.parametrize(
    "case", ["camera at the end", "count after the number", "date and index", "number after a dot"]
)
def test_numbers_count_images_and_a_gap_shows_in_them(case):
    names, numbers = order_images(ORDERED[case])
    assert numbers == list(range(numbers[0], numbers[0] + len(names)))
    assert order_images([*names[:2], *names[3:]])[1] == [*numbers[:2], *numbers[3:]]


def test_an_index_after_dates_shows_a_gap():
    names = [f"{d}_{i:04d}.jpg" for i, d in enumerate(dates("%Y-%m-%d_%H-%M-%S", 0.5))]
    assert order_images([*names[:4], *names[5:]])[1] == [*range(4), *range(5, 30)]


@pytest.mark.parametrize(
    ("numbers", "counts"),
    [
        ([1, 2, 3, 7, 8], True),
        ([1], True),
        ([4, 6], True),
        ([*range(0, 100, 5)], False),  # every fifth frame of a video
        ([33, 67, 100, 133], False),
        ([1, 2, 3, 1000], False),  # almost all are missing
    ],
)
def test_regular_steps_and_numbers_almost_all_missing_count_no_images(numbers, counts):
    assert counts_images(numbers) == counts


@pytest.mark.parametrize(
    "names",
    [
        ["frame_0003.png", "frame_3.png"],
        ["left_1.png", "right_1.png", "left_2.png", "right_2.png"],
        ["img_1_cam1.png", "img_1_cam2.png", "img_2_cam1.png", "img_2_cam2.png"],
        ["1.5.png", "1.50.png", "2.5.png"],
        ["2024-01-05_10-11-12.png", "2024-01-05_10-11-12.jpg", "2024-01-05_10-11-13.jpg"],
    ],
)
def test_two_images_with_the_same_number_are_refused(names):
    with pytest.raises(ValueError, match="have the same"):
        order_images(names)
