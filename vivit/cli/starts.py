"""`vivit starts`: known weights to start from, what was published about them, and what they cost on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ..config import suggestion
from ..text import format_table
from ..weights.starts import STARTS, Start
from .parse import parse

DATASETS = ("K400", "SSv2")
NOTES = """Pixels of height and width. M: millions of parameters. G: billions of multiply-adds
of one clip. K400, SSv2: published top-1 of a head on frozen features; tuned: after
fine-tuning on K400; -: no published number. Image models count as Model 2 on 16
frames. `vivit starts NAME` shows sources and files; `--measure` times this machine."""


@dataclass(frozen=True)
class Starts:
    """List known weights to start from; with names, show their sources and the files that they need."""

    names: Positional[tuple[str, ...]] = ()
    """Short names; none: all of them."""
    measure: bool = False
    """Time one clip through each, with random weights, on this machine; seconds to minutes for each."""
    device: str = "auto"
    """For --measure: auto, cpu, cuda or mps."""


def run(args: list[str]) -> None:
    """Print the table, the details of the named starts, or the times of this machine."""
    asked = parse(Starts, args, usage="vivit starts [NAME ...] [--measure]")
    for name in asked.names:
        if name not in STARTS:
            raise ValueError(f"unknown start {name!r}{suggestion(name, STARTS)}; `vivit starts` lists them")
    if asked.measure:
        print(measured(asked.names or tuple(STARTS), asked.device))
    elif asked.names:
        print("\n\n".join(details(name) for name in asked.names))
    else:
        print(f"{table()}\n\n{NOTES}")


def table() -> str:
    """Return the table of all starts."""
    rows = [["start", "frames", "pixels", "M", "G", *DATASETS, "tuned", "licence"]]
    for name, start in STARTS.items():
        results = [start.frozen.get(d) for d in DATASETS] + [start.tuned.get("K400")]
        numbers = (*start.clip, round(start.parameters), start.multiply_adds, *results)
        rows.append([name, *("-" if x is None else str(x) for x in numbers), start.licence.partition(" ")[0]])
    return format_table(rows, align="<>>>>>>><")


def details(name: str) -> str:
    """Return what is known about one start, and what to do with it."""
    start = STARTS[name]
    results = [f"{d} {x} {how}" for how in ("frozen", "tuned") for d, x in getattr(start, how).items()]
    return "\n".join(
        [
            f"{name}: {start.hub}",
            f"  size       {start.parameters:g} million parameters, {4 * start.parameters / 1074:.2f} GiB in float32",
            f"  clip       {start.clip[0]} frames of {start.clip[1]} x {start.clip[1]}{as_what(start)}",
            f"  licence    {start.licence or 'see its page on the hub'}",
            f"  published  {', '.join(results) or 'no published number'}{f' ({start.source})' if results else ''}",
            f"  online     vivit train finetune --data.root my_videos --init {name}",
            f"  offline    bring {start.files}",
            "             in one folder, and give the folder to --init",
        ]
    )


def as_what(start: Start) -> str:
    """Say what becomes of an image model."""
    return ", its layers being Model 2's over space" if start.is_image else ""


def measured(names: tuple[str, ...], device: str) -> str:
    """Time one clip through each model; return the table."""
    from ..engine.device import format_size
    from ..engine.measure import measure_clip
    from ..engine.progress import progress_bar

    rows, done = [["start", "frames", "pixels", "seconds a clip", "memory"]], 0
    with progress_bar("measuring", total=sum(STARTS[name].multiply_adds for name in names)) as update:
        for name in names:
            start = STARTS[name]
            cost = measure_clip(start.model, device)
            values = [f"{cost.seconds:.3g}", format_size(cost.bytes)] if cost else ["too little memory"]
            rows.append([name, *map(str, start.clip), *values])
            done += start.multiply_adds
            update(done)
    return format_table(rows, align="<>>>>")
