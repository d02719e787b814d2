"""Jobs: timelines of long videos, computed row by row, with progress, in the memory of the server."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VivitError
from ..inference.segments import segments
from ..inference.sliding import SlidingModel, choose_batch, make_windows
from ..inference.timeline import Timeline
from .decoders import Decoders
from .engine import Engine
from .limits import Limits

HEARTBEAT = 15  # seconds after which a stream of events says that it is still there
MOST_ROWS = 1_000_000


@dataclass(eq=False)
class Job:
    """The timeline of one video, from its upload until it is deleted."""

    path: Path
    asked: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    status: str = "waiting"
    """waiting, running, done or failed."""
    done: int = 0
    """Rows so far."""
    total: int = 0
    """Rows in all; 0 until the video is open."""
    result: dict[str, Any] | None = None
    error: str | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("done", "failed")

    def to_dict(self, *, with_result: bool = True) -> dict[str, Any]:
        """Return the job for JSON."""
        about: dict[str, Any] = {"id": self.id, "status": self.status, "done": self.done, "total": self.total}
        about |= {"error": self.error} if self.error else {}
        return about | ({"result": self.result} if self.result and with_result else {})

    async def update(self, **values: Any) -> None:
        """Set attributes and tell those who follow."""
        async with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield server-sent events: progress, then done or failed; a comment where nothing happens for long."""
        while True:
            name = self.status if self.is_over else "progress"
            yield f"event: {name}\ndata: {json.dumps(self.to_dict(with_result=False))}\n\n".encode()
            if self.is_over:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT), self.changed:
                    await self.changed.wait()
                continue
            yield b": still there\n\n"


class JobQueue:
    """The jobs of a server, one after the other, and the results of those that are over."""

    def __init__(self, engine: Engine, decoders: Decoders, limits: Limits):
        self.engine, self.decoders, self.limits = engine, decoders, limits
        self.jobs: dict[str, Job] = {}

    @property
    def unfinished(self) -> int:
        """How many wait or run."""
        return sum(not job.is_over for job in self.jobs.values())

    def add(self, path: Path, asked: dict[str, Any]) -> Job:
        """Queue the video in `path`, which is removed when the job is over."""
        job = Job(path, asked)
        self.jobs[job.id] = job
        for old in [one for one in self.jobs.values() if one.is_over][: -self.limits.kept_jobs]:
            del self.jobs[old.id]
        job.task = asyncio.create_task(self._run(job))
        return job

    async def remove(self, job: Job) -> None:
        """Stop a job and forget it."""
        self.jobs.pop(job.id, None)
        await stop(job)

    async def close(self) -> None:
        """Stop all jobs."""
        for job in self.jobs.values():
            await stop(job)

    async def _run(self, job: Job) -> None:
        try:
            await job.update(result=await self._compute(job), status="done")
        except asyncio.CancelledError:
            await job.update(status="failed", error="the job was deleted")
            raise
        except VivitError as error:
            await job.update(status="failed", error=str(error))
        except Exception:
            logging.getLogger("vivit").exception("a job failed")
            await job.update(status="failed", error="the server made a mistake; its log has more")
        finally:
            job.path.unlink(missing_ok=True)

    async def _compute(self, job: Job) -> dict[str, Any]:
        model, asked, path = self.engine.model, job.asked, str(job.path)
        batch = choose_batch(model)
        async with self.decoders.worker("the video", self.limits.job_seconds) as worker:
            await job.update(status="running")
            fields = {name: asked[name] for name in ("start", "end", "hop", "crops")}
            await worker.send({"kind": "timeline", "path": path, "batch": batch, **fields})
            about, times = await worker.receive("the video")
            if times.ndim != 2 or len(times) != 4 or not 0 < times.shape[1] <= MOST_ROWS:
                raise ValueError(f"got times of shape {tuple(times.shape)}")
            await job.update(total=times.shape[1])
            sliding = SlidingModel(
                model,
                make_windows(model, hop=int(about["positions"])),
                precision=self.engine.precision,
                batch=batch,
                first=int(about["first"]),
                first_window=int(about["first_window"]),
            )
            rows = []
            for _ in range(int(about["first"]), int(about["stop"])):
                header, frames = await worker.receive("the video")
                rows += await self.engine.call(sliding.push, int(header["key"]), frames)
                if len(rows) != job.done:
                    await job.update(done=min(len(rows), job.total))
            rows += await self.engine.call(sliding.flush)
        await job.update(done=job.total)
        start, end, center, padded = times
        timeline = Timeline(
            path="",
            classes={name: list(names) for name, names in model.config.classes.items()},
            start=start,
            end=end,
            center=center,
            padded=padded.astype(bool),
            logits=np.stack([logits.numpy() for _, logits in rows[: job.total]]),
            hop=float(about["hop"]),
            reaches_end=bool(about["reaches_end"]),
        )
        return await self.engine.call(timeline_to_dict, timeline, about["video"], asked["top_k"])


async def stop(job: Job) -> None:
    """Cancel a job and wait until it has let go of its process and its file."""
    if job.task is not None:
        job.task.cancel()
        with suppress(asyncio.CancelledError):
            await job.task


def timeline_to_dict(timeline: Timeline, video: dict[str, Any], top_k: int) -> dict[str, Any]:
    """Return a timeline for JSON: times, the `top_k` classes of each label set with the highest peaks, segments."""
    found: dict[str, Any] = {}
    events = []
    for label_set, names in timeline.classes.items():
        probabilities = timeline.probabilities(label_set)
        order = np.argsort(-probabilities.max(axis=0), kind="stable")[:top_k]
        found[label_set] = [{"name": names[i], "probability": probabilities[:, i].round(6).tolist()} for i in order]
        events += [
            {"label_set": label_set, "label": s.label, "start": s.start, "end": s.end, "score": round(s.score, 6)}
            for s in segments(timeline, label_set)
        ]
    times = {name: getattr(timeline, name).round(6).tolist() for name in ("start", "end", "center")}
    return {"video": video, "hop": timeline.hop, **times, "classes": found, "segments": events}
