"""Measure speed beside the machine's limit and other libraries."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from vivit.engine.device import choose_attention, pick_device
from vivit.export.formats import Format

from . import models, training
from .attention import attentions
from .export import exported
from .measure import Clock, conditions
from .page import command, page, table, with_earlier
from .pipeline import evaluation, input_speed
from .startup import startup
from .timeline import several, sliding, streaming
from .videoprism import videoprism

Case = Literal[
    "forward",
    "attention",
    "shorten",
    "train",
    "predict",
    "timeline",
    "stream",
    "streams",
    "export",
    "serve",
    "peers",
    "input",
    "evaluation",
    "startup",
    "videoprism",
]
QUICK: tuple[Case, ...] = ("startup", "evaluation", "input", "forward")


def bench(
    cases: tuple[Case, ...] = QUICK,
    /,
    preset: tuple[str, ...] = ("ViViT-B/16x2", "ViViT-B/16x2 FE"),
    precision: tuple[models.Precision, ...] = ("float32",),
    batch_size: int = 1,
    compile: bool = False,
    device: str = "auto",
    rounds: int = 3,
    threads: int | None = None,
    cpu_time: bool = False,
    videos: int = 4,
    workers: int = 2,
    merge_tokens: int = 200,
    drop_static: float = 0.01,
    weights: str | None = None,
    formats: tuple[Format, ...] = ("onnx",),
    out: Path | None = None,
    docs: Path | None = None,
) -> dict[str, Any]:
    """Measure, print tables, and write the numbers where `out` says. The default takes a few minutes on two cores.

    Args:
        cases: forward and train: each preset, with its peer where one is installed; attention: its attentions, by the
            kernel that is chosen and by others; shorten: those of Model 1 on fewer tokens, and what that loses;
            predict: a video from file to classes, as by default; timeline: rows of a Model 2 over a long video at
            several hops, and each window as a clip; stream: the same from a camera's frames on; streams: several
            cameras together; serve: answers of vivit serve to 1, 4 and 8 clients; export: the presets in the formats
            of vivit export, with their size and memory; peers: the presets and other video models; videoprism:
            VideoPrism-B and transformers' own; input: from files to clips; evaluation: the views of a test video;
            startup: imports and help.
        preset: Models to time.
        precision: float32, bfloat16 or both.
        batch_size: Clips in a forward pass or training step.
        compile: Time each preset with compiled blocks as well.
        device: auto, cpu, cuda or mps.
        rounds: How often everything is timed; ratios are medians over the rounds.
        threads: Of PyTorch; not said, as many as it takes by itself.
        cpu_time: On a CPU that others use as well: one thread, and the time that it computes instead of what passes.
        videos: input: how many files.
        workers: input: processes of the loader.
        merge_tokens: shorten: how many tokens a layer merges.
        drop_static: shorten: up to which difference a tubelet counts as static, on the scale 0..1.
        weights: shorten: a trained Model 1 instead of presets at random, as vivit eval takes it.
        formats: export: files to write.
        out: Add the results to this JSON file.
        docs: Write a page of all that here: docs/benchmarks.md.
    """
    where = pick_device(device)
    if threads or cpu_time:
        torch.set_num_threads(1 if cpu_time else threads or 1)
    clock = Clock(rounds, where, cpu_time)
    results: dict[str, Any] = {
        "command": command(sys.argv[1:]),
        "conditions": conditions(where)
        | {"device": where.type, "attention": choose_attention(where), "cpu_time": cpu_time},
        "rounds": rounds,
        "rows": [],
    }
    for case in cases:
        if case in ("forward", "train"):
            measure = models.forward if case == "forward" else training.train
            for name in preset:
                for one in precision:
                    rows = measure(name, precision=one, batch_size=batch_size, compiled=compile, clock=clock)
                    add(results, rows, out)
        elif case == "shorten":
            for name in (
                [weights] if weights else [n for n in preset if models.config_of(n).encoder == "spatiotemporal"]
            ):
                for one in precision:
                    rows = models.shortened(
                        name,
                        trained=weights is not None,
                        merge_tokens=merge_tokens,
                        drop_static=drop_static,
                        precision=one,
                        batch_size=batch_size,
                        clock=clock,
                    )
                    add(results, rows, out)
        elif case == "attention":
            for one in precision:
                backward = (False, True) if where.type == "cuda" else (False,)
                rows = attentions(preset, precision=one, batch_size=batch_size, clock=clock, backward=backward)
                add(results, list(rows), out)
        elif case in ("predict", "serve", "export"):
            measure = {
                "predict": partial(models.prediction, clock=clock),
                "serve": partial(time_server, clock=clock),
                "export": partial(exported, formats=formats, clock=clock),
            }
            for name in preset:
                add(results, measure[case](name), out)
        elif case in ("timeline", "stream", "streams"):
            measure = {"timeline": sliding, "stream": streaming, "streams": several}[case]
            for name in [n for n in preset if models.config_of(n).encoder == "factorised_encoder"]:
                for one in precision:
                    add(results, measure(name, precision=one, clock=clock), out)
        elif case in ("peers", "videoprism"):
            measure = partial(models.peers, preset) if case == "peers" else videoprism
            for one in precision:
                add(results, measure(precision=one, clock=clock), out)
        elif case == "input":
            add(results, input_speed(videos=videos, workers=workers, clock=clock), out)
        else:
            add(results, {"evaluation": evaluation, "startup": startup}[case](clock), out)
    if docs is not None:
        docs.write_text(page(with_earlier(results, out)), encoding="utf-8")
    return results


def time_server(name: str, *, clock: Clock) -> list[dict[str, Any]]:
    """Time `vivit serve`, whose packages are extras."""
    from .serve import serving

    return serving(name, clock=clock)


def add(results: dict[str, Any], rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print and keep the rows; the file is written after every case, so that an interruption loses one."""
    print("\n".join(["", *table(rows)]), flush=True)
    results["rows"] += rows
    if out is not None:
        out.write_text(json.dumps(with_earlier(results, out), indent=1) + "\n", encoding="utf-8")
