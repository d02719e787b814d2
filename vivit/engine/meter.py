"""Training metrics: means since the last reading, and speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn

from ..config import ModelConfig
from ..model.cost import count_cost
from ..model.vivit import ViViT
from .device import memory, peak_tflops
from .distributed import World

T = TypeVar("T")


class Meter:
    """Loss per clip, gradient norm per step and speed since the last `read`. Losses stay on the device until it."""

    def __init__(self, world: World, config: ModelConfig, build: Callable[[ModelConfig], nn.Module] = ViViT):
        self.world = world
        # 6 = 2 operations in a multiply-add x (1 forward + 2 for backward, which does twice the work).
        self.flops_per_clip = 6 * count_cost(config, build, as_computed=True)[-1].multiply_adds
        self.restart()

    def restart(self) -> None:
        self.losses: list[Tensor] = []
        self.steps, self.clips, self.grad_norm, self.waited, self.since = 0, 0.0, 0.0, 0.0, time.monotonic()
        self.loss_before = 0.0

    def state_dict(self) -> dict[str, float]:
        """Return the sums since the last reading, for a checkpoint."""
        return {"loss": self._loss(), "steps": self.steps, "clips": self.clips, "grad_norm": self.grad_norm}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.loss_before = state["loss"] if self.world.is_main else 0.0
        self.steps, self.clips, self.grad_norm = int(state["steps"]), state["clips"], state["grad_norm"]

    def _loss(self) -> float:
        """Return the sum of the losses of all clips, over all processes."""
        total = self.loss_before
        for loss in self.losses:  # one by one, so that an interruption does not change the order of the sum
            total += loss.item()
        return self.world.sum([total])[0]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block, such as a validation."""
        started = time.monotonic()
        yield
        self.since += time.monotonic() - started

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count the time until each arrives as waiting for data."""
        iterator, end = iter(batches), object()
        while True:
            asked = time.monotonic()
            batch = next(iterator, end)
            self.waited += time.monotonic() - asked
            if batch is end:
                return
            yield batch  # type: ignore[misc]

    def add(self, *, loss: Tensor, clips: float, grad_norm: float) -> None:
        """Count one step: the sum of losses of this process, the clips and the gradient norm of all processes."""
        self.losses.append(loss)
        self.steps += 1
        self.clips += clips
        self.grad_norm += grad_norm

    def read(self) -> dict[str, float]:
        """Return the mean loss of a clip (NaN without clips), gradient norm, speed and memory, and restart."""
        loss = self._loss()
        seconds = time.monotonic() - self.since
        tflops = self.flops_per_clip * self.clips / seconds / 1e12
        values = {
            "loss": loss / self.clips if self.clips else math.nan,
            "grad_norm": self.grad_norm / self.steps,
            "clips_per_second": self.clips / seconds,
            "tflops": tflops,
            "data_wait": self.waited / seconds,
            **memory(self.world.device),
        }
        if peak := peak_tflops(self.world.device):
            values["utilisation"] = tflops / peak / self.world.size
        self.restart()
        return values
