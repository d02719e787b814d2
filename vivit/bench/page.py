"""docs/benchmarks.md, made from the JSON of `vivit bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = {
    "forward": "Forward pass",
    "train": "Training step",
    "peers": "What else one could run",
    "input": "Input",
    "evaluation": "Evaluation",
    "startup": "Start-up",
}

NOTES = {
    "forward": (
        "Without gradients. GFLOP: multiply-adds x 2 that are carried out, which in our models is less than "
        "`vivit info` says, because of the last block only the class token is computed. "
        "Of ceiling: TFLOP/s over those of a matrix product of two large square matrices in the same precision, timed "
        "in the same rounds. Memory: weights, and what one call needs on top. A peer named after one of our models has "
        "its weights and input; the difference is that of the logits, relative to the largest. A number in "
        "`faster` says by what factor the first model of the table is faster than the row."
    ),
    "train": "Forward, loss, backward, SGD with momentum; operations as `vivit info` counts, x 3. The rest as above.",
    "peers": "One clip, random weights: the time of a forward pass does not depend on them.",
    "input": (
        "Clips of 32 x 224 x 224 from made videos of 256 x 340, 30 frames/s, ten seconds, in H.264; one thread. Raw "
        "decode is a bare PyAV loop over the same kind of clip: open, seek, decode, convert to RGB."
    ),
    "evaluation": "Frames are counted, not timed.",
    "startup": "Fresh processes, files in the page cache.",
}


def page(results: Mapping[str, Any]) -> str:
    """Markdown of all rows, a table a case."""
    c = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in c["versions"].items())
    lines = [
        "# Benchmarks",
        "",
        f"Measured on {c['date']} with `{results['command']}`; this page is made by that command.",
        "",
        f"* Hardware: {c['hardware']}; {c['cores']} cores, {c['threads']} threads"
        + (f"; load before the start {c['load_at_start']}" if c.get("load_at_start") is not None else ""),
        f"* Versions: Python {c['python']}, {versions}",
        f"* Rounds: {results['rounds']}, all contenders of a table after one another in each; the median is given, and "
        "the spread is half the distance of the quartiles as a share of it. Ratios are medians over the rounds.",
        *(["* Seconds are those that one thread computes, not those that pass"] if c.get("cpu_time") else []),
        f"* CUDA: {'this run' if c['device'] == 'cuda' else 'not yet measured; the same command with `--device cuda`'}",
    ]
    for case, heading in HEADINGS.items():
        rows = [row for row in results["rows"] if row["case"] == case]
        if rows:
            lines += ["", f"## {heading}", "", NOTES[case], "", *table(rows)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown lines; columns in the order in which they first appear, those without any value left out."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "case"]
    columns = [name for name in names if any(row.get(name) is not None for row in rows)]
    right = {name: all(not isinstance(row.get(name), str) for row in rows) for name in columns}
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---:" if right[n] else "---" for n in columns) + "|"]
    return lines + ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
