"""Subsets of EPIC-Kitchens-100 validation that the official evaluation also reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..sample import Sample
from .epic_kitchens import epic_kitchens_classes
from .rows import find_file, table_rows

UNSEEN = "EPIC_100_unseen_participant_ids_validation.csv"
TAIL = {"verb": "EPIC_100_tail_verbs.csv", "noun": "EPIC_100_tail_nouns.csv"}


def subsets(root: Path, samples: Sequence[Sample]) -> dict[str, dict[str, Tensor]]:
    """Return which samples, (N,) bool, count for verb, noun and action in the subsets "unseen" and "tail".

    Unseen: participants without a training video. Tail: actions with a rare verb, with a rare noun, or with either.
    A subset without its official files next to the annotations is left out.
    """
    found: dict[str, dict[str, Tensor]] = {}
    participants = column(root, UNSEEN, "participant_id")
    if participants:
        unseen = torch.tensor([Path(s.path).name.split("_")[0] in participants for s in samples])
        found["unseen"] = dict.fromkeys(("verb", "noun", "action"), unseen)
    numbers = {label_set: column(root, file, label_set) for label_set, file in TAIL.items()}
    if all(numbers.values()):
        classes = epic_kitchens_classes(root)
        rare = {label_set: {classes[label_set][int(n)] for n in of} for label_set, of in numbers.items()}
        tail = {name: torch.tensor([s.labels[name] in rare[name] for s in samples]) for name in rare}
        found["tail"] = {**tail, "action": tail["verb"] | tail["noun"]}
    return found


def column(root: Path, file: str, name: str) -> set[str]:
    """Read the cells of a column of an official file; empty if there is no such file."""
    return {cell for _, (cell,) in table_rows(find_file(root, [file], name, []), [name], [])}
