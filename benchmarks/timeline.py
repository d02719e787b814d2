"""Time windows over long videos against one forward pass per window, and what keeps up with a camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit.engine.device import in_precision
from vivit.inference.sliding import SlidingModel, flush_together, make_windows
from vivit.inference.timeline import frame_preparation
from vivit.model.vivit import ViViT

from . import models
from .measure import Clock, interleave

HOPS = (1, 2, 4, 8)
ROWS = 4  # windows of one call, unless a batch of positions finishes more
BATCHES = (1, 8, 128)  # positions in one forward pass, timed at hop 1 on request
SOURCES = (1, 2, 4, 8)
RATE = 25  # frames a second of the camera
SIZE = (480, 640)  # of its frames


def sliding(
    name: str, *, precision: str, clock: Clock, hops: Sequence[int] = HOPS, batches: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Rows of a timeline at several hops, and the same windows one after the other, each as a clip.

    With `batches`, hop 1 is also timed with these numbers of positions in a forward pass.
    Frames are ready in memory, and the first window is done before the clock starts. Per row the model should encode
    `hop` positions instead of t, so t / hop is what one can hope for.
    """
    model = build(name, clock)
    naive = in_precision(model, precision)
    depth, t = model.config.tubelet_size[0], model.config.grid[0]
    positions = torch.randint(0, 256, (2 * t, depth, 3, *model.config.image_size), dtype=torch.uint8)

    def clip(first: int) -> Tensor:
        return positions[[p % len(positions) for p in range(first, first + t)]].flatten(0, 1)[None].to(clock.device)

    @torch.inference_mode()
    def loop() -> list[Tensor]:
        return [naive(clip(3 * row)).float() for row in range(ROWS)]

    plans = {f"hop {hop}": (hop, None) for hop in hops}
    plans |= {f"hop 1, positions by {batch}": (1, batch) for batch in batches}
    contenders: dict[str, Callable[[], list[Tensor]]] = {"each window as a clip": loop}
    rows_of = {"each window as a clip": ROWS}
    for label, (hop, batch) in plans.items():
        engine = SlidingModel(model, make_windows(model, hop=hop), precision=precision, batch=batch)
        rows_of[label] = max(ROWS, engine.batch // hop)
        contenders[label] = rolling(engine, positions, rows_of[label])
    times = interleave(contenders, clock)
    base = times["each window as a clip"]
    rows = []
    for label, time in times.items():
        hop = plans[label][0] if label in plans else None
        faster = time.over(base) * rows_of[label] / ROWS
        rows.append(
            {
                "case": "timeline",
                "model": name,
                "name": label,
                "precision": precision,
                "ms/row": round(1e3 * time.median / rows_of[label], 1 if time.median > 0.1 else 3),
                "spread": round(time.spread, 3),
                "times faster": round(faster, 2) if hop else None,
                "t / hop": t / hop if hop else None,
                "share of t / hop": round(faster * hop / t, 3) if hop else None,
                "same top-1": same_top1(model, naive, clip, positions, hop, precision) if hop else None,
            }
        )
    return rows


def rolling(model: SlidingModel, positions: Tensor, most: int = ROWS) -> Callable[[], list[Tensor]]:
    """Return a function that gives the next `most` rows, endlessly: a multiple of those that one batch finishes."""
    numbers = count()

    def run() -> list[Tensor]:
        rows: list[Tensor] = []
        while len(rows) < most:
            number = next(numbers)
            rows += [logits for _, logits in model.push(number, positions[None, number % len(positions)])]
        return rows

    return run


def same_top1(
    model: ViViT,
    naive: Callable[[Tensor], Tensor],
    clip: Callable[[int], Tensor],
    positions: Tensor,
    hop: int,
    precision: str,
) -> str:
    """Compare the best class of the first ROWS windows with that of the clips, and say how many agree."""
    rows = rolling(SlidingModel(model, make_windows(model, hop=hop), precision=precision), positions)()
    with torch.inference_mode():
        clips = [naive(clip(hop * row))[0] for row in range(ROWS)]
    return f"{sum(int(a.argmax() == b.argmax().cpu()) for a, b in zip(rows, clips))} of {ROWS}"


def streaming(name: str, *, precision: str, clock: Clock) -> list[dict[str, Any]]:
    """Frames of a camera to rows: resize, crop, encode, classify, without decoding; how much of a second is used."""
    model = build(name, clock)
    stride, depth = model.config.preprocessing.frame_stride, model.config.tubelet_size[0]
    prepare = frame_preparation(model.config, *SIZE, crops=1)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    contenders, hops = {}, [hop for hop in HOPS if hop < 8]
    for hop in hops:
        numbers, engine = count(), SlidingModel(model, make_windows(model, hop=hop), precision=precision, batch=1)

        def run(engine: SlidingModel = engine, numbers: Any = numbers, hop: int = hop) -> None:
            for _ in range(hop):
                frames = np.stack([prepare(image) for _ in range(depth)], axis=1)
                engine.push(next(numbers), frames)

        for _ in range(-(-engine.windows.span // hop)):  # the first window
            run()
        contenders[f"hop {hop}"] = run
    times = interleave(contenders, clock)
    rows = []
    for hop, time in zip(hops, times.values()):
        real = hop * depth * stride / RATE  # seconds of video that one row moves on
        rows.append(
            {
                "case": "stream",
                "model": name,
                "name": f"hop {hop}: a row every {real:.2f} s",
                "precision": precision,
                "ms/row": round(1e3 * time.median, 1),
                "spread": round(time.spread, 3),
                "times real time": round(real / time.median, 2),
                f"keeps up with {RATE} frames/s": "yes" if time.median < real else "no",
            }
        )
    return rows


def several(name: str, *, precision: str, clock: Clock) -> list[dict[str, Any]]:
    """Time a position of each of several cameras at a time, in one forward pass, from resized frames to rows."""
    model = build(name, clock)
    stride, depth = model.config.preprocessing.frame_stride, model.config.tubelet_size[0]
    windows = make_windows(model, hop=3)
    frames = torch.randint(0, 256, (8, 1, depth, 3, *model.config.image_size), dtype=torch.uint8)
    contenders = {}
    for sources in SOURCES:
        numbers, first = count(), SlidingModel(model, windows, precision=precision, batch=1)
        engines = [first, *(first.restarted(windows, batch=1) for _ in range(sources - 1))]

        def run(engines: list[SlidingModel] = engines, numbers: Any = numbers) -> None:
            for _ in range(windows.hop):
                number = next(numbers)
                for engine, own in zip(engines, frames):
                    engine.add(number, own)
                flush_together(engines)

        for _ in range(-(-windows.span // windows.hop)):  # the first window
            run()
        contenders[sources] = run
    times = interleave({f"{sources} sources": run for sources, run in contenders.items()}, clock)
    base, rows = times["1 sources"], []
    for sources, (label, time) in zip(contenders, times.items()):
        real = windows.hop * depth * stride / RATE
        rows.append(
            {
                "case": "streams",
                "model": name,
                "name": label.removesuffix("s") if sources == 1 else label,
                "precision": precision,
                "ms/position": round(1e3 * time.median / windows.hop / sources, 1),
                "spread": round(time.spread, 3),
                "throughput / that of one": round(time.over(base) * sources, 3),
                "times real time": round(real / time.median, 2),
            }
        )
    return rows


def build(name: str, clock: Clock) -> ViViT:
    """Build a preset with random weights, and a head that prefers some classes."""
    torch.manual_seed(0)
    model = ViViT(models.config_of(name)).eval().to(clock.device)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return model
