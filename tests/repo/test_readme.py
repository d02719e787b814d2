"""Every command of the README runs, word for word; training with smaller settings appended."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vivit import cli
from vivit.cli import demo as demo_module
from vivit.config import replace
from vivit.data.tools.synthetic import render, write_video

from .tree import BLOCK, tree

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALLER = shlex.split(
    "--model.image-size 32 32 --model.num-frames 4 --model.embed-dim 48 --model.depth 1 --model.temporal-depth 1 "
    "--optim.epochs 2 --optim.warmup-epochs 0 --optim.batch-size 4 --data.workers 0"
)


def blocks(language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks() for line in block.splitlines()]
    return [line for line in lines if line.startswith("vivit ")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder with my_videos/<class>/*.mp4 and some_video.mp4."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        frames, scene = render(0, "train", i * 8, num_frames=12)
        folder = tmp_path / "my_videos" / scene["noun"]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{i}.mp4", frames)
    write_video(tmp_path / "some_video.mp4", render(0, "val", 0, num_frames=12)[0])
    return tmp_path


def run(command, monkeypatch):
    words = shlex.split(command) + (SMALLER if command.startswith("vivit train") else [])
    monkeypatch.setattr(sys, "argv", words)
    cli.main()  # a failure would be SystemExit


def test_the_commands_for_ones_own_videos_run_in_their_order(home, monkeypatch, capsys):
    own = [command for command in commands() if "my_videos" in command or "runs/finetune" in command]
    assert [command.split()[1] for command in own] == ["data", "train", "predict"]
    for command in own:
        run(command, monkeypatch)
    assert "some_video.mp4" in capsys.readouterr().out
    for command in re.findall(r"`(vivit (?:eval|info)[^`]*)`", BLOCK.sub("", README)):
        run(command, monkeypatch)
    assert (home / "runs" / "finetune" / "results.json").exists()


def test_the_python_example_runs(home, monkeypatch):
    for command in commands():
        if command.startswith("vivit train"):
            run(command, monkeypatch)
    [code] = blocks("python")
    video = torch.zeros(1, 32, 3, 224, 224, dtype=torch.uint8)
    exec(code.replace("ViViT-B/", "ViViT-Ti/"), {"video": video})


def test_make_knows_the_targets_that_readme_and_contributing_name():
    named = set(re.findall(r"^make (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "check", "drill"} <= named
    for target in named:
        result = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_the_tree_is_what_the_docstrings_say():
    assert BLOCK.findall(README) == [tree()], "run python -m tests.repo.tree"


def test_the_demo_tells_its_whole_story(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_module, "TRAIN_VIDEOS", 32)
    monkeypatch.setattr(demo_module, "TEST_VIDEOS", 8)
    recipe = demo_module.recipe
    monkeypatch.setattr(
        demo_module,
        "recipe",
        lambda: replace(
            recipe(),
            optim=replace(recipe().optim, epochs=1, warmup_epochs=0),
            data=replace(recipe().data, workers=0),
            eval=replace(recipe().eval, temporal_views=2),
        ),
    )
    demo_module.demo(str(tmp_path / "demo"))
    out = capsys.readouterr().out
    assert out.index("1. Videos") < out.index("2. Training") < out.index("3. Test") < out.index("4. A video")
    assert "frames shuffled" in out
    assert "vivit train finetune --data.root my_videos" in out
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
