"""From a folder, a file or a hub id to named tensors. What a file is, its first bytes say; its name is not asked."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from . import scenic

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
CONFIGS = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")
KINDS = "safetensors, PyTorch (.pt, .pth, .bin), NumPy (.npz) or Flax msgpack"


@dataclass
class Files:
    """Tensors by the names in the file, and the JSON files that lie beside them."""

    path: str
    tensors: dict[str, Tensor]
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)


def read(source: str | os.PathLike) -> Files:
    """The tensors of a folder, a file or, when there is none of this name and it looks like owner/name, a hub id.

    safetensors and current PyTorch files are mapped: their tensors take memory when they are looked at.
    Raises FileNotFoundError where there is nothing, ValueError for a file that is no checkpoint or a broken one.
    """
    path = Path(source)
    if not path.exists():
        if isinstance(source, Path) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
            raise FileNotFoundError(f"{source}: no such file or folder, and not a hub id of the form owner/name")
        path = _download(str(source))
    if path.is_dir():
        return Files(str(source), _read_folder(path), _configs(path))
    beside = _configs(path.parent) if path.name in WEIGHTS else {}
    return Files(str(source), read_file(path), beside)


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, whatever it is called. Pickled code is never run. Raises ValueError."""
    with path.open("rb") as file:
        start = file.read(16)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_numpy = all(name.endswith(".npy") for name in archive.namelist())
        return _read_npz(path) if is_numpy else _read_torch(path, mapped=True)
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":  # a pickle: PyTorch before 1.6
        return _read_torch(path, mapped=False)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: a broken or cut-off safetensors file ({error}); download it again") from error
    if start and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map
        return scenic.tensors(path)
    what = "a broken or cut-off zip archive; download it again" if start[:2] == b"PK" else f"none of {KINDS}"
    raise ValueError(f"{path}: not a checkpoint: {what}{'' if start else ' (the file is empty)'}")


def _read_folder(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if (folder / name).is_file():
            path = folder / name
            break
    else:
        files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in (".json", ".md", ".txt")]
        files = [p for p in files if not p.name.startswith(".")]
        if len(files) != 1:
            found = ", ".join(p.name for p in sorted(folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"{folder}: no model.safetensors in this folder; it holds {found}. Name the file")
        path = files[0]
    if path.suffix != ".json":
        return read_file(path)
    shards = sorted(set(_json(path).get("weight_map", {}).values()))
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise FileNotFoundError(f"{folder}: {path.name} names files that are not there: {', '.join(missing)}")
    return {name: tensor for shard in shards for name, tensor in read_file(folder / shard).items()}


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: _json(folder / name) for name in CONFIGS if (folder / name).is_file()}


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(values).__name__}")
    return values


def _read_torch(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # about a pickle protocol: what cannot be read raises anyway
            warnings.simplefilter("ignore", UserWarning)
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors, and loading it would run code from the file, which never happens here. "
            "Where you trust it, open it yourself, keep the state dict and save that with safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: a broken or cut-off PyTorch file ({error}); download it again") from error
    for keys in ((), ("model",), ("state_dict",), ("module",), ("model_state_dict",), ("model_ema",), ("teacher",)):
        node = tree
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and sum(isinstance(v, Tensor) for v in node.values()) > 1:
            return {str(name): value for name, value in node.items() if isinstance(value, Tensor)}
    found = ", ".join(map(str, list(tree)[:8])) if isinstance(tree, Mapping) else type(tree).__name__
    raise ValueError(f"{path}: no state dict at the top, in 'model' or in 'state_dict'; it holds {found}")


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: scenic.as_tensor(arrays[name]) for name in arrays.files if arrays[name].dtype.kind in "fVui"}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: a broken or cut-off .npz file ({error}); download it again") from error


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    bring = (
        f"Bring the files yourself: model.safetensors (or pytorch_model.bin) with config.json and "
        f"preprocessor_config.json of {repo} in one folder, and pass the folder"
    )
    try:
        patterns = ["*.json", "*.safetensors"]
        folder = Path(snapshot_download(repo, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, allow_patterns=["*.json", "*.bin", "*.npz", "checkpoint*"]))
        return folder
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{repo}: no such file, folder or model on the hub (or a private one)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{repo}: not a local path, and the hub cannot be reached ({error}). {bring}"
        ) from error
