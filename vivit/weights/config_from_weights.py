"""Infer the config of a model from its tensors."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import EncoderName, ModelConfig, Preprocessing, replace
from ..errors import WeightsError
from .assemble import Checkpoint, MappedTensor, count_blocks

NEEDED = ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "pos_embed")


def infer_config(checkpoint: Checkpoint, given: Mapping[str, Any]) -> ModelConfig:
    """Infer the config that the checkpoint was trained with.

    Fields come from the config in the file, then from the shapes of the tensors, then from `given`. The token grid of
    an image model is square unless the file says otherwise. Raises WeightsError, which names a field that is missing.
    """
    tensors = {name: entry.tensor for name, entry in checkpoint.tensors.items()}
    for name in ("tokenizer.proj.weight", *(f"encoder.{x}" for x in NEEDED)):
        if name not in tensors and name.replace("encoder.", "encoder.spatial.") not in tensors:
            without = checkpoint.sine_positions or checkpoint.config.get("positions", "learned") != "learned"
            if name == "encoder.pos_embed" and without:
                continue
            raise WeightsError(f"{checkpoint.path}: no {name} in this {checkpoint.format}; it is not a complete ViT")
    known = dict(checkpoint.config)

    def ask(name: str, example: str) -> Any:
        if name in known:
            return known[name]
        if given.get(name) is None:
            raise WeightsError(
                f"{checkpoint.path}: this {checkpoint.format} does not say {name}; pass {name}=, e.g. {example}"
            )
        return given[name]

    factorised = any(name.startswith("encoder.spatial.") for name in tensors)
    start = "encoder.spatial." if factorised else "encoder."
    kernel = tensors["tokenizer.proj.weight"]
    width = kernel.shape[0]
    if kernel.ndim != 5 or kernel.shape[1] != 3:
        raise WeightsError(f"{checkpoint.path}: patch kernel {tuple(kernel.shape)}; a ViViT's is (D, 3, t, h, w)")
    known |= {
        "tubelet_size": tuple(kernel.shape[2:]),
        "embed_dim": width,
        "depth": count_blocks(tensors, start),
        "mlp_ratio": tensors[f"{start}blocks.0.mlp.fc1.weight"].shape[0] / width,
        "pool": "cls" if f"{start}cls_token" in tensors else "mean",
        "norm_pre": f"{start}norm_pre.weight" in tensors,
    }
    if (registers := tensors.get(f"{start}register_tokens")) is not None:
        known["num_registers"] = registers.shape[1]
    if (mlp := tensors.get(f"{start}attention_pool.mlp.fc1.weight")) is not None:
        ratio = mlp.shape[0] / width
        known |= {"pool": "attentive", "pool_mlp_ratio": None if ratio == known["mlp_ratio"] else ratio}
        known["pool_depth"] = count_blocks(tensors, f"{start}pool_")
        known["pool_norm_tokens"] = f"{start}attention_pool.norm_kv.weight" in tensors
    if factorised:
        known |= {"encoder": "factorised_encoder", "temporal_depth": count_blocks(tensors, "encoder.temporal.")}
    elif "encoder.blocks.0.attn_time.qkv.weight" in tensors:
        known["encoder"] = "factorised_self_attention"
        known["attention_order"] = ask("attention_order", "'time_space', the official code's default")
    known["num_heads"] = ask("num_heads", f"{max(width // 64, 1)}, heads of 64 being usual")
    if checkpoint.is_image and known.get("positions", "learned") != "learned":
        known |= {"image_size": ask("image_size", "(224, 224)"), "num_frames": 1, "tokenizer": "tubelet"}
    elif checkpoint.sine_positions or known.get("positions", "learned") != "learned":
        known |= {"image_size": ask("image_size", "(224, 224)"), "num_frames": ask("num_frames", "16")}
    else:
        known |= _grid(checkpoint, tensors, known, given, factorised=factorised)
    if "encoder" not in known:
        one_image = known["num_frames"] == known["tubelet_size"][0] == 1
        same = (
            "'spatiotemporal' (Model 1, mean pooling) or 'factorised_dot_product' (Model 4), which have equal tensors"
        )
        is_model_1 = known["pool"] == "cls" or one_image
        known["encoder"] = "spatiotemporal" if is_model_1 else ask("encoder", same)
    if "preprocessing" in known:
        known["preprocessing"] = Preprocessing(**known["preprocessing"])
    known["classes"] = _classes(checkpoint, known.get("classes"), tensors.get("head.weight"))
    return replace(ModelConfig(), **known)


MAX_FRAMES, MAX_PIXELS, MAX_TOKENS = 2**16, 2**14, 2**22


def check_sizes(mapped: Mapping[str, MappedTensor], config: ModelConfig) -> None:
    """Raise ValueError for a config that would build far more than the file holds, or has numbers that no model has.

    This happens before the model is built, so a damaged or hostile config.json takes no time and no memory.
    """
    if config.encoder not in typing.get_args(EncoderName):
        return  # an encoder of the user's own
    factorised, p = config.encoder == "factorised_encoder", config.preprocessing
    stacks = {"encoder.spatial." if factorised else "encoder.": ("depth", config.depth)}
    stacks |= {"encoder.spatial.pool_" if factorised else "encoder.pool_": ("pool_depth", config.pool_depth)}
    stacks |= {"encoder.temporal.": ("temporal_depth", config.temporal_depth)} if factorised else {}
    for start, (name, depth) in stacks.items():
        if depth > (blocks := count_blocks(mapped, start)) + 8:
            raise ValueError(f"{name} is {depth} in config.json; the file has {blocks} blocks")
    bounds = {
        "num_frames": (config.num_frames, 1, MAX_FRAMES),
        "image_size": (max(config.image_size), 1, MAX_PIXELS),
        "image_size and num_frames: the number of tokens": (math.prod(config.grid), 1, MAX_TOKENS),
        "num_registers": (config.num_registers, 0, 64),
        "norm_eps": (config.norm_eps, 1e-30, 1),
        "preprocessing.frame_stride": (p.frame_stride, 1e-6, 2**16),
        "preprocessing.clip_seconds": (1 if p.clip_seconds is None else p.clip_seconds, 1e-6, 2**20),
        "preprocessing.mean": (max(map(abs, p.mean)), 0, 1000),
        "preprocessing.std": (min(p.std), 1e-6, 1000),
        "the largest preprocessing.std": (max(p.std), 1e-6, 1000),
        "preprocessing.crop_fraction": (p.crop_fraction, 0.05, 1),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; allowed is {low} to {high}")


def _grid(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    known: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    factorised: bool,
) -> dict[str, Any]:
    """Infer image_size, num_frames and sampled_frames from the numbers of positions."""
    cls = known["pool"] == "cls"
    dt, dh, dw = known["tubelet_size"]
    tokens = tensors[f"encoder.{'spatial.' if factorised else ''}pos_embed"].shape[1] - cls

    def mismatch(what: str) -> WeightsError:
        return WeightsError(
            f"{checkpoint.path}: {tokens} positions do not fit {what}. A model is loaded at the size that it "
            "was trained with; model.resize(num_frames=, image_size=) changes it afterwards"
        )

    size = _image_size(checkpoint, tokens, (dh, dw), known, given)
    s = (size[0] // dh) * (size[1] // dw)
    if s == 0 or tokens % s or (factorised and tokens != s):
        raise mismatch(f"frames of {size[0]} x {size[1]} with patches of {dh} x {dw}")
    temporal = tensors.get("encoder.temporal.pos_embed")
    t = (temporal.shape[1] - cls if temporal is not None else None) if factorised else tokens // s
    if known.get("tokenizer") == "uniform_frames":
        is_image = t == 1 and not factorised and given.get("num_frames") in (None, 1)
        frames = _sampled_frames(checkpoint, t, known, given, is_image=is_image)
        return {"image_size": (size[0], size[1])} | frames
    num_frames = known.get("num_frames")
    if t is None:
        num_frames = num_frames or given.get("num_frames")
        if num_frames is None:
            raise WeightsError(
                f"{checkpoint.path}: this {checkpoint.format} averages over time and does not say num_frames; pass "
                "num_frames=, e.g. 32"
            )
    else:
        num_frames = num_frames or t * dt
        expected = given.get("num_frames") if "image_size" not in known else None
        if wrong := next((n for n in (expected, num_frames) if n not in (None, t * dt)), None):
            raise mismatch(f"{wrong} frames of {size[0]} x {size[1]} with tubelets of {dt} x {dh} x {dw}")
    return {"image_size": (size[0], size[1]), "num_frames": num_frames}


def _sampled_frames(
    checkpoint: Checkpoint, t: int | None, known: Mapping[str, Any], given: Mapping[str, Any], *, is_image: bool
) -> dict[str, Any]:
    """Return tokenizer, num_frames and sampled_frames of a model with 2-D patches, `t` of them over time if known."""
    if is_image:
        return {"tokenizer": "tubelet", "num_frames": 1, "sampled_frames": None}
    found = {
        "num_frames": known.get("num_frames") or given.get("num_frames"),
        "sampled_frames": known.get("sampled_frames") or t or given.get("sampled_frames"),
    }
    for name, value in found.items():
        if value is None:
            raise WeightsError(
                f"{checkpoint.path}: this {checkpoint.format} samples frames and does not say {name}; pass {name}=, "
                "e.g. 32"
            )
    return found


def _image_size(
    checkpoint: Checkpoint, tokens: int, patch: tuple[int, int], known: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[int, int]:
    """Return the frame size (H, W) from the file, from `given`, or from the square token grid of an image model."""
    side = math.isqrt(tokens)
    square = (side * patch[0], side * patch[1]) if side * side == tokens else None
    size = known.get("image_size") or given.get("image_size") or (square if checkpoint.is_image else None)
    if size is None:
        raise WeightsError(
            f"{checkpoint.path}: this {checkpoint.format} does not say image_size; pass image_size=(H, W), "
            f"e.g. {square or (224, 224)}"
        )
    return size


def _classes(
    checkpoint: Checkpoint, known: Mapping[str, tuple[str, ...]] | None, head: Tensor | None
) -> dict[str, tuple[str, ...]]:
    """Return the class names of the file if there is one for each row of the head, else numbers."""
    if head is None:
        return {}
    if known and sum(map(len, known.values())) == head.shape[0]:
        return dict(known)
    if known:
        checkpoint.config.pop("classes")
        count = sum(map(len, known.values()))
        checkpoint.notes.append(f"classes: numbers, since the file names {count} and its head has {head.shape[0]} rows")
    return {"label": tuple(str(i) for i in range(head.shape[0]))}
