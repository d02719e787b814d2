"""Read the vision towers of CLIP, SigLIP and SigLIP 2 from transformers: image models.

CLIP has a norm before the first block and a class token. SigLIP has no class token; a learned query pools its tokens.
SigLIP 2 of a fixed size has SigLIP's tensors; NaFlex, which takes frames of any shape, is refused. Text towers and
projections to the space of text are not read, so the features are `pooler_output`, not `image_embeds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .assemble import Checkpoint, MappedTensor, join_sources, map_names
from .config_fields import AROUND, check_fields
from .huggingface import DEFAULTS, SIZES, check_config, json_object, read_configs
from .image_vit import finish_image, parse_size

VISION = r"(?:vision_model\.)?"
LAYER = VISION + r"encoder\.layers\.(\d+)\."
ENDING = r"(weight|bias)"

RULES: dict[str, str] = {
    VISION + r"embeddings\.class_embedding": "encoder.cls_token",
    VISION + r"embeddings\.patch_embedding\." + ENDING: r"tokenizer.proj.\1",
    VISION + r"embeddings\.position_embedding\.weight": "encoder.pos_embed",
    VISION + r"pre_layrnorm\." + ENDING: r"encoder.norm_pre.\1",
    VISION + r"post_layernorm\." + ENDING: r"encoder.norm.\1",
    LAYER + r"layer_norm([12])\." + ENDING: r"encoder.blocks.\1.norm\2.\3",
    LAYER + r"self_attn\.([qkv])_proj\." + ENDING: r"encoder.blocks.\1.attn.\2.\3",
    LAYER + r"self_attn\.out_proj\." + ENDING: r"encoder.blocks.\1.attn.proj.\2",
    LAYER + r"(mlp\.fc[12])\." + ENDING: r"encoder.blocks.\1.\2.\3",
    VISION + r"head\.probe": "encoder.attention_pool.probe",
    VISION + r"head\.attention\.in_proj_" + ENDING: r"encoder.attention_pool.qkv.\1",
    VISION + r"head\.attention\.out_proj\." + ENDING: r"encoder.attention_pool.proj.\1",
    VISION + r"head\.layernorm\." + ENDING: r"encoder.attention_pool.norm.\1",
    VISION + r"head\.(mlp\.fc[12])\." + ENDING: r"encoder.attention_pool.\1.\2",
}

IGNORED: dict[str, str] = {
    r"text_model\..+": "text tower",
    r"(text|visual)_projection\.weight": "projection to the space of text",
    r"logit_(scale|bias)": "scale of the products of images and texts",
    VISION + r"embeddings\.position_ids": "numbers from 0 on",
}

KINDS = {"clip": "clip", "clip_vision_model": "clip", "siglip": "siglip", "siglip_vision_model": "siglip"}


def is_tower(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of transformers' CLIP or SigLIP."""
    return any(name.endswith("embeddings.patch_embedding.weight") for name in tensors)


def parse_tower(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict of CLIP or SigLIP, with or without its text tower, into a Checkpoint. Raises ValueError."""
    theirs = configs.get("config.json", {})
    kind = theirs.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"is of a {kind[:60]!r}" if isinstance(kind, str) else "is not in the folder"
        naflex = "; of SigLIP 2, models of a fixed size are read, not NaFlex" if kind and "siglip2" in str(kind) else ""
        raise ValueError(f"a tower of CLIP or SigLIP needs its config.json of a {', '.join(KINDS)}; it {found}{naflex}")
    mapped, ignored = map_names(tensors, RULES, IGNORED)
    tower = Checkpoint(path, f"Hugging Face {KINDS[kind]}", mapped, ignored)
    vision = theirs
    if not kind.endswith("vision_model"):
        check_fields(theirs, AROUND)
        vision = json_object(theirs, "vision_config")
    if kind == "clip" and theirs.get("vision_config_dict") is not None:  # in transformers, it overrides
        vision = {**vision, **DEFAULTS["clip"], **SIZES["clip"], **json_object(theirs, "vision_config_dict")}
    vision = {"model_type": kind, **vision}
    tower.config, tower.notes = read_configs(path, KINDS[kind], {**configs, "config.json": vision})
    check_config(KINDS[kind], vision, mapped)
    head = next((entry.sources[0] for name, entry in mapped.items() if "attention_pool" in name), None)
    says = KINDS[kind] == "siglip" and bool(vision.get("vision_use_head", True))
    if says != (head is not None):
        what = f"{head} of a pooling head" if head else "no pooling head (head.probe, …)"
        raise ValueError(f"config.json: vision_use_head is {says} for a {kind}; the file has {what}")
    add_dimensions(mapped)
    if head:
        fold_pool(mapped)
    finish_image(tower, parse_size(tower.config["image_size"]))
    return tower


def add_dimensions(mapped: dict[str, MappedTensor]) -> None:
    """Give class token and positions their leading dimensions and the patches of CLIP a bias of zero, in place."""
    for name in [name for name in ("encoder.cls_token", "encoder.pos_embed") if name in mapped]:
        tensor = mapped[name].tensor
        mapped[name] = MappedTensor(tensor.reshape(1, -1, tensor.shape[-1]), mapped[name].sources)
    kernel = mapped["tokenizer.proj.weight"].tensor
    if "tokenizer.proj.bias" not in mapped:
        mapped["tokenizer.proj.bias"] = MappedTensor(
            kernel.new_zeros(len(kernel)), (), "initialised", "zero: it has none"
        )


def fold_pool(mapped: dict[str, MappedTensor]) -> None:
    """Write the pooling head of SigLIP as AttentionPool has it, in place: the projected probe is a parameter."""
    start = "encoder.attention_pool."
    probe, weight, bias = (mapped.pop(f"{start}{name}") for name in ("probe", "qkv.weight", "qkv.bias"))
    (query_weight, kv_weight), (query_bias, kv_bias) = (
        x.tensor.float().split((len(x.tensor) // 3, len(x.tensor) - len(x.tensor) // 3)) for x in (weight, bias)
    )
    query = torch.nn.functional.linear(probe.tensor.float(), query_weight, query_bias)
    mapped[f"{start}query"] = MappedTensor(query, join_sources((probe, weight, bias)), reason="the probe, projected")
    mapped[f"{start}kv.weight"] = MappedTensor(kv_weight.clone(), weight.sources)
    mapped[f"{start}kv.bias"] = MappedTensor(kv_bias.clone(), bias.sources)
