"""Fine-tuning against what it must not lose to: `python -m tests.drills.finetune`, about 40 minutes of two free cores.

An image ViT is trained here on still images of coloured shapes (no weights come from anywhere), saved under timm's
names, and given to `vivit train finetune` with two small datasets of videos that it has not seen, made here as well:

* moves: shapes the image model knows, and four ways to move, which come in pairs that only the order of the frames
  tells apart. 12 classes of 20 clips.
* things: shapes it has not seen, on backgrounds it has not seen, drifting anywhere. 8 classes of 12 clips.

Each is run from three seeds (other videos, another order), by the command line with no setting but the data, the
weights, the folder and the seed; then the same without the image weights: the same architecture and schedule at random.
What is compared is measured on a test split that no choice was made on. Writes docs/results/finetune.json and prints
the table of docs/guides/finetune.md.

With `--ways cached all whole` it measures, in accuracy and CPU time, the stages on cached features (`--budget unlimited
--optim.epochs 0`), all stages (`--budget unlimited`: what fits into the default 15 minutes where two cores are free),
and the whole encoder without stages (`--budget None`), and writes docs/results/finetune_stages.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file

from vivit import cli
from vivit.config import replace
from vivit.data.datasets.registry import read_samples
from vivit.data.sample_table import encode_labels
from vivit.data.tools.synthetic import write_video
from vivit.engine.distributed import World
from vivit.engine.evaluate import SINGLE_VIEW, evaluate, load_weights
from vivit.engine.probe import fit_linear_probe
from vivit.engine.run import read_config
from vivit.engine.train import train
from vivit.model.vivit import ViViT
from vivit.text import format_markdown
from vivit.weights.load import create

Floats = NDArray[np.floating]
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "finetune.json"
SIDE, FRAMES = 32, 32  # of the videos
IMAGE = {"img_size": 24, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 1}
POOL = {"global_pool": "avg", "class_token": False, "fc_norm": False}
HUES = 6


def gon(corners: int, *, star: float = 1.0) -> Callable[[Floats, Floats], Floats]:
    """Signed distance, about, to a regular polygon, or to a star whose inner corners lie at `star`."""

    def distance(x: Floats, y: Floats) -> Floats:
        off = np.abs(np.arctan2(x, -y) % (2 * np.pi / corners) - np.pi / corners)  # from the middle between corners
        if star < 1:
            return np.hypot(x, y) - star - (1 - star) * off / (np.pi / corners)
        return np.hypot(x, y) * np.cos(off) - np.cos(np.pi / corners)

    return distance


def box(x: Floats, y: Floats, wide: float, high: float) -> Floats:
    return np.maximum(np.abs(x) - wide, np.abs(y) - high)


KNOWN: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.85,
    "square": lambda x, y: box(x, y, 0.75, 0.75),
    "triangle": gon(3),
    "cross": lambda x, y: np.minimum(box(x, y, 0.28, 1.0), box(x, y, 1.0, 0.28)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.2,
    "bar": lambda x, y: box(x, y, 1.0, 0.33),
    "frame": lambda x, y: np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.7) - 0.18,
    "pair": lambda x, y: np.hypot(np.abs(x) - 0.55, y) - 0.42,
}
NEW: dict[str, Callable[[Floats, Floats], Floats]] = {
    "star": gon(5, star=0.45),
    "hexagon": gon(6),
    "pentagon": gon(5),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.9, 0.75 - np.hypot(x - 0.45, y)),
    "ell": lambda x, y: np.minimum(box(x + 0.6, y, 0.25, 0.9), box(x, y - 0.65, 0.85, 0.25)),
    "tee": lambda x, y: np.minimum(box(x, y, 0.25, 0.9), box(x, y + 0.65, 0.85, 0.25)),
    "hourglass": lambda x, y: np.maximum(np.abs(y) - 0.9, np.abs(x) - 0.15 - 0.7 * np.abs(y)),
    "half": lambda x, y: np.maximum(np.hypot(x, y) - 0.95, y),
}
MOVES = {"up": (0, -1, 0), "down": (0, 1, 0), "grow": (0, 0, 1), "shrink": (0, 0, -1)}  # x, y, log size


def draw(shape: Callable, track: Floats, backdrop: Floats, colour: Floats, side: int) -> NDArray[np.uint8]:
    """Frames (T, side, side, 3): a shape along `track` (T, 4) of x, y (of the side), log size and angle."""
    x, y, log_size, angle = (column[:, None, None] for column in track.T)
    radius = side * 0.3 * np.exp(log_size)
    dx = np.arange(side) - (side - 1) / 2 - side * x
    dy = np.arange(side)[:, None] - (side - 1) / 2 - side * y
    across, along = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    cover = np.clip(0.5 - shape(across / radius, along / radius) * radius, 0, 1)[..., None]
    return np.rint((backdrop + cover * (colour - backdrop)) * 255).astype(np.uint8)


def waves(rng: np.random.Generator, side: int) -> Floats:
    """A background (side, side, 3): plane waves between two dim colours."""
    y, x = np.mgrid[:side, :side] / side
    k, phase = rng.normal(0, 12, (6, 2)), rng.uniform(0, 2 * np.pi, 6)
    texture = np.cos(k[:, 0, None, None] * x + k[:, 1, None, None] * y + phase[:, None, None]).mean(0)
    dark, light = rng.uniform(0, 0.25, 3), rng.uniform(0.15, 0.5, 3)
    return dark + (0.5 + texture)[..., None].clip(0, 1) * (light - dark)


def tiles(rng: np.random.Generator, side: int) -> Floats:
    """A background of another kind: tiles of some size in random colours of middling brightness."""
    cells = int(rng.integers(3, 9))
    rows = np.arange(side) * cells // side
    return rng.uniform(0.1, 0.6, (cells, cells, 3))[rows[:, None], rows]


def hue(value: float, rng: np.random.Generator) -> Floats:
    """A bright colour (3,) of this hue in 0..1."""
    wheel = np.clip(np.abs((value * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return 1 - rng.uniform(0.4, 0.9) * (1 - wheel)


def still(rng: np.random.Generator) -> tuple[NDArray[np.uint8], int, int]:
    """An image of the image model's world, its shape and its hue."""
    kind, colour = int(rng.integers(len(KNOWN))), int(rng.integers(HUES))
    track = np.array([[*rng.uniform(-0.2, 0.2, 2), rng.uniform(-0.4, 0.2), rng.uniform(-0.3, 0.3)]])
    side = IMAGE["img_size"]
    value = (colour + rng.uniform(-0.3, 0.3)) / HUES
    return draw([*KNOWN.values()][kind], track, waves(rng, side), hue(value, rng), side)[0], kind, colour


def move(rng: np.random.Generator, kind: str, way: str) -> NDArray[np.uint8]:
    """A known shape that moves one way: places and sizes are spread alike for a move and its reverse."""
    u = np.linspace(-0.5, 0.5, FRAMES)[:, None]
    middle = np.array([*rng.uniform(-0.1, 0.1, 2), rng.uniform(-0.2, 0.0), rng.uniform(-0.3, 0.3)])
    track = middle + np.sin(2 * np.pi * (u * rng.uniform(1, 3, 4) + rng.uniform(0, 1, 4))) * [0.04, 0.04, 0.06, 0.1]
    track[:, :3] += u * MOVES[way] * np.array([0, 0.4, 0.8])
    return draw(KNOWN[kind], track, waves(rng, SIDE), hue(rng.uniform(), rng), SIDE)


def thing(rng: np.random.Generator, kind: str) -> NDArray[np.uint8]:
    """A new shape on a new background, drifting and turning somehow."""
    u = np.linspace(0, 1, FRAMES)[:, None]
    start = np.array([*rng.uniform(-0.15, 0.15, 2), rng.uniform(-0.3, 0.1), rng.uniform(-0.3, 0.3)])
    track = start + u * rng.uniform(-1, 1, 4) * [0.1, 0.1, 0.2, 0.4]
    return draw(NEW[kind], track, tiles(rng, SIDE), hue(rng.uniform(), rng), SIDE)


DATA: dict[str, tuple[list[tuple[str, ...]], Callable[..., NDArray[np.uint8]], int]] = {
    "moves": ([(kind, way) for kind in ("disc", "bar", "cross") for way in MOVES], move, 20),
    "things": ([(kind,) for kind in NEW], thing, 12),
}


def write_data(root: Path, name: str, seed: int, *, val: int = 5, test: int = 25) -> Path:
    """root/<split>/<class>/<n>.mp4, with as many training clips of a class as DATA says."""
    classes, make, clips = DATA[name]
    for s, (split, count) in enumerate({"train": clips, "val": val, "test": test}.items()):
        for c, parts in enumerate(classes):
            folder = root / split / " ".join(parts)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng((seed, s, c, i, len(name)))
                if not (folder / f"{i}.mp4").exists():
                    write_video(folder / f"{i}.mp4", make(rng, *parts))
    return root


def train_image_model(path: Path, *, steps: int = 2500, batch: int = 64, stills: int = 10_000) -> float:
    """Train an image ViT to name shape and hue of stills, write it under timm's names; returns its accuracy."""
    torch.manual_seed(0)
    model = timm.models.vision_transformer.VisionTransformer(**IMAGE, **POOL, num_classes=len(KNOWN) + HUES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)

    def images(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((seed, 17))
        pixels, kinds, hues = zip(*(still(rng) for _ in range(count)))
        x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x, torch.tensor(kinds), torch.tensor(hues)

    pool = images(1, stills)
    for step in range(steps):
        chosen = torch.randint(stills, (batch,))
        x, kinds, hues = (tensor[chosen] for tensor in pool)
        logits = model(x.flip(3) if step % 2 else x)
        loss = F.cross_entropy(logits[:, : len(KNOWN)], kinds) + F.cross_entropy(logits[:, len(KNOWN) :], hues)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    x, kinds, hues = images(0, 512)
    with torch.no_grad():
        shapes = model(x)[:, : len(KNOWN)].argmax(1)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return (shapes == kinds).float().mean().item()


def fine_tune(root: Path, weights: Path, folder: Path, seed: int, *options: str) -> Path:
    """What a person types: `vivit train finetune` with the data and the weights, and nothing else that matters."""
    words = ["train", "finetune", "--data.root", str(root), "--init", str(weights), "--run", str(folder)]
    with mock.patch.object(sys, "argv", ["vivit", *words, "--seed", str(seed), *options]):
        cli.main()
    return folder


def from_scratch(tuned: Path, folder: Path) -> Path:
    """The same run without the image weights."""
    return train(replace(read_config(tuned), init=None, linear_probe=False, run=str(folder)))


def frozen(tuned: Path) -> ViViT:
    """The start of a run again: the image model's frames averaged, with the head that fits them."""
    config = read_config(tuned)
    torch.manual_seed(config.seed)
    model = create(config.model, init=config.init)
    samples = read_samples("folder", config.data.root, "train")
    labels = encode_labels(samples, config.model.classes)
    fit_linear_probe(model, samples, labels, world=World(0, 1, torch.device("cpu")), workers=2, log=lambda line: None)
    return model


def compare(home: Path, weights: Path, name: str, seed: int) -> dict[str, float]:
    """Accuracies on the test split: frozen baseline, training from scratch, fine-tuning."""
    root = write_data(home / f"{name}-{seed}", name, seed)
    tuned = fine_tune(root, weights, home / f"{name}-{seed}-tuned", seed)
    models = {"frozen": frozen(tuned), "tuned": load_weights(str(tuned))}
    models["scratch"] = load_weights(str(from_scratch(tuned, home / f"{name}-{seed}-scratch")))
    samples = read_samples("folder", str(root), "test")
    results = {k: evaluate(m, samples, protocol=SINGLE_VIEW, workers=2) for k, m in models.items()}
    return {k: result.single_view_accuracy["label"]["top1"] for k, result in results.items()}


WAYS = {
    "cached": ("--budget", "unlimited", "--optim.epochs", "0", "--optim.warmup-epochs", "0"),
    "all": ("--budget", "unlimited"),
    "whole": ("--budget", "None"),
}


def measure_way(home: Path, weights: Path, name: str, seed: int, way: str) -> dict[str, Any]:
    """Accuracy on the test split and seconds of CPU of one of WAYS, whose features no other one uses."""
    root, since = write_data(home / f"{name}-{seed}", name, seed), time.process_time()
    run = fine_tune(root, weights, home / way / f"{name}-{seed}", seed, "--data.workers", "0", *WAYS[way])
    seconds, stages = time.process_time() - since, run / "stages.json"
    samples = read_samples("folder", str(root), "test")
    tested = evaluate(load_weights(str(run)), samples, protocol=SINGLE_VIEW, workers=0)
    found = {"way": way, "top1": tested.single_view_accuracy["label"]["top1"], "seconds": seconds}
    return found | ({"stages": json.loads(stages.read_text())["stages"]} if stages.is_file() else {})


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the seeds, and every seed."""
    titles = "data", "classes x clips", "frozen baseline", "from scratch", "`finetune`", "`finetune` of each seed"
    lines = [[*titles]]
    for name, (classes, _, clips) in DATA.items():
        own = [row for row in rows if row["data"] == name]
        if own:
            means = [f"{statistics.mean(row[k] for row in own):.1%}" for k in ("frozen", "scratch", "tuned")]
            each = ", ".join(f"{row['tuned']:.1%} (frozen {row['frozen']:.1%})" for row in own)
            lines.append([name, f"{len(classes)} x {clips}", *means, each])
    return format_markdown(lines, align="<<>>><")


def table_of_ways(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the accuracy and the CPU seconds of each way, seed by seed."""
    lines = [["data", "seed", *(f"`{way}`" for way in WAYS), "CPU seconds"]]
    for name, seed in dict.fromkeys((row["data"], row["seed"]) for row in rows):
        ways = {row["way"]: row for row in rows if (row["data"], row["seed"]) == (name, seed)}
        accuracy = [f"{ways[way]['top1']:.1%}" if way in ways else "" for way in WAYS]
        seconds = " / ".join(f"{ways[way]['seconds']:.0f}" if way in ways else "–" for way in WAYS)
        lines.append([name, str(seed), *accuracy, seconds])
    return format_markdown(lines, align="<>>>>>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("runs/finetune-drill"), help="goes on where it stopped")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="some of the datasets only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="some of the seeds only")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[], help="measure these in accuracy and CPU time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.home.mkdir(parents=True, exist_ok=True)
    weights, image = args.home / "vit.safetensors", args.home / "image.json"
    if not image.exists():
        image.write_text(json.dumps(train_image_model(weights)))
    for name, seed, way in product(args.data, args.seeds, args.ways or [""]):
        done = args.home / f"{name}-{seed}{way and '-'}{way}.json"
        if not done.exists():
            given = args.home, weights, name, seed
            found = measure_way(*given, way) if way else compare(*given)
            done.write_text(json.dumps({"data": name, "seed": seed, **found}))
            print(done.read_text(), flush=True)
    pattern = "*-?-*.json" if args.ways else "*-?.json"
    rows = [json.loads(path.read_text()) for path in sorted(args.home.glob(pattern))]
    facts = {
        "command": "python -m tests.drills.finetune" + " --ways cached all whole" * bool(args.ways),
        "image_accuracy": json.loads(image.read_text()),
        "rows": rows,
    }
    results = RESULTS.with_name("finetune_stages.json") if args.ways else RESULTS
    results.write_text(json.dumps(facts, indent=1) + "\n")
    print(table_of_ways(rows) if args.ways else table(rows))


if __name__ == "__main__":
    main()
