"""Read DINOv3 ViTs, from transformers or as released: image ViTs with rotary positions and register tokens.

Siméoni et al. 2025, arXiv 2508.10104. Models with a gated MLP (S+, H+ and 7B) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .assemble import Checkpoint, MappedTensor, map_names
from .huggingface import check_config, read_configs
from .image_vit import IMAGENET, finish_image, parse_size

LAYER = r"(?:model\.)?layer\.(\d+)\."
ENDING = r"(weight|bias)"
THETA = 100.0

HUGGINGFACE: dict[str, str] = {
    r"embeddings\.cls_token": "encoder.cls_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.patch_embeddings\." + ENDING: r"tokenizer.proj.\1",
    r"norm\." + ENDING: r"encoder.norm.\1",
    LAYER + r"(norm[12])\." + ENDING: r"encoder.blocks.\1.\2.\3",
    LAYER + r"attention\.([qkv])_proj\." + ENDING: r"encoder.blocks.\1.attn.\2.\3",
    LAYER + r"attention\.o_proj\." + ENDING: r"encoder.blocks.\1.attn.proj.\2",
    LAYER + r"mlp\.up_proj\." + ENDING: r"encoder.blocks.\1.mlp.fc1.\2",
    LAYER + r"mlp\.down_proj\." + ENDING: r"encoder.blocks.\1.mlp.fc2.\2",
    LAYER + r"layer_scale([12])\.lambda1": r"encoder.blocks.\1.ls\2.gamma",
}

ORIGINAL: dict[str, str] = {
    r"cls_token": "encoder.cls_token",
    r"storage_tokens": "reg_token",
    r"patch_embed\.proj\." + ENDING: r"tokenizer.proj.\1",
    r"norm\." + ENDING: r"encoder.norm.\1",
    r"(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12]))\." + ENDING: r"encoder.\1.\2",
    r"(blocks\.\d+\.ls[12]\.gamma)": r"encoder.\1",
    r"(blocks\.\d+\.attn\.qkv\.bias_mask)": r"encoder.\1",
}

IGNORED: dict[str, str] = {
    r"(embeddings\.)?mask_token": "mask token of the pre-training",
    r"rope_embed\.periods": "frequencies of the rotary positions: the usual ones, checked",
    r"local_cls_norm\." + ENDING: "norm of the pre-training's local crops",
}


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of transformers' DINOv3."""
    return "embeddings.patch_embeddings.weight" in tensors


def is_original(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of the DINOv3 repository."""
    return "rope_embed.periods" in tensors


def parse_huggingface(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict of DINOv3ViTModel with its JSON files into a Checkpoint. Raises ValueError."""
    mapped, ignored = map_names(tensors, HUGGINGFACE, IGNORED)
    dino = Checkpoint(path, "Hugging Face dinov3_vit", mapped, ignored)
    theirs = configs.get("config.json", {})
    dino.config, dino.notes = read_configs(path, "dinov3_vit", configs)
    check_config("dinov3_vit", theirs, mapped)
    if theirs.get("rope_theta", THETA) != THETA:
        raise ValueError(f"config.json: rope_theta is {str(theirs['rope_theta'])[:60]}; read are models with {THETA}")
    return finish(dino)


def parse_original(path: str, tensors: dict[str, Tensor]) -> Checkpoint:
    """Turn a state dict as released into a Checkpoint. Raises ValueError, also for other frequencies than the usual."""
    mapped, ignored = map_names(tensors, ORIGINAL, IGNORED)
    dino = Checkpoint(path, "DINOv3", mapped, ignored)
    periods = tensors["rope_embed.periods"].double()  # k / 4 of them, rounded to bfloat16 in the released files
    usual = THETA ** (torch.arange(len(periods), dtype=torch.float64) / len(periods))
    if not torch.allclose(periods, usual, rtol=2**-8):
        raise ValueError(
            f"rope_embed.periods are {periods[:4].tolist()}, …; read are models with {usual[:4].tolist()}, …"
        )
    width = len(mapped["tokenizer.proj.weight"].tensor)
    dino.config = {"activation": "gelu", "norm_eps": 1e-5, "num_heads": width // (4 * len(periods))}
    dino.notes.append("the exact GELU and norm_eps 1e-5, as DINOv3 has them; the file does not say")
    for name in [name for name in mapped if name.endswith(".bias_mask")]:
        mask, bias = mapped.pop(name), mapped[name.removesuffix("_mask")]
        if not torch.isin(mask.tensor.float(), torch.tensor([0.0, 1.0])).all():
            raise ValueError(f"{mask.sources[0]} has other values than 0 and 1; the file is not complete")
        sources = bias.sources + mask.sources
        mapped[name.removesuffix("_mask")] = MappedTensor(
            torch.where(mask.tensor > 0, bias.tensor, 0), sources, reason="zero where its mask is"
        )
    return finish(dino)


def finish(dino: Checkpoint) -> Checkpoint:
    """Add what all DINOv3 have in common, in place. Their positions depend on no size, so any size may be their own."""
    dino.config["positions"] = "rope_2d"
    kernel = dino.tensors["tokenizer.proj.weight"].tensor
    if "image_size" not in dino.config:
        h, w = kernel.shape[-2:]
        dino.config["image_size"] = (224 // h * h, 224 // w * w)
    if "preprocessing" not in dino.config:
        dino.config["preprocessing"] = dict(IMAGENET)
        dino.notes.append("pixels: ImageNet mean and std, as DINOv3 has them; the file does not say")
    finish_image(dino, parse_size(dino.config["image_size"]))
    return dino
