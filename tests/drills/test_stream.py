"""An hour of two streams takes no more memory than their first five minutes."""

import gc
import os
import time

import pytest

from vivit.data.video.live import Frame, Source
from vivit.inference.stream import Statistics, streams

from ..data.videos import counter_frames
from ..model import tiny

pytestmark = pytest.mark.drill
FPS, MINUTE = 25, 60


def camera(seconds):
    """Frames of a camera as fast as they are taken; their times are those of a real one."""
    images = counter_frames(50)
    for number in range(seconds * FPS):
        image = images[number % 50]
        yield Frame(number, number / FPS, (number + 1) / FPS, 0, time.monotonic(), lambda image=image: image)


def resident():
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_an_hour_of_two_streams_takes_the_memory_of_five_minutes():
    sources = [Source(f"tcp://127.0.0.1:{port}", protocol="tcp") for port in (1, 2)]
    statistics = [Statistics(), Statistics()]
    frames = [camera(60 * MINUTE) for _ in sources]
    began, early = time.monotonic(), 0
    rows = streams(tiny.model(), sources, hop=0.5, drop=False, frames=frames, statistics=statistics)
    for number, row in rows:
        if number == 0 and not early and row.center > 5 * MINUTE:
            early = resident()
    grown = resident() - early
    seconds = time.monotonic() - began
    print(f"2 streams of an hour in {seconds:.0f} s; {early / 2**20:.0f} MiB, then {grown / 2**20:+.1f} MiB")
    assert [one.rows for one in statistics] == [7500, 7500]  # a hop is 3 positions of 4 frames
    assert grown < 16 * 2**20
