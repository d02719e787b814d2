"""Attention rollout: how much each token contributes to the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .encoders import FactorisedEncoder, Transformer
from .layers import Attention, AttentionPool
from .modes import copy_sharing_weights
from .tokenizer import FRAME_INDEX
from .vivit import ViViT

INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # five colors of matplotlib's map


@dataclass(frozen=True)
class AttentionMaps:
    """The share of attention that each token of a clip gets; float32 on the CPU."""

    space: Tensor
    """(t, h, w); the shares within each temporal position sum to 1."""
    time: Tensor
    """(t,); the shares of the temporal positions sum to 1."""
    frames: list[int]
    """For each temporal position, the index of its middle frame in the clip."""


@torch.no_grad()
def attention_maps(model: ViViT, video: Tensor) -> AttentionMaps:
    """Compute the attention rollout (Abnar and Zuidema, 2020) of one clip, (T, C, H, W) or (1, T, C, H, W).

    Rollout assumes that a block outputs the mean of a token and of what it attends to, averaged over heads. Through all
    blocks this makes the features a weighted mean of the tokens. The weights are those of the class token (without its
    own) or of the mean token. Attention of the last block alone says less: its tokens already hold information from
    other tokens.

    The factorised encoder has such weights within each temporal position and over the temporal positions (equal ones
    where it averages the frames); with `temporal_skip`, the mean of these and of equal ones over time. The weights of
    the other models are split in the same way. Raises ValueError for more than one clip and for a model without
    `pool_space`.
    """
    video = video if video.ndim == 5 else video[None]
    if len(video) != 1:
        raise ValueError(f"attention maps are of one clip, (T, C, H, W) or (1, T, C, H, W); got {tuple(video.shape)}")
    check_pools_space(model)
    model = copy_sharing_weights(model)  # gets the hooks, so that other threads can use the model at the same time
    weights = register_rollout_hooks(model)
    model.features(video.to(model.head.weight.device))
    (t, h, _), encoder = model.config.grid, model.encoder
    if isinstance(encoder, FactorisedEncoder):
        space = weights[encoder.spatial]
        time = weights.get(encoder.temporal, torch.ones(1, t))
        if encoder.skip is not None:  # a residual connection over all layers over time
            time = time + 1 / t
    else:
        space = rearrange(weights[encoder], "1 (t s) -> t s", t=t)
        time = space.sum(dim=1)[None]
    space, time = (x.float().cpu() / x.float().cpu().sum(dim=1, keepdim=True) for x in (space, time))
    return AttentionMaps(rearrange(space, "t (h w) -> t h w", h=h), time[0], middle_frames(model))


def check_pools_space(model: ViViT) -> None:
    """Raise ValueError for a Model 2 whose layers over time see all tokens of the frames."""
    if not model.config.pool_space:
        raise ValueError(
            "attention maps are of models that pool each frame before the layers over time; this one keeps all tokens "
            "(pool_space=False); use occlusion"
        )


def middle_frames(model: ViViT) -> list[int]:
    """Return the middle frame of each temporal position of the token grid, as indices into the clip."""
    depth = model.config.tubelet_size[0]
    frames = torch.arange(model.config.num_frames)[FRAME_INDEX[model.config.tokenizer](model.config)]
    return frames[depth // 2 :: depth].tolist()


def register_rollout_hooks(model: ViViT) -> dict[nn.Module, Tensor]:
    """Register hooks so that a forward pass fills {transformer: (B, n)}, the weight of each token in its features."""
    weights: dict[nn.Module, Tensor] = {}
    if isinstance(model.encoder, FactorisedEncoder):
        model.encoder.deduplicate = False  # every temporal position gets its own map

    def keep_weights(pool: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(pool, AttentionPool)
        weights[pool] = pool.attention_weights(inputs[0])

    for pool in (m for m in model.modules() if isinstance(m, AttentionPool)):
        pool.register_forward_hook(keep_weights)
    for transformer in (m for m in model.modules() if isinstance(m, Transformer)):
        accumulate, finish = _rollout_hooks(transformer, weights)
        for attention in (m for m in transformer.modules() if isinstance(m, Attention)):
            attention.register_forward_hook(accumulate)
        transformer.register_forward_hook(finish)
    return weights


def _rollout_hooks(transformer: Transformer, weights: dict[nn.Module, Tensor]) -> tuple[Callable, Callable]:
    """Return a hook for the attention modules of the transformer and one for the transformer."""
    rollout: list[Tensor] = []  # one (B, n, n): the weight of each input token in each token so far

    def accumulate(attention: Attention, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        before = (
            rollout.pop() if rollout else torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        )
        rollout.append((before + apply_attention(attention, x, before).mean(dim=2)) / 2)

    def finish(module: Transformer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = rollout.pop()
        if transformer.attention_pool is not None:
            read = torch.einsum("Bn,Bnm->Bm", weights.pop(transformer.attention_pool), rows)
        else:
            read = rows[:, 0] if transformer.pool == "cls" else rows.mean(dim=1)
        weights[transformer] = read[:, transformer.num_prefix_tokens :]

    return accumulate, finish


def apply_attention(attention: Attention, x: Tensor, values: Tensor) -> Tensor:
    """Attend with the queries and keys of `x` (B, n, D) to other values (B, n, m), in each head: (B, n, a, m)."""
    parts = []
    for i, attend in enumerate(attention.attention_fns):
        q, k, _ = attention.project_qkv(x, index=i)
        parts.append(attend(q, k, values[:, :, None].expand(-1, -1, q.shape[2], -1).to(q.dtype)))
    return torch.cat(parts, dim=2)


def attention_weights(attention: Attention, x: Tensor) -> Tensor:
    """Compute softmax(q kᵀ / √k) of `x` (B, n, D) as (B, a, n, n), 0 between tokens that do not attend to each other.

    Attention to one-hot values gives the weights themselves, for every attention function.
    """
    one_hot = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    return rearrange(apply_attention(attention, x, one_hot), "B n a m -> B a n m")


def overlay(frames: Tensor, maps: Tensor) -> Tensor:
    """Draw maps (n, h, w) as heat over gray frames, uint8 (n, 3, H, W); the maximum of each map is brightest."""
    heat = F.interpolate(maps[:, None], frames.shape[-2:], mode="bicubic", antialias=True).clamp(min=0)
    heat = heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
    steps = torch.tensor(INFERNO, dtype=torch.float32)
    position = heat[:, 0] * (len(steps) - 1)
    below = position.long().clamp(max=len(steps) - 2)
    color = rearrange(torch.lerp(steps[below], steps[below + 1], (position - below)[..., None]), "n H W c -> n c H W")
    gray = frames.float().mean(dim=1, keepdim=True)
    return torch.lerp(0.75 * gray.expand_as(color), color, 0.9 * heat**0.75).round().to(torch.uint8)
