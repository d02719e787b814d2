"""What the three studies are run on: `python -m tests.drills.studies FOLDER`, about a minute.

Writes into FOLDER the demo's videos (480 to train and 320 to test), labels-tenth.csv with a tenth of the demo's 1440
training videos and the same test videos, and image.safetensors: an image ViT of the demo recipe's size under timm's
names, trained here on still images of the demo's world (other scenes than those of the videos) to name the shape, its
colour and which ninth of the picture it is in. docs/studies.md has the commands that come next.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from vivit.data.synthetic import HUES, NOUNS, RANGE, render, track, write_dataset

SEED, STILLS_SEED = 0, 1000
TRAIN, TENTH, TEST = 480, 144, 320
IMAGE = {"img_size": 48, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
SIZES = (len(NOUNS), HUES // 2, 9)  # shape, colour, place


def still(split: str, index: int) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """The 48 x 48 pixels in the middle of the first frame of a scene that no video shows, and its labels."""
    frames, scene = render(STILLS_SEED, split, index, num_frames=1)
    column, row = np.clip((track(scene, 1)[0, :2] / RANGE[:2] + 1) * 1.5, 0, 2).astype(int)
    return frames[0, 4:-4, 4:-4], (NOUNS.index(scene["noun"]), scene["hue"] // 2, int(3 * row + column))


def stills(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, 48, 48) in -1 … 1 and (N, 3) labels."""
    pixels, labels = zip(*(still(split, i) for i in range(count)))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor(labels)


def train_image_model(path: Path, *, steps: int = 1200, batch: int = 64, count: int = 6000) -> list[float]:
    """Train the image ViT and write it; returns the accuracy of shape, colour and place on stills of its own."""
    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(**IMAGE, num_classes=sum(SIZES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    pixels, labels = stills("train", count)
    for _ in range(steps):
        chosen = torch.randint(count, (batch,))
        parts = model(pixels[chosen]).split(SIZES, dim=1)
        loss = torch.stack([F.cross_entropy(part, labels[chosen, i]) for i, part in enumerate(parts)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    pixels, labels = stills("train", count + 512)
    with torch.no_grad():
        parts = model(pixels[count:]).split(SIZES, dim=1)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return [(part.argmax(1) == labels[count:, i]).float().mean().item() for i, part in enumerate(parts)]


def write_tenth(root: Path) -> Path:
    """labels-tenth.csv: the first TENTH training rows, which hold every class equally often or nearly, and the test."""
    with (root / "labels.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    train = [row for row in rows if row[-1] == "train"][:TENTH]
    with (root / "labels-tenth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *train, *(row for row in rows if row[-1] == "val")])
    return root / "labels-tenth.csv"


def main(folder: str) -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    write_dataset(root, seed=SEED, train=TRAIN, val=TEST)
    write_tenth(root)
    accuracies = train_image_model(root / "image.safetensors")
    print("image model, on stills it has not seen: shape {:.1%}, colour {:.1%}, place {:.1%}".format(*accuracies))


if __name__ == "__main__":
    main(*sys.argv[1:])
