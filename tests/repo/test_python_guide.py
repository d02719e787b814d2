"""Run every block of docs/guides/python.md, in order, on small models and synthetic videos."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import vivit
from vivit.config import ModelConfig
from vivit.data import loader
from vivit.model.encoders import ENCODERS
from vivit.weights import load

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## ([^\n]*)$|^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
SMALL = {"image_size": (32, 32), "num_frames": 8, "embed_dim": 64, "depth": 1, "temporal_depth": 1, "num_heads": 1}


def blocks():
    """Yield (title of the section, code) of the guide."""
    section = ""
    for title, code in BLOCKS:
        section = title or section
        if code:
            yield section, code


def write_image_vit(path, width=64, depth=1):
    """Write an image ViT in timm's names and layout."""
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=width, depth=depth, num_heads=width // 64, num_classes=3
    )
    save_file(model.state_dict(), path)


@pytest.fixture
def home(home, monkeypatch):
    """The folder with what else the guide names; presets are small, and no loader starts processes."""
    write_image_vit(home / "vit-base")
    monkeypatch.setattr(load, "preset", lambda name: ModelConfig(**SMALL))
    monkeypatch.setattr(loader, "num_workers", lambda asked: 0)
    return home


def run(sections, namespace):
    for section, code in blocks():
        if section in sections:
            exec(code, namespace)
    return namespace


def test_the_guide_shows_models_videos_training_and_attention_as_they_are(home):
    names = run(("Models", "Videos", "Training", "Features and attention"), {})
    assert names["logits"].shape == (len(names["labels"]), 4)
    assert names["prediction"].classes["label"]
    assert names["frames"].shape[0] == 4
    assert names["losses"]
    assert any({"step", "loss", "lr"} <= line.keys() for line in names["run"].metrics)
    assert names["features"].shape == (2, 64)
    assert names["maps"].space.shape == names["model"].config.grid


def test_a_training_loop_of_ones_own_moves_the_weights_and_so_does_the_trainer(home):
    names = run(("A training loop of your own",), {"torch": torch, "vivit": vivit})
    before = {name: p.clone() for name, p in names["model"].named_parameters()}
    assert before["head.weight"].abs().sum() > 0  # it starts at zero
    run(("The Hugging Face Trainer",), names)
    assert names["trainer"].state.global_step == 2
    assert not torch.equal(names["model"].head.weight, before["head.weight"])
    assert (home / "hf" / "weights" / "model.safetensors").is_file()


def test_an_encoder_of_ones_own_is_created_saved_and_loaded(home, monkeypatch):
    monkeypatch.setitem(ENCODERS, "mean", ENCODERS["spatiotemporal"])  # the guide's entry goes out again at the end
    names = run(("An encoder of your own",), {"torch": torch, "vivit": vivit})
    assert type(names["model"].encoder).__name__ == "MeanOfTokens"


def test_every_block_is_run_by_a_test():
    tested = {"Models", "Videos", "Training", "Features and attention", "A training loop of your own"}
    assert {section for section, _ in blocks()} == tested | {"The Hugging Face Trainer", "An encoder of your own"}
