"""Process groups, DDP, FSDP2 and activation checkpointing.

`torchrun -m -- vivit train …` starts the processes. Every function here also works in a single process.
(Without the two dashes torchrun takes `--run` for an abbreviation of an option of its own.)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from shutil import which
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # public, not in __all__
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..config import ParallelConfig
from ..errors import ProcessLost
from ..model.layers import Block, TimeSpaceBlock
from ..model.vivit import ViViT
from .device import pick_device
from .heartbeat import Heartbeat, naming_the_late

T = TypeVar("T")

# Compiling takes 10 to 30 s on an H200; a step of B then takes 0.82 to 0.90 of its time (docs/performance.md).
COMPILE_FROM_STEPS = 2000


@dataclass(frozen=True)
class World:
    """The processes of this run, and which of them this is."""

    rank: int
    size: int
    device: torch.device
    heart: Heartbeat | None = None
    """What the processes know of each other; None in a single process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over all processes, in float64."""
        if self.size == 1:
            return [float(v) for v in values]
        self._count()
        tensor = torch.tensor(values, dtype=torch.float64)  # on the CPU, so that nothing waits for the device
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """Return the `value` of every process, in the order of the ranks."""
        if self.size == 1:
            return [value]
        self._count()
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, act: Callable[[], object]) -> None:
        """Let the main process act while the others wait; its failure to write is an OSError in all of them."""
        problem = None
        if self.is_main:
            try:
                act()
            except (OSError, SafetensorError) as error:
                problem = str(error)
        self.barrier()  # it may take longer than a collective waits
        problem = self.gather(problem)[0]
        if problem is not None:
            raise OSError(problem)

    def print(self, line: str) -> None:
        """Print a line in the main process only."""
        if self.is_main:
            print(line)

    def barrier(self) -> None:
        """Wait for all processes, however long, as long as those that are missing get on. Raises ProcessLost."""
        if self.heart:
            self.heart.meet()

    def _count(self) -> None:
        if self.heart:
            self.heart.collectives += 1


@contextmanager
def init_distributed(device: str = "auto", timeout: float = 600) -> Iterator[World]:
    """Join the other processes that torchrun started (gloo on the CPU, nccl on CUDA), and leave them at the end.

    Processes wait `timeout` seconds for each other. Raises ProcessLost, which names the one that is late or gone.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World(0, 1, pick_device(device))
        return
    picked = pick_device(device)
    if picked.type == "cuda":
        picked = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(picked)
    backend, wait = "cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo", timedelta(seconds=timeout)
    try:
        store, rank, size = next(rendezvous("env://", timeout=wait))
        dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=wait)
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ProcessLost([f"the processes of this run have not found each other at {where}: {error}"]) from error
    run = [uuid4().hex]  # the store of an agent of torchrun has the records of earlier starts as well
    dist.broadcast_object_list(run, src=0)
    heart = Heartbeat(PrefixStore(f"heartbeat {run[0]}", store), rank, size, timeout)
    try:
        with naming_the_late(heart):
            yield World(rank, size, picked, heart if size > 1 else None)
    finally:
        dist.destroy_process_group()
        heart.leave()


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model in the order of the forward pass."""
    return [module for module in model.modules() if isinstance(module, Block | TimeSpaceBlock)]


def checkpoint_activations(block: nn.Module) -> None:
    """Let a block recompute its activations in the backward pass; changes it in place."""
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def uses_compiler(config: ParallelConfig, device: torch.device, steps: int) -> bool:
    """Tell whether a run of so many steps compiles its blocks; see `ParallelConfig.compile`."""
    if config.compile is not None:
        return config.compile
    return device.type == "cuda" and steps >= COMPILE_FROM_STEPS and can_compile_for_cuda()


def can_compile_for_cuda() -> bool:
    """Tell whether Triton is installed, and the C compiler that it calls."""
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    return find_spec("triton") is not None and any(which(name) for name in compilers if name)


def eager_blocks(compiled: bool) -> AbstractContextManager[object]:
    """Return a context in which compiled blocks run as they are written: each other shape would be compiled again."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def parallelize(
    model: ViViT, config: ParallelConfig, world: World, *, bfloat16: bool, compiled: bool = False
) -> nn.Module:
    """Apply activation checkpointing, then compilation, then sharding.

    Each block is checkpointed, compiled and sharded in place, so that parameter names stay. Gradients are
    reduced in float32 whatever the compute precision.
    """
    blocks = transformer_blocks(model)
    for block in blocks:
        if config.checkpoint_activations:
            checkpoint_activations(block)
        if compiled:
            block.compile()
    if config.strategy == "fsdp" and world.size > 1:
        return shard(model, blocks, device_type=world.device.type, size=world.size, bfloat16=bfloat16)
    if world.size > 1:
        devices = [world.device] if world.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor is newer than 2.11
            return DistributedDataParallel(
                model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
    return model


def shard(model: nn.Module, blocks: Sequence[nn.Module], *, device_type: str, size: int, bfloat16: bool) -> nn.Module:
    """Divide the parameters of each block, and of the rest, among `size` processes (FSDP2), in place."""
    from torch.distributed.device_mesh import init_device_mesh  # FSDP takes seconds to import
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Inputs stay float32, as under DDP: autocast decides what is computed in bfloat16.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bfloat16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    mesh = init_device_mesh(device_type, (size,))
    for module in (*blocks, model):
        # Reshard the root as well: validation reads other (averaged) values through the same parameters.
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return model


def gradient_sync(model: nn.Module, last: bool) -> AbstractContextManager:
    """Return a context that exchanges gradients only in the `last` micro-batch of a step."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def clip_gradients(model: nn.Module, most: float | None) -> float:
    """Scale all gradients together to an L2 norm of at most `most`. Returns the norm before, over all shards."""
    from torch.distributed.tensor import DTensor

    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, most or float("inf"))
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
