"""Run every command of docs/tutorial.md in its order, with a short demo and a small image model for a hub."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import transformers

from vivit import cli
from vivit.cli import demo as demo_module
from vivit.config import replace
from vivit.weights.starts import STARTS

from ..serve.test_command import command

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SHORT = shlex.split("--optim.epochs 2 --optim.warmup-epochs 0 --optim.batch-size 4 --data.workers 0")


@pytest.fixture
def home(home, monkeypatch):
    """The folder after step 2, a hub that has one small image ViT, and a demo of seconds."""
    shutil.move(home / "some_video.mp4", home / "new_clip.mp4")
    size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128}
    vit = transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=16))
    vit.save_pretrained(home / "hub" / STARTS["vit-base"].hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(home / "hub" / repo))
    recipe = demo_module.recipe()
    short = replace(
        recipe, optim=replace(recipe.optim, epochs=1, warmup_epochs=0), data=replace(recipe.data, workers=0)
    )
    monkeypatch.setattr(demo_module, "recipe", lambda: replace(short, eval=replace(recipe.eval, temporal_views=1)))
    monkeypatch.setattr(demo_module, "TRAIN_VIDEOS", 32)
    monkeypatch.setattr(demo_module, "TEST_VIDEOS", 8)
    return home


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_in_their_order(home, monkeypatch, capsys):
    install, (check, online, *own, evaluate, predict, timeline, here, others) = COMMANDS[:4], COMMANDS[4:]
    assert [line.split()[0] for line in install] == ["python3", ".", "pip", "vivit"]

    def run(line):
        words = shlex.split(line) + (SHORT if line.startswith("vivit train") else [])
        monkeypatch.setattr(sys, "argv", words)
        cli.main()

    for line in (install[-1], check):
        run(line)
    assert "\n0 problems\n" in capsys.readouterr().out
    run(online)
    shutil.rmtree(home / "runs")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for line in (*own, evaluate, predict, timeline):
        run(line)
    assert "new_clip.mp4" in capsys.readouterr().out
    assert "<svg" in (home / "runs" / "finetune" / "report.html").read_text()
    assert "<svg" in (home / "timeline.html").read_text()
    for line, address in ((here, "http://127.0.0.1:"), (others, "http://0.0.0.0:")):
        with command(*shlex.split(line)[2:], "--port", 0, cwd=home) as (_, url):
            assert url.startswith(address)
    assert (home / "token.txt").exists()
