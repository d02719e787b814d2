"""Time one call on any device: the timer of studies and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def time_call(run: Callable[[], Any], device: torch.device, *, cpu_time: bool = False) -> float:
    """Return the seconds of one call: by events on CUDA, by the clock elsewhere.

    `cpu_time` counts the seconds that this thread computes instead of those that pass, for a CPU that others use too.
    """
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    now = time.thread_time if cpu_time else time.perf_counter
    synchronize(device)
    started = now()
    run()
    synchronize(device)
    return now() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all work; a CPU has none pending."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
