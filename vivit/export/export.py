"""Export weights to a file of another runtime, prove that it computes the same, and only then keep it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import nn

from ..engine.progress import progress_bar
from ..errors import WeightsError
from ..inference.exported import FORMAT, PARTS, VERSION, ExportedModel, Runner, load_graph, open_exported, part_path
from ..inference.sliding import shares_positions
from ..model.vivit import ViViT
from ..settings import to_dict
from ..text import format_table
from ..weights.load import from_pretrained
from ..weights.save import hash_weights
from .formats import WRITERS, Format, trace
from .graphs import ClipGraph, PositionGraph, WindowGraph, example_input
from .proof import (
    MAX_DIFFERENCE,
    ROUNDS,
    Agreement,
    compare_logits,
    eager,
    in_parts,
    peak_memory,
    proof_clips,
    time_runners,
)
from .quantize import (
    FLOAT_LAYERS,
    MAX_LOSS,
    calibration_clips,
    gate,
    has_vnni,
    positions_of,
    quantize,
    set_metadata,
)


@dataclass(frozen=True)
class Row:
    """A model of the table that ends an export."""

    name: str
    megabytes: float
    memory: float | None
    """MB of a process that loads the model and classifies a clip; None where the system does not say."""
    seconds: float
    """Median of a clip."""
    of_eager: float
    """These seconds over those of eager PyTorch."""
    agreement: Agreement | None = None


def export(
    source: str,
    dest: str | os.PathLike[str],
    *,
    format: Format = "onnx",
    videos: Sequence[str] = (),
    int8: bool = False,
    now: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Export the weights `source` to the file `dest`; return the table that the command prints.

    With Model 2 its two parts come too, NAME.position and NAME.window. The proof runs on the middle clips of `videos`,
    or of synthetic ones. With `int8` the linear layers are stored in 8 bits, calibrated and tested on `videos`; the
    float32 file, from which they are made, is proven too but not kept. `now` is the clock of the table.

    Raises WeightsError if the logits of a clip differ by more than 1e-4 of the largest one or the best class differs,
    or if int8 loses more than 0.5 points of top-1; then no file is left. Raises ValueError for a name of another suffix
    and for int8 without videos, and ImportError that names the packages that a format needs.
    """
    dest = Path(dest)
    check_name(dest, format)
    if int8 and (format != "onnx" or not videos):
        raise ValueError("int8 needs --format onnx, and --videos of the kind that the model is for, to calibrate on")
    model = from_pretrained(source).float().eval()
    if not model.config.classes:
        raise ValueError(f"{source} has no classes, so that there is nothing to export; fine-tune it first")
    clips, what = proof_clips(videos, model.config)
    with temporary_files(dest) as path:
        write_graphs(model, path, format)
        exported = open_exported(path)
        forms = {f"{format}: {name}": form for name, form in prove(model, exported, clips, what).items()}
        paths = {format: path}
        if int8:
            path, quantized = write_int8(model, exported, path.parent / "int8" / path.name, videos)
            paths["int8"] = path
            for name, run in quantized.items():
                forms[f"int8: {name}"] = run, compare_logits(model.config, eager(model), run, clips)
        rows = measure(source, model, clips[0], forms, paths, format, now)
        move_files(path, dest, format)
    return rows


def check_name(dest: Path, format: Format) -> None:
    """Raise ValueError for a name that does not end as the format's files do, OSError for one that cannot be."""
    suffix = WRITERS[format][0]
    if dest.suffix != suffix:
        fitting = [f", or --format {name}" for name, (other, *_) in WRITERS.items() if other == dest.suffix]
        use = f"{dest.with_suffix(suffix)}{''.join(fitting)}"
        raise ValueError(f"{dest}: --format {format} writes {suffix} files; use {use}")
    if dest.is_dir():
        raise IsADirectoryError(f"{dest} is a folder; give the name of a file")


@contextmanager
def temporary_files(dest: Path) -> Iterator[Path]:
    """Yield a path with the name of `dest` in a new folder next to it, which is removed with all its files."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=dest.parent) as folder:
        yield Path(folder) / dest.name


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Say what is being done, and afterwards how long it took; a terminal shows that it goes on."""
    console, started = Console(stderr=True), time.monotonic()
    if not console.is_terminal:
        print(f"{text} ...", file=sys.stderr, flush=True)
    with console.status(text):
        yield
    print(f"{text}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def graphs_of(model: ViViT) -> dict[str, nn.Module]:
    """Return the graphs to export by name: the clip, and with Model 2 its two parts."""
    graphs: dict[str, nn.Module] = {"clip": ClipGraph(model)}
    if shares_positions(model):
        graphs |= dict(zip(PARTS, (PositionGraph(model), WindowGraph(model))))
    return graphs


def write_graphs(model: ViViT, path: Path, format: Format) -> None:
    """Write all graphs of a model: the clip to `path`, its parts next to it."""
    write = WRITERS[format][2]
    about = {"format": FORMAT, "version": VERSION, "precision": "float32", "weights": hash_weights(model)}
    about |= {"model": to_dict(model.config)}
    for name, graph in graphs_of(model).items():
        with stage(f"tracing the {name} graph"):
            program = trace(graph, example_input(graph, model))
        with stage(f"writing it as {format}"):
            write(program, path if name == "clip" else part_path(path, name), about | {"graph": name})


def prove(
    model: ViViT, exported: ExportedModel, clips: Sequence[np.ndarray], what: str
) -> dict[str, tuple[Runner, Agreement]]:
    """Compare the exported graphs with the weights on clips. Raises WeightsError if they do not agree."""
    runners = {"clip": exported.run}
    if exported.shares_positions:
        runners["position + window"] = in_parts(exported, model.tokenizer.frame_index)
    agreements = {}
    for name, run in runners.items():
        with progress_bar(f"comparing: {name}", len(clips), console=Console(stderr=True)) as update:
            found = compare_logits(model.config, eager(model), run, clips, update)
        agreements[name] = run, found
        said = f"{name}: largest relative difference {found.difference:.1e}, same top-1 on {found.same_top1} of "
        print(f"{said}{found.clips} clips ({what})", file=sys.stderr)
        if not (found.difference <= MAX_DIFFERENCE and found.same_top1 == found.clips):
            raise WeightsError(
                f"{exported.path.name} is not kept: its logits differ from those of the weights by "
                f"{found.difference:.1e} of the largest one (allowed: {MAX_DIFFERENCE:g}), and the best class is the "
                f"same on {found.same_top1} of {found.clips} clips; use another --format"
            )
    return agreements


def measure(
    source: str,
    model: ViViT,
    clip: np.ndarray,
    forms: Mapping[str, tuple[Runner, Agreement]],
    paths: Mapping[str, Path],
    format: str,
    now: Callable[[], float],
) -> list[Row]:
    """Return the rows of the table: eager PyTorch, and each exported form beside it.

    The name of a form is "KIND: clip" or "KIND: position + window"; `paths` has the main file of each kind.
    """
    runners = {"eager PyTorch": eager(model)} | {name: run for name, (run, _) in forms.items()}
    with progress_bar("timing", ROUNDS + 1, console=Console(stderr=True)) as update:
        seconds = time_runners(runners, clip, update, now=now)
    size = sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6
    with stage("measuring memory"):
        rows = [Row("eager PyTorch", size, peak_memory(source), seconds["eager PyTorch"], 1.0)]
        for name, (_, agreement) in forms.items():
            kind, _, graph = name.partition(": ")
            files = [paths[kind]] if graph == "clip" else [part_path(paths[kind], part) for part in PARTS]
            rows.append(
                Row(
                    name=name,
                    megabytes=sum(file_size(file, format) for file in files),
                    memory=peak_memory(paths[kind]) if graph == "clip" else None,
                    seconds=seconds[name],
                    of_eager=seconds[name] / seconds["eager PyTorch"],
                    agreement=agreement,
                )
            )
    return rows


def write_int8(
    model: ViViT, exported: ExportedModel, path: Path, videos: Sequence[str]
) -> tuple[Path, dict[str, Runner]]:
    """Write the graphs of an exported model in int8 to `path` and next to it; return it and what computes it.

    More and more layers stay in float32 until at most 0.5 points of top-1 are lost. Raises WeightsError if that is
    never so.
    """
    config, frame_index = model.config, model.tokenizer.frame_index
    if not has_vnni():
        print(
            "note: this processor has no units for int8 (VNNI): expect less space, but hardly less time",
            file=sys.stderr,
        )
    rest, clips = calibration_clips(videos, config)
    inputs = {"clip": clips, "position": list(positions_of(clips, frame_index, config.grid[0]))}
    path.parent.mkdir()
    result, in_float = None, []
    for keep_float in FLOAT_LAYERS:
        for name in ("position", "clip") if exported.shares_positions else ("clip",):
            source, dest = (file if name == "clip" else part_path(file, name) for file in (exported.path, path))
            with stage(f"calibrating int8 of the {name} graph on {len(clips)} videos"):
                in_float = quantize(source, dest, inputs[name], keep_float)
            about = load_graph(source)[1] | {"precision": "int8", "float_layers": in_float}
            set_metadata(dest, about | {"weights": f"{exported.weights} in int8"})
        if exported.shares_positions:
            source, dest = (part_path(file, "window") for file in (exported.path, path))
            shutil.copy(source, dest)
            set_metadata(dest, load_graph(source)[1] | {"weights": f"{exported.weights} in int8"})
        quantized = open_exported(path)
        runners = {"clip": quantized.run}
        if quantized.shares_positions:
            runners["position + window"] = in_parts(quantized, frame_index)
        with progress_bar("testing int8", len(rest), console=Console(stderr=True)) as update:
            result = gate(config, exported.run, runners.values(), rest, update)
        print(f"int8 with {', '.join(short_names(in_float))} in float32: {result}", file=sys.stderr)
        if result.loss <= MAX_LOSS:
            return path, runners
    raise WeightsError(
        f"int8 is not kept: it loses {result.loss if result else 100:.1f} points of top-1 (allowed: {MAX_LOSS}), also "
        "with the MLPs in float32; give more --videos to calibrate on, or export without --int8"
    )


def short_names(layers: Sequence[str]) -> list[str]:
    """Return the names of layers with those that differ only in the number of the block as one: blocks.*.mlp.fc2."""
    return list(dict.fromkeys(re.sub(r"\bblocks\.\d+", "blocks.*", name) for name in layers))


def files_of(path: Path, format: str) -> list[Path]:
    """Return the files that belong to one graph."""
    return [path.with_suffix(suffix) for suffix in WRITERS[format][1]]


def file_size(path: Path, format: str) -> float:
    """Return the size of a graph in MB; 0 if it does not exist."""
    return sum(file.stat().st_size for file in files_of(path, format) if file.exists()) / 1e6


def move_files(path: Path, dest: Path, format: str) -> None:
    """Move the files of an export to where they belong, the main one last; remove parts of an earlier export."""
    pairs = [(part_path(path, part), part_path(dest, part)) for part in PARTS] + [(path, dest)]
    for source, target in pairs:
        for old, new in zip(files_of(source, format), files_of(target, format)):
            if old.exists():
                os.replace(old, new)
            else:
                new.unlink(missing_ok=True)


def format_rows(rows: Sequence[Row]) -> str:
    """Format the table that ends an export."""
    cells = [["", "MB", "memory MB", "s per clip", "of eager", "differs by", "same top-1"]]
    for row in rows:
        found = row.agreement
        cells.append(
            [
                row.name,
                f"{row.megabytes:.1f}",
                "-" if row.memory is None else f"{row.memory:.0f}",
                f"{row.seconds:.3g}",
                f"{row.of_eager:.2f}",
                f"{found.difference:.1e}" if found else "",
                f"{found.same_top1} of {found.clips}" if found else "",
            ]
        )
    return format_table(cells)
