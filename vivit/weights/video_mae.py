"""Read VideoMAE, v1 and v2, pre-trained or fine-tuned: a Model 1 with mean pooling.

Names are those of transformers or of the original code. The positions are fixed sinusoids, which the file does not
contain; keys have no bias; after fine-tuning, the last norm is applied to the mean of the tokens.
Tong et al. 2022, arXiv 2203.12602; Wang et al. 2023, arXiv 2303.16727.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import huggingface
from .assemble import Checkpoint, MappedTensor, fuse_qkv, map_names
from .image_vit import IMAGENET

MODEL = r"(?:videomae\.)?"
BLOCK = MODEL + r"encoder\.layer\.(\d+)\."
KERNEL, CLS_TOKEN = "embeddings.patch_embeddings.projection.weight", "embeddings.cls_token"

HUGGINGFACE: dict[str, str] = {
    MODEL + r"embeddings\.patch_embeddings\.projection\.(weight|bias)": r"tokenizer.proj.\1",
    rf"(?:{MODEL}layernorm|fc_norm)\.(weight|bias)": r"encoder.norm.\1",
    r"classifier\.(weight|bias)": r"head.\1",
    BLOCK + r"attention\.attention\.([qv])_bias": r"encoder.blocks.\1.attn.\2.bias",
    **huggingface.block_rules(BLOCK),
}

ORIGINAL: dict[str, str] = {
    r"(?:encoder\.)?patch_embed\.proj\.(weight|bias)": r"tokenizer.proj.\1",
    r"(?:encoder\.)?(pos_embed|cls_token)": r"encoder.\1",
    r"(?:encoder\.)?(?:fc_)?norm\.(weight|bias)": r"encoder.norm.\1",
    r"head\.(weight|bias)": r"head.\1",
    r"(?:encoder\.)?blocks\.(\d+)\.attn\.([qv])_bias": r"encoder.blocks.\1.attn.\2.bias",
    r"(?:encoder\.)?(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(?:weight|bias))": r"encoder.\1",
}

IGNORED: dict[str, str] = {
    r"decoder\..+": "decoder of the pre-training",
    r"encoder_to_decoder\.(weight|bias)": "decoder of the pre-training",
    r"mask_token": "mask token of the pre-training",
}


def is_original(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of the VideoMAE and VideoMAEv2 repositories."""
    kernels = [tensors[n] for n in ("patch_embed.proj.weight", "encoder.patch_embed.proj.weight") if n in tensors]
    return any(kernel.ndim == 5 for kernel in kernels)


def is_video_mae(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of VideoMAE, of transformers or original."""
    bare = KERNEL in tensors and tensors[KERNEL].ndim == 5 and CLS_TOKEN not in tensors  # a ViViT has a class token
    return is_original(tensors) or bare or any(name.startswith("videomae.") for name in tensors)


def parse_video_mae(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict of VideoMAE, or of a video ViT with its names, into a Checkpoint. Raises ValueError."""
    if not is_original(tensors):
        mapped, ignored = map_names(tensors, HUGGINGFACE, IGNORED)
        mae = Checkpoint(path, "Hugging Face VideoMAE", mapped, ignored)
        mae.config, mae.notes = huggingface.read_configs(path, "videomae", configs)
        check_huggingface(configs.get("config.json", {}), mapped, tensors)
        if not has_last_norm(tensors):
            mae.config["pool_norm_eps"] = 1e-5  # of fc_norm, whatever layer_norm_eps is
        is_mae = True
    else:
        mapped, ignored = map_names(tensors, ORIGINAL, IGNORED)
        # What only VideoMAE has: biases for queries and values alone, or its decoder.
        is_mae = any(re.search(r"[qv]_bias$|^encoder_to_decoder\.", name) for name in tensors)
        mae = Checkpoint(path, "VideoMAE" if is_mae else "video ViT (timm names)", mapped, ignored)
        mae.config = {"activation": "gelu", "norm_eps": 1e-6, "preprocessing": dict(IMAGENET)}
        mae.notes.append(
            "pixels: ImageNet mean and std, and the exact GELU, as VideoMAE has them; the file does not say"
        )
    fuse_qkv(mapped)
    has_cls = "encoder.cls_token" in mapped
    plain_norm = has_last_norm(tensors)
    if is_mae and plain_norm and not has_cls and "head.weight" in mapped:
        mae.inexact.append("its head sees the first token only")
    if has_cls and "fc_norm.weight" in tensors:
        mae.inexact.append("it takes the mean of the patches and has a class token as well")
    if is_mae and not plain_norm and "encoder.norm.weight" not in mapped:
        mae.newly_initialized["encoder.norm."] = (
            "the pre-trained model ends without a norm; fine-tuning adds one after the mean"
        )
    mae.sine_positions = "encoder.pos_embed" not in mapped
    if mae.sine_positions and not is_mae:
        raise ValueError(
            "the file holds no positions (pos_embed) and is no VideoMAE, whose positions are fixed sinusoids (that has "
            "q_bias and v_bias) and no V-JEPA 2 as released (whose names begin with backbone.): not a complete file"
        )
    mae.config |= {
        "encoder": "spatiotemporal",
        "tokenizer": "tubelet",
        "norm_after_pool": not plain_norm and not has_cls,
        "preprocessing": {"frame_stride": 4} | mae.config["preprocessing"],
    }
    mae.notes.append("frame_stride 4, as on Kinetics; the file does not say")
    if mae.sine_positions:
        mae.notes.append("positions: the fixed sinusoids of VideoMAE, which no file contains")
    return mae


def has_last_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether a norm of all tokens, before the mean, ends the model."""
    return not {"norm.weight", "encoder.norm.weight", "videomae.layernorm.weight", "layernorm.weight"}.isdisjoint(
        tensors
    )


def check_huggingface(
    theirs: Mapping[str, Any], mapped: Mapping[str, MappedTensor], tensors: Mapping[str, Tensor]
) -> None:
    """Check the tensors of a VideoMAE of transformers against its config.json, {} if there is none. Raises ValueError.

    With use_mean_pooling, fc_norm follows the mean in a classifier; without, videomae.layernorm ends the model.
    """
    huggingface.check_config("videomae", theirs, mapped)
    if keys := [entry.sources[0] for name, entry in mapped.items() if name.endswith(".attn.k.bias")]:
        raise ValueError(f"{keys[0]} is in the file; a VideoMAE has no biases of keys")
    last, after_mean = has_last_norm(tensors), "fc_norm.weight" in tensors
    mean = bool(theirs.get("use_mean_pooling", True)) if theirs else not last
    if mean == last or (after_mean and not mean):
        has = "fc_norm" if after_mean else "videomae.layernorm" if last else "no videomae.layernorm"
        raise ValueError(f"config.json: use_mean_pooling is {mean}; the file has {has}")
    if mean and "head.weight" in mapped and not after_mean:
        raise ValueError("no fc_norm in the file of a classifier, which has one after the mean")


def sinusoidal_positions(n: int, width: int) -> Tensor:
    """Return (1, n, D): sine in even and cosine in odd channels of position / 10000^(2⌊i/2⌋/D)."""
    channels = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(n, dtype=torch.float64)[:, None] / 10_000 ** (2 * (channels // 2) / width)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()[None]
