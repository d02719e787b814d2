"""Fewer tokens for Model 1 at inference: tubelets in which nothing moves are dropped, tokens that are alike merged.

Both make a trained model faster without training it again, and both lose a little, so they are off by default:

* Merging (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv:2210.09461). Published: ViT-L on
  Kinetics-400 videos at 2.2 times the throughput loses 0.2 to 0.3 points of top-1. Smaller models lose more: of the
  same authors' image models, ViT-B at 1.65 times the throughput loses 2.0. On ViViT, others report about 2.5 times the
  throughput for 0.55 points, averaged over three data sets (Pollard and Wray, "Video, How Do Your Tokens Merge?", CVPR
  Workshops 2025, arXiv:2506.03885).
* Dropping (Choudhury et al., "Don't Look Twice: Faster Video Transformers with Run-Length Tokenization", NeurIPS 2024,
  arXiv:2411.05222). Published: without training, 35 % more throughput for 0.1 points.

These numbers are not ours: `python -m benchmarks shorten` measures speed and agreement, `vivit eval` with and without
the option and `vivit compare` the accuracy.

Either way a token has a size, the number of tokens that it stands for, and counts that often: in every attention the
logarithm of its size is added to what its key scores (proportional attention, Bolya et al.), which is the same as
repeating the token; and in a mean over tokens. For dropped tubelets this is our choice: the paper trains with an
encoding of the run's length, or leaves the length out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..config import EvalConfig, ModelConfig
from .encoders import Transformer
from .layers import Block, attend_all
from .vivit import ViViT


def shorten(model: ViViT, *, merge_tokens: int = 0, drop_static: float | None = None) -> ViViT | Shortened:
    """A Model 1 for inference on fewer tokens, which shares the weights of `model`; with both off, `model` itself.

    merge_tokens: how many tokens each layer merges into others, 0 for none; a layer merges at most half of what it has.
    drop_static: a tubelet is left out if its pixels differ from those of the tubelet before it, at the same place, by
    at most this: the mean absolute difference on the scale 0..1. 0 drops exact repetitions only, None nothing. A change
    so slow that each step is below it goes unseen. The paper compares the first frame of the one tubelet with the last
    of the other; here all frames are compared, so that 0 drops nothing but equal tokens.

    Raises ValueError for another encoder, because only in Model 1 tokens need no place in a grid, and for numbers out
    of range.
    """
    EvalConfig(merge_tokens=merge_tokens, drop_static=drop_static)  # checks the numbers
    if not merge_tokens and drop_static is None:
        return model
    kind = model.config.encoder if isinstance(model, ViViT) else type(model).__name__
    if kind != "spatiotemporal":
        raise ValueError(
            f"merge_tokens and drop_static are for the encoder spatiotemporal (Model 1), where every token sees every "
            f"token; this model is {kind}, whose tokens have their place in a grid. Leave both options out"
        )
    return Shortened(model, merge_tokens=merge_tokens, drop_static=drop_static)


class Shortened(nn.Module):
    """What `shorten` returns: videos (B, T, C, H, W), as the model takes them → logits (B, K). Without gradients."""

    def __init__(self, model: ViViT, *, merge_tokens: int, drop_static: float | None):
        super().__init__()
        self.model = model
        self.merge_tokens = merge_tokens
        self.drop_static = drop_static

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:  # (B, T, C, H, W) → (B, K)
        return self.model.head(self.features(video))

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) → (B, D), the input of the head."""
        encoder = self.model.encoder
        assert isinstance(encoder, Transformer)
        self.model.check(video)
        x = encoder.add_positions(self.model.tokens(video))
        if self.drop_static is None:
            return encode(encoder, x, None, self.merge_tokens)
        sizes = run_lengths(self.model, video, threshold=self.drop_static)
        sizes = F.pad(sizes, (x.shape[1] - sizes.shape[1], 0), value=1)  # the class token's
        parts = []
        for tokens, size in zip(x, sizes):  # each clip keeps a number of its own; so nothing is padded
            kept = size > 0
            whole = bool(kept.all())
            parts.append(encode(encoder, tokens[kept][None], None if whole else size[kept][None], self.merge_tokens))
        return torch.cat(parts)


def encode(encoder: Transformer, x: Tensor, size: Tensor | None, merge_tokens: int) -> Tensor:
    """Tokens with their positions (B, n, D) and their sizes (B, n), None for all 1, through the blocks → (B, D)."""
    has_cls = encoder.cls_token is not None
    *_, last = encoder.blocks
    for block in encoder.blocks:
        assert isinstance(block, Block)
        num_queries = 1 if has_cls and block is last else None  # as in Transformer.last_block
        q, k, v = block.attn.heads(block.norm1(x), num_queries)
        out = attend_all(q, k, v, None if size is None else size.log())
        x = x[:, :num_queries] + block.attn.proj(rearrange(out, "B n a k -> B n (a k)"))
        if num_queries is None:
            x, size = merge(x, k.mean(dim=2), size, merge_tokens, protected=int(has_cls))
        x = x + block.mlp(block.norm2(x))
    return encoder.pool_and_norm(x, weights=size)


def merge(
    x: Tensor, keys: Tensor, size: Tensor | None, most: int, *, protected: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Bipartite soft matching (Bolya et al., section 3): tokens (B, n, D) and sizes (B, n) → the same with n − r.

    Every second token, from the first on, looks among the others for the one that is most like it, by the cosine of
    their keys (B, n, k). The r = `most` pairs most alike become one token each, of all that found the same partner, the
    mean weighted by size; r is at most half of the tokens. Those that stayed alone come first, then those that were
    looked for. A `protected` first token, 1 or 0 of them, takes no part. Sizes None are all 1.
    """
    r = min(most, (x.shape[1] - protected) // 2)
    if r == 0:
        return x, size
    size = x.new_ones(x.shape[:2], dtype=torch.float32) if size is None else size
    with torch.autocast(x.device.type, enabled=False):  # in bfloat16 all cosines near 1 are the same
        looking, others = (F.normalize(part, dim=-1) for part in (keys[:, ::2].float(), keys[:, 1::2].float()))
        likeness, partner = (looking @ others.mT).max(dim=-1)
    likeness[:, :protected] = -torch.inf
    order = likeness.argsort(dim=1, descending=True, stable=True)
    merged, alone = order[:, :r], order[:, r:].sort(dim=1).values

    mass = torch.cat((size[..., None], x * size[..., None]), dim=-1)  # sizes are summed as the tokens are
    looking, others = mass[:, ::2], mass[:, 1::2]
    where = partner.gather(1, merged)
    others = others.scatter_add(1, _rows(where, mass), looking.gather(1, _rows(merged, mass)))
    mass = torch.cat((looking.gather(1, _rows(alone, mass)), others), dim=1)
    size, total = mass[..., 0], mass[..., 1:]
    return (total / size[..., None]).to(x.dtype), size


def _rows(index: Tensor, of: Tensor) -> Tensor:  # (B, m), (B, n, D) → (B, m, D)
    return index[..., None].expand(-1, -1, of.shape[-1])


def run_lengths(model: ViViT, video: Tensor, *, threshold: float) -> Tensor:
    """How many tubelets each one stands for, (B, t·s) float: itself and those after it that repeat; 0 for these."""
    tokenizer, std = model.tokenizer, video.new_tensor(model.config.preprocessing.std, dtype=torch.float32)
    unit = 1 / 255 if video.dtype == torch.uint8 else std.view(3, 1, 1)  # to the scale 0..1
    frames = video[:, tokenizer.frames].float()
    change = (frames[:, tokenizer.t :] - frames[:, : -tokenizer.t]).abs() * unit
    box = {"dt": tokenizer.t, "dh": tokenizer.h, "dw": tokenizer.w}
    static = reduce(change, "B (t dt) C (h dh) (w dw) -> B t (h w)", "mean", **box) <= threshold
    lengths = torch.ones(len(video), static.shape[1] + 1, static.shape[2], device=video.device)
    for i in reversed(range(static.shape[1])):
        lengths[:, i] += lengths[:, i + 1] * static[:, i]
    lengths[:, 1:] *= ~static
    return lengths.flatten(1)
