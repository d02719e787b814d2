"""Scores of a video over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timeline:
    """Scores of one video, a row per window."""

    path: str
    classes: dict[str, list[str]]
    """Class names by label set."""
    start: np.ndarray
    """(n,) float64 seconds: begin of the first frame of each window."""
    end: np.ndarray
    """(n,) float64 seconds: end of the last frame of each window."""
    center: np.ndarray
    """(n,) float64 seconds: the time that a row's scores stand for."""
    padded: np.ndarray
    """(n,) bool: the window reaches beyond the video and repeats its first or last frame."""
    logits: np.ndarray
    """(n, K) float32, label sets concatenated in order."""
    hop: float
    """Seconds between rows."""

    def probabilities(self, label_set: str) -> np.ndarray:
        """Return the softmax over the classes of one label set, (n, k)."""
        names = list(self.classes)
        begin = sum(len(self.classes[name]) for name in names[: names.index(label_set)])
        logits = self.logits[:, begin : begin + len(self.classes[label_set])].astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return powers / powers.sum(axis=1, keepdims=True)
