"""Read named tensors from a folder, a file or a hub id; detect the format by content."""

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
from typing import Any, TypeGuard

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..config import suggestion
from ..errors import WeightsError
from . import scenic
from .save import FORMAT
from .starts import STARTS, files_of, hub_id

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OUR_KERNEL = "tokenizer.proj.weight"  # in every file of our own weights, perhaps after a prefix
NO_WEIGHTS = (".json", ".md", ".txt", ".model")  # .model: a SentencePiece tokenizer
CONFIG_FILES = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
EXPORTED = (".onnx", ".xml", ".pt2")  # what `vivit export` writes
FORMATS = "safetensors, PyTorch (.pt, .pth, .bin), NumPy (.npz) or Flax msgpack"


MAX_JSON = 2**26  # bytes; a config with ten thousand class names has half a megabyte
MAX_EXPANSION = 2**28, 16  # an unpacked .npz has at most this many bytes, or this many times those of the file


@dataclass
class CheckpointFiles:
    """Tensors by the names in the file, and the JSON files next to it."""

    path: str
    tensors: dict[str, Tensor]
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_files(source: str | os.PathLike[str]) -> CheckpointFiles:
    """Read the tensors of a folder or a file or, if no such path exists, of a hub id, owner/name, or of a known start.

    safetensors and current PyTorch files are mapped: their tensors take memory only when they are read. Raises
    FileNotFoundError for a missing file and WeightsError for a broken file or one that is no checkpoint.
    """
    path, notes = local_path(source), []
    if path.is_dir():
        path = find_run_weights(path)
        return CheckpointFiles(str(source), _read_folder(path, notes), _read_configs(path), notes)
    if path.suffix == ".json":
        raise WeightsError(f"{path}: holds no tensors; give the folder of the weights, {path.parent}")
    _refuse_shard(path)
    tensors = read_file(path, notes)
    ours = any(name.endswith(OUR_KERNEL) for name in tensors)
    configs = _read_configs(path.parent) if ours or path.suffix in (".safetensors", ".bin") else {}
    config = configs.get("config.json", {})
    if path.name not in WEIGHT_FILES and "model_type" not in config and not (ours and config.get("format") == FORMAT):
        configs = {}  # of something else in the same folder
    return CheckpointFiles(str(source), tensors, configs, notes)


def check_source(source: object) -> None:
    """Raise ValueError for what is no path and no name, without printing it: a state dict has many numbers."""
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"weights are given as a {type(source).__name__}; pass the path of a file or folder, or a hub id. A state "
            "dict goes into a model by model.load_state_dict"
        )


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder or, of a hub id or short name, of the folder of its download.

    Raises FileNotFoundError.
    """
    path = Path(source)
    if path.exists():
        return path
    repo = str(source) if isinstance(source, Path) else hub_id(str(source))
    if isinstance(source, Path) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
        raise FileNotFoundError(
            f"{source}: no such file or folder{suggestion(str(source), STARTS)}, not a hub id of the form owner/name, "
            "and no name that `vivit starts` lists"
        )
    return _download(repo)


def find_run_weights(folder: Path) -> Path:
    """Return the weights of a run folder: weights/ or, before the run has ended, best/. Return other folders unchanged.

    Raises FileNotFoundError for a run that has neither.
    """
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        return folder
    if any(folder.glob("*.distcp")):
        raise FileNotFoundError(
            f"{folder} is a checkpoint, from which vivit train resumes; give the run that it belongs to, whose weights "
            "other commands read"
        )
    for name in ("weights", "best"):
        if any((folder / name / file).is_file() for file in WEIGHT_FILES):
            return folder / name
    if (folder / "environment.json").is_file() or (folder / "weights").is_dir():
        raise FileNotFoundError(
            f"{folder} is a run that has not finished: no {folder / 'weights'} and no best validation so far; "
            "resume its vivit train"
        )
    return folder


def read_file(path: Path, notes: list[str] | None = None) -> dict[str, Tensor]:
    """Read the tensors of one file of any name. Never runs pickled code. Raises WeightsError.

    Appends to `notes` which model it took if the file holds several.
    """
    if not path.is_file():  # reading a pipe would wait for whoever writes it, a device might never end
        raise WeightsError(f"{path}: a pipe, a device or a socket; copy the weights into a file")
    if path.suffix in EXPORTED:
        raise WeightsError(
            f"{path}: an exported model, which vivit predict, timeline, stream and eval take, and others cannot. Give "
            "the weights that it was exported from"
        )
    with path.open("rb") as file:
        start = file.read(16)
    if start == b"version https://":
        raise WeightsError(f"{path}: a pointer of Git LFS to the file, not the file; run git lfs pull")
    notes = [] if notes is None else notes
    if zipfile.is_zipfile(path):
        return _read_npz(path) if _is_numpy_archive(path) else _read_torch(path, notes, mapped=True)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # a pickle: PyTorch before 1.6
        return _read_torch(path, notes, mapped=False)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError) as error:
            raise WeightsError(
                f"{path}: a broken or cut-off safetensors file ({first_line(error)}); download it again"
            ) from error
    if start and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map
        return scenic.read_msgpack_tensors(path)
    what = "a broken or cut-off zip archive; download it again" if start[:2] == b"PK" else f"none of {FORMATS}"
    raise WeightsError(f"{path}: not a checkpoint: {what}{'' if start else ' (the file is empty)'}")


def first_line(error: Exception) -> str:
    """Return the first line, at most 200 characters, of a library's error, which may quote bytes of the file."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _is_numpy_archive(path: Path) -> bool:
    """Tell whether a zip archive is from NumPy, not PyTorch. Raises WeightsError if it unpacks to far more bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise WeightsError(
            f"{path}: a broken or cut-off zip archive ({first_line(error)}); download it again"
        ) from error
    names = [entry.filename for entry in entries]
    unpacked, (most, factor), is_numpy = sum(e.file_size for e in entries), MAX_EXPANSION, _all_numpy(names)
    if unpacked > max(most if is_numpy else 0, path.stat().st_size * (factor if is_numpy else 2)):
        raise WeightsError(f"{path}: {path.stat().st_size} bytes that unpack to {unpacked}: no file of weights does")
    if len(set(names)) < len(names):
        raise WeightsError(f"{path}: the archive holds a name twice; save it again")
    return is_numpy


def _all_numpy(names: list[str]) -> bool:
    return all(name.endswith(".npy") for name in names)


def _read_folder(folder: Path, notes: list[str]) -> dict[str, Tensor]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            path = folder / name
            break
    else:
        files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in NO_WEIGHTS]
        files = [p for p in files if not p.name.startswith(".")]
        if len(files) != 1:
            found = ", ".join(p.name for p in sorted(folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"{folder}: no model.safetensors in this folder; it holds {found}. Name the file")
        path = files[0]
    if path.suffix != ".json":
        return read_file(path, notes)
    index = _read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise WeightsError(f"{path}: no weight_map from names of tensors to names of files")
    shards = sorted(set(index.values()))
    if outside := [shard for shard in shards if shard in ("", ".", "..") or re.search(r"[/\\\0]", shard)]:
        raise WeightsError(f"{path}: {outside[0]!r} is no name of a file in its folder")
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise FileNotFoundError(f"{folder}: {path.name} names files that are not there: {', '.join(missing)}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in read_file(folder / shard, notes).items():
            if index.get(name) != shard:
                raise WeightsError(f"{folder}: {shard} holds {name}, and {path.name} says {index.get(name, 'nothing')}")
            tensors[name] = tensor
    if absent := sorted(index.keys() - tensors.keys()):
        raise WeightsError(f"{folder}: {path.name} names tensors that are in no file: {', '.join(absent[:5])}")
    return tensors


def _refuse_shard(path: Path) -> None:
    """Raise WeightsError for one of several files that together are the weights of their folder."""
    for index in (path.with_name(name) for name in WEIGHT_FILES if name.endswith(".json")):
        listed = _read_json(index).get("weight_map") if index.is_file() else None
        files = list(listed.values()) if isinstance(listed, dict) else []
        if 0 < files.count(path.name) < len(files):
            raise WeightsError(f"{path}: one of the files that {index.name} lists; give their folder, {path.parent}")


def _read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: _read_json(folder / name) for name in CONFIG_FILES if (folder / name).is_file()}


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON:
        raise WeightsError(f"{path}: {path.stat().st_size} bytes, more than any such file has; allowed is {MAX_JSON}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a JSON file ({first_line(error)})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: expected a JSON object, got a {type(values).__name__}")
    return values


# Keys under which training loops save the state dict.
# "encoder" is what V-JEPA 2's hub loads from its files.
STATE_DICT_KEYS = ("model", "state_dict", "module", "model_state_dict", "model_ema", "teacher", "encoder")


def _read_torch(path: Path, notes: list[str], *, mapped: bool) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # about a pickle protocol: what cannot be read raises anyway
            warnings.simplefilter("ignore", UserWarning)
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds more than tensors, and loading it would run code from the file, which never happens here. "
            "Where you trust it, open it yourself, keep the state dict and save that with safetensors"
        ) from error
    except Exception as error:  # PyTorch's unpickler raises whatever a damaged byte leads to
        raise WeightsError(
            f"{path}: a broken or cut-off PyTorch file ({first_line(error)}); download it again"
        ) from error
    tree = tree if isinstance(tree, Mapping) else {}
    places = {"": tree} | {key: tree.get(key) for key in STATE_DICT_KEYS}
    states = {key: state for key, state in places.items() if _is_state_dict(state)}
    if not states:
        found = ", ".join(key for key in list(tree)[:8] if isinstance(key, str)) or "nothing by name"
        raise WeightsError(f"{path}: no state dict at the top, in 'model' or in 'state_dict'; it holds {found}")
    key, state = next(iter(states.items()))
    if len(states) > 1:
        others = ", ".join(map(repr, list(states)[1:]))
        notes.append(
            f"the weights are those of {key!r}; the file also holds {others}" if key else f"not read: {others}"
        )
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    for name, x in tensors.items():
        strided = x.layout == torch.strided and not x.is_quantized and not x.is_meta and not x.is_nested
        if not strided or x.numel() * x.element_size() > x.untyped_storage().nbytes():
            raise WeightsError(f"{path}: {name} is sparse, quantised or not stored in full; save it as a dense tensor")
    return tensors


def _is_state_dict(node: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(node, Mapping) and sum(isinstance(value, Tensor) for value in node.values()) > 1


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy's reader raises whatever a damaged byte leads to
        raise WeightsError(f"{path}: a broken or cut-off .npz file ({first_line(error)}); download it again") from error
    if wrong := [name for name, x in read.items() if x.dtype.kind not in "fVuiSU"]:
        raise WeightsError(f"{path}: {wrong[0]} holds {read[wrong[0]].dtype} values, no weights")
    return {name: scenic.as_tensor(x) for name, x in read.items() if x.dtype.kind not in "SU"}  # text is no tensor


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        patterns = ["*.json", "*.model"]
        folder = Path(snapshot_download(repo, allow_patterns=[*patterns, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, allow_patterns=[*patterns, "*.bin", "*.npz", "checkpoint*"]))
        return folder
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo}: no such file, folder or model on the hub, or a private one, or one whose licence has to be "
            "accepted on its page"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{repo}: not a local path, and the hub cannot be reached ({first_line(error)}). On a machine that reaches "
            f"it, get {files_of(repo)} of {repo}; bring them in one folder, and pass the folder"
        ) from error
