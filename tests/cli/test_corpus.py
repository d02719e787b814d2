"""`vivit corpus`: arguments and exit codes; the jobs themselves are tested in tests/corpus."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vivit.corpus import local

from ..data.videos import counter_frames, write_video
from ..model import tiny

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "corpus.md"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with runs/finetune, recordings/ of two videos and list.csv."""
    monkeypatch.chdir(tmp_path)
    tiny.model().save_pretrained("runs/finetune")
    (tmp_path / "recordings").mkdir()
    for name in "ab":
        write_video(tmp_path / "recordings" / f"{name}.mp4", counter_frames(40))
    (tmp_path / "list.csv").write_text("path,start,end\nrecordings/a.mp4,0,0.5\nrecordings/b.mp4,,\n")
    return tmp_path


def test_the_commands_of_the_guide_run(home, vivit, monkeypatch):
    monkeypatch.setattr(local, "START_METHOD", "fork")
    commands = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("vivit ")]
    commands = [
        line for line in commands if "s3://" not in line and "--engine ray" not in line
    ]  # in tests of their own
    assert len(commands) >= 6
    for command in commands:
        code, _, err = vivit(*command.split()[1:])
        assert code == 0, f"{command}: {err}"
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(block, {})


def test_a_video_that_fails_is_counted_and_the_exit_code_is_one(home, vivit, monkeypatch):
    monkeypatch.setattr(local, "START_METHOD", "fork")
    (home / "recordings" / "c.mp4").write_bytes(b"")
    command = ["corpus", "predict", "runs/finetune", "recordings", "--out", "o", "--format", "csv", "--device", "cpu"]
    code, out, err = vivit(*command)
    assert (code, out) == (1, "")
    assert "2 of 3 in o/predict.csv; 1 failed, see the column error" in err
    assert "2 of 3 in o/predict.csv, 0 in this run; 1 failed" in vivit(*command)[2]


@pytest.mark.drill
def test_the_command_of_the_guide_on_ray_gives_the_same_table(home, vivit, monkeypatch):
    monkeypatch.setattr(local, "START_METHOD", "fork")
    [command] = [
        line for line in GUIDE.read_text(encoding="utf-8").splitlines() if re.match("vivit .*--engine ray", line)
    ]
    subprocess.run([sys.executable, "-m", *command.split()], check=True, timeout=1200)
    assert vivit(*command.replace("--engine ray", "").replace("on-ray", "local").split()[1:])[0] == 0
    manifests = [json.loads((home / name / "manifest.json").read_text()) for name in ("on-ray", "local")]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_table(home, vivit, monkeypatch):
    command = ["corpus", "timeline", "runs/finetune", "list.csv", "--device", "cpu", "--out"]
    subprocess.run([sys.executable, "-m", "vivit", *command, "spawned"], check=True, timeout=1200)
    monkeypatch.setattr(local, "START_METHOD", "fork")
    assert vivit(*command, "forked")[0] == 0
    manifests = [json.loads((home / name / "manifest.json").read_text()) for name in ("spawned", "forked")]
    assert manifests[0] == manifests[1]


def test_wrong_arguments_are_refused_before_anything_is_loaded(home, vivit):
    for options, problem in (
        (["predict", "runs/finetune", "nothing", "--out", "o"], "nothing: does not exist"),
        (["predict", "runs/finetune", "recordings", "--out", "o", "--workers", 0], "workers is 0"),
        (["timeline", "runs/finetune", "recordings", "--out", "o", "--hop", 0], "hop is 0"),
        (["timeline", "runs/finetune", "recordings", "--out", "o", "--batch", 0], "batch is 0; it is 1 or more"),
        (["features", "runs/finetune", "recordings", "--out", "o", "--batch", -3], "batch is -3; it is 1 or more"),
        (["predict", "runs/finetune", "recordings", "--out", "o", "--top-k", 0], "top_k is 0"),
        (["predict", "runs/finetune", "recordings", "--out", "s3://o"], "--upload takes the URL"),
        (["predict", "runs/finetune", "recordings", "--out", "o", "--upload", "o"], "upload is 'o'"),
        (["predict", "runs/finetune", "recordings", "--out", "o", "--address", "auto"], "only --engine ray takes"),
        (["guess", "runs/finetune"], "unknown command 'corpus guess'"),
    ):
        code, _, err = vivit("corpus", *options)
        assert code == 2
        assert problem in err
    assert not (home / "o").exists()
