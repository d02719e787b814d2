"""Load weights or an exported model, classify one clip and print the most memory that the process had, in MB."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..inference.exported import is_exported, open_exported


def run_once(source: str) -> None:
    """Classify a black clip."""
    if is_exported(source):
        model = open_exported(source)
        model.run(black_clip(model.config.num_frames, model.config.image_size))
        return
    import torch

    from ..weights.load import from_pretrained

    weights = from_pretrained(source)
    with torch.inference_mode():
        weights(torch.from_numpy(black_clip(weights.config.num_frames, weights.config.image_size)))


def black_clip(num_frames: int, image_size: tuple[int, int]) -> np.ndarray:
    return np.zeros((1, num_frames, 3, *image_size), dtype=np.uint8)


def high_water_mark() -> float:
    """Return the most memory that this process had, in MB. Raises OSError where the system does not say."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    run_once(sys.argv[1])
    print(high_water_mark())
