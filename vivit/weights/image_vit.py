"""Read image ViTs with PyTorch names: timm, DeiT and DINOv2 as released."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .assemble import Checkpoint, MappedTensor, count_blocks, fuse_qkv, map_names

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

RULES: dict[str, str] = {
    r"patch_embed\.proj\.(weight|bias)": r"tokenizer.proj.\1",
    r"(cls_token|pos_embed)": r"encoder.\1",
    r"(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(?:weight|bias))": r"encoder.\1",
    r"(blocks\.\d+\.ls[12]\.gamma)": r"encoder.\1",
    r"(?:fc_)?norm\.(weight|bias)": r"encoder.norm.\1",
    r"head\.(weight|bias)": r"head.\1",
    r"dist_token": "dist_token",
    r"reg_token|register_tokens": "reg_token",
}

IGNORED: dict[str, str] = {
    r"mask_token": "mask token of the pre-training",
    r"head_dist\.(weight|bias)": "head of the distillation token",
    r"pre_logits\.fc\.(weight|bias)": "representation layer of the image classifier",
}

EXTRA_TOKENS = {
    "dist_token": "a distillation token: a ViViT has none",
    "reg_token": "register tokens: a ViViT has none without a class token",
}


# Pixel normalisation of timm models by their names, with or without a tag; the first match counts.
CLIP_PIXELS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
PIXELS: dict[str, tuple[str, dict[str, tuple[float, float, float]]]] = {
    r"_miil|_tipsv2": ("mean 0 and std 1", {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
    r"^eva_large|\.bamboo|_radio_": (
        "CLIP's mean and std",
        CLIP_PIXELS,
    ),
    r"deit|dino|ijepa|intern300m|(?<![a-z])mae(?![a-z])|^vit_small_patch8_224|^vit_(giant|huge)_patch\d+_gap": (
        "ImageNet mean and std",
        IMAGENET,
    ),
    r"^(vit|flexivit|test_vit)": ("mean and std 0.5", HALF),
}
TANH_GELU = r"(patch32|giantopt_patch16|so400m_patch16)_siglip_gap|large_patch16_siglip_gap_512"
ACTIVATIONS = {"gelu": "gelu", "gelu_erf": "gelu", "gelu_tanh": "gelu_tanh"}  # of timm's model_args


def is_image_vit(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of timm's vision transformers."""
    return "patch_embed.proj.weight" in tensors


def parse_image_vit(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict with timm's names into a Checkpoint. Raises ValueError for a tensor that no plain ViT has."""
    mapped, ignored = map_names(tensors, RULES, IGNORED)
    theirs = configs.get("config.json", {})  # as timm's models on the hub have it
    name, pretrained = theirs.get("architecture"), json_object(theirs, "pretrained_cfg")
    arguments = json_object(theirs, "model_args")
    named = isinstance(name, str)
    name = name if named else Path(path).name
    image = Checkpoint(path, "image ViT (timm names)", mapped, ignored, {"norm_eps": 1e-6})
    has_cls, after_mean = "encoder.cls_token" in mapped, "fc_norm.weight" in tensors

    no_bias = "encoder.blocks.0.attn.qkv.bias" not in mapped
    scaled = any(n.endswith("ls1.gamma") for n in mapped)
    if "_rpn_" in name or (not named and no_bias and after_mean and not has_cls and not scaled):
        raise ValueError(
            "timm's *_rpn_* models have their norms after the branches, which a ViViT has not, and their tensors have "
            "the same names as those of a ViT without qkv biases; where this is one, timm's config.json says so"
        )
    activation = arguments.get("act_layer") or ("gelu_tanh" if re.search(TANH_GELU, name) else "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"config.json has act_layer {activation!r}; a ViViT has {', '.join(ACTIVATIONS)}")
    image.config["activation"] = ACTIVATIONS[activation]
    if not named:
        image.notes.append("activation: the exact GELU; the file does not say")

    if {"mean", "std"} <= pretrained.keys():
        image.config["preprocessing"] = {x: parse_triple(pretrained[x], f"pretrained_cfg.{x}") for x in ("mean", "std")}
    elif known := next((pixels for pattern, pixels in PIXELS.items() if re.search(pattern, name)), None):
        image.config["preprocessing"] = known[1]
        image.notes.append(f"pixels: {known[0]}, as timm has it for {name}")
    elif "dist_token" in mapped or scaled:
        image.config["preprocessing"] = IMAGENET
        image.notes.append("pixels: ImageNet mean and std, as DeiT and DINOv2 have it; the file does not say")
    else:
        image.notes.append("pixels: mean and std 0.5; the file does not say")

    pool = arguments.get("global_pool", theirs.get("global_pool")) or ("token" if has_cls else "avg")
    if has_cls and (after_mean or pool == "avg"):
        image.inexact.append("it takes the mean of the patches and has a class token as well")
    elif pool != ("token" if has_cls else "avg"):
        image.inexact.append(f"its config.json says global_pool {pool!r}")
    image.config["norm_after_pool"] = after_mean and not has_cls
    size = arguments.get("img_size") or list(pretrained.get("input_size") or ())[1:]
    finish_image(image, parse_size(size))
    return image


def json_object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the JSON object `name` of `values`, {} if there is none. Raises ValueError for anything else."""
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"config.json: {name} is {str(found)[:40]!r}; it is an object")
    return found


def parse_triple(values: Any, name: str) -> tuple[float, float, float]:
    """Return three finite numbers. Raises ValueError."""
    ok = isinstance(values, list | tuple) and len(values) == 3 and all(type(v) in (int, float) for v in values)
    if not ok or not all(math.isfinite(v) for v in values):
        raise ValueError(f"{name} is {str(values)[:60]}; it is three finite numbers")
    return values[0], values[1], values[2]


def parse_size(size: Any) -> tuple[int, int] | None:
    """Return (H, W) from one side or from two, None for anything else."""
    sides = [size, size] if type(size) is int else size
    ok = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(v) is int and 0 < v < 2**16 for v in sides)
    return (sides[0], sides[1]) if ok else None


def finish_image(source: Checkpoint, size: tuple[int, int] | None = None) -> None:
    """Finish an image model of any library after renaming, in place. `size` is the frame size, if known.

    Raises ValueError for a model without positions, unless they are rotary, or with a gated MLP.
    """
    mapped = source.tensors
    if "encoder.pos_embed" not in mapped and "positions" not in source.config:
        raise ValueError(
            "no positions (pos_embed) in the file: a model with relative positions or with rotary ones of a kind that "
            "is not read here, or not a complete one"
        )
    fuse_qkv(mapped)
    for name in [name for name in mapped if name.endswith(".mlp.fc1.weight")]:
        down = mapped.get(name.replace("fc1", "fc2"))
        if down is not None and down.tensor.ndim == 2 and mapped[name].tensor.shape[0] == 2 * down.tensor.shape[1]:
            raise ValueError(
                f"{mapped[name].sources[0]} is twice as wide as what follows: a ViViT has no gated MLP (SwiGLU)"
            )
    scales = sum(name.endswith((".ls1.gamma", ".ls2.gamma")) for name in mapped)
    if scales not in (0, 2 * (depth := count_blocks(mapped, "encoder."))):
        raise ValueError(f"{scales} layer scales in the file; {depth} blocks have two each or none: not a complete one")
    fold_layer_scale(mapped)
    source.config["tokenizer"] = "uniform_frames"  # a 2-D kernel sees single frames
    source.is_image = True
    kernel = mapped["tokenizer.proj.weight"]
    if kernel.tensor.ndim == 4:
        mapped["tokenizer.proj.weight"] = MappedTensor(kernel.tensor.unsqueeze(2), kernel.sources)
    sort_tokens(source, size)
    head = mapped.get("head.weight")
    if head is not None and head.tensor.shape[1:] != kernel.tensor.shape[:1]:
        for name in [name for name in ("head.weight", "head.bias") if name in mapped]:
            why = f"a head on {head.tensor.shape[1]} features; this model's have {kernel.tensor.shape[0]}"
            source.ignored |= dict.fromkeys(mapped.pop(name).sources, why)


def fold_layer_scale(mapped: dict[str, MappedTensor]) -> None:
    """Fold LayerScale into the linear layer before it, in place and in float32: γ · (W x + b) = (γW) x + γb."""
    for name in [name for name in mapped if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        gamma = mapped.pop(name)
        linear = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        scales = gamma.tensor.float()
        for leaf, scale in (("weight", scales[:, None]), ("bias", scales)):
            if f"{linear}.{leaf}" not in mapped:
                raise ValueError(f"{linear}.{leaf} is not in the file")
            entry = mapped[f"{linear}.{leaf}"]
            sources = entry.sources + gamma.sources
            folded = entry.tensor.float() * scale
            mapped[f"{linear}.{leaf}"] = MappedTensor(folded, sources, reason="LayerScale folded in")


def sort_tokens(source: Checkpoint, size: tuple[int, int] | None = None) -> None:
    """Remove the distillation token in place, and registers without a class token; keep the positions of the rest.

    The positions of the file may or may not include the tokens before the patches; those of registers are added to
    them. Those of the patches fill the grid of a frame of `size` or, if it is not known, a square.
    """
    mapped, cls = source.tensors, "encoder.cls_token" in source.tensors
    count = {"dist_token": 0, "reg_token": 0}
    for name, why in EXTRA_TOKENS.items():
        if name not in mapped:
            continue
        entry = mapped.pop(name)
        count[name] = entry.tensor.shape[-2]
        if name == "reg_token" and cls:
            if count[name]:
                mapped["encoder.register_tokens"] = MappedTensor(entry.tensor, entry.sources)
            else:
                source.ignored |= dict.fromkeys(entry.sources, "there are no register tokens")
            continue
        source.ignored |= dict.fromkeys(entry.sources, why)
        source.inexact.append(f"it has {why.partition(':')[0]}")
    if "encoder.pos_embed" not in mapped:
        return
    entry, kernel = mapped["encoder.pos_embed"], mapped["tokenizer.proj.weight"].tensor
    n, width = entry.tensor.shape[-2:]
    usual = cls + count["dist_token"]
    before = dict.fromkeys((usual, usual + count["reg_token"], 0))
    patches = size[0] // kernel.shape[-2] * (size[1] // kernel.shape[-1]) if size else 0
    if size and patches in [n - p for p in before]:
        first = n - patches
        source.config["image_size"] = size
    else:
        first = next((p for p in before if is_square(n - p)), usual)
    if first == cls and entry.tensor.ndim == 3:
        return
    x = entry.tensor.reshape(1, n, width)
    if "encoder.register_tokens" in mapped and first == usual + count["reg_token"]:
        tokens = mapped["encoder.register_tokens"]
        with_positions = tokens.tensor.float() + x[:, usual:first].float()
        mapped["encoder.register_tokens"] = MappedTensor(
            with_positions, tokens.sources + entry.sources, reason="with their positions"
        )
    own = x[:, :1] if first else x.new_zeros(1, 1, width)
    parts = [own, x[:, first:]] if cls else [x[:, first:]]
    why = "without the positions of removed tokens" if first >= cls else "zero for the class token: it has none"
    mapped["encoder.pos_embed"] = MappedTensor(torch.cat(parts, dim=1), entry.sources, reason=why)


def is_square(n: int) -> bool:
    """Tell whether n patches can be a square grid."""
    return n > 0 and math.isqrt(n) ** 2 == n
