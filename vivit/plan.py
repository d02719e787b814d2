"""Memory and speed of a run before it starts: arithmetic on what the model is measured to keep and to compute.

Nothing here is timed. Speed follows from a utilisation that is assumed, and exchange between devices is left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from .config import Config, replace
from .engine.optim import freeze
from .model.cost import count
from .model.layers import Block, TimeSpaceBlock
from .model.vivit import ViViT

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


H100 = Hardware()


@dataclass(frozen=True)
class Cost:
    """What a model asks for in training: numbers of parameters, operations of a clip, bytes for the backward pass."""

    parameters: int
    trainable: int
    flops_per_clip: int
    kept: int
    """Whatever the number of clips: the weights' copies in bfloat16."""
    kept_per_clip: int
    """Activations; with scale.checkpoint_activations, the blocks' inputs and one block."""


@dataclass(frozen=True)
class Plan:
    """A run on some devices."""

    gpus: int
    shard: str
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
    """Bytes that a device must send if exchange is to take no longer than computation."""
    days: float
    """Of training; validation is not in it."""


def plan(config: Config, cost: Cost, *, gpus: int, num_samples: int, hardware: Hardware = H100) -> Plan:
    """Divide the run of `config` among `gpus` devices. Raises ValueError if they are more than the clips of a batch."""
    batch, scale = config.optim.batch_size, config.scale
    if batch < gpus:
        raise ValueError(f"optim.batch_size {batch} is smaller than the {gpus} processes that share it")
    share, room = -(-batch // gpus), hardware.gpu_memory_gib * GIB * (1 - hardware.reserve)
    for accumulating in (False, True):
        state = states(config, cost, gpus=gpus, accumulating=accumulating)
        fits = max(int((room - sum(state.values()) - cost.kept) // cost.kept_per_clip), 0)
        most = min(fits, share, scale.micro_batch or share)
        if most == share:
            break
    accumulation = -(-share // most) if most else 0
    seconds = share * cost.flops_per_clip / (hardware.peak_tflops * 1e12 * hardware.utilisation)
    return Plan(
        gpus=gpus,
        shard=scale.shard,
        state=state,
        fits=fits,
        micro_batch=-(-share // accumulation) if most else 0,
        accumulation=accumulation,
        step_seconds=seconds,
        clips_per_second=batch / seconds,
        frames_per_second=batch / seconds * config.model.num_frames,
        sent_per_second=sent(config, cost, gpus=gpus, accumulation=accumulation) / seconds,
        days=round(config.optim.epochs * num_samples * config.augment.repeats / batch) * seconds / 86400,
    )


def states(config: Config, cost: Cost, *, gpus: int, accumulating: bool) -> dict[str, float]:
    """Bytes of one device that do not depend on the clips; everything is float32.

    DDP copies the gradients into buckets to send them. FSDP divides all by the devices; gradients that wait for the
    next micro-batch of a step are whole.
    """
    optim, sharded = config.optim, config.scale.shard == "fsdp" and gpus > 1
    parts = gpus if sharded else 1
    gradients = accumulating + 1 / parts if sharded else 1 + (gpus > 1)
    moments = 2 if optim.name == "adamw" else int(optim.momentum > 0)
    return {
        "weights": 4 * cost.parameters / parts,
        "gradients": 4 * cost.trainable * gradients,
        "optimiser": 4 * cost.trainable / parts * moments,
        "EMA": 4 * cost.parameters / parts * (optim.ema is not None),
    }


def sent(config: Config, cost: Cost, *, gpus: int, accumulation: int) -> float:
    """Bytes that one of `gpus` devices sends in a step, in rings.

    DDP sums gradients and hands the sums on. FSDP sums them, and gathers the weights twice for every micro-batch.
    """
    gathered = 2 * accumulation * (4 if config.precision == "float32" else 2) * cost.parameters
    passed_on = gathered if config.scale.shard == "fsdp" else 4 * cost.trainable
    return (4 * cost.trainable + passed_on) * (gpus - 1) / gpus


def cost(config: Config) -> Cost:
    """Count and measure the model of `config` in its precision (auto is bfloat16), without computing anything."""
    with torch.device("meta"):
        model = ViViT(config.model)
    freeze(model, config.optim.freeze)
    # With 1 clip some rearrangements are views, which keep nothing; from 2 on, the bytes are a straight line.
    two, three = (saved_bytes(config, clips) for clips in (2, 3))
    passes = 4 if config.scale.checkpoint_activations else 3  # a backward pass is two forward passes' work
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops_per_clip=2 * passes * count(config.model, as_computed=True)[-1].multiply_adds,
        kept=3 * two - 2 * three,
        kept_per_clip=three - two,
    )


class Kept:
    """A tensor that autograd holds for the backward pass."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def saved_bytes(config: Config, clips: int) -> int:
    """Bytes that a forward pass in training keeps for the backward pass, without computing anything.

    The tensors have no contents, so this takes neither memory nor time. They count as the CPU's, whose fused attention
    keeps what CUDA's do: queries, keys, values, the result and one float32 per query and head. With
    scale.checkpoint_activations all blocks keep their input, and one keeps everything: the one that is computed again.
    """
    with torch.device("meta"):
        model = ViViT(config.model).train()
    freeze(model, config.optim.freeze)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        blocks = [module for module in model.modules() if isinstance(module, Block | TimeSpaceBlock)]
        whole = next((block for block in blocks if next(block.parameters()).requires_grad), None)
        for block in blocks:
            if config.scale.checkpoint_activations and block is not whole:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        video = torch.empty(clips, config.model.num_frames, 3, *config.model.image_size, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision != "float32"):
            return kept_bytes(partial(model, video), model.parameters())


def kept_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass until its backward pass: each tensor once, without the parameters."""
    held: WeakSet[Kept] = WeakSet()

    def keep(tensor: Tensor) -> Kept:
        held.add(kept := Kept(tensor))
        return kept

    with saved_tensors_hooks(keep, lambda kept: kept.tensor):
        result = forward()
    known = {p.untyped_storage()._cdata for p in parameters}
    storages = {s._cdata: s.nbytes() for kept in held for s in [kept.tensor.untyped_storage()]}
    del result  # which has held the rest
    return sum(size for storage, size in storages.items() if storage not in known)


def table(config: Config, *, gpus: Sequence[int], num_samples: int, hardware: Hardware, markdown: bool = False) -> str:
    """What `plan` says for every number of devices, with DDP and with FSDP, below what it assumes."""
    model, optim, needs = config.model, config.optim, cost(config)
    checkpointed = config.scale.checkpoint_activations
    other = cost(replace(config, scale=replace(config.scale, checkpoint_activations=not checkpointed)))
    without, less = sorted((needs.kept_per_clip, other.kept_per_clip), reverse=True)
    assumed = [
        f"{model.encoder}, {needs.parameters / 1e6:.1f} M parameters, {needs.trainable / 1e6:.1f} M of them learn. "
        f"A clip takes {needs.flops_per_clip / 1e12:.3g} TFLOP and {needs.kept_per_clip / GIB:.3g} GiB of activations "
        f"({without / GIB:.3g} without, {less / GIB:.3g} with scale.checkpoint_activations).",
        f"{optim.name}, {optim.batch_size} clips a step, {optim.epochs:g} epochs of {num_samples} videos.",
        f"Assumed: {hardware.gpu_memory_gib:g} GiB a GPU, {hardware.reserve:.0%} of it in reserve; "
        f"{hardware.utilisation:.0%} of {hardware.peak_tflops:g} TFLOP/s. Estimates: nothing was timed.",
    ]
    rows = []
    for number, shard in ((n, s) for n in gpus for s in (("ddp", "fsdp") if n > 1 else ("ddp",))):
        divided = replace(config, scale=replace(config.scale, shard=shard))
        p = plan(divided, needs, gpus=number, num_samples=num_samples, hardware=hardware)
        speeds = {
            "s/step": f"{p.step_seconds:.3g}",
            "clips/s": f"{p.clips_per_second:,.0f}",
            "frames/s": f"{p.frames_per_second:,.0f}",
            "GB/s sent": f"{p.sent_per_second / 1e9:.3g}",
            "days": f"{p.days:.3g}",
        }
        rows.append(
            {"GPUs": f"{number}", "shard": p.shard}
            | {f"{kind} GiB": f"{size / GIB:.3g}" for kind, size in p.state.items()}
            | {"clips that fit": f"{p.fits}", "micro-batch": f"{p.accumulation} x {p.micro_batch}" if p.fits else "-"}
            | (speeds if p.fits else dict.fromkeys(speeds, "-"))
        )
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths)) for row in cells]
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in (cells[0], ["---:"] * len(widths), *cells[1:])]
    return "\n".join([*assumed, "", *lines])
