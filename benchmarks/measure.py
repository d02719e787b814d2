"""Time contenders in interleaved rounds, so that other load affects all of them."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vivit.engine.timing import time_call

PRECISIONS = (torch.float32, torch.bfloat16)
PACKAGES = ("vivit", "torch", "torchvision", "av", "transformers", "timm")


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        return spread(self.seconds)

    def over(self, other: Times) -> float:
        """Median over the rounds of other / this: how many times faster this is."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds))


def spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle


@dataclass(frozen=True)
class Clock:
    """Where, how often and by which clock things are timed."""

    rounds: int
    device: torch.device = torch.device("cpu")
    cpu_time: bool = False
    """Seconds that this thread computes instead of seconds that pass: for one thread on a machine that others use."""
    matrix: int | None = None
    """Rows of the matrices whose product is the ceiling; None: enough that no matrix fits into a cache."""

    def time(self, run: Callable[[], Any]) -> float:
        """Return the seconds of one call, after garbage collection."""
        gc.collect()
        return time_call(run, self.device, cpu_time=self.cpu_time)


def interleave(contenders: Mapping[str, Callable[[], Any]], clock: Clock, *, warm: bool = False) -> dict[str, Times]:
    """Round after round, all contenders one after the other, every second round backwards.

    Before that each runs once to warm up, unless it is `warm` already.
    """
    for run in () if warm else contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(clock.rounds):
        for name in list(contenders)[:: -1 if i % 2 else 1]:
            seconds[name].append(clock.time(contenders[name]))
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def peak_memory(run: Callable[[], Any], device: torch.device) -> tuple[float | None, Any]:
    """(MiB that one call needs on top of what is held, of the device or, on Linux, the process; what it returns)."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20, result
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident now
    except OSError:
        return None, run()
    before = _status("VmRSS")
    result = run()
    return (_status("VmHWM") - before) / 2**10, result


def _status(field: str) -> int:
    """Read a field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def matrix_product(dtype: torch.dtype, device: torch.device, n: int | None = None) -> tuple[Callable[[], Any], float]:
    """Return a large matrix product, the ceiling for the speed of models, and its operations (2 n³ per product).

    Through `linear`, which is what models call; by default n is so large that the caches hold no whole operand.
    """
    n = n or (8192 if device.type == "cuda" else 2048)
    repeats = 16 if device.type == "cuda" else 4
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

    @torch.no_grad()
    def run() -> None:
        for _ in range(repeats):
            torch.nn.functional.linear(a, b)

    return run, 2.0 * n**3 * repeats


def copy_bandwidth(device: torch.device) -> tuple[Callable[[], Any], float]:
    """Return a copy between two large buffers on the device, and its bytes: each is read once and written once."""
    size, repeats = (2**30, 8) if device.type == "cuda" else (2**26, 1)
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return run, 2.0 * size * repeats


def limits(clock: Clock) -> list[dict[str, Any]]:
    """Return the rate of large matrix products in each precision, and that of copies in the device's memory."""
    products = {str(dtype)[6:]: matrix_product(dtype, clock.device, clock.matrix) for dtype in PRECISIONS}
    copy, moved = copy_bandwidth(clock.device)
    times = interleave({name: run for name, (run, _) in products.items()} | {"copy": copy}, clock)
    rows = [
        {"name": f"matrix product, {name}", "TFLOP/s": round(work / times[name].median / 1e12, 3)}
        for name, (_, work) in products.items()
    ]
    rows.append({"name": "copy, bytes read and written", "GB/s": round(moved / times["copy"].median / 1e9, 1)})
    spreads = [{"spread": round(t.spread, 3)} for t in times.values()]
    return [{"case": "limits", **row, **spread} for row, spread in zip(rows, spreads)]


def one_line(error: BaseException, most: int = 300) -> str:
    """Return an error's class and the first line of its message, for a cell of a table."""
    message = (str(error).strip().splitlines() or [""])[0].replace("|", "/")
    return f"{type(error).__name__}: {message}"[:most]


def conditions(device: torch.device) -> dict[str, Any]:
    """Describe what the numbers depend on: hardware, versions, threads, date."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
    }


def processor() -> str:
    """Return the name of the CPU and its vector units, which determine the speed of matrix products."""
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
