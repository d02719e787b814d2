"""A video model from an image model (paper, section 3.4): tubelet kernels, positions, and what each model copies."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..config import ModelConfig, suggestion
from ..model.encoders import resize_positions
from .assemble import MappedTensor, Status

KernelInit = Literal["central_frame", "filter_inflation", "arp", "random"]
TemporalInit = Literal["zero", "image", "random"]


def central_frame(kernel: Tensor, t: int) -> Tensor:
    """(D, C, h, w) → (D, C, t, h, w): zero but for frame t // 2, so that the video model starts as the image model."""
    lifted = kernel.new_zeros(*kernel.shape[:2], t, *kernel.shape[2:])
    lifted[:, :, t // 2] = kernel
    return lifted


def filter_inflation(kernel: Tensor, t: int) -> Tensor:
    """(D, C, h, w) → (D, C, t, h, w): the kernel at every frame, divided by t; a still video starts as its image."""
    return repeat(kernel, "D C h w -> D C t h w", t=t) / t


def arp(kernel: Tensor, t: int) -> Tensor:
    """(D, C, h, w) → (D, C, t, h, w): filter inflation with the weights of approximate rank pooling, as official.

    Frame i of 1 … t has the weight 2 (t − i + 1) − (t + 1) (H_t − H_{i−1}) with H the harmonic numbers.
    """
    harmonic = torch.cumsum(torch.cat((torch.zeros(1), 1 / torch.arange(1, t + 1))), dim=0)
    i = torch.arange(1, t + 1)
    weights = 2 * (t - i + 1) - (t + 1) * (harmonic[t] - harmonic[i - 1])
    return filter_inflation(kernel, t) * rearrange(weights, "t -> t 1 1")


KERNELS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "central_frame": central_frame,
    "filter_inflation": filter_inflation,
    "arp": arp,
}


def official_resize(positions: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """`resize_positions` as the official code does it: linear, with the corners of both grids at the same place."""
    n = old[0] * old[1] * old[2]
    cls, patches = positions.split((positions.shape[1] - n, n), dim=1)
    x = rearrange(patches, "1 (t h w) D -> 1 D t h w", t=old[0], h=old[1])
    x = F.interpolate(x, size=new, mode="trilinear", align_corners=True)
    return torch.cat((cls, rearrange(x, "1 D t h w -> 1 (t h w) D")), dim=1)


def inflate(
    image: Mapping[str, MappedTensor],
    trained: ModelConfig,
    config: ModelConfig,
    *,
    kernel_init: KernelInit = "central_frame",
    temporal_init: TemporalInit | None = None,
    official: bool = False,
) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """(pieces of the video model, reasons by which the others may start fresh) from those of an image model.

    `trained` is the image model's config, `config` the video model's. Raises ValueError for options that the model has
    no use for.
    """
    allowed = typing.get_args(KernelInit)
    if kernel_init not in allowed:
        raise ValueError(f"kernel_init is {kernel_init!r}{suggestion(kernel_init, allowed)}")
    temporal = _temporal_init(config, temporal_init)
    pieces: dict[str, MappedTensor] = {}
    fresh = {"head.": "the classes of the video data"}
    if kernel_init == "random":
        fresh["tokenizer."] = "kernel_init='random'"
    else:
        pieces |= _tokenizer(image, config.tubelet_size[0], kernel_init)

    # Model 2's spatial encoder is the image model; in the others the encoder is.
    factorised = config.encoder == "factorised_encoder"
    start = "encoder.spatial." if factorised else "encoder."
    for name, piece in image.items():
        if name.startswith("encoder.") and name not in ("encoder.pos_embed", "encoder.cls_token"):
            pieces[start + name.removeprefix("encoder.")] = piece
    if config.pool == "cls":
        if "encoder.cls_token" in image and not (factorised and official):
            pieces[f"{start}cls_token"] = image["encoder.cls_token"]
        else:
            fresh[f"{start}cls_token"] = "as in the official code" if official else "the image model has no class token"
    pieces[f"{start}pos_embed"] = _positions(image["encoder.pos_embed"], trained, config, official=official)

    if factorised and config.temporal_depth:
        fresh["encoder.temporal."] = "the image model knows no time"
        if temporal == "image":
            _check_depth(trained, config)
            for i in range(config.temporal_depth):
                pieces |= copies(image, f"encoder.blocks.{i}.", f"encoder.temporal.blocks.{i}.")
            pieces |= copies(image, "encoder.norm.", "encoder.temporal.norm.")
    elif config.encoder == "factorised_self_attention":
        for i in range(config.depth):
            block = f"encoder.blocks.{i}."
            fresh[f"{block}attn_time."] = fresh[f"{block}norm_time."] = "the image model knows no time"
            if temporal == "image":
                pieces |= copies(image, f"{block}attn.", f"{block}attn_time.")
                if not official:  # which copies the attention without the norm before it
                    pieces |= copies(image, f"{block}norm1.", f"{block}norm_time.")
            elif temporal == "zero":
                # Queries, keys and values stay random: were they zero as well, no gradient would ever reach them.
                for leaf in ("weight", "bias"):
                    zero = torch.zeros_like(image[f"{block}attn.proj.{leaf}"].tensor)
                    why = "zero: the block starts as the image model's"
                    pieces[f"{block}attn_time.proj.{leaf}"] = MappedTensor(zero, (), "initialised", why)
    return pieces, fresh


def copies(pieces: Mapping[str, MappedTensor], old: str, new: str) -> dict[str, MappedTensor]:
    """The pieces whose names begin with `old`, under names that begin with `new`, with memory of their own."""
    return {
        new + name.removeprefix(old): replace(piece, tensor=piece.tensor.clone())
        for name, piece in pieces.items()
        if name.startswith(old)
    }


def _temporal_init(config: ModelConfig, wanted: TemporalInit | None) -> TemporalInit | None:
    allowed: dict[str, tuple[TemporalInit, ...]] = {  # the default first
        "factorised_encoder": ("random", "image"),
        "factorised_self_attention": ("zero", "image", "random"),
    }
    options = allowed.get(config.encoder, ())
    if wanted is not None and wanted not in options:
        takes = (
            f"takes temporal_init {' or '.join(map(repr, options))}" if options else "has no temporal part of its own"
        )
        raise ValueError(f"temporal_init is {wanted!r}; {config.encoder} {takes}")
    return wanted or (options[0] if options else None)


def _check_depth(trained: ModelConfig, config: ModelConfig) -> None:
    if config.temporal_depth > trained.depth:
        raise ValueError(
            f"temporal_init='image' copies the first {config.temporal_depth} layers of an image model that has "
            f"{trained.depth}; use temporal_depth={trained.depth} or less, or temporal_init='random'"
        )


def _tokenizer(image: Mapping[str, MappedTensor], t: int, kernel_init: str) -> dict[str, MappedTensor]:
    kernel = image["tokenizer.proj.weight"]
    pieces = {"tokenizer.proj.bias": image["tokenizer.proj.bias"]} if "tokenizer.proj.bias" in image else {}
    if t == 1:
        return pieces | {"tokenizer.proj.weight": kernel}
    lifted = KERNELS[kernel_init](kernel.tensor.float().squeeze(2), t)
    return pieces | {
        "tokenizer.proj.weight": MappedTensor(lifted, kernel.sources, "inflated", f"{kernel_init} to {t} frames")
    }


def _positions(piece: MappedTensor, trained: ModelConfig, config: ModelConfig, *, official: bool) -> MappedTensor:
    """The image model's positions at the video's grid (h, w), repeated over time; in Model 2 for one frame."""
    (_, h0, w0), (t, h, w) = trained.grid, config.grid
    x, status, reasons = piece.tensor.float(), piece.status, [piece.reason]
    if trained.pool == "cls" and config.pool == "mean":
        x = x[:, 1:]
        reasons.append("without the class token's")
    if (h0, w0) != (h, w):
        resize = official_resize if official else resize_positions
        x, status = resize(x, (1, h0, w0), (1, h, w)), "interpolated"
        reasons.append(f"grid {h0} x {w0} to {h} x {w}")
    if trained.pool == "mean" and config.pool == "cls":
        x = torch.cat((x.new_zeros(1, 1, x.shape[2]), x), dim=1)
        reasons.append("zero for the class token")
    if config.encoder != "factorised_encoder" and t > 1:
        cls, patches = x.split((x.shape[1] - h * w, h * w), dim=1)
        x = torch.cat((cls, patches.repeat(1, t, 1)), dim=1)
        status = "inflated" if status == "loaded" else status
        reasons.append(f"repeated over {t} temporal positions")
    final: Status = status
    return MappedTensor(x, piece.sources, final, ", ".join(filter(None, reasons)))
