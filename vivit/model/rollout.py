"""Where a model looks: attention from the features back to the tokens, over space and over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .encoders import FactorisedEncoder, Transformer
from .layers import Attention
from .modes import sharing_copy
from .tokenizer import FRAMES
from .vivit import ViViT

INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # of matplotlib, in five steps


@dataclass(frozen=True)
class AttentionMaps:
    """Which share of the attention each token of a clip gets; float32 on the CPU."""

    space: Tensor
    """(t, h, w); the shares inside each temporal position, which sum to 1."""
    time: Tensor
    """(t,); the shares of the temporal positions, which sum to 1."""
    frames: list[int]
    """For each temporal position, the frame of the clip in its middle."""


@torch.no_grad()
def attention_maps(model: ViViT, video: Tensor) -> AttentionMaps:
    """Attention rollout (Abnar and Zuidema, 2020) of one clip, (T, C, H, W) or (1, T, C, H, W).

    A block is taken to pass on the mean of what a token is and what it attends to, averaged over heads. Through all
    blocks this makes the features a weighted mean of the tokens: the class token's weights without its own, or the
    mean token's. The last block alone says less, because by then a token also holds what it has seen before.

    The factorised encoder has such weights inside each temporal position and over them (equal ones where it averages
    the frames); in the other models the weights of all tokens are split in the same way.
    """
    video = video if video.ndim == 5 else video[None]
    if len(video) != 1:
        raise ValueError(f"attention maps are of one clip, (T, C, H, W) or (1, T, C, H, W); got {tuple(video.shape)}")
    model = sharing_copy(model)  # which the hooks are put on, so that other threads can use the model meanwhile
    weights = add_rollouts(model)
    model.features(video.to(model.head.weight.device))
    (t, h, _), encoder = model.config.grid, model.encoder
    if isinstance(encoder, FactorisedEncoder):
        space = weights[encoder.spatial]
        time = weights.get(encoder.temporal, torch.ones(1, t))
    else:
        space = rearrange(weights[encoder], "1 (t s) -> t s", t=t)
        time = space.sum(dim=1)[None]
    space, time = (x.float().cpu() / x.float().cpu().sum(dim=1, keepdim=True) for x in (space, time))
    return AttentionMaps(rearrange(space, "t (h w) -> t h w", h=h), time[0], middle_frames(model))


def middle_frames(model: ViViT) -> list[int]:
    """The frame of a clip in the middle of each temporal position of the token grid."""
    depth = model.config.tubelet_size[0]
    frames = torch.arange(model.config.num_frames)[FRAMES[model.config.tokenizer](model.config)]
    return frames[depth // 2 :: depth].tolist()


def add_rollouts(model: ViViT) -> dict[nn.Module, Tensor]:
    """Add hooks by which a forward pass fills {Transformer: (B, n)}: the weight of each token in the features."""
    weights: dict[nn.Module, Tensor] = {}
    if isinstance(model.encoder, FactorisedEncoder):
        model.encoder.share = False  # every temporal position has its map, also one that repeats another
    for transformer in (m for m in model.modules() if isinstance(m, Transformer)):
        mix, finish = _rollout(transformer, weights)
        for attention in (m for m in transformer.modules() if isinstance(m, Attention)):
            attention.register_forward_hook(mix)
        transformer.register_forward_hook(finish)
    return weights


def _rollout(transformer: Transformer, weights: dict[nn.Module, Tensor]) -> tuple[Callable, Callable]:
    """Hooks for the transformer's attentions and for itself."""
    held: list[Tensor] = []  # (B, n, n): how much of each first token is in each token so far

    def mix(attention: Attention, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        before = held.pop() if held else torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        held.append((before + attend(attention, x, before).mean(dim=2)) / 2)

    def finish(module: Transformer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = held.pop()
        weights[transformer] = rows.mean(dim=1) if transformer.cls_token is None else rows[:, 0, 1:]

    return mix, finish


def attend(attention: Attention, x: Tensor, values: Tensor) -> Tensor:
    """What the queries and keys of `x` (B, n, D) do to other values (B, n, m), in each head: (B, n, a, m)."""
    parts = []
    for i, see in enumerate(attention.patterns):
        q, k, _ = attention.heads(x, pattern=i)
        parts.append(see(q, k, values[:, :, None].expand(-1, -1, q.shape[2], -1).to(q.dtype)))
    return torch.cat(parts, dim=2)


def attention_weights(attention: Attention, x: Tensor) -> Tensor:
    """softmax(q kᵀ / √k) of `x` (B, n, D) as (B, a, n, n), 0 where this attention does not look.

    The attention of one-hot values is the weights themselves, whichever tokens the module lets see each other.
    """
    one_hot = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    return rearrange(attend(attention, x, one_hot), "B n a m -> B a n m")


def overlay(frames: Tensor, maps: Tensor) -> Tensor:
    """Grey frames under heat: uint8 (n, 3, H, W) and maps (n, h, w) → uint8; each map's largest value is brightest."""
    heat = F.interpolate(maps[:, None], frames.shape[-2:], mode="bicubic", antialias=True).clamp(min=0)
    heat = heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
    steps = torch.tensor(INFERNO, dtype=torch.float32)
    place = heat[:, 0] * (len(steps) - 1)
    below = place.long().clamp(max=len(steps) - 2)
    colour = rearrange(torch.lerp(steps[below], steps[below + 1], (place - below)[..., None]), "n H W c -> n c H W")
    grey = frames.float().mean(dim=1, keepdim=True)
    return torch.lerp(0.75 * grey.expand_as(colour), colour, 0.9 * heat**0.75).round().to(torch.uint8)
