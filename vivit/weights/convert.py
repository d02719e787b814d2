"""Convert weights between formats: ours, Hugging Face ViViT, scenic."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import write_json
from ..model.vivit import ViViT
from . import huggingface, scenic
from .load import from_pretrained
from .save import save_pretrained, write_safetensors


def convert(
    source: str | os.PathLike[str], dest: str | os.PathLike[str], *, to: str = "vivit", **overrides: Any
) -> Path:
    """Read `source` (anything `from_pretrained` reads, with its overrides) and write it to `dest`, bit for bit.

    to: "vivit" or "huggingface", which are folders, or "scenic", a Flax msgpack file. Raises ValueError if the format
    has no such model.
    """
    if to not in WRITERS:
        raise ValueError(f"cannot write {to!r}; formats are {', '.join(WRITERS)}")
    return WRITERS[to](from_pretrained(source, **overrides), Path(dest))


def save_huggingface(model: ViViT, folder: Path) -> Path:
    """Write a folder for transformers' VivitForVideoClassification.from_pretrained; Model 1 with a class token only."""
    tensors, config, processor = huggingface.from_vivit(model.state_dict(), model.config)
    write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "preprocessor_config.json", processor)
    write_json(folder / "config.json", config)
    return folder


def save_scenic(model: ViViT, path: Path) -> Path:
    """Write a Flax msgpack checkpoint of the official code, which has no class names and no sizes."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a scenic checkpoint is one file, e.g. {path / 'checkpoint_0'}")
    scenic.write_msgpack(path, scenic.from_vivit(model.state_dict(), model.config))
    return path


WRITERS: dict[str, Callable[[ViViT, Path], Path]] = {
    "vivit": save_pretrained,
    "huggingface": save_huggingface,
    "scenic": save_scenic,
}
