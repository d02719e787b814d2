"""Build the image of `Dockerfile` and run it by `compose.yaml`, where docker or podman runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import vivit
from vivit.serve.client import Client

from ..data.videos import counter_frames, write_video
from ..model import tiny

ROOT = Path(__file__).parents[2]


def find_engine():
    """Return docker or podman, whichever answers."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    return None


@pytest.fixture
def compose(tmp_path):
    """Run the service with tiny weights until it is healthy; gives a function that runs a command in it."""
    engine = find_engine()
    if engine is None:
        pytest.skip("neither docker nor podman runs here")
    tiny.model().save_pretrained(tmp_path / "weights")

    def run(*words):
        command = [engine, "compose", "--project-name", "vivit-drill", *words]
        environment = os.environ | {"WEIGHTS": str(tmp_path / "weights")}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    try:
        started = run("up", "--build", "--detach", "--wait")
        assert started.returncode == 0, started.stderr + run("logs").stdout
        yield lambda *command: run("exec", "-T", "vivit", *command)
    finally:
        run("down", "--rmi", "local")


@pytest.mark.drill
def test_the_container_predicts_as_a_user_without_rights_on_a_read_only_file_system(compose, tmp_path):
    video = write_video(tmp_path / "video.mp4", counter_frames(30))
    expected = vivit.predict(str(tmp_path / "weights"), str(video)).to_dict()["classes"]
    found = Client("http://127.0.0.1:8000").predict(video)["classes"]
    assert [one["name"] for one in found["label"]] == [one["name"] for one in expected["label"]]
    probabilities = [[one["probability"] for one in top["label"]] for top in (found, expected)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    assert compose("id", "-u").stdout.strip() == "10001"
    assert "Read-only file system" in compose("touch", "/opt/vivit/file").stderr
    assert compose("sh", "-c", "touch /tmp/file && grep CapEff /proc/self/status").stdout.split()[1].strip("0") == ""
