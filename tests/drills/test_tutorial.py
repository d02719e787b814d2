"""The tutorial as a newcomer has it: an empty folder, the wheel and ten clips; every command as printed, and timed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
from contextlib import contextmanager

import pytest

from vivit.data.tools.synthetic import render, write_video
from vivit.serve.client import Client

from ..repo.test_tutorial import BLOCKS
from ..repo.test_wheel import wheel  # noqa: F401  # a fixture

pytestmark = pytest.mark.drill
FIRST = {"left": 0, "clockwise": 6}  # scenes that move so; every eighth does
NEW_TERMINAL = ". env/bin/activate\n"


def write_clip(path, index):
    write_video(path, render(7, "val", index, num_frames=60, size=(240, 320))[0])


@pytest.fixture
def home(wheel, tmp_path):  # noqa: F811
    """A folder with the wheel, five clips for each of two classes, and a new clip."""
    shutil.copy(wheel, tmp_path)
    for name, first in FIRST.items():
        (tmp_path / "my_videos" / name).mkdir(parents=True)
        for i in range(5):
            write_clip(tmp_path / "my_videos" / name / f"IMG_{2041 + first + i}.mp4", first + 8 * i)
    write_clip(tmp_path / "new_clip.mp4", FIRST["left"] + 8 * 6)
    return tmp_path


def environment():
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def shell(script, home):
    """Run commands, print how long they took and computed, and return what they print."""
    began, before = time.monotonic(), os.times()
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=home,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds, computed = time.monotonic() - began, sum(os.times()[2:4]) - sum(before[2:4])
    print(f"{seconds:6.1f} s, {computed:6.1f} s of the processor: {script.strip().splitlines()[-1]}", flush=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def server(script, home):
    """Start a server on a free port, and yield its port and the address that it prints."""
    process = subprocess.Popen(
        ["bash", "-ec", f"{NEW_TERMINAL}exec {script.strip()} --port 0"],
        cwd=home,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on http://([\d.]+):(\d+)", line):
                yield found[1], int(found[2])
                return
        pytest.fail("".join(lines))
    finally:
        process.kill()
        process.communicate()


def test_a_newcomer_reaches_a_page_by_the_tutorial_alone(home):
    install, check, online, offline, evaluate, predict, here, others = BLOCKS
    offline_pip = f"{sys.executable} -m pip --python env/bin/python install --no-deps --no-index -q"
    create, activate, pip, checks = install.splitlines()
    shell(create.replace("python3", sys.executable), home)
    [packages] = home.glob("env/lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # in place of a download
    assert pip.startswith("pip install ")
    assert "vivit has what it needs" in shell(
        "\n".join([activate, pip.replace("pip install", offline_pip), checks]), home
    )
    where = shell(f"{activate}\npython -c 'import vivit.api; print(vivit.__file__)'", home)
    assert where.startswith(str(home))

    assert "\n0 problems\n" in shell(NEW_TERMINAL + check, home)
    assert "--init vit-base" in online  # needs a network; tests/repo/test_tutorial.py runs it
    assert "weights in runs/finetune/weights" in shell(NEW_TERMINAL + offline, home)
    assert "2 videos, 0 missing" in shell(NEW_TERMINAL + evaluate, home)
    assert "<svg" in (home / "runs" / "finetune" / "report.html").read_text()
    assert re.search(r"new_clip.mp4\n +label +\d+\.\d%  (left|clockwise)\n", shell(NEW_TERMINAL + predict, home))
    assert "<video" in (home / "timeline.html").read_text()
    with server(here, home) as (host, port):
        assert host == "127.0.0.1"
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()
        assert b'type="file"' in page
        [top, _] = Client(f"http://127.0.0.1:{port}").predict(home / "new_clip.mp4")["classes"]["label"]
        assert top["name"] in FIRST
    with server(others, home) as (host, port):
        assert host == "0.0.0.0"
        token = (home / "token.txt").read_text().strip()
        assert Client(f"http://127.0.0.1:{port}", token=token).predict(home / "new_clip.mp4")
