"""Image ViTs in PyTorch's names: timm, DeiT and DINOv2 as released. An image ViT is a Model 1 of one frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .plan import Piece, Source, fuse_qkv, rename

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

RULES: dict[str, str] = {
    r"patch_embed\.proj\.(weight|bias)": r"tokenizer.proj.\1",
    r"(cls_token|pos_embed|blocks\.\d+\..+)": r"encoder.\1",
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
    "dist_token": "distillation token: a ViViT has none",
    "reg_token": "register tokens: a ViViT has none",
}


def source(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Source:
    """A state dict in timm's names → a Source. Raises ValueError for a tensor that is not a plain ViT's."""
    pieces, ignored = rename(tensors, RULES, IGNORED)
    # Every plain ViT of timm, DeiT and DINOv2 has the exact GELU and this epsilon.
    config = {"activation": "gelu", "norm_eps": 1e-6}
    image = Source(path, "image ViT (timm names)", pieces, ignored, config)
    timm = configs.get("config.json", {}).get("pretrained_cfg", {})  # as timm's models on the hub have it
    if {"mean", "std"} <= timm.keys():
        image.config["preprocessing"] = {"mean": tuple(timm["mean"]), "std": tuple(timm["std"])}
    elif "dist_token" in pieces or any(name.endswith("ls1.gamma") for name in pieces):
        image.config["preprocessing"] = IMAGENET
        image.notes.append("pixels: ImageNet mean and std, as DeiT and DINOv2 have it")
    else:
        image.notes.append("pixels: mean and std 0.5; the file does not say")
    if "fc_norm.weight" in tensors and "encoder.cls_token" in pieces:
        image.inexact.append("it takes the mean of the patches beside a class token")
    image.config["norm_after_pool"] = "fc_norm.weight" in tensors and "encoder.cls_token" not in pieces
    finish_image(image)
    return image


def finish_image(source: Source) -> None:
    """In place: what the image models of all libraries need after renaming."""
    pieces = source.pieces
    fuse_qkv(pieces)
    fold_layer_scale(pieces)
    source.config["tokenizer"] = "uniform_frames"  # a 2-D kernel sees single frames
    source.image = True
    kernel = pieces["tokenizer.proj.weight"]
    if kernel.tensor.ndim == 4:
        pieces["tokenizer.proj.weight"] = Piece(kernel.tensor.unsqueeze(2), kernel.sources)
    drop_extra_tokens(source)
    head = pieces.get("head.weight")
    if head is not None and head.tensor.shape[1:] != kernel.tensor.shape[:1]:
        for name in ("head.weight", "head.bias"):
            why = f"a head on {head.tensor.shape[1]} features; this model's have {kernel.tensor.shape[0]}"
            source.ignored |= dict.fromkeys(pieces.pop(name).sources, why)


def fold_layer_scale(pieces: dict[str, Piece]) -> None:
    """In place: γ · (W x + b) is one linear layer with γW and γb, so LayerScale needs no parameters of its own."""
    for name in [name for name in pieces if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        gamma = pieces.pop(name)
        linear = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        for leaf, scale in (("weight", gamma.tensor[:, None]), ("bias", gamma.tensor)):
            piece = pieces[f"{linear}.{leaf}"]
            sources = piece.sources + gamma.sources
            pieces[f"{linear}.{leaf}"] = Piece(piece.tensor * scale, sources, reason="LayerScale folded in")


def drop_extra_tokens(source: Source) -> None:
    """In place: positions for [class token +] patches only; distillation and register tokens are left out."""
    pieces, cls = source.pieces, "encoder.cls_token" in source.pieces
    count = {"dist_token": 0, "reg_token": 0}
    for name, why in EXTRA_TOKENS.items():
        if name in pieces:
            piece = pieces.pop(name)
            count[name] = piece.tensor.shape[-2]
            source.ignored |= dict.fromkeys(piece.sources, why)
            source.inexact.append(f"it has {why.partition(':')[0]}s")
    piece = pieces.get("encoder.pos_embed")
    if piece is None:
        return
    n, width = piece.tensor.shape[-2:]
    # Positions cover all tokens but the registers; with registers perhaps all, or the patches alone (timm's models,
    # where the class token holds its own position), which a square grid tells apart.
    before = usual = cls + count["dist_token"]
    if count["reg_token"]:
        before = next((p for p in (usual, usual + count["reg_token"], 0) if is_square(n - p)), usual)
    if before == cls and piece.tensor.ndim == 3:
        return
    x = piece.tensor.reshape(1, n, width)
    own = x[:, :1] if before else x.new_zeros(1, 1, width)
    parts = [own, x[:, before:]] if cls else [x[:, before:]]
    why = "the class token holds its own position" if before < cls else "without the positions of the left-out tokens"
    pieces["encoder.pos_embed"] = Piece(torch.cat(parts, dim=1), piece.sources, reason=why)


def is_square(n: int) -> bool:
    """Whether n patches can be a square grid."""
    return n > 0 and math.isqrt(n) ** 2 == n
