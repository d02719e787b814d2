"""Recognise train, val and test in their usual spellings."""

from __future__ import annotations

import re
from collections.abc import Container

from ...config import suggestion
from ...errors import DataError

SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validate", "validation", "validating", "dev", "develop", "development", "eval"),
    "test": ("test", "testing", "tst"),
}


def usual_split(name: str) -> str | None:
    """Return "train", "val" or "test" for its usual spellings (Training, valid, dev-set, test_videos …), else None."""
    word = re.sub(r"^(videos?|data)[-_ ]|[-_ ]?(sets?|splits?|data|videos?)$", "", name.strip().lower())
    return next((split for split, spellings in SPLITS.items() if word in spellings), None)


def named_splits(name: str) -> set[str]:
    """Return the splits that words of a name stand for: "val" for val, val_256 and clips-validation."""
    return {split for word in re.split(r"[^a-z]+", name.lower()) if (split := usual_split(word))}


def split_name(split: str) -> str:
    """Return "train", "val" or "test" for any usual spelling of one of them. Raises DataError for another name."""
    name = usual_split(split)
    if name is None:
        hint = suggestion(split, SPLITS) or "; allowed are train, val and test"
        raise DataError(f"unknown split {split!r}{hint}")
    return name


def labelled_split(split: str, files: Container[str]) -> str:
    """Return `split_name(split)`, if the owners publish labels of that split. Raises DataError for another."""
    name = split_name(split)
    if name not in files:
        raise DataError(f"split {split!r}: the owners keep the labels of the test videos; use train or val")
    return name
