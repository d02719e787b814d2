"""Make temporal positions of the frames of a stream, with those that pad both ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..data.video.live import Frame
from .sliding import Windows
from .timeline import frame_preparation


@dataclass(frozen=True)
class Position:
    """The frames of one temporal position on their way to the model."""

    key: tuple[int, ...]
    """The numbers of its frames."""
    frames: Any
    """(crops, depth, C, H, W) uint8."""
    shown: tuple[tuple[float, float], ...]
    """Seconds at which each frame appears and ends."""
    end: float
    """Seconds at which the last frame ends; of a position that repeats it, at which the stream does."""
    padded: bool
    """It repeats the first or last frame of the stream."""
    connection: int
    captured: float
    """time.monotonic() when its last frame was read."""


class FrameSampler:
    """Choose the frames of a stream that `timeline` would sample: every `stride`-th, or by the clock at `fps`.

    By the clock a frame is sampled once for each tick that it is on display, with the times of `candidate_times`.
    """

    def __init__(self, stride: float, *, fps: float | None):
        self.stride, self.fps = stride, fps
        self.count = 0
        """Frames sampled so far."""
        self.first: Frame | None = None
        self.last: Frame | None = None

    def push(self, frame: Frame) -> list[Frame]:
        """Take the next frame; return the sampled ones, repeats included."""
        if self.fps is None:
            return [frame for _ in self._steps(frame.number + 1)]
        self.first = self.first or frame
        before, self.last = self.last, frame
        if before is None:
            return []
        found = []
        while self._seconds(tick := math.floor(self.count * self.stride)) + 0.5 / self.fps < frame.time:
            found.append(self._at(tick, replace(before, end=frame.time)))
            self.count += 1
        return found

    def finish(self) -> list[Frame]:
        """Return the frames that the end of the stream adds."""
        if self.fps is None or self.last is None or self.first is None:
            return []
        ticks = round((self.last.time - self.first.time) * self.fps + 1)
        return [self._at(tick, self.last, is_last=tick == ticks - 1) for tick in self._steps(ticks)]

    def _seconds(self, tick: int) -> float:
        assert self.fps is not None
        assert self.first is not None
        return tick / self.fps + self.first.time

    def _at(self, tick: int, frame: Frame, *, is_last: bool = False) -> Frame:
        """Return the frame as it is shown from this tick to the next."""
        begin = min(max(self._seconds(tick), frame.time), frame.end)
        end = frame.end if is_last else min(max(self._seconds(tick + 1), begin), frame.end)
        return replace(frame, time=begin, end=end)

    def _steps(self, stop: int) -> Iterator[int]:
        """Yield the next frames, or ticks, to sample before `stop`."""
        while (step := math.floor(self.count * self.stride)) < stop:
            self.count += 1
            yield step


class PositionBuilder:
    """Make positions of the sampled frames of one connection, with those that pad both ends."""

    def __init__(
        self, config: ModelConfig, windows: Windows, *, crops: int, sampler: FrameSampler, numpy_only: bool = False
    ):
        self.numpy_only = numpy_only
        self.config, self.windows, self.crops, self.sampler = config, windows, crops, sampler
        self.prepare: Callable[[np.ndarray], Any] | None = None
        self.samples: list[tuple[Frame, Any]] = []
        self.last: tuple[Frame, Any] | None = None
        self.end: float | None = None
        """Seconds at which the last frame ends, sampled or not."""
        self.complete = 0  # positions of the stream itself, without padding

    def push(self, frame: Frame) -> list[Position]:
        """Take the next frame; return the positions that it completes."""
        self.end = frame.end
        return [position for one in self.sampler.push(frame) for position in self._add(one)]

    def finish(self) -> list[Position]:
        """Return the positions that the end of the stream completes, with the padding of the last window."""
        found = [position for one in self.sampler.finish() for position in self._add(one)]
        if self.last is None:
            return found
        if self.samples:
            self.samples += [self.last] * (self.windows.depth - len(self.samples))
            found += self._complete(end=self.end)
        missing = self.windows.total(self.complete) - self.windows.lead - self.complete
        return found + [self._padding(self.last, end=self.end)] * missing

    def _add(self, frame: Frame) -> list[Position]:
        is_first = self.last is None
        if self.last is None or self.last[0].number != frame.number:
            image = frame.image()
            if self.prepare is None:
                height, width, _ = image.shape
                self.prepare = frame_preparation(
                    self.config, height, width, crops=self.crops, numpy_only=self.numpy_only
                )
            pixels = self.prepare(image)
        else:
            pixels = self.last[1]
        self.last = frame, pixels
        before = [self._padding(self.last)] * self.windows.lead if is_first else []
        self.samples.append(self.last)
        return before + (self._complete() if len(self.samples) == self.windows.depth else [])

    def _padding(self, sample: tuple[Frame, Any], *, end: float | None = None) -> Position:
        return make_position([sample] * self.windows.depth, padded=True, end=end)

    def _complete(self, *, end: float | None = None) -> list[Position]:
        padded = end is not None
        position = make_position(self.samples, padded=padded, end=end)
        self.samples = []
        self.complete += 1
        return [position]


def make_position(samples: list[tuple[Frame, Any]], *, padded: bool, end: float | None) -> Position:
    """Make a position of the frames of its samples; `end` is that of the stream where it repeats the last frame."""
    frames = [frame for frame, _ in samples]
    return Position(
        key=tuple(frame.number for frame in frames),
        frames=np.stack([pixels for _, pixels in samples], 1),
        shown=tuple((frame.time, frame.end) for frame in frames),
        end=frames[-1].end if end is None else end,
        padded=padded,
        connection=frames[-1].connection,
        captured=frames[-1].captured,
    )
