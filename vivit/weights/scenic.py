"""Read and write JAX checkpoints without JAX: scenic ViViT and ViT, .npz.

`read_msgpack` returns the parameters by their official names; `to_vivit` renames and reshapes them to ours,
`from_vivit` does the inverse.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..config import ModelConfig
from ..errors import WeightsError
from ..files import atomic_write
from .assemble import Checkpoint, MappedTensor, apply_rules, fuse_qkv

EXT_ARRAY, EXT_COMPLEX, EXT_SCALAR = 1, 2, 3  # flax.serialization's extension codes


def read_msgpack(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the parameters of a Flax msgpack checkpoint: 'Transformer/encoderblock_0/…/kernel' → array.

    Parameters are under optimizer/target (releases of 2021) or under params. Raises WeightsError for anything else.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tree = msgpack.unpackb(data, ext_hook=_ext, strict_map_key=False, max_ext_len=2**32 - 1)
    except Exception as error:  # msgpack and NumPy raise whatever a damaged byte leads to
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise WeightsError(f"{path}: not a Flax msgpack checkpoint ({what})") from error
    for keys in (("optimizer", "target"), ("optimizer", "target", "params"), ("params",)):
        node = tree
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and any(isinstance(v, np.ndarray) for v in _flatten(node).values()):
            params = node.get("params", node) if set(node) == {"params"} else node
            return {name: value for name, value in _flatten(params).items() if isinstance(value, np.ndarray)}
    found = ", ".join(str(key)[:40] for key in list(tree)[:8]) if isinstance(tree, dict) else type(tree).__name__
    raise WeightsError(f"{path}: no parameters under optimizer/target or params; it holds {found}")


def read_msgpack_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Call `read_msgpack`; return tensors that share the memory of the arrays."""
    return {name: as_tensor(array) for name, array in read_msgpack(path).items()}


def as_tensor(array: np.ndarray) -> Tensor:
    """Convert an array to a tensor; JAX's bfloat16, which NumPy saves as two raw bytes, becomes float32."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        array = _from_bfloat16(array.view(np.uint16))
    return torch.from_numpy(np.ascontiguousarray(array))


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32


def _ext(code: int, data: bytes) -> Any:
    if code not in (EXT_ARRAY, EXT_SCALAR):
        return complex(*msgpack.unpackb(data)) if code == EXT_COMPLEX else msgpack.ExtType(code, data)
    shape, dtype, raw = msgpack.unpackb(data, raw=True)
    if dtype == b"bfloat16":
        return _from_bfloat16(np.frombuffer(raw, np.uint16)).reshape(shape)
    array = np.frombuffer(bytearray(raw), np.dtype(dtype.decode())).reshape(shape)  # a bytearray can be written to
    return array if code == EXT_ARRAY else array[()]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to names 'a/b/c'; join arrays that Flax has split into chunks."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and "__msgpack_chunked_array__" in value:
            chunks = [value["chunks"][str(i)] for i in range(len(value["chunks"]))]
            shape = [value["shape"][str(i)] for i in range(len(value["shape"]))]
            flat[f"{prefix}{key}"] = np.concatenate(chunks).reshape(shape)
        elif isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Our modules → JAX; the names that are written. Those that are read are derived from them, and have some more.
MODULES: dict[str, str] = {
    "tokenizer.proj": "embedding",
    "head": "output_projection",
    "encoder.cls_token": "cls",
    "encoder.spatial.cls_token": "cls_SpatialTransformer",
    "encoder.temporal.cls_token": "cls_TemporalTransformer",
}

TRANSFORMERS: dict[str, str] = {
    "encoder.spatial": "SpatialTransformer",
    "encoder.temporal": "TemporalTransformer",
    "encoder": "Transformer",
}

BLOCK: dict[str, str] = {
    "norm1": "LayerNorm_0",
    "attn": "MultiHeadDotProductAttention_0",
    "norm2": "LayerNorm_1",
    "mlp": "MlpBlock_0",
}

TIME_SPACE_BLOCK: dict[str, str] = {
    "norm_time": "LayerNorm_time",
    "attn_time": "MultiHeadDotProductAttention_time",
    "norm1": "LayerNorm_space",
    "attn": "MultiHeadDotProductAttention_space",
    "norm2": "LayerNorm_mlp",
    "mlp": "MlpBlock",
}

# The first releases of the image models count all modules of a block together.
FIRST_BLOCK: dict[str, str] = {
    "norm2": "LayerNorm_2",
    "attn": "MultiHeadDotProductAttention_1",
    "mlp": "MlpBlock_3",
}

PARTS: dict[str, str] = {
    "pos_embed": "posembed_input/pos_embedding",
    "norm": "encoder_norm",
    "fc1": "Dense_0",
    "fc2": "Dense_1",
    "q": "query",
    "k": "key",
    "v": "value",
    "proj": "out",
}

READ_NAMES: dict[str, str] = {
    **{re.escape(official): ours for ours, official in MODULES.items()},
    **{rf"{official}/(.+)": rf"{ours}.\1" for ours, official in TRANSFORMERS.items()},
    "head": "head",
    "pos_embedding": "encoder.pos_embed",
}

WRITTEN_NAMES: dict[str, str] = {
    **{re.escape(ours): official for ours, official in MODULES.items()},
    **{rf"{re.escape(ours)}\.(.+)": rf"{official}/\1" for ours, official in TRANSFORMERS.items()},
}

READ_PARTS: dict[str, str] = {
    official: ours for parts in (BLOCK, TIME_SPACE_BLOCK, FIRST_BLOCK, PARTS) for ours, official in parts.items()
}

LEAVES = {"kernel": ".weight", "scale": ".weight", "bias": ".bias", "": ""}

IGNORED: dict[str, str] = {
    r"pre_logits/.+": "representation layer of the image classifier",
    r"MAPHead_\d+/.+": "attention pooling of the image model; the video model pools by class token or mean",
}

# What precedes the names of the image model's parameters in an .npz.
PREFIXES = ("", "opt/target/", "params/", "params/img/")


def find_prefix(names: Mapping[str, Any]) -> str | None:
    """Return what precedes all parameter names, None if this is not a JAX ViT."""
    return next((r for r in PREFIXES if f"{r}embedding/kernel" in names), None)


def is_jax(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of scenic, the original ViT or big_vision."""
    return find_prefix(tensors) is not None


def parse_scenic(path: str, raw: dict[str, Tensor]) -> Checkpoint:
    """Turn official parameters into a Checkpoint. Empties `raw`, so that no tensor is in memory twice.

    Raises ValueError for a name that neither a ViViT nor a ViT has.
    """
    start, mapped, ignored, config = find_prefix(raw), {}, {}, {}
    assert start is not None
    two_dimensional = raw[f"{start}embedding/kernel"].ndim == 4
    # scenic's own image models cannot be told from its video models on sampled frames by their names.
    image = two_dimensional and "output_projection/kernel" not in raw
    for name in list(raw):
        tensor, bare = raw.pop(name), name.removeprefix(start)
        if not name.startswith(start):
            ignored[name] = "not a parameter of the image encoder"
        elif (why := apply_rules(bare, IGNORED)) is not None:
            ignored[name] = why
        elif bare.startswith("Transformer/encoderblock/"):  # all layers stacked
            for i, layer in enumerate(tensor):
                ours, x = _convert(bare.replace("encoderblock", f"encoderblock_{i}"), layer, config)
                mapped[ours] = MappedTensor(x, (name,))
        else:
            ours, x = _convert(bare, tensor, config)
            mapped[ours] = MappedTensor(x, (name,))
    fuse_qkv(mapped)
    # A 2-D kernel sees single frames: of an image, or some frames of a video.
    config |= {"tokenizer": "uniform_frames" if two_dimensional else "tubelet"}
    config |= {"activation": "gelu_tanh", "norm_eps": 1e-6}
    name = "JAX ViT" if image else "scenic checkpoint"
    return Checkpoint(path, name, mapped, ignored, config, is_image=image)


def to_vivit(params: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Turn official parameters into our state dict: fuse queries, keys and values, transpose kernels.

    Raises ValueError for a name that a ViViT does not have.
    """
    mapped = {}
    for name, array in params.items():
        ours, tensor = _convert(name, as_tensor(array), {})
        mapped[ours] = MappedTensor(tensor, (name,))
    fuse_qkv(mapped)
    return {name: entry.tensor for name, entry in mapped.items()}


def _convert(name: str, x: Tensor, config: dict[str, Any]) -> tuple[str, Tensor]:
    """Our name and layout; a query kernel tells `config` the number of heads."""
    path, _, leaf = name.rpartition("/")
    if leaf not in LEAVES:
        path, leaf = name, ""
    ours = apply_rules(path, READ_NAMES)
    if ours is None:
        raise ValueError(f"{name!r} is not a parameter of an official ViViT or ViT")
    for official, part in READ_PARTS.items():
        ours = re.sub(rf"(?<![\w]){re.escape(official)}(?![\w])", part, ours)
    ours = re.sub(r"encoderblock_(\d+)", r"blocks.\1", ours).replace("/", ".") + LEAVES[leaf]
    pattern = _layout(ours, x.ndim)
    if pattern is None:
        raise ValueError(f"{name!r} has {x.ndim} axes, which no parameter of this name has")
    if ours.endswith(".q.weight"):
        config["num_heads"] = x.shape[1]
    return ours, rearrange(x, pattern).contiguous()


# JAX layout → ours, by name and number of axes. The inverse of each pattern writes the file.
LAYOUTS: dict[str, tuple[str, ...]] = {
    r"tokenizer\.proj\.weight": ("t h w C D -> D C t h w", "h w C D -> D C 1 h w"),
    r".+\.[qkv]\.weight": ("D a k -> (a k) D",),
    r".+\.[qkv]\.bias": ("a k -> (a k)",),
    r".+\.proj\.weight": ("a k D -> D (a k)",),
    r"(.+\.fc[12]|head)\.weight": ("i o -> o i",),
    r".+\.pos_embed": ("b n D -> b n D", "n D -> 1 n D"),
    r".+\.cls_token": ("b n D -> b n D",),
    r".+": ("D -> D",),
}


def _layout(ours: str, axes: int) -> str | None:
    patterns = next(patterns for name, patterns in LAYOUTS.items() if re.fullmatch(name, ours))
    return next((p for p in patterns if len(p.split("->")[0].split()) == axes), None)


def from_vivit(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, np.ndarray]:
    """Turn our state dict into official parameters, the inverse of `to_vivit`.

    Raises ValueError for a model that the official code cannot compute: it always has the tanh GELU, norms with an
    epsilon of 1e-6, the last norm before pooling, frames pooled to one token, learned positions, no cap of the scores,
    no temporal skip connection, no register tokens, no norm before the first block and no attention or motion pooling.
    """
    official = {"activation": "gelu_tanh", "norm_eps": 1e-6, "norm_after_pool": False, "temporal_skip": False}
    official |= {"attention_pool": False, "motion_pool": False, "positions": "learned", "num_registers": 0}
    official |= {"norm_pre": False, "attn_logit_cap": None, "pool_space": True}
    official |= {"pool": "cls" if config.pool == "cls" else "mean"}
    different = [f"{k}={getattr(config, k)!r}" for k, value in official.items() if getattr(config, k) != value]
    if different:
        raise ValueError(f"scenic's ViViT has no {', '.join(different)}: it would give other logits")
    out: dict[str, np.ndarray] = {}
    for name, tensor in state.items():
        stem, fused, leaf = name.rpartition("qkv.")
        parts = tensor.chunk(3) if fused else [tensor]
        for ours, x in zip([f"{stem}{c}.{leaf}" for c in "qkv"] if fused else [name], parts):
            axes = 4 if ours == "tokenizer.proj.weight" and config.tokenizer == "uniform_frames" else None
            out[_official_name(ours, config)] = _official_layout(ours, x, config.num_heads, axes)
    return out


def _official_name(ours: str, config: ModelConfig) -> str:
    stem, _, leaf = ours.rpartition(".") if ours.endswith((".weight", ".bias")) else (ours, "", "")
    name = apply_rules(stem, WRITTEN_NAMES)
    assert name is not None
    parts = PARTS | (TIME_SPACE_BLOCK if config.encoder == "factorised_self_attention" else BLOCK)
    folder, *path = re.sub(r"blocks\.(\d+)", r"encoderblock_\1", name).replace(".", "/").split("/")
    is_norm = re.search(r"norm\w*$", stem) is not None
    leaves = {"weight": ["scale" if is_norm else "kernel"], "bias": ["bias"], "": []}[leaf]
    return "/".join([folder, *(parts.get(part, part) for part in path), *leaves])


def _official_layout(ours: str, x: Tensor, num_heads: int, axes: int | None) -> np.ndarray:
    patterns = next(patterns for name, patterns in LAYOUTS.items() if re.fullmatch(name, ours))
    pattern = patterns[0] if axes is None else next(p for p in patterns if len(p.split("->")[0].split()) == axes)
    official, _, layout = pattern.partition(" -> ")
    sizes = {"a": num_heads} if "(a k)" in layout else {}
    return np.ascontiguousarray(rearrange(x.detach().cpu().float(), f"{layout} -> {official}", **sizes).numpy())


def write_msgpack(path: str | os.PathLike[str], params: Mapping[str, np.ndarray]) -> None:
    """Write parameters under 'params', as in newer checkpoints of the official code. Raises OSError."""
    tree: dict[str, Any] = {}
    for name, array in params.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        packed = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
        node[leaf] = msgpack.ExtType(EXT_ARRAY, packed)
    state = {"params": tree, "model_state": {}, "global_step": 0}
    packed = msgpack.packb(state)
    assert packed is not None
    with atomic_write(path, "wb") as file:
        file.write(packed)
