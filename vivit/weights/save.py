"""Save a model in our own format: a folder with model.safetensors and config.json."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..config import to_dict
from ..files import atomic_write, write_json
from ..model.vivit import ViViT

FORMAT, VERSION = "vivit", 1


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256 of all tensors of a model, by name: equal for equal weights, wherever they come from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_pretrained(model: ViViT, folder: str | os.PathLike) -> Path:
    """Write model.safetensors and config.json (architecture, class names, preprocessing) into `folder`.

    Each file is written under a temporary name and then renamed, so an interruption leaves the old file complete.
    Raises OSError.
    """
    folder = Path(folder)
    # The weights first: after an interruption in between, the old config.json does not fit them, which is an error.
    write_safetensors(folder / "model.safetensors", {k: v.detach().cpu() for k, v in model.state_dict().items()})
    write_json(folder / "config.json", {"format": FORMAT, "version": VERSION, "model": to_dict(model.config)})
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically. Raises OSError, also for a full disk."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, "wb") as file:
        try:
            safetensors.torch.save_file(contiguous, file.name, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
