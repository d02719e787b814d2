"""Print the table of docs/guides/weights.md that says how far our features are from transformers'.

    python -m tests.weights.parity_table

Weights are random, so that every parameter has an effect; differences are those of the largest feature, in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import DINOv3ViTConfig, DINOv3ViTModel, VJEPA2Config

import vivit
from vivit.text import format_markdown

from . import test_clip, test_dinov3, test_video_models, test_vjepa2
from .random_weights import randomise
from .test_image_models import HF
from .test_vjepa2 import relative

HEADING = ["family", "size", "format", "difference"]
JEPA_L = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 2}
JEPA_G = {"hidden_size": 1408, "num_attention_heads": 22, "num_hidden_layers": 2, "mlp_ratio": 48 / 11}
JEPA_H = {"hidden_size": 1280, "num_attention_heads": 16, "num_hidden_layers": 2}
VIT_B = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 12}
VIT_L = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Case:
    """A row of the table: `difference` builds their model, loads it as ours and compares the two."""

    family: str
    size: str
    format: str
    difference: Callable[[Path], float]
    large: bool = False


def jepa(folder: Path, *, kind: str = "VJEPA2Model", released: bool = False, **changes: object) -> float:
    theirs = randomise(getattr(transformers, kind)(VJEPA2Config(**test_vjepa2.SMALL | changes)))
    if released:
        torch.save({"encoder": test_vjepa2.released(theirs)}, folder / "w.pt")
        ours = vivit.from_pretrained(folder / "w.pt", **test_vjepa2.SIZES)
    else:
        theirs.save_pretrained(folder)
        ours = vivit.from_pretrained(folder)
    video = torch.randn(1, 8, 3, 32, 32)
    if kind == "VJEPA2Model":
        return relative(ours.features(video), theirs(video, skip_predictor=True).last_hidden_state.mean(dim=1))
    return relative(ours(video), theirs(video).logits)


def image(theirs: torch.nn.Module, folder: Path) -> float:
    theirs.save_pretrained(folder)
    ours, image = vivit.from_pretrained(folder), torch.randn(2, 3, 32, 32)
    return relative(ours.features(image[:, None]), theirs(image).pooler_output)


def dino(folder: Path, **changes: object) -> float:
    return image(randomise(DINOv3ViTModel(DINOv3ViTConfig(**test_dinov3.SMALL | changes))), folder)


def released_dino(folder: Path) -> float:
    theirs, image = test_dinov3.their_dinov3(), torch.randn(2, 3, 32, 32)
    torch.save(test_dinov3.released(theirs), folder / "w.pth")
    ours = vivit.from_pretrained(folder / "w.pth", image_size=(32, 32))
    return relative(ours.features(image[:, None]), theirs(image).pooler_output)


def registers(folder: Path) -> float:
    config = transformers.Dinov2WithRegistersConfig(**HF, mlp_ratio=2, image_size=32, num_register_tokens=4)
    return image(randomise(transformers.Dinov2WithRegistersModel(config)), folder)


def classifier(theirs: torch.nn.Module, folder: Path) -> float:
    theirs.save_pretrained(folder)
    ours = vivit.from_pretrained(folder)
    c = ours.config
    video = torch.randn(2, c.num_frames, 3, *c.image_size)
    return relative(ours(video), theirs(video if c.num_frames > 1 else video[:, 0]).logits)


def vit(folder: Path) -> float:
    config = transformers.ViTConfig(**HF, intermediate_size=96, image_size=32)
    return classifier(randomise(transformers.ViTForImageClassification(config)), folder)


def video_mae(folder: Path) -> float:
    theirs = test_video_models.their_video_mae(transformers.VideoMAEForVideoClassification)
    return classifier(theirs, folder)


PROBE = "VJEPA2ForVideoClassification"
CASES = (
    Case("ViViT", "48 wide, 2 layers", "Hugging Face", lambda f: classifier(test_video_models.their_vivit(), f)),
    Case("VideoMAE", "48 wide, 2 layers", "Hugging Face", video_mae),
    Case("ViT", "48 wide, 2 layers", "Hugging Face", vit),
    Case("V-JEPA 2", "64 wide, 2 layers", "Hugging Face", jepa),
    Case("V-JEPA 2", "64 wide, 2 layers", "released .pt", lambda folder: jepa(folder, released=True)),
    Case("V-JEPA 2", "L: 1024 wide, 2 of 24 layers", "Hugging Face", lambda folder: jepa(folder, **JEPA_L), large=True),
    Case("V-JEPA 2", "H: 1280 wide, 2 of 32 layers", "Hugging Face", lambda folder: jepa(folder, **JEPA_H), large=True),
    Case("V-JEPA 2", "g: 1408 wide, 2 of 40 layers", "Hugging Face", lambda folder: jepa(folder, **JEPA_G), large=True),
    Case("V-JEPA 2, probe", "64 wide, 2 + 2 layers", "Hugging Face", lambda folder: jepa(folder, kind=PROBE)),
    Case(
        "V-JEPA 2, probe",
        "L: 1024 wide, 2 of 24 + 3 layers",
        "Hugging Face",
        lambda folder: jepa(folder, kind=PROBE, num_pooler_layers=3, **JEPA_L),
        large=True,
    ),
    Case("DINOv3", "64 wide, 2 layers", "Hugging Face", dino),
    Case("DINOv3", "64 wide, 2 layers", "released .pth", released_dino),
    Case("DINOv3", "B: 768 wide, 12 layers", "Hugging Face", lambda folder: dino(folder, **VIT_B), large=True),
    Case("DINOv3", "L: 1024 wide, 2 of 24 layers", "Hugging Face", lambda folder: dino(folder, **VIT_L), large=True),
    Case("DINOv2 with registers", "48 wide, 2 layers", "Hugging Face", registers),
    Case("CLIP", "48 wide, 2 layers", "Hugging Face", lambda f: image(test_clip.their_tower("CLIP"), f)),
    Case(
        "CLIP",
        "B: 768 wide, 12 layers",
        "Hugging Face",
        lambda f: image(test_clip.their_tower("CLIP", **VIT_B), f),
        True,
    ),
    Case("SigLIP, SigLIP 2", "48 wide, 2 layers", "Hugging Face", lambda f: image(test_clip.their_tower("Siglip"), f)),
    Case(
        "SigLIP, SigLIP 2",
        "B: 768 wide, 12 layers",
        "Hugging Face",
        lambda f: image(test_clip.their_tower("Siglip", **VIT_B), f),
        large=True,
    ),
)


@torch.no_grad()
def measure(case: Case) -> float:
    """Return the difference of one case, of the largest feature."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return case.difference(Path(folder))


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    for row in format_markdown([HEADING], align="<<<>").splitlines():
        print(row, flush=True)
    for case in CASES:
        print(f"| {case.family} | {case.size} | {case.format} | {measure(case):.0e} |", flush=True)


if __name__ == "__main__":
    main()
