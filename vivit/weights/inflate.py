"""Inflate an image model to a video model (paper, section 3.4)."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..config import ModelConfig, suggestion
from ..model.encoders import resize_positions
from .assemble import MappedTensor, Status

KernelInit = Literal["central_frame", "filter_inflation", "arp", "random", "central_difference"]
TemporalInit = Literal["zero", "image", "random"]
NO_TIME = "an image model has no temporal layers"
CHANGE_GAIN = 8  # of the random kernel on the change between frames, in standard deviations of the image kernel


def central_frame(kernel: Tensor, t: int) -> Tensor:
    """Lift (D, C, h, w) to (D, C, t, h, w), zero except at frame t // 2: the video model starts as the image model."""
    lifted = kernel.new_zeros(*kernel.shape[:2], t, *kernel.shape[2:])
    lifted[:, :, t // 2] = kernel
    return lifted


def filter_inflation(kernel: Tensor, t: int) -> Tensor:
    """Lift (D, C, h, w) to (D, C, t, h, w), the kernel / t at every frame: a still video starts as its image."""
    return repeat(kernel, "D C h w -> D C t h w", t=t) / t


def approximate_rank_pooling(kernel: Tensor, t: int) -> Tensor:
    """Lift (D, C, h, w) to (D, C, t, h, w): filter inflation with weights of approximate rank pooling, as official.

    Frame i of 1 … t has the weight 2 (t − i + 1) − (t + 1) (H_t − H_{i−1}) with H the harmonic numbers.
    """
    harmonic = torch.cumsum(torch.cat((torch.zeros(1), 1 / torch.arange(1, t + 1))), dim=0)
    i = torch.arange(1, t + 1)
    weights = 2 * (t - i + 1) - (t + 1) * (harmonic[t] - harmonic[i - 1])
    return filter_inflation(kernel, t) * rearrange(weights, "t -> t 1 1")


def central_difference(kernel: Tensor, t: int) -> Tensor:
    """Lift (D, C, h, w) to (D, C, t, h, w): central_frame, and a random kernel on the change to that frame.

    A still video starts as its image, and motion is visible from the first step: central_frame sees every t-th frame
    only. In the demo's world, where motion shows between neighbouring frames, central_frame learns it late or never;
    the gain was chosen there.
    """
    lifted = central_frame(kernel, t)
    add_change(lifted)
    return lifted


@torch.no_grad()
def add_change(lifted: Tensor) -> None:
    """Add a random kernel on the change to frame t // 2 to a tubelet kernel (D, C, t, h, w), t > 1, in place."""
    kernel, middle = lifted.sum(dim=2), lifted.shape[2] // 2
    change = torch.randn_like(kernel) * (CHANGE_GAIN * kernel.std())
    lifted[:, :, middle] += change
    lifted[:, :, middle - 1] -= change


KERNELS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "central_frame": central_frame,
    "filter_inflation": filter_inflation,
    "arp": approximate_rank_pooling,
    "central_difference": central_difference,
}


def official_resize(positions: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """Resize positions as the official code does: linearly, with aligned corners of both grids."""
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
    """Return (tensors of the video model, name prefixes of its other parameters with the reason) from an image model.

    `trained` is the config of the image model, `config` that of the video model. `check_options` returns what
    `temporal_init` may be.
    """
    tensors: dict[str, MappedTensor] = {}
    missing = {"head.": "the classes of the video data"}
    if kernel_init == "random":
        missing["tokenizer."] = "kernel_init='random'"
    else:
        tensors |= _tokenizer(image, config.tubelet_size[0], kernel_init)
    if config.motion_pool:
        kernel = image["tokenizer.proj.weight"]
        tensors["motion.proj.weight"] = replace(kernel, tensor=kernel.tensor.squeeze(2).clone())
        missing["motion."] = "an image model sees no motion"

    # The image model becomes Model 2's spatial encoder, and the encoder of every other model.
    is_factorised = config.encoder == "factorised_encoder"
    prefix = "encoder.spatial." if is_factorised else "encoder."
    for name, entry in image.items():
        place = name.startswith(("encoder.pos_embed", "encoder.cls_token", "encoder.attention_pool."))
        registers = name == "encoder.register_tokens" and not config.num_registers
        if name.startswith("encoder.") and not place and not registers:
            tensors[prefix + name.removeprefix("encoder.")] = entry
    if config.pool == "cls":
        if "encoder.cls_token" in image and not (is_factorised and official):
            tensors[f"{prefix}cls_token"] = image["encoder.cls_token"]
        else:
            why = "as in the official code" if official else "the image model has no class token"
            missing[f"{prefix}cls_token"] = why
    if config.pool == "attentive":
        tensors |= copy_prefix(image, "encoder.attention_pool.", f"{prefix}attention_pool.")
        missing[f"{prefix}attention_pool."] = "the image model has no attentive pooling"
    if "encoder.pos_embed" in image:
        tensors[f"{prefix}pos_embed"] = _positions(image["encoder.pos_embed"], trained, config, official=official)
    else:
        missing["encoder.time_embed"] = "zero: an image has no time"

    if is_factorised and config.temporal_depth:
        missing["encoder.temporal."] = NO_TIME
        if temporal_init == "image":
            tensors |= _temporal_encoder(image, trained, config)
    elif config.encoder == "factorised_self_attention":
        for i in range(config.depth):
            missing |= dict.fromkeys((f"encoder.blocks.{i}.attn_time.", f"encoder.blocks.{i}.norm_time."), NO_TIME)
            tensors |= _temporal_attention(image, f"encoder.blocks.{i}.", temporal_init, official=official)
    return tensors, missing


def _temporal_encoder(
    image: Mapping[str, MappedTensor], trained: ModelConfig, config: ModelConfig
) -> dict[str, MappedTensor]:
    """Copy the first blocks and the last norm of the image model to Model 2's temporal encoder."""
    if config.temporal_depth > trained.depth:
        raise ValueError(
            f"temporal_init='image' copies the first {config.temporal_depth} layers of an image model that has "
            f"{trained.depth}; use temporal_depth={trained.depth} or less, or temporal_init='random'"
        )
    tensors = copy_prefix(image, "encoder.norm.", "encoder.temporal.norm.")
    for i in range(config.temporal_depth):
        tensors |= copy_prefix(image, f"encoder.blocks.{i}.", f"encoder.temporal.blocks.{i}.")
    return tensors


def _temporal_attention(
    image: Mapping[str, MappedTensor], block: str, temporal: TemporalInit | None, *, official: bool
) -> dict[str, MappedTensor]:
    """Initialise the temporal attention of a block of Model 3, as far as `temporal` says how."""
    if temporal == "image":
        tensors = copy_prefix(image, f"{block}attn.", f"{block}attn_time.")
        norm = {} if official else copy_prefix(image, f"{block}norm1.", f"{block}norm_time.")
        return tensors | norm  # the official code does not copy the norm before the attention
    if temporal == "zero":
        # Queries, keys and values stay random: if they were zero too, no gradient would ever reach them.
        why = "zero: the block starts as the image model's"
        zeros = {leaf: torch.zeros_like(image[f"{block}attn.proj.{leaf}"].tensor) for leaf in ("weight", "bias")}
        return {f"{block}attn_time.proj.{k}": MappedTensor(zero, (), "initialised", why) for k, zero in zeros.items()}
    return {}


def copy_prefix(mapped: Mapping[str, MappedTensor], old: str, new: str) -> dict[str, MappedTensor]:
    """Copy the tensors whose names start with `old` to names that start with `new`."""
    return {
        new + name.removeprefix(old): replace(entry, tensor=entry.tensor.clone())
        for name, entry in mapped.items()
        if name.startswith(old)
    }


def check_options(config: ModelConfig, kernel_init: str, wanted: TemporalInit | None) -> TemporalInit | None:
    """Return `temporal_init` with its default. Raises ValueError for an option that a model of `config` has not."""
    kernels = typing.get_args(KernelInit)
    if kernel_init not in kernels:
        raise ValueError(f"kernel_init is {kernel_init!r}{suggestion(kernel_init, kernels)}")
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


def _tokenizer(image: Mapping[str, MappedTensor], t: int, kernel_init: str) -> dict[str, MappedTensor]:
    kernel = image["tokenizer.proj.weight"]
    mapped = {"tokenizer.proj.bias": image["tokenizer.proj.bias"]} if "tokenizer.proj.bias" in image else {}
    if t == 1:
        return mapped | {"tokenizer.proj.weight": kernel}
    lifted = KERNELS[kernel_init](kernel.tensor.float().squeeze(2), t)
    return mapped | {
        "tokenizer.proj.weight": MappedTensor(lifted, kernel.sources, "inflated", f"{kernel_init} to {t} frames")
    }


def _positions(entry: MappedTensor, trained: ModelConfig, config: ModelConfig, *, official: bool) -> MappedTensor:
    """Resize the positions of the image model to the grid (h, w) and repeat them over time, except in Model 2."""
    (_, h0, w0), (t, h, w) = trained.grid, config.grid
    x, status, reasons = entry.tensor.float(), entry.status, [entry.reason]
    if trained.pool == "cls" != config.pool:
        x = x[:, 1:]
        reasons.append("without the class token's")
    if (h0, w0) != (h, w):
        resize = official_resize if official else partial(resize_positions, interpolation=config.interpolation)
        x, status = resize(x, (1, h0, w0), (1, h, w)), "interpolated"
        reasons.append(f"grid {h0} x {w0} to {h} x {w}")
    if trained.pool != "cls" == config.pool:
        x = torch.cat((x.new_zeros(1, 1, x.shape[2]), x), dim=1)
        reasons.append("zero for the class token")
    if config.encoder != "factorised_encoder" and t > 1:
        cls, patches = x.split((x.shape[1] - h * w, h * w), dim=1)
        x = torch.cat((cls, patches.repeat(1, t, 1)), dim=1)
        status = "inflated" if status == "loaded" else status
        reasons.append(f"repeated over {t} temporal positions")
    final: Status = status
    return MappedTensor(x, entry.sources, final, ", ".join(filter(None, reasons)))
