"""Where and in which precision to compute."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import (
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
)

from ..model.modes import copy_sharing_weights
from ..model.vivit import ViViT
from ..settings import check, suggestion
from ..torch_private import chosen_attention_kernel, cpu_supports
from ..weights.load import from_pretrained

PRECISIONS = ("auto", "float32", "bfloat16")


def pick_device(name: str = "auto") -> torch.device:
    """Return the named device; auto takes CUDA, then Apple's MPS, then the CPU. Raises ValueError if it is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(
            f"device {name!r} is not available to this PyTorch ({torch.__version__}); use device=auto or cpu"
        )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; allowed: auto, cpu, cuda, mps") from error


def load_to_device(source: str | os.PathLike[str], device: str = "auto") -> ViViT:
    """Load weights by name onto a device (see `pick_device`) and choose the attention kernel for it."""
    where = pick_device(device)
    choose_attention(where)
    return from_pretrained(source).to(where)


def uses_bfloat16(device: torch.device, precision: str = "auto") -> bool:
    """Whether to compute in bfloat16; auto does on CUDA devices that have units for it.

    The same in training, evaluation and prediction, so that their results agree. A CPU computes in float32 unless
    bfloat16 is asked for, so that a run does not depend on the processor. Raises ValueError for another precision.
    """
    check(precision in PRECISIONS, f"precision is {precision!r}{suggestion(str(precision), PRECISIONS)}")
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda" and has_bfloat16_units(device))


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; without, a CPU takes several times as long."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_supports("amx_tile") or cpu_supports("avx512_bf16")


def in_precision(model: nn.Module, precision: str = "auto") -> Callable[[Tensor], Tensor]:
    """Return the model as a function for inference in a precision; see `uses_bfloat16`.

    On a CPU weights and activations are bfloat16, because autocast would convert back and forth between all the
    products; elsewhere it is autocast.
    """
    device = next(model.parameters()).device
    if not uses_bfloat16(device, precision):
        return model
    if device.type == "cpu":
        return copy_sharing_weights(model, torch.bfloat16)

    def call(x: Tensor) -> Tensor:
        with autocast(device, "bfloat16"):
            return model(x)

    return call


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager:
    """bfloat16 autocast, or float32 as it is."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bfloat16(device, precision))


@contextmanager
def preserve_determinism() -> Iterator[None]:
    """Restore at the end what `deterministic` changes in this process."""
    on, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(on, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark


def deterministic(on: bool) -> None:
    """Allow only deterministic algorithms, or all."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = False


# Newer FlashAttentions by PyTorch's names, in order of preference, by the first number of the device's capability.
FLASH = {9: ("FA3", "FA4"), 10: ("FA4",)}


def choose_attention(device: torch.device, precision: str = "auto") -> str:
    """Choose the fastest available kernel of attention for this process; returns its name in PyTorch.

    On CUDA that is FlashAttention-3 or -4, where it is installed and made for the device, else what PyTorch prefers: in
    bfloat16 cuDNN on Hopper and Blackwell, FlashAttention-2 before them. Deterministic runs leave it to PyTorch, which
    takes FlashAttention-2 then. On a CPU see `vivit.model.cpu_kernels` for what is done without gradients.
    """
    if device.type not in ("cpu", "cuda"):
        return f"PyTorch's for {device.type}"
    extra = ""
    if device.type == "cuda":
        if current_flash_attention_impl():
            restore_flash_attention_impl()
            torch.backends.cuda.enable_cudnn_sdp(True)
        newer = FLASH.get(torch.cuda.get_device_capability(device)[0], ())
        if not torch.are_deterministic_algorithms_enabled() and (name := next(filter(activate_flash, newer), "")):
            torch.backends.cuda.enable_cudnn_sdp(False)  # which PyTorch would prefer
            extra = f" by {name}"
    q = torch.empty(
        1, 1, 64, 64, device=device, dtype=(torch.float32, torch.bfloat16)[uses_bfloat16(device, precision)]
    )
    kernel = chosen_attention_kernel(q, q, q)
    return kernel + (extra if kernel == "FLASH_ATTENTION" else "")


def activate_flash(name: str) -> bool:
    """Let PyTorch compute its FlashAttention by the package of this name; returns whether it can."""
    try:
        activate_flash_attention_impl(name)
    except (ImportError, RuntimeError, ValueError):  # not installed, of another version, unknown to this PyTorch
        return False
    return True


# Dense bfloat16 matrix products in TFLOP/s, from the makers' data sheets; the first name that is part of the device's.
PEAK_TFLOPS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "A40": 150, "A10": 125, "V100": 125, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip


def peak_tflops(device: torch.device) -> float | None:
    """Return the bfloat16 peak of the device, or None if it is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def format_size(size: float) -> str:
    """Bytes for people: 1.50 GiB, 12.0 MiB, 10 bytes."""
    for unit, digits, factor in (("GiB", 2, 2**30), ("MiB", 1, 2**20), ("KiB", 1, 2**10)):
        if size >= factor:
            return f"{size / factor:.{digits}f} {unit}"
    return f"{size:.0f} bytes"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: of the machine's memory and of its control groups; None: unknown.

    File caches in a control group count as free, because the kernel drops them.
    """
    found = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        groups = [line.split(":", 2)[1:] for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, ValueError):
        groups = []
    for controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inner = top / path.lstrip("/")
        # Inside a container the path may be the one outside: its own group is then at the top.
        for folder in {top, *(one for one in (inner, *inner.parents) if top in one.parents)}:
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                cached = re.search(
                    r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE
                )
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
            found.append(limit - used + (int(cached[1]) if cached else 0))
    return max(min(found), 0) if found else None


def memory(device: torch.device) -> dict[str, float]:
    """Resident memory of this process and its workers, and the most that was allocated on the device, in MiB."""
    pages = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:  # a worker that has just ended, or a system without /proc
            continue
    values = {"memory_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20} if pages else {}
    if device.type == "cuda":
        values["device_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return values
