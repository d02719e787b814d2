"""Read V-JEPA 2, from transformers or as released: a Model 1 with rotary positions, and its attentive probe.

Assran et al. 2025, arXiv 2506.09985. The encoder has no class token; its features here are the mean of its tokens or,
with the probe of `VJEPA2ForVideoClassification`, what that pools. The predictor of the pre-training is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .assemble import Checkpoint, MappedTensor, fuse_qkv, join_sources, map_names
from .huggingface import check_config, read_configs
from .image_vit import IMAGENET

LAYER = r"(?:vjepa2\.)?encoder\.layer\.(\d+)\."
POOLER = r"pooler\.self_attention_layers\.(\d+)\."
CROSS = r"pooler\.cross_attention_layer\."
ENDING = r"(weight|bias)"

HUGGINGFACE: dict[str, str] = {
    r"(?:vjepa2\.)?encoder\.embeddings\.patch_embeddings\.proj\." + ENDING: r"tokenizer.proj.\1",
    r"(?:vjepa2\.)?encoder\.layernorm\." + ENDING: r"encoder.norm.\1",
    LAYER + r"attention\.query\." + ENDING: r"encoder.blocks.\1.attn.q.\2",
    LAYER + r"attention\.key\." + ENDING: r"encoder.blocks.\1.attn.k.\2",
    LAYER + r"attention\.value\." + ENDING: r"encoder.blocks.\1.attn.v.\2",
    LAYER + r"attention\.proj\." + ENDING: r"encoder.blocks.\1.attn.proj.\2",
    LAYER + r"(norm[12]|mlp\.fc[12])\." + ENDING: r"encoder.blocks.\1.\2.\3",
    POOLER + r"layer_norm([12])\." + ENDING: r"encoder.pool_blocks.\1.norm\2.\3",
    POOLER + r"self_attn\.([qkv])_proj\." + ENDING: r"encoder.pool_blocks.\1.attn.\2.\3",
    POOLER + r"self_attn\.out_proj\." + ENDING: r"encoder.pool_blocks.\1.attn.proj.\2",
    POOLER + r"(mlp\.fc[12])\." + ENDING: r"encoder.pool_blocks.\1.\2.\3",
    CROSS + r"layer_norm1\." + ENDING: r"encoder.attention_pool.norm_kv.\1",
    CROSS + r"layer_norm2\." + ENDING: r"encoder.attention_pool.norm.\1",
    CROSS + r"cross_attn\.([qkv])_proj\." + ENDING: r"encoder.attention_pool.\1.\2",
    CROSS + r"(mlp\.fc[12])\." + ENDING: r"encoder.attention_pool.\1.\2",
    r"pooler\.query_tokens": "encoder.attention_pool.query_tokens",
    r"classifier\." + ENDING: r"head.\1",
}

ORIGINAL: dict[str, str] = {
    r"backbone\.patch_embed\.proj\." + ENDING: r"tokenizer.proj.\1",
    r"backbone\.norm\." + ENDING: r"encoder.norm.\1",
    r"backbone\.(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12]))\." + ENDING: r"encoder.\1.\2",
}

IGNORED: dict[str, str] = {r"(?:vjepa2\.)?predictor\..+": "predictor of the pre-training"}
STALE_POSITIONS: dict[str, str] = {r"backbone\.pos_embed": "V-JEPA 2 does not use them; it has rotary positions"}
HEADS = {1024: 16, 1280: 16, 1408: 22}  # of the released L, H and g by their width


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of transformers' V-JEPA 2."""
    return any(name.endswith("encoder.embeddings.patch_embeddings.proj.weight") for name in tensors)


def parse_huggingface(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict of VJEPA2Model or VJEPA2ForVideoClassification into a Checkpoint. Raises ValueError."""
    mapped, ignored = map_names(tensors, HUGGINGFACE, IGNORED)
    jepa = Checkpoint(path, "Hugging Face vjepa2", mapped, ignored)
    theirs = dict(configs.get("config.json", {}))
    if theirs:
        sizes = {"image_size": theirs.get("crop_size", 256), "num_frames": theirs.get("frames_per_clip", 64)}
        configs = {**configs, "config.json": theirs | sizes}
    jepa.config, jepa.notes = read_configs(path, "vjepa2", configs)
    check_config("vjepa2", theirs, mapped)
    if "encoder.attention_pool.query_tokens" in mapped:
        fold_probe(mapped)
    elif "head.weight" in mapped or "VJEPA2ForVideoClassification" in (theirs.get("architectures") or ()):
        raise ValueError("no pooler (pooler.query_tokens, …) in the file of a classifier, which has one")
    return finish(jepa)


def is_original(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of the V-JEPA and V-JEPA 2 repositories."""
    return "backbone.patch_embed.proj.weight" in tensors


def parse_original(path: str, tensors: dict[str, Tensor]) -> Checkpoint:
    """Turn the encoder of a released `.pt` file, which does not say its sizes, into a Checkpoint. Raises ValueError."""
    mapped, ignored = map_names(tensors, ORIGINAL, STALE_POSITIONS)
    jepa = Checkpoint(path, "V-JEPA 2", mapped, ignored, unused_positions=bool(ignored))
    jepa.config = {"activation": "gelu", "norm_eps": 1e-6, "preprocessing": dict(IMAGENET)}
    width = len(mapped["tokenizer.proj.weight"].tensor)
    jepa.config |= {"num_heads": HEADS[width]} if width in HEADS else {}
    jepa.notes.append("pixels: ImageNet mean and std, and the exact GELU, as V-JEPA 2 has them; the file does not say")
    return finish(jepa)


def finish(jepa: Checkpoint) -> Checkpoint:
    """Add what all V-JEPA 2 have in common, in place."""
    fuse_qkv(jepa.tensors)
    jepa.interleaved_pairs = True
    jepa.config |= {"encoder": "spatiotemporal", "tokenizer": "tubelet", "positions": "rope_3d"}
    jepa.config["preprocessing"] = {"frame_stride": 4} | jepa.config["preprocessing"]
    jepa.notes.append("frame_stride 4, as in its evaluation on Kinetics; the file does not say")
    return jepa


def fold_probe(mapped: dict[str, MappedTensor]) -> None:
    """Write the cross-attention of the probe as AttentionPool has it, in place.

    The projected query is a parameter. There is no projection after the attention: its weight is the identity, and its
    bias is the query before its projection, which the probe adds as the residual.
    """
    start = "encoder.attention_pool."
    tokens = mapped.pop(f"{start}query_tokens")
    weight, bias = mapped.pop(f"{start}q.weight"), mapped.pop(f"{start}q.bias")
    query = torch.nn.functional.linear(tokens.tensor.float(), weight.tensor.float(), bias.tensor.float())
    sources = join_sources((tokens, weight, bias))
    mapped[f"{start}query"] = MappedTensor(query, sources, reason="the query, projected")
    for leaf in ("weight", "bias"):
        parts = [mapped.pop(f"{start}{x}.{leaf}") for x in "kv"]
        mapped[f"{start}kv.{leaf}"] = MappedTensor(torch.cat([p.tensor for p in parts]), join_sources(parts))
    identity = torch.eye(tokens.tensor.shape[-1])
    mapped[f"{start}proj.weight"] = MappedTensor(identity, (), "initialised", "the identity: the probe has none")
    residual = tokens.tensor.float().flatten().clone()
    mapped[f"{start}proj.bias"] = MappedTensor(residual, tokens.sources, reason="the query, which the probe adds")


def separate_pairs(mapped: dict[str, MappedTensor], num_heads: int) -> None:
    """Permute the features of queries and keys in place: the rotary pairs (2i, 2i + 1) become (i, i + k / 2).

    Both are permuted alike, so their products stay the same.
    """
    for name in [n for n in mapped if n.startswith("encoder.blocks.") and ".attn.qkv." in n]:
        q, k, v = mapped[name].tensor.chunk(3)
        q, k = (rearrange(x, "(a i two) ... -> (a two i) ...", a=num_heads, two=2) for x in (q, k))
        why = ", ".join(filter(None, (mapped[name].reason, "rotary pairs (2i, 2i + 1) to (i, i + k / 2)")))
        mapped[name] = MappedTensor(torch.cat((q, k, v)), mapped[name].sources, mapped[name].status, why)
