"""`vivit checks`: what this machine has, and what to do about what is missing."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

from ..install_check import installed_version
from ..text import format_table
from .parse import parse

PACKAGES = ("torch", "torchvision", "av", "numpy", "safetensors", "huggingface_hub")
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2video")
GIB = 2**30
SMALL_MEMORY, SMALL_DISK = 4 * GIB, 5 * GIB


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    value: str
    advice: str = ""
    """What to do; "": nothing is missing."""
    needed: bool = True
    """Whether vivit needs what is missing; the advice alone does not change the exit code."""


@dataclass(frozen=True)
class Checks:
    """List versions, devices, decoders, cores, memory and free disk, and what to do about what is missing.

    Exits with code 1 if something that vivit needs is missing.
    """


def run(args: list[str]) -> None:
    """Print the findings; exit with code 1 if something that vivit needs is missing."""
    parse(Checks, args, usage="vivit checks")
    findings = []
    for finding in (*versions(), *devices(), *decoders(), *resources()):
        findings.append(finding)
        mark = "ok" if not finding.advice else "missing" if finding.needed else "note"
        value = finding.value + (f"; {finding.advice}" if finding.advice else "")
        print(format_table([[mark, finding.name, value]], align="<", min_widths=(7, 15, 0)))
    missing = [finding.name for finding in findings if finding.advice and finding.needed]
    print(f"\n{'missing: ' + ', '.join(missing) if missing else 'vivit has what it needs'}")
    if missing:
        sys.exit(1)


def versions() -> Iterator[Finding]:
    """Yield Python, vivit and the packages that vivit needs; each package is imported."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("vivit", installed_version("vivit"))
    for package in PACKAGES:
        try:
            module = import_module(package)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            pair = "torch torchvision" if package == "torchvision" else package
            yield Finding(package, f"cannot be imported ({reason})", f"pip install --upgrade {pair}")
            continue
        extra = f", FFmpeg {module.ffmpeg_version_info}" if package == "av" else ""
        yield Finding(package, installed_version(package) + extra)


def devices() -> Iterator[Finding]:
    """Yield the devices that PyTorch can use, and whether they have units for bfloat16."""
    try:
        import torch

        from ..engine.device import format_size, has_bfloat16_units
    except (ImportError, OSError, RuntimeError):
        return  # `versions` has named it
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        units = describe_units(has_bfloat16_units(torch.device("cuda", i)))
        yield Finding(f"cuda:{i}", f"{properties.name}, {format_size(properties.total_memory)}, {units}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple GPU; vivit computes in float32 on it")
    if not torch.cuda.is_available():
        build = f"PyTorch for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch without CUDA"
        advice = "an NVIDIA driver is needed" if torch.version.cuda else "see pytorch.org for a build with CUDA"
        yield Finding("cuda", f"no device ({build})", f"{advice} to train on a GPU", needed=False)
    units = describe_units(has_bfloat16_units(torch.device("cpu")))
    yield Finding("cpu", f"{units}; precision auto computes in float32 on it")


def describe_units(found: bool) -> str:
    """Say whether there are units for bfloat16."""
    return "bfloat16 units" if found else "no bfloat16 units"


def decoders() -> Iterator[Finding]:
    """Yield the video decoders of PyAV's FFmpeg."""
    try:
        from av.codec import Codec
    except (ImportError, OSError):
        return  # `versions` has named it
    for name in DECODERS:
        try:
            yield Finding(f"decoder {name.removesuffix('video')}", Codec(name, "r").long_name)
        except ValueError:
            advice = "pip install --upgrade av, whose wheels have it; other formats can be read without it"
            yield Finding(f"decoder {name.removesuffix('video')}", "not in this FFmpeg", advice, needed=name == "h264")


def resources() -> Iterator[Finding]:
    """Yield processor cores, memory and the free space of the current folder."""
    from ..data.tools.process_pool import cores

    yield Finding("cores", f"{cores()}; data.workers uses one process per core, at most 12")
    try:
        from ..engine.device import available_memory
    except (ImportError, OSError, RuntimeError):
        memory = None
    else:
        memory = available_memory()
    if memory is not None:
        advice = "use a smaller optim.batch_size, or fewer data.workers" if memory < SMALL_MEMORY else ""
        yield Finding("memory", f"{memory / GIB:.1f} GiB available", advice, needed=False)
    free = shutil.disk_usage(".").free
    advice = "a run with large models needs several GiB; choose another folder with --run" if free < SMALL_DISK else ""
    yield Finding("disk", f"{free / GIB:.1f} GiB free in the current folder", advice, needed=False)
