"""Weights from one format to another: ours, Hugging Face ViViT, scenic. Tensors keep their bits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from ..model.vivit import ViViT
from . import huggingface, scenic
from .load import from_pretrained
from .save import save_pretrained, write, write_text


def convert(source: str | os.PathLike, dest: str | os.PathLike, *, to: str = "vivit", **overrides: Any) -> Path:
    """Read `source` (anything `from_pretrained` reads, with its overrides) and write it to `dest`.

    to: "vivit" or "huggingface", a folder each, or "scenic", a Flax msgpack file. Raises ValueError where the format
    has no such model.
    """
    if to not in WRITERS:
        raise ValueError(f"cannot write {to!r}; formats are {', '.join(WRITERS)}")
    return WRITERS[to](from_pretrained(source, **overrides), Path(dest))


def save_huggingface(model: ViViT, folder: Path) -> Path:
    """A folder that transformers' VivitForVideoClassification.from_pretrained loads; Model 1 with a class token."""
    tensors, config, processor = huggingface.from_vivit(model.state_dict(), model.config)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "model.safetensors", lambda path: safetensors.torch.save_file(tensors, path, {"format": "pt"}))
    write_text(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder


def save_scenic(model: ViViT, path: Path) -> Path:
    """A Flax msgpack checkpoint of the official code; class names and sizes are not in it."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a scenic checkpoint is one file, e.g. {path / 'checkpoint_0'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    scenic.write_checkpoint(path, scenic.from_vivit(model.state_dict(), model.config))
    return path


WRITERS: dict[str, Callable[[ViViT, Path], Path]] = {
    "vivit": save_pretrained,
    "huggingface": save_huggingface,
    "scenic": save_scenic,
}
