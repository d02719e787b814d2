"""Hold the rows of `python -m benchmarks gpu` to the goals, and say what to do first where one is missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]

TRAINED = ("ViViT-B/16x2", "ViViT-B/16x2 FE", "ViViT-L/16x2", "ViViT-L/16x2 FE")


def goals(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a row a goal: what was reached, whether that is enough, and what to do first if not."""
    wrong = [row for row in rows if row["case"] == "correct" and row.get("right") != "yes"]
    checked = sum(row["case"] == "correct" for row in rows)
    yield goal("all four models are right", checked - len(wrong) if checked else None, checked, names(wrong))
    steps = [row for row in rows if row["case"] == "train" and "error" not in row]
    for name in TRAINED:
        share = most(steps, "of ceiling", of=name)
        advice = f"the first kernels of {name} under Profile; then CUDA graphs, a fused norm with its residual"
        yield goal(f"training of {name}, share of the ceiling", share, 0.6, advice)
    yield goal(
        "training of Model 1 B against transformers, same batch",
        ratio(steps, "clips/s", TRAINED[0], f"transformers {TRAINED[0]}"),
        2.0,
        "which attention kernel transformers takes; then the profile of the compiled step",
    )
    yield goal(
        "memory of transformers over that of Model 1 B, same batch",
        ratio(steps, "memory MiB", f"transformers {TRAINED[0]}", TRAINED[0]),
        2.0,
        "activations MiB of both: which tensors a block keeps (vivit plan); GELU and norms computed again",
    )
    predictions = [row for row in rows if row["case"] == "predict"]
    yield goal(
        "prediction with Model 1 B against transformers, each as by default",
        ratio(predictions, "seconds", f"transformers {TRAINED[0]}", f"vivit.predict, {TRAINED[0]}"),
        2.0,
        "the seconds that decoding takes (vivit.predict with a tiny model): more views in one forward pass",
    )
    fed = max((row["clips/s"] for row in rows if row["case"] == "loader" and "clips/s" in row), default=None)
    eaten = most(steps, "clips/s", of=TRAINED[1])
    share = fed / eaten if fed and eaten else None
    advice = "vivit data prepare with a smaller short side; augmentation on the device; decoding on the GPU"
    yield goal("clips that the loader reads for each that training of Model 2 B takes", share, 1.0, advice)
    yield from slower_kernels(rows)


def goal(name: str, reached: float | None, wanted: float, advice: str) -> Row:
    met = None if reached is None else reached >= wanted
    return {
        "case": "goals",
        "name": name,
        "goal": wanted,
        "reached": None if reached is None else round(reached, 3),
        "met": {None: "not measured", True: "yes", False: "no"}[met],
        "look first at": advice if met is False else None,
    }


def slower_kernels(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a goal for each attention that another kernel computes faster than the one that is chosen."""
    for row in rows:
        faster = row.get("time / ours") if row["case"] == "attention" else None
        if faster is not None and faster < 0.95 and "deterministic" not in row["name"]:
            yield goal(f"{row['name']}, {row['precision']}: its time / ours", faster, 1.0, "choose_attention")


def names(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row['name']} {row.get('way', '')} {row.get('precision', '')}".strip() for row in rows)


def most(rows: Sequence[Row], column: str, *, of: str) -> float | None:
    """Return the largest value that a model has, compiled or not, at any batch."""
    return max((row[column] for row in rows if row["name"] in (of, f"{of} compiled")), default=None)


def ratio(rows: Sequence[Row], column: str, above: str, below: str) -> float | None:
    """Return value / value of two names in the rows of one batch, compiled ones if there are; None: not measured."""
    # Rows of compiled models come last.
    found = {(row["name"].removesuffix(" compiled"), row.get("batch")): row[column] for row in rows if row.get(column)}
    for (name, batch), value in found.items():
        if name == above and (below, batch) in found:
            return value / found[below, batch]
    return None
