"""Timelines and features of two hours take no more memory than those of two minutes, and have rows for all of it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from vivit.inference.timeline import Timeline

from ..model import tiny

pytestmark = pytest.mark.drill


# Linux counts the memory of a process from before it ran its own program, when it was a copy of its parent: the parent
# is a small process, not that of the tests.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "vivit", *sys.argv[1:]], stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(*words) -> int:
    """KiB that `vivit` with these arguments holds at most."""
    launch = [sys.executable, "-c", LAUNCHER, *map(str, words)]
    done = subprocess.run(launch, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A video of two minutes and one of two hours."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    folder, make = tmp_path_factory.mktemp("videos"), ["ffmpeg", "-nostdin", "-v", "error"]
    short, long = folder / "short.mp4", folder / "long.mp4"
    subprocess.run([*make, "-f", "lavfi", "-i", "testsrc=s=32x32:r=25:d=120", short], check=True)
    subprocess.run([*make, "-stream_loop", "59", "-i", short, "-c", "copy", long], check=True)
    return short, long


def test_features_of_two_hours_take_the_memory_of_two_minutes_and_100_mb_more_at_most(files, tmp_path):
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    words = ["--level", "token", "--device", "cpu", "--out", tmp_path]
    peaks = [peak_memory("features", weights, path, *words) for path in files]
    assert peaks[1] <= peaks[0] + 100 * 1000**2 / 1024
    minutes, hours = (len(np.load(tmp_path / f"{path.stem}.npy", mmap_mode="r")) for path in files)
    assert hours == pytest.approx(60 * minutes, rel=0.01)
    print(f"{peaks[0] / 1024:.0f} MiB for two minutes, {peaks[1] / 1024:.0f} MiB for two hours")


def test_two_hours_take_the_memory_of_two_minutes_and_100_mb_more_at_most(files, tmp_path):
    weights = tiny.model().save_pretrained(tmp_path / "weights")
    peaks = [
        peak_memory("timeline", weights, path, "--hop", 0.5, "--device", "cpu", "--out", path.with_suffix(".npz"))
        for path in files
    ]
    assert peaks[1] <= peaks[0] + 100 * 1000**2 / 1024
    minutes, hours = (Timeline.load(path.with_suffix(".npz")) for path in files)
    assert len(hours) == pytest.approx(60 * len(minutes), rel=0.01)
    assert hours.end[-1] == pytest.approx(7200, abs=1)
    print(f"{peaks[0] / 1024:.0f} MiB for two minutes, {peaks[1] / 1024:.0f} MiB for two hours")
