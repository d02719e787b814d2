"""Every command line in README and docs is one that its command takes; those on data and fine-tuning are run."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import safetensors.torch
import tyro
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit import cli

from ..data.datasets.official import epic_kitchens, kinetics

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACEHOLDERS = {"RECIPE": "demo", "DATASET": "kinetics400", "STUDY": "tokenisation", "PRESET": "ViViT-B/16x2"}


def commands(page):
    """Return the `vivit` commands of the blocks of a page, without comments, prompts, pipes and what launches them."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.match(r"(?:\$ |cat .*\| |torchrun .* -m -- )?(vivit [^#>|&]*)", line) for line in lines]
    return [match[1].strip() for match in found if match]


def every_command():
    return [pytest.param(line, id=line) for page in PAGES for line in dict.fromkeys(commands(page))]


def without_start(words):
    """Leave out --init, which a recipe that fits itself to the weights would open."""
    return [word for i, word in enumerate(words) if "--init" not in words[max(i - 1, 0) : i + 1]]


class Accepted(BaseException):
    """The parser of a command has taken its arguments."""


@pytest.mark.parametrize("command", every_command())
def test_a_command_of_the_docs_is_one_that_its_command_takes(command, monkeypatch, tmp_path):
    parse = tyro.cli

    def parse_and_stop(*args, **kwargs):
        found = parse(*args, **kwargs)
        if kwargs.get("return_unknown_args"):  # a part of them is read first
            return found
        raise Accepted

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tyro, "cli", parse_and_stop)
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    monkeypatch.setattr(sys, "argv", without_start(words) if words[:3] == ["vivit", "train", "finetune"] else words)
    with pytest.raises(Accepted):
        cli.main()


SHORT = shlex.split(
    "--optim.epochs 1 --optim.warmup-epochs 0 --optim.batch-size 4 --data.workers 0 --eval.temporal-views 1 "
    "--eval.spatial-views 1 --device cpu"
)
SMALL = shlex.split(  # in place of a ViViT-S
    "--model.embed-dim 32 --model.depth 1 --model.temporal-depth 1 --model.num-heads 1 --model.num-frames 4 "
    "--model.image-size 32 32 --model.tubelet-size 2 16 16"
)


def run(command, monkeypatch, more=()):
    words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [*words, *(more if words[1] in ("train", "eval") else ())])
    cli.main()  # a failure would be SystemExit


@pytest.mark.slow
def test_the_commands_of_the_guide_on_ones_own_videos_run(home, monkeypatch, capsys):
    vit = VisionTransformer(img_size=32, patch_size=16, embed_dim=64, depth=1, num_heads=1, num_classes=9)
    safetensors.torch.save_file(vit.state_dict(), "vit-base")
    Path("some_video.mp4").rename("new_video.mp4")
    check, train, evaluate, predict = commands(ROOT / "docs" / "guides" / "finetune.md")
    run(check, monkeypatch)
    assert "\n0 problems\n" in capsys.readouterr().out
    run(train, monkeypatch, SHORT)
    run(evaluate, monkeypatch)
    assert "multi view" in capsys.readouterr().out
    run(predict, monkeypatch)
    assert re.search(r"new_video.mp4\n +label +\d", capsys.readouterr().out)


@pytest.mark.slow
def test_the_commands_of_the_guides_on_data_run(home, monkeypatch, capsys):
    guides = [commands(ROOT / "docs" / "guides" / f"{name}.md") for name in ("data", "datasets")]
    (folder, table, official, prepare, train, sharded, from_shards, from_a_store), (kinetics_check, *_) = guides
    assert "s3://" in from_a_store  # tests/data/test_shards.py reads from other storage
    epic_kitchens(home / "epic")
    kinetics(home / "kinetics400")
    rows = [
        f"{video.relative_to('my_videos')},{video.parent.name}" for video in sorted(Path("my_videos").rglob("*.mp4"))
    ]
    run(folder, monkeypatch)
    assert "\n0 problems\n" in capsys.readouterr().out
    for command in (official, kinetics_check):
        with pytest.raises(SystemExit, match="1"):
            run(command, monkeypatch)
        assert "\n1 problems\nleak" in capsys.readouterr().out, command  # the miniatures share one video
    Path("my_videos", "labels.csv").write_text("\n".join(["path,label", *rows]))
    Path("real").symlink_to("my_videos", target_is_directory=True)
    for command in (table, sharded, f"{prepare} --shard-mib 512"):
        run(command, monkeypatch)
    assert "12 videos written, 0 already there, 0 bad" in capsys.readouterr().out
    run(train, monkeypatch, SHORT + SMALL)
    Path("runs").rename("earlier")
    run(from_shards, monkeypatch, SHORT + SMALL)
    assert (home / "runs" / "finetune" / "weights").is_dir()


@pytest.mark.slow
def test_the_python_of_the_guide_on_weights_runs(tmp_path, monkeypatch):
    uploaded = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda _, **given: uploaded.append(given["repo_id"]))
    names = {"source": "trained", "names": {"action": ["swim", "run"]}}
    vivit.create("ViViT-Ti/16x2 FE", classes={"move": ["left", "right"]}).save_pretrained("trained")
    text = (ROOT / "docs" / "guides" / "weights.md").read_text(encoding="utf-8").replace("ViViT-B/", "ViViT-Ti/")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert vivit.from_pretrained("weights").config.classes == {"action": ("swim", "run")}
    assert uploaded == ["owner/name"]
