"""Compare official checkpoints with their published results.

    vivit weights verify CHECKPOINT [CLIP] [--image-size 224 224]

The shapes of ViViT's five released checkpoints are known. For one of them, ViViT-B/16x2 on Kinetics-400, the first
logits on the clip `eating_spaghetti_32_frames.npy` are published. So are three logits of V-JEPA 2's ViT-L with a probe
on Something-Something v2, on a clip whose pixels are all 1: by transformers, in tests/models/vjepa2. For the others,
the text says what was checked and how to measure their accuracy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig
from .load import from_pretrained, load_checkpoint


@dataclass(frozen=True)
class Release:
    """A released checkpoint: its shape, and the published results."""

    name: str
    encoder: str
    embed_dim: int
    temporal_depth: int | None
    num_classes: int
    accuracy: str
    logits: tuple[float, ...] = ()
    first: int = 0
    """The class of the first of `logits`."""
    atol: float = 1e-4
    positions: str = "learned"
    pixels_are_one: bool = False
    """The logits are of a clip whose pixels are all 1, not of one that the user has."""


RELEASES = (
    Release(
        "ViViT-B/16x2, Kinetics-400",
        "spatiotemporal",
        768,
        None,
        400,
        "79.9 % top-1 with 4 x 3 views",
        (-1.0543, 2.0764, -0.2104, 0.4439, -0.9658),
    ),
    Release("ViViT-B/16x2 FE, Kinetics-400", "factorised_encoder", 768, 4, 400, "78.4 % top-1 with 4 x 3 views"),
    Release("ViViT-L/16x2 FE, Kinetics-400", "factorised_encoder", 1024, 24, 400, "80.3 % top-1 with 4 x 3 views"),
    Release("ViViT-L/16x2 FE, Kinetics-600", "factorised_encoder", 1024, 24, 600, "81.6 % top-1 with 4 x 3 views"),
    Release("ViViT-L/16x2 FE, EPIC-Kitchens", "factorised_encoder", 1024, None, 397, "43.6 % action with 4 x 1 views"),
    Release(
        "V-JEPA 2 ViT-L with a probe, Something-Something v2",
        "spatiotemporal",
        1024,
        None,
        174,
        "73.7 % top-1 with 2 x 3 views",
        (0.8814, -0.1195, -0.6389),
        first=100,
        atol=1e-2,  # as transformers' test allows
        positions="rope_3d",
        pixels_are_one=True,
    ),
)


def verify(source: str | os.PathLike, clip: str | os.PathLike | None = None, **overrides: Any) -> str:
    """Check a released checkpoint; return what was checked, as text.

    `clip` is a .npy file of uint8 frames (T, H, W, 3). Raises ValueError if the logits are not the published ones.
    """
    knows_size = "image_size" in load_checkpoint(source).config
    options: dict[str, Any] = overrides if knows_size else {"image_size": (224, 224)} | overrides
    model = from_pretrained(source, **options).eval()
    assert model.load_report is not None
    lines = [model.load_report.summary]
    release = find_release(model.config)
    if release is None:
        return "\n".join([*lines, f"Not one of the released checkpoints: {', '.join(r.name for r in RELEASES)}."])
    lines.append(f"The shape of {release.name}; published: {release.accuracy} (vivit eval measures it).")
    if not release.logits:
        return "\n".join([*lines, "Logits: not checked, none are published for this checkpoint."])
    if clip is None and not release.pixels_are_one:
        return "\n".join([*lines, "Logits: not checked; give the clip eating_spaghetti_32_frames.npy to compare them."])
    pixels = torch.ones(model.config.num_frames, 3, *model.config.image_size, dtype=torch.uint8)
    if clip is not None:
        pixels = read_clip(clip, model.config)
    with torch.no_grad():
        got = model(pixels[None])[0, release.first : release.first + len(release.logits)]
    error = float((got - torch.tensor(release.logits)).abs().max())
    shown = f"{[round(x, 4) for x in got.tolist()]}, published {list(release.logits)}, at most {error:.1e} apart"
    classes = "first logits" if not release.first else f"logits from class {release.first} on"
    if not error <= release.atol:
        hint = "" if clip is None else " Is it the clip of that name?"
        raise ValueError(f"{source}: {classes} {shown}; allowed is {release.atol:.0e}.{hint}")
    return "\n".join([*lines, f"Logits: equal. {classes.capitalize()} {shown}."])


def find_release(config: ModelConfig) -> Release | None:
    """Return the released checkpoint with the shape of this config, including temporal_depth where it is known."""
    for release in RELEASES:
        same = (release.encoder, release.embed_dim, release.num_classes) == (
            config.encoder,
            config.embed_dim,
            config.num_classes,
        )
        same = same and release.positions == config.positions
        if same and release.temporal_depth in (None, config.temporal_depth):
            return release
    return None


def read_clip(path: str | os.PathLike, config: ModelConfig) -> Tensor:
    """Read uint8 frames (T, C, H, W): resize the short side to 256 (for 224) bilinearly as PIL does, center-crop."""
    from PIL import Image  # comes with torchvision

    frames = np.load(Path(path), allow_pickle=False)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != config.num_frames:
        raise ValueError(
            f"{path}: {frames.dtype} {frames.shape}; expected uint8 ({config.num_frames}, height, width, 3)"
        )
    (height, width), (h, w) = frames.shape[1:3], config.image_size
    short = round(h / config.preprocessing.crop_fraction)
    scale = short / min(height, width)
    size = (int(width * scale), int(height * scale))
    top, left = (size[1] - h) // 2, (size[0] - w) // 2
    out = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in frames]
    return torch.from_numpy(np.stack(out)[:, top : top + h, left : left + w]).movedim(-1, 1).contiguous()
