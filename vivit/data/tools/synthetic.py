"""Generate a synthetic dataset: a shape moves over a textured, moving background.

There are two label sets. The noun says what moves; one frame shows it. The verb says how it moves; only the order of
the frames shows it: every few frames the shape hops to another place, and between hops it always moves the same way,
with a little jitter in every other way. Places, sizes and angles have the same distribution for all verbs, so neither
a frame nor a shuffled set of frames tells much. Played backwards "left" is "right", "towards" is "away", "clockwise"
is "counter-clockwise".

The splits share no shape instance, no path and no background: hues and places are on grids of which "train" takes the
even cells and "val" the odd ones, and each video draws its own texture. Every video is a pure function of
(seed, split, index).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ...files import atomic_write, write_json
from .process_pool import cores, map_in_processes

Floats = NDArray[np.floating]

SPLITS = ("train", "val")
VERBS = ("left", "right", "up", "down", "towards", "away", "clockwise", "counter-clockwise")

# Signed distance to the outline in units of the radius, negative inside. No shape looks the same after less than half a
# turn: a cross that rotated clockwise over a few frames could as well have rotated the other way.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "bar": lambda x, y: np.maximum(np.abs(x) - 0.3, np.abs(y) - 1.0),
    "hook": lambda x, y: np.minimum(
        np.maximum(np.abs(x + 0.62) - 0.28, np.abs(y) - 0.9), np.maximum(np.abs(x) - 0.9, np.abs(y - 0.62) - 0.28)
    ),
    "tee": lambda x, y: np.minimum(
        np.maximum(np.abs(x) - 0.26, np.abs(y) - 0.9), np.maximum(np.abs(x) - 0.9, np.abs(y + 0.64) - 0.26)
    ),
    "triangle": lambda x, y: np.maximum(y - 0.8, (np.abs(x) - 0.38 * (y + 1)) / 1.07),
}
NOUNS = tuple(SHAPES)

HOP = 6  # frames between hops
STEP = np.array([0.06, 0.06, np.log(1.06), np.deg2rad(16)])  # a frame's motion: x, y (of the height), log size, angle
TREMBLE = 0.5  # the other ways' amplitude, in steps
RADIUS = 0.27  # of the shape at mid size, of the height
RANGE = STEP * HOP / 2  # how far x, y, log size and angle go from the middle: as far as a hop's motion carries
WORTH_PROCESSES = 100  # videos; fewer are written before processes would start
HUES, PLACES = 24, 10  # cells of the grids: around the colour wheel, along x and along y
WAYS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1), "towards": (2, 1), "away": (2, -1)}
WAYS |= {"clockwise": (3, 1), "counter-clockwise": (3, -1)}  # (column of STEP, sign); y points down


def scene(seed: int, split: str, index: int, *, num_frames: int) -> dict[str, Any]:
    """Draw labels and parameters of one video; `hue` and `places` are cells of their grids, `texture` is a seed."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
    parity = SPLITS.index(split)
    rng = np.random.default_rng((seed, parity, index))
    noun, verb = divmod(index % (len(NOUNS) * len(VERBS)), len(VERBS))
    places = []
    for _ in range(num_frames // HOP + 2):
        column, row = rng.integers(PLACES, size=2)
        places.append((int(column), int(row) if (column + row) % 2 == parity else PLACES - 1 - int(row)))
    return {
        "noun": NOUNS[noun],
        "verb": VERBS[verb],
        "split": split,
        "hue": 2 * int(rng.integers(HUES // 2)) + parity,
        "saturation": float(rng.uniform(0.1, 0.6)),
        "places": places,
        "first_hop": int(rng.integers(HOP)),
        "texture": (seed, parity, index, 1),
    }


def track(scene: dict[str, Any], num_frames: int) -> Floats:
    """Return the path of the shape, (T, 4): x and y from the middle (in heights, y down), log size, angle."""
    rng = np.random.default_rng((*scene["texture"], 2))
    frames = np.arange(num_frames) + scene["first_hop"]
    hop, u = frames // HOP, frames % HOP - (HOP - 1) / 2
    hops = hop[-1] + 1
    cells = np.array(scene["places"][:hops]) + rng.uniform(0, 1, (hops, 2))  # anywhere in the cell
    places = cells / PLACES * 2 - 1
    start = np.concatenate((places, rng.uniform(-1, 1, (hops, 2))), axis=1) * (RANGE - TREMBLE * STEP / 2)
    turns = u[:, None] / rng.uniform(5, 7, (hops, 4))[hop] + rng.uniform(0, 1, (hops, 4))[hop]
    motion = TREMBLE * np.sin(2 * np.pi * turns)
    way, sign = WAYS[scene["verb"]]
    motion[:, way] = sign * u
    start[:, way] = rng.uniform(-0.5, 0.5, hops) * STEP[way]  # HOP frames a STEP apart: uniform over the same range
    return start[hop] + motion * STEP


def render(
    seed: int, split: str, index: int, *, num_frames: int = 40, size: tuple[int, int] = (56, 56)
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Render one video, (T, H, W, 3) uint8, and return it with its scene."""
    params = scene(seed, split, index, num_frames=num_frames)
    frames = background(np.random.default_rng(params["texture"]), num_frames, size)
    cover = shape_cover(params, num_frames=num_frames, size=size)[..., None]
    frames += cover * (color(params["hue"] / HUES, params["saturation"], 1.0) - frames)
    return np.rint(frames * 255).astype(np.uint8), params


def shape_cover(scene: dict[str, Any], *, num_frames: int = 40, size: tuple[int, int] = (56, 56)) -> Floats:
    """Return the share of each pixel that the shape of a scene covers, (T, H, W) float32 in 0..1."""
    height, width = size
    x, y, log_size, angle = (column[:, None, None] for column in track(scene, num_frames).T)
    radius = height * RADIUS * np.exp(log_size)
    dx = np.arange(width) - (width - 1) / 2 - height * x
    dy = np.arange(height)[:, None] - (height - 1) / 2 - height * y
    across = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
    along = (dy * np.cos(angle) - dx * np.sin(angle)) / radius
    return np.clip(0.5 - SHAPES[scene["noun"]](across, along) * radius, 0, 1).astype(np.float32)


def background(rng: np.random.Generator, num_frames: int, size: tuple[int, int], waves: int = 8) -> Floats:
    """Render plane waves that drift together, between two dim colors: (T, H, W, 3) in 0..1."""
    height, width = size
    length, heading = rng.uniform(0.15, 0.8, waves) * height, rng.uniform(0, 2 * np.pi, waves)
    kx, ky = 2 * np.pi / length * np.cos(heading), 2 * np.pi / length * np.sin(heading)
    drift, speed = rng.uniform(0, 2 * np.pi), height * rng.uniform(0.1, 0.5) / num_frames
    moved = np.outer(np.arange(num_frames) * speed, kx * np.cos(drift) + ky * np.sin(drift))
    phase = rng.uniform(0, 2 * np.pi, waves) - moved
    rows = np.exp(1j * (phase[:, None] + np.outer(np.arange(height), ky))).astype(np.complex64)
    columns = np.exp(1j * np.outer(kx, np.arange(width))).astype(np.complex64)
    texture = (rows @ columns).real / np.float32(np.sqrt(2 * waves))
    dark, light = (color(rng.uniform(), 0.5, level) for level in (0.08, 0.33))
    return dark + np.clip(0.5 + 0.3 * texture, 0, 1)[..., None] * (light - dark)


def color(hue: float, saturation: float, level: float) -> Floats:
    """Convert hue, saturation and level to (3,) red, green, blue in 0..1."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (level * (1 - saturation * (1 - wheel))).astype(np.float32)


def write_video(path: Path, frames: NDArray[np.uint8], *, fps: int = 20, crf: int = 18) -> None:
    """Write H.264 in mp4; the file appears under its name only when it is complete."""
    partial_path = path.with_suffix(".part")
    with av.open(str(partial_path), "w", format="mp4") as container:
        options = {"preset": "ultrafast", "crf": str(crf), "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(partial_path, path)


def write_dataset(root: Path, *, seed: int, train: int, val: int, num_frames: int = 40) -> Path:
    """Write root/videos/*.mp4 and root/labels.csv (path, noun, verb, split), and return the latter.

    Labels are balanced. A complete dataset with the same settings is left as it is; labels.csv is written last.
    """
    table, settings = root / "labels.csv", root / "settings.json"
    wanted = {
        "seed": seed,
        "train": train,
        "val": val,
        "num_frames": num_frames,
        "step": STEP.tolist(),
        "tremble": TREMBLE,
        "nouns": list(NOUNS),
    }
    complete = len(list((root / "videos").glob("*.mp4"))) == train + val
    if complete and table.exists() and settings.exists() and json.loads(settings.read_text()) == wanted:
        return table
    table.unlink(missing_ok=True)
    (root / "videos").mkdir(parents=True, exist_ok=True)
    write_json(settings, wanted)
    keys = [(split, index) for split, count in zip(SPLITS, (train, val)) for index in range(count)]
    write = partial(_write_one, root, seed, num_frames)
    if len(keys) < WORTH_PROCESSES:
        rows = [write(key) for key in keys]
    else:
        made = map_in_processes(write, keys, workers=cores(), title="writing videos", on_crash=_killed)
        rows = [row for _, row in made]
    with atomic_write(table, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "noun", "verb", "split"])
        writer.writerows(rows)
    return table


def write_long_video(
    path: Path, *, seed: int, first: int, scenes: int = 12, num_frames: int = 100, fps: int = 20
) -> Path:
    """Write a video of scenes of the split "val", one after the other, and a table of them; return the table.

    The scenes are those of the indices `first`, `first` + 5 …, so that neighbours differ in noun or verb. The table has
    the name of the video with the suffix .csv, and the columns path, start, end (seconds), noun, verb.
    """
    shots = [render(seed, "val", first + 5 * number, num_frames=num_frames) for number in range(scenes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.concatenate([frames for frames, _ in shots]), fps=fps)
    table, seconds = path.with_suffix(".csv"), num_frames / fps
    with atomic_write(table, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "noun", "verb"])
        for number, (_, params) in enumerate(shots):
            times = [f"{seconds * edge:g}" for edge in (number, number + 1)]
            writer.writerow([path.name, *times, params["noun"], params["verb"]])
    return table


def _killed(key: tuple[str, int]) -> tuple[str, str, str, str]:
    raise RuntimeError(f"the process that wrote video {key[1]} of {key[0]!r} was killed; is there too little memory?")


def _write_one(root: Path, seed: int, num_frames: int, key: tuple[str, int]) -> tuple[str, str, str, str]:
    """Render and write a video; return its row of labels.csv."""
    split, index = key
    frames, params = render(seed, split, index, num_frames=num_frames)
    path = Path("videos") / f"{split}-{index:04d}.mp4"
    write_video(root / path, frames)
    return path.as_posix(), params["noun"], params["verb"], split
