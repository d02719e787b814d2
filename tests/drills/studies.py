"""The three studies on the demo's world: `python -m tests.drills.studies FOLDER data|quick|full [STUDY]`, resumable.

* data (about two minutes): writes demo/, the demo's own 1440 training and 160 test videos; data/, 480 to train and 240
  to test; data/labels-tenth.csv, 144 of those to train and the same test videos; and data/image.safetensors: an image
  ViT of the demo recipe's size under timm's names, trained here on still images of the demo's world (other scenes than
  those of the videos) to name the shape, its colour and which ninth of the picture it is in.
* quick: all three with --quick on the demo's own videos; prints the minutes of each.
* full: the commands of docs/studies.md; results and pages go to docs/results/. Architecture takes an hour of two cores.
"""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from vivit.data.tools.synthetic import HUES, NOUNS, RANGE, render, track, write_dataset
from vivit.recipes.demo import TEST_VIDEOS, TRAIN_VIDEOS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
SEED, STILLS_SEED = 0, 1000
TRAIN, TENTH, TEST = 480, 144, 240
IMAGE = {"img_size": 48, "patch_size": 12, "embed_dim": 96, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
POOL = {"global_pool": "avg", "class_token": False, "fc_norm": False}  # as the demo's recipe pools
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
    model = timm.models.vision_transformer.VisionTransformer(**IMAGE, **POOL, num_classes=sum(SIZES))
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


TWO_CORES = ["--jobs", "2", "--data.workers", "0"]
ONCE = "--eval-every 100 --save-every 100 --eval.temporal-views 1 --eval.spatial-views 1"
LONGER = "--optim.epochs 100 --optim.warmup-epochs 7", "--optim.epochs 20 --optim.warmup-epochs 1.4"
FULL = {
    "tokenisation": f"--data.root demo/labels.csv --init data/image.safetensors {LONGER[1]} {ONCE}",
    "regularisation": f"--data.root data/labels-tenth.csv --init data/image.safetensors {LONGER[0]} {ONCE}",
    "architecture": f"--data.root demo/labels.csv {LONGER[1]} --cnn-epochs 0.05 {ONCE}",
}
SEEDS = {"tokenisation": 3, "regularisation": 3, "architecture": 5}


def run_study(name: str, settings: list[str], folder: Path) -> float:
    """Run a study below `folder` by the command line; returns its minutes. An interrupted one goes on."""
    since = time.monotonic()
    command = [sys.executable, "-m", "vivit", "study", name, "demo", *settings, *TWO_CORES]
    print("vivit", *command[3:], flush=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, check=True)
    return (time.monotonic() - since) / 60


def quick(folder: Path, names: list[str]) -> None:
    """All with --quick, in folders of their own."""
    settings = ["--data.root", "demo/labels.csv", "--init", "data/image.safetensors", "--quick"]
    minutes = {name: run_study(name, [*settings, "--run", f"runs/quick/{name}"], folder) for name in names}
    print(f"minutes: {minutes}, together {sum(minutes.values()):.1f}")


def full(folder: Path, names: list[str]) -> None:
    """All in full; a finished one goes to docs/results."""
    for name in names:
        run_study(name, ["--seeds", str(SEEDS[name]), *shlex.split(FULL[name])], folder)
        keep(folder / "runs" / "study" / name)


def keep(run: Path) -> None:
    """Copy a study's page and numbers to docs/results."""
    RESULTS.mkdir(exist_ok=True)
    shutil.copy(run / "report.html", RESULTS / f"study-{run.name}.html")
    shutil.copy(run / "results.json", RESULTS / f"study-{run.name}.json")


def main(folder: str, what: str, *names: str) -> None:
    torch.set_num_threads(1)
    root, chosen = Path(folder), [*names] or list(FULL)
    if what == "data":
        write_dataset(root / "demo", seed=SEED, train=TRAIN_VIDEOS, val=TEST_VIDEOS)
        write_dataset(root / "data", seed=SEED, train=TRAIN, val=TEST)
        write_tenth(root / "data")
        accuracies = train_image_model(root / "data" / "image.safetensors")
        print("image model, on stills it has not seen: shape {:.1%}, colour {:.1%}, place {:.1%}".format(*accuracies))
    else:
        {"quick": quick, "full": full}[what](root, chosen)


if __name__ == "__main__":
    main(*sys.argv[1:])
