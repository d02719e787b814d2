"""Measure the time and the memory of one clip through a model with random weights, in a process of its own."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig, replace
from ..data.tools.process_pool import map_unordered
from ..model.vivit import ViViT
from .device import available_memory, in_precision, memory, pick_device
from .timing import time_call


@dataclass(frozen=True)
class ClipCost:
    """Seconds of one clip, the second time it is computed, and the most bytes that the model took with it."""

    seconds: float
    bytes: int


def measure_clip(fields: dict[str, Any], device: str = "auto") -> ClipCost | None:
    """Measure a forward pass of one clip in the precision that `vivit predict` takes.

    `fields` are those of ModelConfig. Returns None if there is too little memory, also where the system has killed the
    process for it. Raises ValueError for fields that do not fit together.
    """
    config = replace(ModelConfig(), **fields)
    jobs = [(config, device)]
    [(_, cost)] = map_unordered(_measure, jobs, workers=1, on_crash=_no_result, start_method="spawn")
    return cost


def _no_result(job: tuple[ModelConfig, str], why: str) -> None:
    """Return None if the system killed the process. Raises RuntimeError for any other end."""
    if "SIGKILL" not in why:
        raise RuntimeError(f"measuring one clip: {why}")


def _measure(job: tuple[ModelConfig, str]) -> ClipCost | None:
    config, device = job
    where = pick_device(device)
    with torch.device("meta"):
        model = ViViT(config)
    needed = 6 * sum(p.numel() for p in model.parameters()) + 2**29  # weights, their copy in bfloat16, and activations
    free = available_memory() if where.type != "cuda" else torch.cuda.mem_get_info(where)[0]
    if free is not None and free < needed:
        return None
    before = 0 if where.type == "cuda" else round(memory(where).get("memory_mib", 0) * 2**20) or _peak(where)
    model = in_precision(ViViT(config).eval().to(where))
    video = torch.zeros(1, config.num_frames, 3, *config.image_size, dtype=torch.uint8, device=where)
    with torch.inference_mode():
        video.random_(256)  # positions that are equal would be encoded once
        model(video)
        seconds = time_call(lambda: model(video), where)
    return ClipCost(seconds, _peak(where) - before)


def _peak(device: torch.device) -> int:
    """Return the most bytes so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux ru_maxrss counts that of the parent too, from before this process ran its own program.
    if (status := Path("/proc/self/status")).exists():
        [peak] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(peak) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
