"""Time training steps, with transformers' ViViT, and say which kernels their time goes to.

Operations are three times those of the forward pass, because a backward pass does twice its work.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from vivit.config import OptimConfig
from vivit.engine.device import autocast
from vivit.engine.memory import kept_bytes
from vivit.engine.optim import build_optimizer
from vivit.engine.timing import synchronize

from . import models
from .measure import Clock
from .models import Contender, Precision, compiled_blocks, held, measure, operations_of, transformers_vivit

FILL = 0.9  # share of the device's memory that a batch may take
PROBES = (2, 4)  # clips of the steps whose memory says what a clip needs
KERNELS = 12  # rows of a profile
KERNEL_NAME = 70  # characters


def train(
    name: str,
    *,
    precision: Precision,
    batch_size: int,
    compiled: bool,
    clock: Clock,
    peer: bool = True,
    backend: str = "inductor",
) -> list[dict[str, Any]]:
    """One optimiser step of a preset (SGD with momentum), and of transformers' ViViT for Model 1."""
    model, video = models.build(models.config_of(name), device=clock.device, batch_size=batch_size)
    trained: dict[str, tuple[nn.Module, Tensor]] = {name: (copy.deepcopy(model), video)}
    if compiled:
        trained[f"{name} compiled"] = compiled_blocks(copy.deepcopy(model), backend), video
    if peer and (theirs := transformers_vivit(model)):
        trained[f"transformers {name}"] = theirs, model.normalize(video)
    contenders, kept = {}, {}
    for label, (one, pixels) in trained.items():
        ours = label in (name, f"{name} compiled")
        work = 3 * operations_of(model if ours else one, pixels)
        held_between = 2 * held(one)  # and momentum; not gradients
        contenders[label] = Contender(step(one, pixels, precision), work, batch_size, held=held_between)
        if "compiled" not in label:
            with autocast(clock.device, precision):
                kept[label] = round(kept_bytes(partial(one, pixels), one.parameters()) / 2**20)
    rows = measure("train", contenders, precision=precision, clock=clock, gradients=True)
    return [row | {"activations MiB": kept.get(row["name"])} for row in rows]


def step(model: nn.Module, video: Tensor, precision: Precision) -> Callable[[], Tensor]:
    """Forward, loss, backward and update of a model whose output is logits."""
    model.train()
    optimizer = build_optimizer(model, OptimConfig(lr=1e-3))
    labels = torch.zeros(len(video), dtype=torch.int64, device=video.device)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(video.device, precision):
            loss = nn.functional.cross_entropy(model(video).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def filled(name: str, *, compiled: bool, backend: str, clock: Clock) -> Iterator[dict[str, Any]]:
    """Training steps in bfloat16 at the batch that fills the device with the peer's model, then with ours."""
    how: dict[str, Any] = {"precision": "bfloat16", "compiled": compiled, "clock": clock, "backend": backend}
    theirs = fitting_batch(name, clock.device, peer=True)
    if theirs:
        yield from train(name, batch_size=theirs, **how)
    ours = fitting_batch(name, clock.device, peer=False)
    if ours and ours != theirs:
        yield from train(name, batch_size=ours, peer=False, **how)


def fitting_batch(name: str, device: torch.device, *, peer: bool) -> int | None:
    """Return how many clips of a bfloat16 training step fill the device; None: there is no such peer.

    The memory of a step is a constant and so much a clip, read off two steps. On a CPU it is PROBES[0].
    """
    model, video = models.build(models.config_of(name), device=device, batch_size=PROBES[1])
    trained: nn.Module | None = transformers_vivit(model) if peer else model
    if trained is None:
        return None
    if device.type != "cuda":
        return PROBES[0]
    pixels = model.normalize(video) if peer else video
    peaks = []
    for clips in PROBES:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        step(trained, pixels[:clips], "bfloat16")()
        peaks.append(torch.cuda.max_memory_allocated(device))
        gc.collect()
    per_clip = (peaks[1] - peaks[0]) / (PROBES[1] - PROBES[0])
    # Up to three models are on the device at once: plain, compiled and the peer's, each with its momentum.
    others = 3 * 2 * held(model) * 2**20
    fits = int((FILL * torch.cuda.mem_get_info(device)[1] - peaks[0] - others) / per_clip) + PROBES[0]
    return max(fits - fits % 8 if fits > 8 else fits, 1)


def profile(
    name: str, *, precision: Precision, batch_size: int, clock: Clock, compiled: bool = False, backend: str = "inductor"
) -> Iterator[dict[str, Any]]:
    """Return the kernels (on a CPU the operators) that take most of a training step, and their share of it."""
    model, video = models.build(models.config_of(name), device=clock.device, batch_size=batch_size)
    yield from kernels(name, step(model, video, precision), precision=precision, batch_size=batch_size, clock=clock)
    if compiled:
        run = step(compiled_blocks(model, backend), video, precision)
        yield from kernels(f"{name} compiled", run, precision=precision, batch_size=batch_size, clock=clock)


def kernels(
    name: str, run: Callable[[], Tensor], *, precision: Precision, batch_size: int, clock: Clock
) -> list[dict[str, Any]]:
    on_cuda = clock.device.type == "cuda"
    for _ in range(2):
        run()
    synchronize(clock.device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        synchronize(clock.device)
    kind = "CUDA" if on_cuda else "CPU"
    times = [
        (event.self_device_time_total if on_cuda else event.self_cpu_time_total, event)
        for event in profiler.key_averages()
        if event.device_type.name == kind and not getattr(event, "is_user_annotation", False)
    ]
    total = sum(time for time, _ in times) or 1
    most = sorted(times, key=lambda pair: -pair[0])[:KERNELS]
    return [
        {
            "case": "profile",
            "name": name,
            "precision": precision,
            "batch": batch_size,
            "kernel": event.key.replace("|", "/")[:KERNEL_NAME],
            "calls": event.count,
            "ms": round(time / 1e3, 3),
            "of the step": round(time / total, 3),
        }
        for time, event in most
    ]
