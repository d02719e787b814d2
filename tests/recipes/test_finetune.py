"""The recipe for one's own videos fits itself to the weights it starts from and to the videos there are."""

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit import cli
from vivit.config import DataConfig, ModelConfig
from vivit.recipes import RECIPES
from vivit.recipes.finetune import finetune, schedule

from ..data.videos import write_video
from ..engine.tiny import metrics


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    vit = VisionTransformer(img_size=24, patch_size=8, embed_dim=128, depth=3, num_heads=2, mlp_ratio=2, num_classes=9)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    safetensors.torch.save_file(vit.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of four training videos of 35 frames, and two to validate on."""
    root = tmp_path_factory.mktemp("videos") / "own"
    for split, count in (("train", 4), ("val", 1)):
        for c, name in enumerate(("dim", "lit")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                write_video(root / split / name / f"{i}.mp4", np.full((35, 32, 32, 3), 60 + 90 * c + i, np.uint8))
    return str(root)


def test_the_model_is_the_image_models_in_all_but_time(weights, videos):
    config = finetune(DataConfig(root=videos), weights)
    m = config.model
    assert (m.embed_dim, m.depth, m.num_heads, m.mlp_ratio, m.pool) == (128, 3, 2, 2.0, "cls")
    assert (m.tubelet_size, m.image_size) == ((2, 8, 8), (24, 24))
    assert (m.encoder, m.num_frames, m.temporal_depth, m.temporal_skip) == ("factorised_encoder", 16, 4, True)
    assert (config.init, config.linear_probe, config.final_weights, config.data.root) == (weights, True, "best", videos)
    assert config.budget == "auto"


def test_frames_are_never_larger_than_those_of_the_videos(weights, tmp_path):
    """Weights of 24 pixels and videos of 20 x 28: two patches of 8 pixels a side."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            write_video(tmp_path / split / name / "0.mp4", np.zeros((9, 20, 28, 3), np.uint8))
    m = finetune(DataConfig(root=str(tmp_path)), weights).model
    assert m.image_size == (16, 16)
    assert m.preprocessing.crop_fraction == 0.875  # the crop covers 16 of 18 pixels


def test_a_clip_fits_into_the_videos(weights, videos):
    assert finetune(DataConfig(root=videos), weights).model.preprocessing.frame_stride == 2  # 16 x 2 of 35 frames
    table = Path(videos).parent / "parts.csv"
    files = [
        (split, name, i) for split, count in (("train", 4), ("val", 1)) for name in ("dim", "lit") for i in range(count)
    ]
    rows = [f"own/{split}/{name}/{i}.mp4,{name},0,0.9,{split}" for split, name, i in files]
    table.write_text("\n".join(["path,label,start,end,split", *rows]))
    config = finetune(DataConfig(root=str(table)), weights)
    assert config.model.preprocessing.frame_stride == 1  # parts of 0.9 s: fewer than 32 frames


def test_without_weights_nothing_is_looked_at():
    config = finetune(DataConfig(root="nowhere"))
    assert (config.linear_probe, config.init, config.final_weights) == (False, None, "last")
    assert config == RECIPES["finetune"](DataConfig(root="nowhere"))


def test_fewer_clips_are_seen_more_often_and_no_run_is_endless():
    epochs = [schedule(clips)["epochs"] for clips in (50, 200, 1000, 5000, 100_000)]
    assert epochs == sorted(epochs, reverse=True)
    steps = [clips * schedule(clips)["epochs"] / 16 for clips in (50, 100, 200, 400)]
    assert min(steps) > 100


def test_what_the_command_line_says_goes_before_what_was_fitted(weights, videos, tmp_path, monkeypatch, capsys):
    words = ["train", "finetune", "--data.root", videos, "--init", weights, "--run", str(tmp_path / "run")]
    words += ["--model.temporal-depth", "1", "--optim.epochs", "1", "--optim.warmup-epochs", "0", "--data.workers", "0"]
    monkeypatch.setattr(sys, "argv", ["vivit", *words])
    cli.main()
    out = " ".join(capsys.readouterr().out.split())
    assert "8 videos x 6 views of the frozen encoder" in out
    assert "attention pooling" in out
    assert "frozen baseline 100.0%, fine-tuned 100.0% (top-1, single view, split 'val'" in out
    assert [line["step"] for line in metrics(tmp_path / "run") if "val/label/top1" in line][0] == 0
    cli.main()
    assert "training finished" in capsys.readouterr().out


def test_a_video_model_to_start_from_stays_what_it_is(videos, tmp_path):
    config = ModelConfig(
        {"action": ("a", "b", "c")}, "spatiotemporal", num_frames=4, image_size=(16, 16), tubelet_size=(2, 8, 8),
        embed_dim=16, depth=1, num_heads=2,
    )  # fmt: skip
    vivit.create(config).save_pretrained(tmp_path / "video")
    fitted = finetune(DataConfig(root=videos), str(tmp_path / "video"))
    assert (fitted.model.encoder, fitted.model.num_frames, fitted.model.classes) == ("spatiotemporal", 4, {})
    assert fitted.linear_probe
    assert fitted.budget is None
    model = vivit.create(fitted.model, classes={"label": ("dim", "lit")}, init=tmp_path / "video")
    assert torch.equal(model.head.weight, torch.zeros(2, 16))
