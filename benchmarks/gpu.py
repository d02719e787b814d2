"""`python -m benchmarks gpu`: check and measure everything on one device in a few minutes, most important first.

Each step runs in a process of its own, which is killed at the end of its time: neither a crash, a full memory nor a
compiler that hangs ends the run. The results are written after every row, so that a run that is cut off keeps them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from vivit.data.tools.process_pool import cores
from vivit.engine.device import choose_attention, pick_device
from vivit.files import atomic_write

from .attention import attentions
from .correctness import correct
from .goals import goals
from .learning import learn
from .measure import Clock, conditions, limits, one_line
from .models import prediction
from .page import cell, command, page, table
from .pipeline import loader_speed
from .timeline import BATCHES, sliding
from .training import filled, profile

Row = dict[str, Any]
NOMINAL = 14.0  # minutes for which the seconds of the steps are meant
# What takes seconds to import, transformers' ViViT and, for deterministic algorithms, the compiler's settings too.
PRELOADED = [__name__, "transformers.models.vivit.modeling_vivit", "torch._inductor.config"]
LEAST = 3.0  # seconds: with less, a step is left out


@dataclass(frozen=True)
class Step:
    """A part of the run: `run(seconds=…, device=…)` yields its rows within a time limit in seconds."""

    case: str
    name: str
    seconds: float
    run: Callable[..., Iterable[Row]]


@dataclass(frozen=True)
class Sizes:
    """What is measured: the real models, or tiny ones to try the command itself."""

    model_1: tuple[str, ...] = ("ViViT-B/16x2", "ViViT-L/16x2")
    model_2: tuple[str, ...] = ("ViViT-B/16x2 FE", "ViViT-L/16x2 FE")
    others: tuple[str, ...] = ("ViViT-B/16x2 FSA", "ViViT-B/16x2 FDP")
    golden: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    backend: str = "inductor"
    compile_steps: bool = True
    rounds: int = 5
    attention_batch: int = 32
    profile_batch: int = 16
    batches: tuple[int, ...] = BATCHES
    workers: int = cores()
    loaded: int = 8
    video: tuple[int | None, tuple[int, int] | None] = (None, None)
    """Frames and size of the video to predict; None: ten seconds of 256 x 340."""
    learn: str = "S"
    learn_videos: tuple[int, int] | None = None
    learn_epochs: int = 60
    learn_workers: int | None = None
    matrix: int | None = None


TINY = Sizes(
    model_1=("ViViT-Ti/16x2 small",),
    model_2=("ViViT-Ti/16x2 FE small",),
    others=(),
    golden=("m1_cls", "m4"),
    compiled=("m1_cls",),
    backend="eager",
    compile_steps=False,
    rounds=1,
    attention_batch=1,
    profile_batch=1,
    batches=(1, 8),
    workers=0,
    loaded=1,
    video=(24, (36, 48)),
    learn="demo",
    learn_videos=(16, 8),
    learn_epochs=4,
    learn_workers=0,
    matrix=256,
)


def gpu(
    minutes: float = NOMINAL,
    out: Path = Path("gpu"),
    device: str = "auto",
    only: tuple[str, ...] = (),
    tiny: bool = False,
) -> Row:
    """Check and measure everything on one device: results in OUT/benchmarks.json and OUT/benchmarks.md.

    Args:
        minutes: The run ends after this time.
        out: Folder of the results.
        device: auto, cuda or cpu.
        only: Parts of the run, such as train attention; by default all.
        tiny: Tiny models, compiled without a compiler, to try the command on a CPU in a minute.
    """
    ends = time.monotonic() + 60 * minutes
    sizes = TINY if tiny else Sizes()
    out.mkdir(parents=True, exist_ok=True)
    run: Row = {"command": command(["gpu", *sys.argv[2:]]), "rounds": sizes.rounds, "rows": [], "seconds": {}}
    [found] = rows_in_time(Step("device", "the device", 60, describe), device, ends)
    if "error" in found:
        raise SystemExit(f"no run on device {device}: {found['error']}")
    run["conditions"] = found
    steps = [step for step in plan(sizes) if not only or step.case in only]
    for number, step in enumerate(steps, start=1):
        left = ends - time.monotonic()
        seconds = left if tiny else min(step.seconds * minutes / NOMINAL, left)
        title = f"[{number}/{len(steps)}, {clock_time(left)} left] {step.name}"
        if seconds < LEAST:
            print(f"{title}: left out", flush=True)
            continue
        print(f"\n{title}: at most {seconds:.0f} s", flush=True)
        began = time.monotonic()
        for row in rows_in_time(step, found["device"], began + seconds):
            run["rows"].append(row)
            print(
                "  " + ", ".join(f"{k} {cell(v)}" for k, v in row.items() if k != "case" and v is not None), flush=True
            )
            write(run, out)
        run["seconds"][step.name] = round(time.monotonic() - began, 1)
    run["rows"] += (reached := list(goals(run["rows"])))
    print("\n".join(["", *table(reached)]), flush=True)
    write(run, out)
    with atomic_write(out / "benchmarks.md") as file:
        file.write(page({"runs": [run]}))
    print(
        f"\nin {out}: benchmarks.json and benchmarks.md; into the documentation with: python -m benchmarks page {out}"
    )
    return run


def write(run: Row, out: Path) -> None:
    with atomic_write(out / "benchmarks.json") as file:
        json.dump({"runs": [run]}, file, indent=1)


def plan(s: Sizes) -> list[Step]:
    """Return the steps in order of worth; their seconds are limits, most need less."""
    models = [name for pair in zip(s.model_1, s.model_2) for name in pair]  # the small ones first
    bf16: dict[str, Any] = {"precision": "bfloat16"}
    compiler: dict[str, Any] = {"backend": s.backend}
    compiling = compiler | {"compiled": s.compile_steps}

    def make(case: str, name: str, seconds: float, measure: Callable[..., Any], *args: Any, **how: Any) -> Step:
        return Step(
            case, name, seconds, partial(timed, measure, *args, **{"rounds": s.rounds, "matrix": s.matrix} | how)
        )

    def train(name: str, seconds: float) -> Step:
        return make("train", f"training of {name}", seconds, filled, name, **compiling)

    attention = bf16 | {"batch_size": s.attention_batch, "backward": (False, True)}
    video = {"num_frames": s.video[0], "size": s.video[1]}
    return [
        make("correct", "golden arrays and gradients, eager", 20, correct, "eager", s.golden),
        make("correct", "golden arrays and gradients, FSDP", 15, correct, "FSDP", s.golden),
        make("correct", "golden arrays and gradients, compiled", 90, correct, "compiled", s.compiled, **compiler),
        make("limits", "matrix products and copies", 15, limits),
        make("attention", "attention", 60, attentions, (*models[:2], *s.others), **attention),
        *(train(name, 60) for name in models[:2]),
        *(
            make("profile", f"profile of {name}", 40, profile, name, batch_size=s.profile_batch, **compiling, **bf16)
            for name in models[:2]
        ),
        *(make("predict", f"prediction with {name}", 15, prediction, name, **video) for name in models[:2]),
        make("timeline", f"timeline with {models[1]}", 30, sliding, models[1], hops=(1, 4), batches=s.batches, **bf16),
        make("loader", "loader", 60, loader_speed, videos=s.loaded, workers=s.workers, size=s.video[1], rounds=1),
        *(train(name, 100) for name in models[2:]),
        Step(
            "learn",
            "training on the demo's videos",
            3600,
            partial(learn, s.learn, videos=s.learn_videos, workers=s.learn_workers, most_epochs=s.learn_epochs),
        ),
    ]


def timed(
    measure: Callable[..., Iterable[Row]],
    *args: Any,
    seconds: float,
    device: torch.device,
    rounds: int,
    matrix: int | None,
    **how: Any,
) -> Iterable[Row]:
    """Call a measurement with a clock for the device."""
    return measure(*args, clock=Clock(rounds, device, matrix=matrix), **how)


def describe(seconds: float, device: torch.device) -> Iterator[Row]:
    yield conditions(device) | {"device": device.type, "attention": choose_attention(device), "cpu_time": False}


def rows_in_time(step: Step, device: str, ends: float) -> Iterator[Row]:
    """Yield the rows of a step, run in a process that is killed at `ends`; a failure of any kind is a row too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # imported once; neither touches a device
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=send_rows, args=(step, device, ends - time.monotonic(), there))
    process.start()
    there.close()
    began, shown = time.monotonic(), sys.stdout.isatty()
    try:
        while True:
            if here.poll(min(1.0, max(ends - time.monotonic(), 0))):
                row = here.recv()
                if row is None:
                    process.join(5)  # it has nothing left to do but to print
                    return
                yield row
            elif time.monotonic() >= ends:
                yield failure(step, f"stopped after {time.monotonic() - began:.0f} s")
                return
            elif shown:
                print(f"  {time.monotonic() - began:.0f} s", end="\r", flush=True)
    except EOFError:
        process.join()
        yield failure(step, f"the process ended with exit code {process.exitcode}")
    finally:
        here.close()
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers as well
        process.kill()
        process.join()


def send_rows(step: Step, device: str, seconds: float, pipe: Connection) -> None:
    """Run a step, with its own children in a process group, and send its rows; None at the end."""
    os.setsid()
    try:
        for row in step.run(seconds=seconds, device=pick_device(device)):
            pipe.send(row)
    except Exception as error:  # the next step runs all the same
        pipe.send(failure(step, one_line(error)))
    pipe.send(None)


def failure(step: Step, error: str) -> Row:
    return {"case": step.case, "name": step.name, "error": error}


def clock_time(seconds: float) -> str:
    return f"{max(seconds, 0) // 60:.0f}:{max(seconds, 0) % 60:02.0f}"
