"""Write docs/benchmarks.md from the JSON of `python -m benchmarks`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit.text import format_markdown

HEADINGS = {
    "goals": "Goals on a GPU",
    "correct": "Correctness on a device",
    "limits": "Limits of a device",
    "forward": "Forward pass",
    "attention": "Attention",
    "shorten": "Fewer tokens",
    "train": "Training step",
    "profile": "Profile",
    "predict": "Prediction",
    "timeline": "Timeline",
    "stream": "Stream",
    "streams": "Several streams",
    "export": "Export",
    "serve": "Server",
    "peers": "What else one could run",
    "input": "Input",
    "loader": "Loader",
    "evaluation": "Evaluation",
    "startup": "Start-up",
    "learn": "Training on the demo's videos",
}

GENERAL = [
    "* All contenders of a run are timed in one process, one after the other in every round. The median is given; the "
    "spread is half the distance between the quartiles as a share of it. Ratios are medians over the rounds.",
]

NOTES = {
    "forward": (
        "Without gradients. GFLOP: multiply-adds x 2 that are carried out, which in Models 1 and 2 is less than "
        "`vivit info` says, because of the last block only the class token is computed. "
        "Of ceiling: TFLOP/s over those of a matrix product of two large square matrices in the same precision, timed "
        "in the same rounds. Memory: weights, and what one call needs on top. A peer named after one of our models has "
        "its weights and input. Differs by: of the logits, relative to the largest; in float32 from ours, in bfloat16, "
        "ours too, from ours in float32. A number in `time / ours` above 1 says by what factor the model before it is "
        "faster than the row."
    ),
    "shorten": (
        "Model 1 as it is and with the options of `vivit.model.token_reduction`, on synthetic videos, those of the "
        "input below; how many of their tubelets are static says nothing about other videos. GFLOP: carried out on "
        "these clips. `time / ours` below 1: the share of the plain model's time. Logits differ by, same top-1: from "
        "the plain model's on the clips of the batch. With random weights that is no loss of accuracy; with trained "
        "ones (`--weights`) it bounds it on these clips, and `vivit eval` with and without the option measures it on "
        "yours."
    ),
    "attention": (
        "Attention alone at the sizes of a model, on queries, keys and values from one projection: the kernel that "
        "is chosen on this device, and the others that PyTorch has."
    ),
    "train": (
        "Forward, loss, backward, SGD with momentum; operations: three times those of the forward pass. Activations: "
        "what autograd keeps for the backward pass, counted; in bfloat16, which is by autocast, with its copies of the "
        "weights. The rest as above."
    ),
    "predict": (
        "One video of ten seconds from its file to classes, 4 x 3 views: `vivit.predict` as it is by default, and the "
        "same views through transformers' ViViT as it is by default, in float32."
    ),
    "timeline": (
        "Rows of `vivit timeline` with Model 2 at hops of some temporal positions, and the same number of windows, "
        "each as a clip of its own through the same model. Frames are ready in memory; the first window, which encodes "
        "all t positions, comes before the clock starts. t / hop: by how much fewer positions are encoded, which is "
        "what one can hope for; the layers over time and the head are computed for each row."
    ),
    "stream": (
        "Frames of 640 x 480 pixels, 25 a second and stride 2, to the rows of `vivit stream`: resize, crop, encode, "
        "classify, without decoding. Times real time: seconds of video over seconds of computing."
    ),
    "streams": (
        "A position of each of several cameras at a time, 25 frames a second and stride 2, from resized frames on; "
        "a row every three positions. Throughput: positions a second of all sources together over those of one source. "
        "Times real time: of all sources at once."
    ),
    "export": (
        "Random weights as `vivit export` writes them, compared with eager PyTorch on clips of synthetic videos: the "
        "largest difference of the logits, relative to the largest one of the clip. Seconds of a clip in rounds of all "
        "forms; memory: the most that a new process has to load the model and classify a clip. Times that passed on a "
        "CPU that other programs used say little; `--cpu-time` counts the processor's."
    ),
    "serve": (
        "`vivit serve` over loopback: one view of a ten-second video per request, from the first byte sent to the last "
        "one received. Clients ask again as soon as they have their answer. Waiting: for a decoding process, and for "
        "the model."
    ),
    "peers": "One clip, random weights: the time of a forward pass does not depend on them.",
    "input": (
        "Clips of 32 x 224 x 224 from synthetic videos of 256 x 340, 30 frames/s, ten seconds, in H.264; one thread. "
        "Raw decode is a bare PyAV loop over the same kind of clip: open, seek, decode, convert to RGB."
    ),
    "evaluation": (
        "Clips of 32 frames, stride 2: the middle one and four more, these with three crops. Frames and temporal "
        "positions are counted, not timed; in `vivit eval` the factorised encoder encodes those that differ."
    ),
    "startup": "Fresh processes, files in the page cache.",
    "goals": "What the rows below come to, and what to look at first where a goal is missed.",
    "correct": (
        "Logits against the arrays of the official code in tests/golden, and the gradient of a random video against "
        "float64 on the CPU. Right: logits within 0.01 % of the largest in float32 and 3 % in bfloat16, the gradient "
        "within 0.1 % and 5 % of its norm."
    ),
    "limits": "Products of two large square matrices, and a copy between two large buffers of the device.",
    "profile": "The kernels that take most of a training step, as PyTorch's profiler counts them.",
    "loader": (
        "Clips of 32 x 224 x 224 a second that the processes of a loader give together, from synthetic videos of "
        "256 x 340, ten seconds, in H.264."
    ),
    "learn": "The demo's videos of moving shapes and its recipe, with a larger model; accuracy of a single view.",
}


def command(args: list[str]) -> str:
    """Return the command line without the options that say where the results go."""
    places = {i + n for i, word in enumerate(args) if word in ("--out", "--docs") for n in (0, 1)}
    return shlex.join(["python", "-m", "benchmarks", *(word for i, word in enumerate(args) if i not in places)])


def with_earlier(results: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Return {"runs": […]}: this run, and the runs of other commands in the file."""
    earlier = json.loads(out.read_text(encoding="utf-8"))["runs"] if out is not None and out.exists() else []
    return {"runs": [*(run for run in earlier if run["command"] != results["command"]), results]}


def add_runs(folder: Path, /, docs: Path = Path("docs")) -> None:
    """Add the runs of FOLDER/benchmarks.json to those of the documentation, and write its page again."""
    everything = docs / "benchmarks.json"
    for run in json.loads((folder / "benchmarks.json").read_text(encoding="utf-8"))["runs"]:
        everything.write_text(json.dumps(with_earlier(run, everything), indent=1) + "\n", encoding="utf-8")
    (docs / "benchmarks.md").write_text(page(json.loads(everything.read_text(encoding="utf-8"))), encoding="utf-8")


def page(results: Mapping[str, Any]) -> str:
    """Markdown of all runs that a JSON file holds: a section a case, with the command above each table."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks`: every table names the command that measured it.",
        "",
        *GENERAL,
    ]
    if all(run["conditions"]["device"] != "cuda" for run in results["runs"]):
        lines.append("* CUDA: not yet measured. `make gpu` measures it, as docs/performance.md describes under Hopper.")
    if all(row["case"] != "export" for run in results["runs"] for row in run["rows"]):
        models = " ".join(f"'ViViT-B/16x2{model}'" for model in ("", " FE", " FSA", " FDP"))
        lines.append(f"* Exported models: not yet measured; `python -m benchmarks export --preset {models}`.")
    for case, heading in HEADINGS.items():
        runs = [run | {"rows": [row for row in run["rows"] if row["case"] == case]} for run in results["runs"]]
        runs = [run for run in runs if run["rows"]]
        if runs:
            lines += ["", f"## {heading}", "", NOTES[case]]
        for run in runs:
            lines += ["", f"`{run['command']}`", "", conditions(run), "", *table(run["rows"])]
    return "\n".join(lines) + "\n"


def conditions(run: Mapping[str, Any]) -> str:
    """One sentence on when, where and how."""
    c = run["conditions"]
    clock = "time that the thread computes, not time that passes" if c["cpu_time"] else "time that passes"
    load = f", load before the start {c['load_at_start']}" if c["load_at_start"] is not None else ""
    attention = f", attention by {c['attention']}" if c["device"] == "cuda" else ""
    versions = ", ".join(f"{name} {version}" for name, version in c["versions"].items())
    return (
        f"{c['date']}, {c['hardware']}, {c['threads']} of {c['cores']} cores{load}{attention}; {run['rounds']} rounds, "
        f"{clock}. Python {c['python']}, {versions}."
    )


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown lines; columns in the order in which they first appear, those without any value left out."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "case"]
    columns = [name for name in names if any(row.get(name) is not None for row in rows)]
    right = {name: all(not isinstance(row.get(name), str) for row in rows) for name in columns}
    cells = [[cell(row.get(name)) for name in columns] for row in rows]
    return format_markdown([columns, *cells], align="".join("<>"[right[name]] for name in columns)).splitlines()


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
