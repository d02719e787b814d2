"""Save a model in our own format: a folder with model.safetensors and config.json."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..config import ModelConfig, from_dict, to_dict
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


def save_pretrained(model: ViViT, folder: str | os.PathLike[str]) -> Path:
    """Write model.safetensors and config.json (architecture, class names, preprocessing) into `folder`.

    Each file is written under a temporary name and then renamed, so an interruption leaves the old file complete.
    Raises ValueError, before it writes, for a model that `from_pretrained` would not load, and OSError.
    """
    folder, config = Path(folder), to_dict(model.config)
    from_dict(ModelConfig, json.loads(json.dumps(config)))
    state = {name.replace("_orig_mod.", ""): x.detach().cpu() for name, x in model.state_dict().items()}  # of compile
    check_loadable(state, model.config)
    # The weights first: after an interruption in between, the old config.json does not fit them, which is an error.
    write_safetensors(folder / "model.safetensors", state)
    write_json(folder / "config.json", {"format": FORMAT, "version": VERSION, "model": config})
    return folder


def check_loadable(state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise ValueError if `state` does not hold the parameters of a ViViT of `config`."""
    with torch.device("meta"):
        expected = ViViT(config).state_dict()
    keep = "; to keep this model as it is, torch.save(model.state_dict(), …)"
    if others := sorted(state.keys() - expected.keys()):
        raise ValueError(
            f"{others[0]} is no parameter of this ViViT, so from_pretrained could not load it: a layer was added or "
            "replaced. Before you save, remove it, merge it (LoRA) or remove its parametrizations (weight_norm)" + keep
        )
    if missing := sorted(expected.keys() - state.keys()):
        raise ValueError(f"{missing[0]} is missing in this model, so from_pretrained could not load it{keep}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)} as model.config says. Change "
                f"classes by create(…, init=…, classes=…) or from_pretrained(…, classes=…), sizes by model.resize{keep}"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')} numbers, no weights{keep}")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically. Raises OSError, also for a full disk."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, "wb") as file:
        try:
            safetensors.torch.save_file(contiguous, file.name, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
