"""Run every command of the README word for word, with a short schedule appended to training."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from vivit import cli
from vivit.cli import demo as demo_module
from vivit.config import replace

from .tree import BLOCK, PAGES, tree

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HUB_ID = "google/vit-base-patch16-224-in21k"
SHORT = shlex.split("--optim.epochs 2 --optim.warmup-epochs 0 --optim.batch-size 4 --data.workers 0")


def blocks(language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks() for line in block.splitlines()]
    return [line for line in lines if line.startswith("vivit ")]


@pytest.fixture
def home(home, monkeypatch):
    """The folder, and a hub that has one small image ViT."""
    size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 128}
    vit = transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=16))
    vit.save_pretrained(home / "hub" / HUB_ID)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(home / "hub" / repo))
    return home


def run(command, monkeypatch):
    words = shlex.split(command) + (SHORT if command.startswith("vivit train") else [])
    monkeypatch.setattr(sys, "argv", words)
    cli.main()  # a failure would be SystemExit


def test_the_commands_for_ones_own_videos_run_in_their_order(home, monkeypatch, capsys):
    own = [command for command in commands() if "my_videos" in command or "runs/finetune" in command]
    assert [command.split()[1] for command in own] == ["data", "train", "predict"]
    assert "--init vit-base" in own[1]
    assert f"`vit-base` is `{HUB_ID}`" in README
    for command in own:
        run(command, monkeypatch)
    assert "some_video.mp4" in capsys.readouterr().out
    for command in re.findall(r"`(vivit (?:eval|info|data show)[^`]*)`", BLOCK.sub("", README)):
        run(command, monkeypatch)
    assert (home / "runs" / "finetune" / "results.json").exists()
    assert json.loads((home / "runs" / "finetune" / "config.json").read_text())["model"]["embed_dim"] == 64


def test_a_downloaded_folder_starts_the_training_offline(home, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    shutil.move(home / "hub" / HUB_ID, home / "vit-base")
    [start] = re.findall(r"`(--init \./[^`]*)`", README)
    [train] = [command for command in commands() if command.startswith("vivit train")]
    run(train.replace("--init vit-base", start), monkeypatch)
    assert (home / "runs" / "finetune" / "weights").is_dir()


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


@pytest.mark.parametrize(("page", "files"), PAGES.items())
def test_the_tree_has_the_first_line_of_every_docstring(page, files):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert BLOCK.findall(text) == [tree(files=files)], "run python -m tests.repo.tree"


def test_the_demo_prints_its_five_steps_and_writes_its_report(tmp_path, monkeypatch, capsys):
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
    steps = ("1. Videos", "2. Training", "3. Test", "4. A video", "5. A minute")
    assert [out.index(step) for step in steps] == sorted(out.index(step) for step in steps)
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "A minute of video" in page
    assert page.count('class="truth"') == 12  # a bar for each move
    assert (tmp_path / "demo" / "timeline.html").is_file()
    assert "frames shuffled" in out
    assert "vivit train finetune --data.root my_videos" in out
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
