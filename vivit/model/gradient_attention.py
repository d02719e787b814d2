"""Gradient x attention: which tokens speak for one class (Chefer et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .encoders import FactorisedEncoder, TemporalMeanPool, Transformer
from .layers import Attention, AttentionPool
from .modes import copy_sharing_weights
from .rollout import AttentionMaps, attention_weights, check_pools_space, middle_frames
from .vivit import ViViT


def gradient_attention_maps(model: ViViT, video: Tensor, logit: int) -> AttentionMaps:
    """Compute the relevance of each token for one logit, of one clip (T, C, H, W) or (1, T, C, H, W).

    This is the rule of Chefer et al. (2021, "Generic attention-model explainability") for self-attention. R starts as
    the identity, and every attention A adds the positive part of A ∘ ∂logit/∂A, averaged over heads:
    R ← R + (A ∘ ∇A)⁺ R. The result is the row of the class token, without its own share. Mean pooling counts as one
    more attention, with equal weights: its row is (w ∘ ∇w)⁺ R, and w ∘ ∇w is the product of a pooled token and its
    gradient. A mean of n tokens (or positions) divides the gradient by n, which would leave little but the identity of
    R: it is multiplied by n again. Attention pooling counts likewise: the relevance of a token is that token times its
    gradient.

    The factorised encoder has such a row within each temporal position and one over the temporal positions, where an
    average of frames counts as mean pooling. The rows of the other models are split in the same way. Where no token
    speaks for the class, the shares are 0. Raises ValueError for more than one clip and for an encoder that is none of
    the four.
    """
    video = video if video.ndim == 5 else video[None]
    encoder = model.encoder
    if len(video) != 1:
        raise ValueError(f"maps are of one clip, (T, C, H, W) or (1, T, C, H, W); got {tuple(video.shape)}")
    if not isinstance(encoder, Transformer | FactorisedEncoder):
        raise ValueError(f"gradient x attention knows the four encoders, not {type(encoder).__name__}; use occlusion")
    check_pools_space(model)
    if model.config.pool_depth:
        raise ValueError("gradient x attention cannot follow the layers between encoder and query; use occlusion")
    model = copy_sharing_weights(model)  # gets the hooks, so that other threads can use the model at the same time
    encoder = model.encoder
    with torch.inference_mode(False), torch.enable_grad():
        relevance_of = register_relevance_hooks(model)
        tokens = model.tokenize(video.to(model.head.weight.device)).detach()
        tokens = tokens.clone().requires_grad_()  # the graph starts here, also if all weights are frozen
        features = model.add_motion(encoder(tokens), video.to(tokens.device))
        rows = relevance_of(model.head(features)[0, logit])
    t, h, _ = model.config.grid
    if isinstance(encoder, FactorisedEncoder):
        space = rows[encoder.spatial]
        time = rows[encoder.temporal] + (0 if encoder.skip is None else rows[encoder.skip])
    else:
        space = rearrange(rows[encoder], "1 (t s) -> t s", t=t)
        time = space.sum(dim=1)[None]
    space, time = (x.float().cpu() for x in (space, time))
    return AttentionMaps(rearrange(normalize(space), "t (h w) -> t h w", h=h), normalize(time)[0], middle_frames(model))


def normalize(x: Tensor) -> Tensor:
    """Scale rows of x (n, m) of numbers ≥ 0 to a sum of 1; rows of zeros stay zeros."""
    return x / x.sum(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def register_relevance_hooks(model: nn.Module) -> Callable[[Tensor], dict[nn.Module, Tensor]]:
    """Register hooks that record a forward pass; return a function from its score to {module: (B, n)}.

    The modules are the transformers and the averages over time; (B, n) is the relevance of each token that they take.
    """
    inputs: dict[nn.Module, Tensor] = {}
    pooled: dict[nn.Module, Tensor] = {}  # what each transformer pools

    def keep_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[module] = args[0]

    def keep_output(owner: nn.Module, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        pooled[owner] = output

    attentions: dict[Transformer, list[Attention]] = {}
    for transformer in (m for m in model.modules() if isinstance(m, Transformer)):
        attentions[transformer] = [m for m in transformer.modules() if isinstance(m, Attention)]
        for attention in attentions[transformer]:
            attention.register_forward_pre_hook(keep_input)
            attention.proj.register_forward_pre_hook(keep_input)
        last = transformer.blocks[-1] if transformer.norm_after_pool else transformer.norm
        last.register_forward_hook(partial(keep_output, transformer))
    pools = [m for m in model.modules() if isinstance(m, AttentionPool)]
    for pool in pools:
        pool.register_forward_pre_hook(keep_input)
    averages = [m for m in model.modules() if isinstance(m, TemporalMeanPool)]
    for average in averages:
        average.register_forward_hook(partial(keep_output, average))
        average.register_forward_pre_hook(keep_input)

    def relevance_of(score: Tensor) -> dict[nn.Module, Tensor]:
        heads = {one: inputs[one.proj] for group in attentions.values() for one in group}
        pool_inputs = {pool: inputs[pool] for pool in pools}
        wanted = [*heads.values(), *pooled.values(), *pool_inputs.values()]
        gradients = torch.autograd.grad(score, wanted, materialize_grads=True)
        gradient = dict(zip([*heads, *pooled, *pool_inputs], gradients))
        rows: dict[nn.Module, Tensor] = {}
        with torch.no_grad():
            for transformer, group in attentions.items():
                steps = (positive_relevance(one, inputs[one], gradient[one]) for one in order_of_use(group, inputs))
                rows[transformer] = accumulate(steps, transformer, pooled[transformer] * gradient[transformer])
            for pool, x in pool_inputs.items():  # (B, n, D)
                rows[pool] = (x * gradient[pool]).sum(dim=2).clamp(min=0).float()
            for average in averages:
                x = inputs[average]  # (B, t, D)
                rows[average] = ((x * gradient[average][:, None]).sum(dim=2) / x.shape[1]).clamp(min=0).float()
        return rows

    return relevance_of


def order_of_use(attentions: Iterable[Attention], inputs: dict[nn.Module, Tensor]) -> list[Attention]:
    """Sort attention modules by the order in which the forward pass reached them."""
    calls = {module: i for i, module in enumerate(inputs)}
    return sorted(attentions, key=lambda attention: calls[attention])


def positive_relevance(attention: Attention, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the mean over heads of (A ∘ ∂score/∂A)⁺ as (B, n, n), for attention to the tokens x (B, n, D).

    `gradient` (B, m, a·k) is that of the heads' outputs A v before the projection, for the first m ≤ n queries. So
    ∂score/∂A is gradient · vᵀ: kernels that never write A to memory can stay in use.
    """
    values = torch.cat([attention.project_qkv(x, index=i)[2] for i in range(len(attention.attention_fns))], dim=2)
    gradient = rearrange(gradient, "B n (a k) -> B n a k", k=attention.head_dim)
    of_weights = torch.einsum("B n a k, B m a k -> B a n m", gradient.float(), values.float())
    weights = attention_weights(attention, x)[:, :, : gradient.shape[1]].float()
    relevance = (weights * of_weights).clamp(min=0).mean(dim=1)
    return F.pad(relevance, (0, 0, 0, x.shape[1] - gradient.shape[1]))


def accumulate(steps: Iterable[Tensor], transformer: Transformer, pooled: Tensor) -> Tensor:
    """Chain the relevance (B, n, n) of all layers and read it at the pooled tokens: (B, tokens without class token).

    `pooled` (B, m, D) is the product of each pooled token and its gradient.
    """
    tokens = math.prod(transformer.grid) + transformer.num_prefix_tokens
    rollout = torch.eye(tokens, device=pooled.device).expand(len(pooled), -1, -1)
    num_pooled = 1 if transformer.pool == "cls" else pooled.shape[1]
    for step in steps:  # each pooled token gets 1 / num_pooled of the gradient, each of B positions 1 / B
        rollout = rollout + len(pooled) * num_pooled * step @ rollout
    if transformer.pool == "cls":
        read = rollout[:, 0]
    else:
        read = torch.einsum("B n, B n m -> B m", pooled.float().sum(dim=2).clamp(min=0), rollout)
    return read[:, transformer.num_prefix_tokens :]
