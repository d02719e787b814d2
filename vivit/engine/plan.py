"""Estimate memory and speed of a run before it starts.

Nothing here is timed. Speed follows from an assumed utilisation, without the communication between devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Config, replace
from ..text import format_markdown, format_table
from .memory import TrainingCost, divide_batch, state_bytes, training_cost

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """The devices: memory and peak of the data sheet, and assumptions of how much of them training can use."""

    gpu_memory_gib: float = 80
    peak_tflops: float = 989
    utilisation: float = 0.4
    """Share of the peak that training reaches; `vivit train` shows it for a run."""
    reserve: float = 0.1
    """Share of the memory for what is not counted: CUDA, communication, temporaries, fragmentation."""

    def __post_init__(self):
        for name in ("gpu_memory_gib", "peak_tflops"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0 and finite")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation is {self.utilisation}; it must be in (0, 1], a share of the peak")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve is {self.reserve}; it must be in [0, 1), a share of the memory")


H100 = Hardware()


@dataclass(frozen=True)
class Plan:
    """A run on some devices."""

    gpus: int
    strategy: str
    state: dict[str, float]
    """Bytes on one device, by kind."""
    fits: int
    """Most clips in one forward pass; 0 if there is no room for any."""
    micro_batch: int
    accumulation: int
    step_seconds: float
    clips_per_second: float
    frames_per_second: float
    """What the loaders of all devices together must deliver."""
    sent_per_second: float
    """Bytes per second that a device must send so that communication takes no longer than computation."""
    days: float
    """Of training; validation is not in it."""


def plan(config: Config, cost: TrainingCost, *, gpus: int, num_samples: int, hardware: Hardware = H100) -> Plan:
    """Divide the run of `config` among `gpus` devices. Raises ValueError for numbers that do not fit.

    There must be at least one device and one sample, and no more devices than clips in a batch.
    """
    for name, number in (("gpus", gpus), ("num_samples", num_samples)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be 1 or more")
    batch, parallel = config.optim.batch_size, config.parallel
    if batch < gpus:
        raise ValueError(f"optim.batch_size {batch} is smaller than the {gpus} processes that share it")
    (share, micro), room = divide_batch(config, gpus), hardware.gpu_memory_gib * GIB * (1 - hardware.reserve)
    for accumulating in (False, True):
        state = state_bytes(config, cost, gpus=gpus, accumulating=accumulating)
        fits = max(int((room - sum(state.values()) - cost.fixed_bytes) // cost.bytes_per_clip), 0)
        most = min(fits, micro)
        if most == share:
            break
    accumulation = -(-share // most) if most else 0
    seconds = share * cost.flops_per_clip / (hardware.peak_tflops * 1e12 * hardware.utilisation)
    return Plan(
        gpus=gpus,
        strategy=parallel.strategy,
        state=state,
        fits=fits,
        micro_batch=-(-share // accumulation) if most else 0,
        accumulation=accumulation,
        step_seconds=seconds,
        clips_per_second=batch / seconds,
        frames_per_second=batch / seconds * config.model.num_frames,
        sent_per_second=bytes_sent(config, cost, gpus=gpus, accumulation=accumulation) / seconds,
        days=round(config.optim.epochs * num_samples * config.augment.repeats / batch) * seconds / 86400,
    )


def bytes_sent(config: Config, cost: TrainingCost, *, gpus: int, accumulation: int) -> float:
    """Return the bytes that one of `gpus` devices sends in a step, with ring algorithms.

    DDP all-reduces the gradients. FSDP reduce-scatters them, and all-gathers the weights twice for every micro-batch.
    """
    gathered = 2 * accumulation * (4 if config.precision == "float32" else 2) * cost.parameters
    passed_on = gathered if config.parallel.strategy == "fsdp" else 4 * cost.trainable
    return (4 * cost.trainable + passed_on) * (gpus - 1) / gpus


def format_plans(
    config: Config, *, gpus: Sequence[int], num_samples: int, hardware: Hardware, markdown: bool = False
) -> str:
    """Format the plan of every number of devices, with DDP and with FSDP, below the assumptions."""
    if not gpus:
        raise ValueError("gpus is empty; give one number of devices or several, such as --gpus 1 8")
    for number in gpus:  # before the model is measured, which takes seconds
        plan(config, TrainingCost(0, 0, 1, 0, 1), gpus=number, num_samples=num_samples, hardware=hardware)
    model, optim, needs = config.model, config.optim, training_cost(config)
    checkpointed = config.parallel.checkpoint_activations
    other = training_cost(replace(config, parallel=replace(config.parallel, checkpoint_activations=not checkpointed)))
    without, less = sorted((needs.bytes_per_clip, other.bytes_per_clip), reverse=True)
    assumed = [
        f"{model.encoder}, {needs.parameters / 1e6:.1f} M parameters, {needs.trainable / 1e6:.1f} M of them learn. "
        f"A clip takes {needs.flops_per_clip / 1e12:.3g} TFLOP and {needs.bytes_per_clip / GIB:.3g} GiB of activations "
        f"({without / GIB:.3g} without, {less / GIB:.3g} with parallel.checkpoint_activations).",
        f"{optim.name}, {optim.batch_size} clips a step, {optim.epochs:g} epochs of {num_samples} videos.",
        f"Assumed: {hardware.gpu_memory_gib:g} GiB a GPU, {hardware.reserve:.0%} of it in reserve; "
        f"{hardware.utilisation:.0%} of {hardware.peak_tflops:g} TFLOP/s. Estimates: nothing was timed.",
    ]
    rows = []
    for number, strategy in ((n, s) for n in gpus for s in (("ddp", "fsdp") if n > 1 else ("ddp",))):
        divided = replace(config, parallel=replace(config.parallel, strategy=strategy))
        p = plan(divided, needs, gpus=number, num_samples=num_samples, hardware=hardware)
        speeds = {
            "s/step": f"{p.step_seconds:.3g}",
            "clips/s": f"{p.clips_per_second:,.0f}",
            "frames/s": f"{p.frames_per_second:,.0f}",
            "GB/s sent": f"{p.sent_per_second / 1e9:.3g}",
            "days": f"{p.days:.3g}",
        }
        rows.append(
            {"GPUs": f"{number}", "strategy": p.strategy}
            | {f"{kind} GiB": f"{size / GIB:.3g}" for kind, size in p.state.items()}
            | {"clips that fit": f"{p.fits}", "micro-batch": f"{p.accumulation} x {p.micro_batch}" if p.fits else "-"}
            | (speeds if p.fits else dict.fromkeys(speeds, "-"))
        )
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join([*assumed, "", (format_markdown if markdown else format_table)(cells, align=">")])
