"""Run every command and every block of docs/guides/serve.md, with the port of a running server."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from vivit.serve.parameters import OF_EXPLAIN, OF_JOBS, OF_PREDICT, OF_STREAMS

from ..data.videos import counter_frames, write_video
from .test_command import command

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]
OF_DEFAULT_ADDRESS = "http://127.0.0.1:8000"
pytestmark = pytest.mark.slow


@pytest.fixture
def home(model, video, tmp_path):
    model.save_pretrained(tmp_path / "runs" / "finetune")
    shutil.copy(video, tmp_path / "clip.mp4")
    write_video(tmp_path / "recording.ts", counter_frames(50))
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_commands_of_the_guide_run(home, monkeypatch, capsys):
    serve, exposed = [line for line in COMMANDS if line.startswith("vivit ")]
    curls = [line for line in COMMANDS if line.startswith("curl ")]
    assert len(COMMANDS) == len(curls) + 3  # and pip
    with command(*shlex.split(serve)[2:], "--port", 0, cwd=home) as (_, url):
        answers = []
        for line in curls:
            words = shlex.split(line.replace(OF_DEFAULT_ADDRESS, url))
            done = subprocess.run([*words, "-sS"], cwd=home, capture_output=True, text=True, timeout=600, check=True)
            answers.append(json.loads(done.stdout))
        form, raw, listed, job = answers
        assert form.keys() == raw.keys() == {"classes", "unsure", "video"}
        assert listed[0].keys() == {"label", "score"}
        assert "id" in job
        job, stream = [block for language, block in BLOCKS if language == "python"]
        monkeypatch.chdir(home)
        exec(job.replace(OF_DEFAULT_ADDRESS, url), {})
        assert re.search(r"^done (\d+) of \1$", capsys.readouterr().out, re.MULTILINE)
        exec(stream.replace(OF_DEFAULT_ADDRESS, url), {})
        assert capsys.readouterr().out.startswith("0.0 ")
    with command(*shlex.split(exposed)[2:], "--port", 0, cwd=home) as (_, url):
        assert url.startswith("http://0.0.0.0:")
        assert (home / "token.txt").exists()


def test_the_guide_names_every_parameter():
    for name in {*OF_PREDICT, *OF_EXPLAIN, *OF_JOBS, *OF_STREAMS}:
        assert f"`{name}`" in GUIDE, name
