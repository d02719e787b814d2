"""Compare official checkpoints with their published results.

    vivit weights verify CHECKPOINT [CLIP] [--image-size 224 224]

The shapes of ViViT's five released checkpoints are known. For one of them, ViViT-B/16x2 on Kinetics-400, the first
logits on the clip `eating_spaghetti_32_frames.npy` are published. So are three logits of V-JEPA 2's ViT-L with a probe
on Something-Something v2, on a clip whose pixels are all 1: by transformers, in tests/models/vjepa2. For the others,
the text says what was checked and how to measure their accuracy. For V-JEPA 2's encoders transformers has features of
an image, which is not in its package.

For VideoPrism's vision models features of the first tokens, and for its video-text models of the pooled features, are
in transformers' conversion script and integration test (convert_videoprism_weights_to_hf.py and
test_modeling_videoprism.py, models/videoprism, 2026), of the video water_bottle_drumming.mp4 of the official
repository. The clip is its frames as that script reads them: evenly spaced, 288 x 288, float32 on the scale 0..1;
`frames_16_288.npy` of the test's data holds the 16 of the base models.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.encoders import FactorisedEncoder, PerPositionTransformer
from ..model.vivit import ViViT
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
    values: tuple[float, ...] = ()
    """The first ones of what `kind` says."""
    kind: Literal["logits", "tokens", "features"] = "logits"
    """tokens: three features of each of the first three tokens; features: the pooled ones."""
    first: int = 0
    """The class of the first of the logits."""
    atol: float = 1e-4
    positions: str = "learned"
    clip: str = "the clip eating_spaghetti_32_frames.npy"
    """What the values are of; "ones": a clip whose pixels are all 1, which the user need not have."""


def jepa_encoder(size: str, embed_dim: int, accuracy: str) -> Release:
    """Return the row of a V-JEPA 2 encoder without a probe."""
    return Release(
        f"V-JEPA 2 ViT-{size}", "spatiotemporal", embed_dim, None, 0, accuracy, kind="features", positions="rope_3d"
    )


DRUMMING = "{num_frames} frames of water_bottle_drumming.mp4 (vivit/weights/verify.py says how)"
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
        "VideoPrism-B",
        "factorised_encoder",
        768,
        4,
        0,
        "82.9 % top-1 on Kinetics-400, frozen",
        (0.11648951, 0.4568253, 0.19288044, 0.28420594, -0.04224018, 0.377879, 0.24594213, -0.3914095, -0.30516925),
        "tokens",
        clip=DRUMMING,
    ),
    Release(
        "VideoPrism-L",
        "factorised_encoder",
        1024,
        4,
        0,
        "85.0 % top-1 on Kinetics-400, frozen",
        (0.39503154, 0.07308281, 0.21407786, 0.4963156, -0.02489206, 0.49198192, -0.41461205, 0.24869855, 0.25285226),
        "tokens",
        clip=DRUMMING,
    ),
    Release(
        "VideoPrism-LvT-B",
        "factorised_encoder",
        768,
        4,
        0,
        "classes in words",
        (
            -0.01940615,
            -0.04830061,
            0.0069022,
            0.02915299,
            -0.05897291,
            0.02168823,
            -0.01471708,
            -0.00971614,
            -0.00220576,
        ),
        "features",
        clip=DRUMMING,
    ),
    Release(
        "VideoPrism-LvT-L",
        "factorised_encoder",
        1024,
        4,
        0,
        "classes in words",
        (
            -0.00077759,
            0.00582959,
            -0.00158949,
            0.04192347,
            -0.01581791,
            0.02410023,
            -0.00364033,
            -0.02118852,
            0.00181754,
        ),
        "features",
        clip=DRUMMING,
    ),
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
        clip="ones",
    ),
    jepa_encoder("L", 1024, "73.7 % top-1 on Something-Something v2, with a probe"),
    jepa_encoder("H", 1280, "no accuracy known here"),
    jepa_encoder("g", 1408, "77.3 % top-1 on Something-Something v2, with a probe and at 384 pixels"),
)


def verify(source: str | os.PathLike[str], clip: str | os.PathLike[str] | None = None, **overrides: Any) -> str:
    """Check a released checkpoint; return what was checked, as text.

    `clip` is a .npy file of frames (T, H, W, 3), uint8 or, for VideoPrism, float32. Raises ValueError if the values are
    not the published ones.
    """
    knows_size = "image_size" in load_checkpoint(source).config
    options: dict[str, Any] = overrides if knows_size else {"image_size": (224, 224)} | overrides
    model = from_pretrained(source, **options).eval()
    assert model.load_report is not None
    lines = [model.load_report.summary, *(f"  {note}" for note in model.load_report.notes)]
    release = find_release(model.config)
    if release is None:
        known = ", ".join(r.name for r in RELEASES)
        return "\n".join([*lines, f"Nothing to compare: its shape is none of those that verify knows: {known}."])
    lines.append(f"The shape of {release.name}; published: {release.accuracy} (vivit eval measures it).")
    what = release.kind.capitalize()
    if not release.values:
        return "\n".join([*lines, f"{what}: not checked, none of a clip are published for this checkpoint."])
    if clip is None and release.clip != "ones":
        wanted = release.clip.format(num_frames=model.config.num_frames)
        return "\n".join([*lines, f"{what}: not checked; give {wanted} to compare them."])
    pixels = torch.ones(model.config.num_frames, 3, *model.config.image_size, dtype=torch.uint8)
    if clip is not None:
        pixels = read_clip(clip, model.config)
    with torch.no_grad():
        got = compute_values(model, pixels[None], release)
    error = float((got - torch.tensor(release.values)).abs().max())
    shown = f"{[round(x, 4) for x in got.tolist()]}, published {list(release.values)}, at most {error:.1e} apart"
    which = f"{release.kind} from class {release.first} on" if release.first else f"first {release.kind}"
    if not error <= release.atol:
        hint = "" if clip is None else " Is it the clip of that name?"
        raise ValueError(f"{source}: {which} {shown}; allowed is {release.atol:.0e}.{hint}")
    of = "a clip whose pixels are all 1" if clip is None else str(clip)
    return "\n".join([*lines, f"{what}: equal. {which.capitalize()} of {of}: {shown}."])


def compute_values(model: ViViT, video: Tensor, release: Release) -> Tensor:
    """Compute what is published about a release, of a video (1, T, C, H, W)."""
    if release.kind == "tokens":
        assert isinstance(model.encoder, FactorisedEncoder)
        assert isinstance(model.encoder.temporal, PerPositionTransformer)
        tokens = model.encoder.temporal.encode_tokens(model.encoder.encode_space(model.tokenize(video)))
        return tokens.flatten(1, 2)[0, :3, :3].flatten()
    result = model(video) if release.kind == "logits" else model.features(video)
    return result[0, release.first : release.first + len(release.values)]


def find_release(config: ModelConfig) -> Release | None:
    """Return the released checkpoint with the shape of this config, including temporal_depth where it is known."""
    for release in RELEASES:
        same = (release.encoder, release.embed_dim, release.num_classes) == (
            config.encoder,
            config.embed_dim,
            config.num_classes,
        )
        same = same and release.positions == config.positions
        kind = "logits" if config.num_classes else "features"
        kind = "tokens" if not (config.pool_space or config.joint_depth) else kind
        if same and kind == release.kind and release.temporal_depth in (None, config.temporal_depth):
            return release
    return None


def read_clip(path: str | os.PathLike[str], config: ModelConfig) -> Tensor:
    """Read uint8 frames (T, C, H, W): resize the short side to 256 (for 224) bilinearly as PIL does, center-crop.

    Floats of a model without `pool_space` are taken as they are.
    """
    from PIL import Image  # comes with torchvision

    frames = np.load(Path(path), allow_pickle=False)
    if (
        not config.pool_space
        and frames.shape == (config.num_frames, *config.image_size, 3)
        and frames.dtype.kind == "f"
    ):
        return torch.from_numpy(frames).float().movedim(-1, 1)
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
