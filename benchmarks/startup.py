"""Time imports and start-up in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vivit.data.tools.synthetic import render, write_video
from vivit.presets import preset
from vivit.weights.load import create

from .measure import Clock, interleave

CLASSES = {"label": ("a", "b")}
# Public names are looked up, because the package itself imports nothing until then.
IMPORTS = "import torch, vivit; vivit.create, vivit.from_pretrained, vivit.predict"


def startup(clock: Clock) -> list[dict[str, Any]]:
    """`import torch`, all of vivit on top of it, `vivit --help`, and a prediction with a small model."""
    with TemporaryDirectory() as folder:
        weights, video = Path(folder) / "weights", Path(folder) / "video.mp4"
        config = preset("ViViT-Ti/16x2 FE", classes=CLASSES, image_size=(64, 64), num_frames=8, depth=2)
        create(config).save_pretrained(weights)
        write_video(video, render(0, "val", 0)[0])
        commands = {
            "import torch": ["-c", "import torch"],
            "import torch and all of vivit": ["-c", IMPORTS],
            "vivit --help": ["-m", "vivit", "--help"],
            "vivit predict, a tiny model and video": ["-m", "vivit", "predict", str(weights), str(video)],
        }
        times = interleave({name: lambda c=c: run(c) for name, c in commands.items()}, Clock(clock.rounds))
    torch_alone = times["import torch"]
    return [
        {
            "case": "startup",
            "name": name,
            "seconds": round(t.median, 3),
            "spread": round(t.spread, 3),
            "beyond import torch": round(t.median - torch_alone.median, 3) if t.median > torch_alone.median else None,
        }
        for name, t in times.items()
    ]


def run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
