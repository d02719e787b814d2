"""The classes of one video with their probabilities. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..settings import check
from ..text import printable


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one video, per label set, as (name, probability), best first."""

    path: str
    classes: dict[str, list[tuple[str, float]]]

    def unsure(self, threshold: float) -> list[str]:
        """Return the label sets in which no class reaches the probability `threshold`."""
        return [name for name, top in self.classes.items() if top[0][1] < threshold]

    def to_dict(self, threshold: float = 0.0) -> dict[str, Any]:
        """Return a dictionary for JSON; `unsure` lists the label sets that do not reach a threshold."""
        top = {k: [{"name": n, "probability": p} for n, p in v] for k, v in self.classes.items()}
        return {"path": self.path, "classes": top} | ({"unsure": self.unsure(threshold)} if threshold else {})

    def to_text(self, threshold: float = 0.0) -> str:
        """Return one line per class; a label set in which no class reaches the threshold starts with "unsure"."""
        lines, unsure = [printable(self.path)], self.unsure(threshold)
        for label_set, top in self.classes.items():
            name = f"  {printable(label_set):12}"
            lines += [f"{name} unsure: no class reaches {threshold:.1%}"] if label_set in unsure else []
            lines += [f"{name} {p:6.1%}  {printable(label)}" for label, p in top]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()


def top_classes(
    classes: Mapping[str, Sequence[str]], logits: np.ndarray, top_k: int
) -> dict[str, list[tuple[str, float]]]:
    """Return the `top_k` classes of each label set by logits (K,), as (name, probability); of equal ones, the first.

    Raises ValueError for a `top_k` below 1.
    """
    check(top_k >= 1, f"top_k is {top_k}; it is the number of classes, at least 1")
    found = {}
    for label_set, (names, scores) in split_label_sets(classes, logits).items():
        best = np.argsort(-scores, kind="stable")[:top_k]
        probabilities = softmax(scores)
        found[label_set] = [(names[i], float(probabilities[i])) for i in best]
    return found


def split_label_sets(
    classes: Mapping[str, Sequence[str]], logits: np.ndarray
) -> dict[str, tuple[Sequence[str], np.ndarray]]:
    """Split logits (…, K) by label set: {name: (class names, logits (…, k))}."""
    ends = np.cumsum([len(names) for names in classes.values()])[:-1]
    return dict(zip(classes, zip(classes.values(), np.split(logits, ends, axis=-1))))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in float64."""
    scores = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)
