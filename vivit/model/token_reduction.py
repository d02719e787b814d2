"""Fewer tokens for Model 1 at inference: drop static tubelets, merge similar tokens.

Both make a trained model faster without more training. Both cost some accuracy, so they are off by default:

* Merging (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv:2210.09461). Published: ViT-L on
  Kinetics-400 videos at 2.2 times the throughput loses 0.2 to 0.3 points of top-1. Smaller models lose more: of the
  same authors' image models, ViT-B at 1.65 times the throughput loses 2.0. On ViViT, others report about 2.5 times the
  throughput for 0.55 points, averaged over three datasets (Pollard and Wray, "Video, How Do Your Tokens Merge?", CVPR
  Workshops 2025, arXiv:2506.03885).
* Dropping (Choudhury et al., "Don't Look Twice: Faster Video Transformers with Run-Length Tokenization", NeurIPS 2024,
  arXiv:2411.05222). Published: without training, 35 % more throughput for 0.1 points.

These numbers are not ours: `python -m benchmarks shorten` measures speed and agreement, `vivit eval` with and without
the option and `vivit compare` the accuracy.

Every token has a size, the number of tokens that it represents. Attention adds the logarithm of the size to the scores
of its key (proportional attention, Bolya et al.), which is the same as repeating the token. A mean over tokens is
weighted by size. For dropped tubelets this is our choice: the paper trains with an encoding of the run length, or
leaves the length out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..config import EvalConfig, ModelConfig
from .encoders import Transformer
from .layers import Block
from .vivit import ViViT


def reduce_tokens(
    model: ViViT | TokenReducedViViT, *, merge_tokens: int = 0, drop_static: float | None = None
) -> ViViT | TokenReducedViViT:
    """Return a Model 1 for inference on fewer tokens that shares the weights of `model`; with both off, `model` itself.

    merge_tokens: how many tokens each layer merges into others, at most half of its tokens; 0 merges none.
    drop_static: drop a tubelet if its pixels differ from those of the tubelet before it, at the same position, by at
    most this: the mean absolute difference on the scale 0..1. 0 drops exact repetitions only, None nothing. A slow
    change, each step of which is below the threshold, is missed. The paper compares the first frame of one tubelet with
    the last of the other; this compares all frames, so that 0 drops only equal tokens.

    Raises ValueError for numbers out of range and for another encoder, because the other encoders need the token grid.
    """
    EvalConfig(merge_tokens=merge_tokens, drop_static=drop_static)  # checks the numbers
    if not merge_tokens and drop_static is None:
        return model
    if not isinstance(model, ViViT) or model.config.encoder != "spatiotemporal":
        kind = model.config.encoder if isinstance(model, ViViT) else type(model).__name__
        raise ValueError(
            f"merge_tokens and drop_static are for the encoder spatiotemporal (Model 1), where every token sees every "
            f"token; this model is {kind}, which needs the complete token grid. Leave both options out"
        )
    if model.encoder.pool not in ("cls", "mean") or model.motion is not None:  # type: ignore[union-attr]
        raise ValueError(
            "merge_tokens and drop_static need features that are the class token or the mean of the tokens; this model "
            "pools by attention or adds motion features. Leave both options out"
        )
    if model.config.positions != "learned" or model.config.num_prefix_tokens > 1:
        raise ValueError(
            "merge_tokens and drop_static need learned positions and no register tokens; this model has positions "
            f"{model.config.positions} and {model.config.num_registers} registers. Leave both options out"
        )
    return TokenReducedViViT(model, merge_tokens=merge_tokens, drop_static=drop_static)


class TokenReducedViViT(nn.Module):
    """The result of `reduce_tokens`: maps videos (B, T, C, H, W) to logits (B, K), without gradients."""

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
        """Map videos (B, T, C, H, W) to features (B, D), the input of the head."""
        encoder = self.model.encoder
        assert isinstance(encoder, Transformer)
        self.model.check_video(video)
        x = encoder.add_positions(self.model.tokenize(video))
        if self.drop_static is None:
            return encode_tokens(encoder, x, None, self.merge_tokens)
        sizes = run_lengths(self.model, video, threshold=self.drop_static)
        sizes = F.pad(sizes, (x.shape[1] - sizes.shape[1], 0), value=1)  # the size of the class token
        features = []
        for tokens, size in zip(x, sizes):  # clip by clip, because each keeps another number of tokens
            kept = size > 0
            kept_size = None if bool(kept.all()) else size[kept][None]
            features.append(encode_tokens(encoder, tokens[kept][None], kept_size, self.merge_tokens))
        return torch.cat(features)


def encode_tokens(encoder: Transformer, x: Tensor, size: Tensor | None, merge_tokens: int) -> Tensor:
    """Run the blocks on tokens with positions (B, n, D) of sizes (B, n), None for all 1; return features (B, D)."""
    has_cls = encoder.cls_token is not None
    *_, last = encoder.blocks
    for block in encoder.blocks:
        assert isinstance(block, Block)
        num_queries = 1 if has_cls and block is last else None  # as in Transformer.forward_last_block
        q, k, v = block.attn.project_qkv(block.norm1(x), num_queries)
        [attend] = block.attn.attention_fns  # full attention, with the model's cap of the scores
        out = attend(q, k, v, None if size is None else size.log())
        x = x[:, :num_queries] + block.attn.proj(rearrange(out, "B n a k -> B n (a k)"))
        if num_queries is None:
            x, size = merge_similar(x, k.mean(dim=2), size, merge_tokens, protected=int(has_cls))
        x = x + block.mlp(block.norm2(x))
    return encoder.pool_and_norm(x, weights=size)


def merge_similar(
    x: Tensor, keys: Tensor, size: Tensor | None, count: int, *, protected: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Merge tokens (B, n, D) of sizes (B, n) by bipartite soft matching (Bolya et al., section 3): n becomes n − r.

    The tokens with even indices are the sources, the others the targets. Each source is matched with the target of
    largest cosine similarity of keys (B, n, k). The r = `count` most similar sources, at most half of the tokens, merge
    into their targets as a mean weighted by size. The result has the other sources first, then the targets. The first
    `protected` tokens (0 or 1) are never merged. Sizes None are all 1.
    """
    r = min(count, (x.shape[1] - protected) // 2)
    if r == 0:
        return x, size
    size = x.new_ones(x.shape[:2], dtype=torch.float32) if size is None else size
    with torch.autocast(x.device.type, enabled=False):  # in bfloat16 all cosines near 1 are equal
        source, target = (F.normalize(part, dim=-1) for part in (keys[:, ::2].float(), keys[:, 1::2].float()))
        similarity, match = (source @ target.mT).max(dim=-1)
    similarity[:, :protected] = -torch.inf
    order = similarity.argsort(dim=1, descending=True, stable=True)
    merged, unmerged = order[:, :r], order[:, r:].sort(dim=1).values

    sums = torch.cat((size[..., None], x * size[..., None]), dim=-1)  # sizes are summed like the tokens
    source, target = sums[:, ::2], sums[:, 1::2]
    target_index = match.gather(1, merged)
    target = target.scatter_add(1, _expand(target_index, sums), source.gather(1, _expand(merged, sums)))
    sums = torch.cat((source.gather(1, _expand(unmerged, sums)), target), dim=1)
    size, total = sums[..., 0], sums[..., 1:]
    return (total / size[..., None]).to(x.dtype), size


def _expand(index: Tensor, like: Tensor) -> Tensor:  # (B, m), (B, n, D) → (B, m, D)
    return index[..., None].expand(-1, -1, like.shape[-1])


def run_lengths(model: ViViT, video: Tensor, *, threshold: float) -> Tensor:
    """Count the tubelets that each tubelet represents, (B, t·s) float: itself and its repetitions, which count 0."""
    tokenizer, std = model.tokenizer, video.new_tensor(model.config.preprocessing.std, dtype=torch.float32)
    unit = 1 / 255 if video.dtype == torch.uint8 else std.view(3, 1, 1)  # to the scale 0..1
    frames = video[:, tokenizer.frame_index].float()
    change = (frames[:, tokenizer.t :] - frames[:, : -tokenizer.t]).abs() * unit
    pattern = "B (t dt) C (h dh) (w dw) -> B t (h w)"
    static = reduce(change, pattern, "mean", dt=tokenizer.t, dh=tokenizer.h, dw=tokenizer.w) <= threshold
    lengths = torch.ones(len(video), static.shape[1] + 1, static.shape[2], device=video.device)
    for i in reversed(range(static.shape[1])):
        lengths[:, i] += lengths[:, i + 1] * static[:, i]
    lengths[:, 1:] *= ~static
    return lengths.flatten(1)
