"""Export presets and compare size, memory and speed with eager PyTorch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vivit.export.export import export
from vivit.export.formats import WRITERS, Format
from vivit.model.vivit import ViViT

from . import models
from .measure import Clock


def exported(name: str, *, formats: Sequence[Format], clock: Clock) -> list[dict[str, Any]]:
    """One preset with random weights: eager, and each format as `vivit export` writes and measures it."""
    if clock.cpu_time:
        os.environ["OMP_NUM_THREADS"] = "1"  # also for the other runtimes, and to measure memory
    now = time.process_time if clock.cpu_time else time.perf_counter
    torch.manual_seed(0)
    model = ViViT(models.preset(name, classes=models.CLASSES))
    torch.nn.init.normal_(model.head.weight, std=0.02)  # at zero all logits would be equal
    rows = []
    with TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "weights")
        del model
        for format in formats:
            dest = Path(folder) / f"model{WRITERS[format][0]}"
            for row in export(str(Path(folder) / "weights"), dest, format=format, now=now):
                found = row.agreement
                rows.append(
                    {
                        "case": "export",
                        "name": f"{name}, {row.name}",
                        "MB": round(row.megabytes, 1),
                        "memory MB": None if row.memory is None else round(row.memory),
                        "seconds": round(row.seconds, 4),
                        "time / eager": round(row.of_eager, 3),
                        "differs by": None if found is None else float(f"{found.difference:.2g}"),
                        "same top-1": None if found is None else f"{found.same_top1} of {found.clips}",
                    }
                )
    return rows
