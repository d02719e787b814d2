"""Compute with the model in one thread; requests that wait go through it together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import EvalConfig
from ..engine.device import in_precision
from ..inference.predict import check_finite, mean_logits
from ..model.modes import copy_sharing_weights
from ..model.vivit import ViViT

Result = TypeVar("Result")
Observe = Callable[[str, float], None]  # of a stage and its seconds
MOST_CLIPS = 64  # in one forward pass of a GPU, as long as they fit


@dataclass
class Request:
    """The views of one video, (V, T, C, H, W) uint8, that wait for the model."""

    views: Tensor
    logits: asyncio.Future[Tensor]
    observe: Observe
    since: float


class Engine:
    """The model of a server: the one thread that computes, for predictions, jobs and explanations in turn.

    On a GPU the views of all requests that wait are batched, up to `clips` of them; where they do not fit its memory,
    half as many are tried from then on. On a CPU batches of views gain nothing, so requests go one by one.
    """

    def __init__(self, model: ViViT, *, precision: str = "auto"):
        self.model = copy_sharing_weights(model) if model.training else model
        self.device = next(model.parameters()).device
        self.precision = precision
        self.clips = 1 if self.device.type == "cpu" else MOST_CLIPS
        self.forward = in_precision(self.model, precision)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.waiting: asyncio.Queue[Request] = asyncio.Queue()
        self.task: asyncio.Task | None = None

    def start(self) -> None:
        """Start to serve requests; needs a running event loop."""
        self.task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop after what is being computed."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
        self.thread.shutdown()

    async def logits(self, views: Tensor, observe: Observe = lambda stage, seconds: None) -> Tensor:
        """Return the mean logits (K,) float32 of the views of one video; `observe` gets its seconds by stage.

        Raises WeightsError if they are not finite.
        """
        c = self.model.config
        if not len(views) or views.shape[1:] != (c.num_frames, 3, *c.image_size) or views.dtype != torch.uint8:
            raise ValueError(f"got views of {tuple(views.shape)} {views.dtype}, not those of the model")
        request = Request(views, asyncio.get_running_loop().create_future(), observe, time.monotonic())
        self.waiting.put_nowait(request)
        return await request.logits

    async def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Return function(*args), computed in the thread of the model, after what waits there."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    async def _run(self) -> None:
        following: Request | None = None
        while True:
            batch = [following or await self.waiting.get()]
            following = None
            while not self.waiting.empty():
                following = self.waiting.get_nowait()
                if sum(len(one.views) for one in (*batch, following)) > self.clips:
                    break
                batch.append(following)
                following = None
            started = time.monotonic()
            try:
                found = await self.call(self.compute, [one.views for one in batch])
            except Exception as error:
                found = [error] * len(batch)
            computed = time.monotonic()
            for one, result in zip(batch, found):
                one.observe("wait", started - one.since)
                one.observe("compute", computed - started)
                if one.logits.done():  # nobody waits any more
                    continue
                if isinstance(result, Exception):
                    one.logits.set_exception(result)
                else:
                    one.logits.set_result(result)

    @torch.no_grad()
    def compute(self, videos: Sequence[Tensor]) -> list[Tensor | Exception]:
        """Return the mean logits (K,) of each video's views, or what is wrong with them."""
        if self.device.type == "cpu":
            batch_views = EvalConfig().batch_views
            found = [mean_logits(self.model, self.forward, views, batch_views=batch_views) for views in videos]
        else:
            found = self._together(videos)
        return [self._checked(logits) for logits in found]

    def _together(self, videos: Sequence[Tensor]) -> list[Tensor]:
        clips = torch.cat(list(videos))
        while True:
            try:
                parts = [self.forward(part.to(self.device)).float() for part in clips.split(self.clips)]
                break
            except torch.OutOfMemoryError:
                if self.clips == 1:
                    raise
                self.clips //= 2
        return [logits.mean(dim=0).cpu() for logits in torch.cat(parts).split([len(views) for views in videos])]

    def _checked(self, logits: Tensor) -> Tensor | Exception:
        try:
            check_finite(self.model, logits, "the video")
        except Exception as error:
            return error
        return logits.cpu()
