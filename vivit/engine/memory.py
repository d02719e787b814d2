"""Estimate the memory that training takes, for `vivit plan`; `vivit train` refuses a batch that cannot fit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..config import Config, replace
from ..data.loader import num_workers
from ..model.cost import count_cost
from ..model.vivit import ViViT
from ..torch_private import storage_id, tensors_without_contents
from .device import available_memory, format_size, uses_bfloat16
from .distributed import World, checkpoint_activations, transformer_blocks
from .optim import freeze


def check_memory(config: Config, world: World) -> None:
    """Raise ValueError if a step cannot fit into the free memory; the message names the micro-batch that fits.

    The estimate counts weights, gradients, optimizer, EMA and activations and, on a CPU, the batches that the workers
    prepare. Without this check the kernel would kill a process that takes too much memory on a CPU, without a message.
    """
    host = available_memory()
    if host is None and world.device.type != "cuda":
        return
    share, micro = divide_batch(config, world.size)
    if world.device.type != "cuda" and all(world.gather(rough_bytes(config, share) < (host or 0) / world.size)):
        return  # far from the limit; to measure takes seconds
    needs = training_cost(
        replace(config, precision=("float32", "bfloat16")[uses_bfloat16(world.device, config.precision)])
    )
    fixed = needs.fixed_bytes + sum(state_bytes(config, needs, gpus=world.size, accumulating=micro < share).values())
    clip = config.model.num_frames * 3 * config.model.image_size[0] * config.model.image_size[1]
    batches = 2 * num_workers(config.data.workers) + 2  # those ready, the one in use and its copy
    if world.device.type == "cuda":
        free = torch.cuda.mem_get_info(world.device)[0]
    else:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        free = (host or 0) // processes - batches * share * clip
    free = min(world.gather(free))
    needed = fixed + micro * needs.bytes_per_clip
    if needed <= free:
        return
    fits = int((0.9 * free - fixed) // needs.bytes_per_clip)
    advice = (
        f"with --parallel.micro-batch {fits} it fits, and the result is the same"
        if fits >= 1
        else (
            "take a smaller --optim.batch-size, fewer --data.workers, --parallel.checkpoint-activations or a "
            "smaller model"
        )
    )
    raise ValueError(
        f"{micro} clips in one forward pass need about {format_size(needed)} ({format_size(needs.bytes_per_clip)} a "
        f"clip), but {format_size(max(free, 0))} are free for them on {world.device.type}; {advice}"
    )


def divide_batch(config: Config, processes: int) -> tuple[int, int]:
    """Return (clips of each process, most clips in one forward pass), for a batch divided among processes."""
    share = -(-config.optim.batch_size // processes)
    return share, min(config.parallel.micro_batch or share, share)


def rough_bytes(config: Config, clips: int) -> float:
    """Return an upper bound of the memory of a step on `clips` clips, without measuring."""
    model = config.model
    blocks = model.depth + model.temporal_depth + model.joint_depth + model.pool_depth
    blocks += (model.pool == "attentive") + model.attention_pool
    tokens = math.prod(model.grid) + model.grid[0]
    per_token = model.embed_dim * (16 + 4 * model.mlp_ratio)  # numbers that a block keeps
    pixels = model.num_frames * 3 * math.prod(model.image_size)
    batches = 2 * num_workers(config.data.workers) + 2
    return (
        16 * clips * (blocks * tokens * per_token + (batches + 4) * pixels) + 64 * blocks * per_token * model.embed_dim
    )


@dataclass(frozen=True)
class TrainingCost:
    """What training a model takes: parameters, operations of a clip, bytes kept for the backward pass."""

    parameters: int
    trainable: int
    flops_per_clip: int
    fixed_bytes: int
    """Bytes kept for any number of clips: the copies of the weights in bfloat16."""
    bytes_per_clip: int
    """Activations of a clip; with parallel.checkpoint_activations, the inputs of the blocks and one block."""


def state_bytes(config: Config, cost: TrainingCost, *, gpus: int, accumulating: bool) -> dict[str, float]:
    """Return the bytes of one device that do not depend on the clips, by kind; everything is float32.

    DDP copies the gradients into buckets to send them. FSDP divides everything among the devices, except the gradients
    that are kept between the micro-batches of a step.
    """
    optim, sharded = config.optim, config.parallel.strategy == "fsdp" and gpus > 1
    parts = gpus if sharded else 1
    gradients = accumulating + 1 / parts if sharded else 1 + (gpus > 1)
    moments = 2 if optim.name == "adamw" else int(optim.momentum > 0)
    return {
        "weights": 4 * cost.parameters / parts,
        "gradients": 4 * cost.trainable * gradients,
        "optimiser": 4 * cost.trainable / parts * moments,
        "EMA": 4 * cost.parameters / parts * (optim.ema is not None),
    }


def training_cost(config: Config) -> TrainingCost:
    """Count and measure the model of `config` in its precision (auto is bfloat16), without computing anything."""
    with torch.device("meta"):
        model = ViViT(config.model)
    freeze(model, config.optim.freeze)
    # With 1 clip some rearrangements are views, which keep nothing; from 2 on, the bytes are a straight line.
    two, three = (saved_bytes(config, clips) for clips in (2, 3))
    passes = 4 if config.parallel.checkpoint_activations else 3  # a backward pass is two forward passes' work
    return TrainingCost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops_per_clip=2 * passes * count_cost(config.model, as_computed=True)[-1].multiply_adds,
        fixed_bytes=3 * two - 2 * three,
        bytes_per_clip=three - two,
    )


class SavedTensor:
    """A tensor that autograd holds for the backward pass."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def saved_bytes(config: Config, clips: int) -> int:
    """Return the bytes that a forward pass in training keeps for the backward pass, without computing anything.

    The tensors have no contents, so this takes neither memory nor time. Their device is the CPU, whose fused attention
    keeps what that of CUDA keeps: queries, keys, values, the result and one float32 per query and head. With activation
    checkpointing every block keeps its input, and one block keeps everything, as the block being recomputed does.
    """
    with torch.device("meta"):
        model = ViViT(config.model).train()
    freeze(model, config.optim.freeze)
    with tensors_without_contents():
        model.to_empty(device="cpu")
        blocks = transformer_blocks(model)
        recomputed = next((block for block in blocks if next(block.parameters()).requires_grad), None)
        for block in blocks:
            if config.parallel.checkpoint_activations and block is not recomputed:
                checkpoint_activations(block)
        video = torch.empty(clips, config.model.num_frames, 3, *config.model.image_size, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision != "float32"):
            return kept_bytes(partial(model, video), model.parameters())


def kept_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Return the bytes that autograd keeps until the backward pass: each tensor once, without the parameters."""
    held: WeakSet[SavedTensor] = WeakSet()

    def keep(tensor: Tensor) -> SavedTensor:
        held.add(kept := SavedTensor(tensor.detach()))  # with its graph it would hold itself
        return kept

    with saved_tensors_hooks(keep, lambda kept: kept.tensor):
        result = forward()
    of_parameters = {storage_id(p) for p in parameters}
    storages = {storage_id(kept.tensor): kept.tensor.untyped_storage().nbytes() for kept in held}
    del result  # it kept the graph, and with it the saved tensors, until here
    return sum(size for storage, size in storages.items() if storage not in of_parameters)
