"""Our own format: a folder with model.safetensors and config.json, nothing executable."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors.torch

from ..config import to_dict
from ..model.vivit import ViViT

FORMAT, VERSION = "vivit", 1


def save_pretrained(model: ViViT, folder: str | os.PathLike) -> Path:
    """Write model.safetensors and config.json (architecture, class names, preprocessing) into `folder`.

    Each file is written beside its place and renamed, so that an interruption leaves the old one whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The weights first: after an interruption in between, the old config.json does not fit them, which is an error.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write(folder / "model.safetensors", lambda path: safetensors.torch.save_file(tensors, path, {"format": "pt"}))
    config = {"format": FORMAT, "version": VERSION, "model": to_dict(model.config)}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder


def write(path: Path, writer: Callable[[Path], object]) -> None:
    """Call `writer` on a file beside `path`, flush it to the disk and rename it."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        writer(Path(beside))
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)  # mkstemp's files are private
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the rename itself
        finally:
            os.close(directory)


def write_text(path: Path, text: str) -> None:
    """`write` for text."""
    write(path, lambda beside: beside.write_text(text))
