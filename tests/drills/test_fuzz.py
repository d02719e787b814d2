"""Damaged videos, images and weights: an answer or an error that names the file; the same pixels by every path."""

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import vivit
from vivit.config import ModelConfig, replace
from vivit.data.dataset import eval_views
from vivit.data.sample import Sample
from vivit.data.video.frame_folder import open_video
from vivit.errors import VideoError, VivitError

from ..data.videos import counter_frames, write_video
from . import fuzz

VIDEOS = {
    "h264.mp4": "libx264",
    "h265.mkv": "libx265",
    "vp9.webm": "libvpx-vp9",
    "mpeg4.avi": "mpeg4",
    "h264.avi": "libx264",
    "mpeg2.mpg": "mpeg2video",
    "h264.ts": "libx264",
    "h264.flv": "libx264",
    "mjpeg.mov": "mjpeg",
    "msmpeg4.asf": "msmpeg4",
}
DIFFERS = "differs by access path"
TINY = replace(ModelConfig(), image_size=(32, 32), num_frames=4, embed_dim=48, num_heads=3, depth=1, temporal_depth=1)


def read_by_every_path(path: Path) -> str:
    """Compare frames asked for in order, one by one and at random; then make the views of a test.

    FFmpeg fills damage inside a packet, of which the container knows nothing, with what it decoded before; such a frame
    may depend on where decoding began. These files are counted and must stay rare.
    """
    logging.getLogger("vivit").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    try:
        video = open_video(path)
    except VideoError:
        return "refused when opened"
    n = video.num_frames
    assert np.isfinite(video.times).all()
    assert (np.diff(video.times) > 0).all()
    assert 0 < video.fps < 1e9
    assert 0 < video.duration < 1e12
    if n > 2000:
        return "claims many frames"
    rng = random.Random(0)
    straight: dict[int, bytes] = {}
    try:
        for index, image in video.images(range(n)):
            straight[index] = image.tobytes()
    except VideoError:
        pass  # one frame does not decode: the others are compared
    for wanted in [*([i] for i in rng.sample(range(n), min(n, 6))), sorted(rng.sample(range(n), min(n, 5)))]:
        try:
            frames = open_video(path).frames(wanted).permute(0, 2, 3, 1).contiguous().numpy()
        except VideoError:
            continue
        for index, image in zip(wanted, frames):
            if index in straight and image.tobytes() != straight[index]:
                return DIFFERS
    try:
        assert eval_views(Sample(str(path)), TINY, vivit.config.EvalConfig()).dtype == torch.uint8
    except VideoError:
        return "a frame does not decode"
    return "reads"


def read_images(path: Path) -> str:
    """Read an image as the only one of a folder."""
    folder = path.parent / f"folder-{path.stem}"
    folder.mkdir()
    (folder / f"0001{path.suffix}").symlink_to(path)
    try:
        open_video(folder).frames([0])
        return "reads"
    except VideoError:
        return "refused"


def load_weights(path: Path) -> str:
    """Load a file of weights, or our folder with a damaged model.safetensors or config.json."""
    torch.set_num_threads(1)
    source = path
    if path.suffix in (".safetensors", ".json"):
        source = path.parent / f"folder-{path.stem}"
        source.mkdir()
        for name in ("model.safetensors", "config.json"):
            (source / name).symlink_to(path if path.name.endswith(name) else path.parent / name)
    try:
        model = vivit.from_pretrained(source)
    except (VivitError, OSError):
        return "refused"
    assert all(p.isfinite().all() for p in model.parameters())
    return "loads"


def report(what: str, outcomes, wrong) -> None:
    print(f"{sum(outcomes.values())} damaged {what}: " + ", ".join(f"{n} {name}" for name, n in outcomes.most_common()))
    assert not wrong, "\n".join(wrong[:10])
    assert outcomes[DIFFERS] <= 1 + sum(outcomes.values()) // 100


def videos(folder: Path) -> list[Path]:
    frames = counter_frames(40)
    formats = {"mjpeg": "yuvj420p"}
    return [
        write_video(folder / name, frames, codec=codec, pix_fmt=formats.get(codec, "yuv420p"))
        for name, codec in VIDEOS.items()
    ]


def images(folder: Path) -> list[Path]:
    paths = [folder / name for name in ("rgb.png", "palette.png", "photo.jpg", "progressive.jpg")]
    picture = Image.fromarray(counter_frames(3)[2])
    for path, image, options in zip(
        paths, (picture, picture.quantize(), picture, picture), ({}, {}, {}, {"progressive": True})
    ):
        image.save(path, **options)
    return paths


def weights(folder: Path) -> list[Path]:
    vivit.create(TINY, classes={"label": ["a", "b"]}).save_pretrained(folder)
    vit = VisionTransformer(img_size=32, patch_size=16, embed_dim=64, depth=1, num_heads=1, num_classes=3)
    torch.save(vit.state_dict(), folder / "vit.pth")
    np.savez(folder / "vit.npz", **{name: p.detach().numpy() for name, p in vit.state_dict().items()})
    return [folder / name for name in ("model.safetensors", "config.json", "vit.pth", "vit.npz")]


@pytest.mark.drill
def test_two_thousand_damaged_videos_read_or_are_refused_and_never_differ_by_path(tmp_path):
    report("videos", *fuzz.drill(videos(tmp_path), read_by_every_path, tmp_path, count=2000, seed=0))


@pytest.mark.drill
def test_a_thousand_damaged_images_read_or_are_refused(tmp_path):
    report("images", *fuzz.drill(images(tmp_path), read_images, tmp_path, count=1000, seed=0))


@pytest.mark.drill
def test_six_hundred_damaged_weights_load_or_are_refused(tmp_path):
    report("weights", *fuzz.drill(weights(tmp_path), load_weights, tmp_path, count=600, seed=0))


def test_a_few_damaged_files_of_every_kind(tmp_path):
    report("videos", *fuzz.drill(videos(tmp_path), read_by_every_path, tmp_path, count=20, seed=1))
    report("images", *fuzz.drill(images(tmp_path), read_images, tmp_path, count=20, seed=1))
    report("weights", *fuzz.drill(weights(tmp_path), load_weights, tmp_path, count=20, seed=1))
