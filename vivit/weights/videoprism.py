"""Read VideoPrism: vision, classification and video-text models, of transformers or as the authors' Flax .npz.

It is Model 2 whose layers over time run at every place of the frame. Norms are stored as scale - 1; the query of the
attention pooling is projected and scaled by softplus on the way to its scores. Both are folded in here. The tensors of
the text tower are left to `text_tower`. Zhao et al. 2024, arXiv 2402.13217; names and layout as in
github.com/google-deepmind/videoprism.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .assemble import Checkpoint, MappedTensor, Rules, apply_rules, fuse_qkv, map_names
from .config_fields import check_fields
from .huggingface import class_names, find_processor, json_object, parse_size, read_processor

# Module of a block, and of the attention pooling → (its name in transformers, that in the Flax file)
BLOCK_MODULES: dict[str, tuple[str, str]] = {
    "norm1": ("layernorm_before", "layer_norm"),
    "norm2": ("layernorm_after", "ff_layer/layer_norm"),
    "attn.q": ("attention.q_proj", "self_attention/query"),
    "attn.k": ("attention.k_proj", "self_attention/key"),
    "attn.v": ("attention.v_proj", "self_attention/value"),
    "attn.proj": ("attention.o_proj", "self_attention/post"),
    "mlp.fc1": ("mlp.fc1", "ff_layer/ffn_layer1/linear"),
    "mlp.fc2": ("mlp.fc2", "ff_layer/ffn_layer2/linear"),
}
POOL = "encoder.temporal.attention_pool."
POOL_MODULES: dict[str, tuple[str, str]] = {
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "proj": ("o_proj", "post"),
}

LEAF = r"\.(weight|bias)"
VIDEO = r"(?:video_model\.)?"
VISION = VIDEO + r"(?:vision_model\.)?"

HUGGINGFACE: dict[str, str] = {
    VISION + r"spatial_embeddings\.patch_embeddings\.projection" + LEAF: r"tokenizer.proj.\1",
    VISION + r"(spatial|temporal)_embeddings\.position_embeddings": r"encoder.\1.pos_embed",
    VISION + r"layernorm1" + LEAF: r"encoder.spatial.norm.\1",
    VISION + r"layernorm2" + LEAF: r"encoder.temporal.norm.\1",
    **{
        rf"{VISION}(spatial|temporal)_layers\.(\d+)\.{re.escape(theirs)}{LEAF}": rf"encoder.\1.blocks.\2.{ours}.\3"
        for ours, (theirs, _) in BLOCK_MODULES.items()
    },
    **{
        rf"{VIDEO}auxiliary_layers\.(\d+)\.{re.escape(theirs)}{LEAF}": rf"encoder.temporal.joint.\1.{ours}.\2"
        for ours, (theirs, _) in BLOCK_MODULES.items()
    },
    **{rf"{VIDEO}head\.{theirs}{LEAF}": rf"{POOL}{ours}.\1" for ours, (theirs, _) in POOL_MODULES.items()},
    VIDEO + r"head\.pooling_attention_query": POOL + "query",
    VIDEO + r"head\.per_dim_scale": POOL + "per_dim_scale",
    VIDEO + r"head_layernorm" + LEAF: POOL + r"norm.\1",
    r"classifier" + LEAF: r"head.\1",
}

FLAX_LEAF = r"/(weight|bias)"  # after `flax_leaf`
FLAX_VISION = r"params/(?:vision_encoder/|encoder/)?"
FLAX_POOL = r"params/(?:contrastive_vision_pooler|atten_pooler)/pooling_attention"
LAYERS = "*"  # stands for the number of a layer: all layers of a stack are one array

FLAX: dict[str, str] = {
    FLAX_VISION + r"patch_projection/linear" + FLAX_LEAF: r"tokenizer.proj.\1",
    FLAX_VISION + r"(spatial|temporal)_pos_emb/emb_var": r"encoder.\1.pos_embed",
    FLAX_VISION + r"(spatial|temporal)_ln" + FLAX_LEAF: r"encoder.\1.norm.\2",
    **{
        rf"{FLAX_VISION}(spatial|temporal)_encoder/transformers_stack/x_layers/{theirs}{FLAX_LEAF}": (
            rf"encoder.\1.blocks.{LAYERS}.{ours}.\2"
        )
        for ours, (_, theirs) in BLOCK_MODULES.items()
    },
    **{
        rf"params/auxiliary_encoder/transformers_stack/x_layers/{theirs}{FLAX_LEAF}": (
            rf"encoder.temporal.joint.{LAYERS}.{ours}.\1"
        )
        for ours, (_, theirs) in BLOCK_MODULES.items()
    },
    **{rf"{FLAX_POOL}/{theirs}{FLAX_LEAF}": rf"{POOL}{ours}.\1" for ours, (_, theirs) in POOL_MODULES.items()},
    FLAX_POOL + r"_query": POOL + "query",
    FLAX_POOL + r"/per_dim_scale/per_dim_scale": POOL + "per_dim_scale",
    FLAX_POOL + r"_layer_norm" + FLAX_LEAF: POOL + r"norm.\1",
    r"params/projection/linear" + FLAX_LEAF: r"head.\1",
}

TEXT = {r"text_model\..+|params/text_encoder/.+": "text tower of a video-text model"}

DEFAULTS: dict[str, Any] = {
    "image_size": 288,
    "num_frames": 16,
    "tubelet_size": [1, 18, 18],
    "num_channels": 3,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu_python",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "num_spatial_layers": 12,
    "num_temporal_layers": 4,
    "attn_logit_softcapping": 50.0,
    "num_auxiliary_layers": 2,
    "apply_l2norm": True,
    "id2label": {},
}
# Architectures with a pooling head
POOLED = ("VideoPrismVideoModel", "VideoPrismClipModel", "VideoPrismForVideoClassification")
ACTIVATIONS = {"gelu_python": "gelu", "gelu": "gelu"}


def is_videoprism(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of a VideoPrism vision model, in either format."""
    return any(name.endswith(("spatial_embeddings.position_embeddings", "spatial_pos_emb/emb_var")) for name in tensors)


def parse_videoprism(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn the tensors of a VideoPrism model into a Checkpoint. Raises ValueError for what it does not know."""
    if any(name.startswith("params/") for name in tensors):
        mapped, ignored = map_flax(tensors, FLAX, TEXT)
        prism = Checkpoint(path, "Flax VideoPrism", mapped, ignored, flax_settings(tensors))
        prism.notes.append("score cap 50 and norm epsilon 1e-6, as in the official code; the file does not say")
    else:
        mapped, ignored = map_names(tensors, HUGGINGFACE, TEXT)
        prism = Checkpoint(path, "Hugging Face VideoPrism", mapped, ignored)
        prism.config = read_config(mapped, configs.get("config.json"))
    has_pool, has_head = f"{POOL}query" in mapped, "head.weight" in mapped
    if not has_pool and (has_head or count_joint(mapped)):
        what = "classifier" if has_head else "layers over all tokens"
        raise ValueError(f"a {what} without the pooling head in the file: not a complete model")
    if not has_pool:
        prism.newly_initialized[POOL] = "the vision model has no pooling head"
    fold_norms(mapped)
    if has_pool:
        fold_pool(mapped, prism.config["num_heads"])
    fuse_qkv(mapped)
    prism.config |= {
        "tokenizer": "tubelet",
        "pool_space": False,
        "joint_depth": count_joint(mapped),
        "attention_pool": has_pool,
        "unit_features": has_pool and not has_head and prism.config.pop("apply_l2norm", True),
        "interpolation": "linear",
        "preprocessing": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "crop_fraction": 1.0, "frame_stride": 4},
    }
    prism.config.pop("apply_l2norm", None)
    if has_pool:
        width = mapped["tokenizer.proj.weight"].tensor.shape[0]
        prism.config["attention_pool_ratio"] = mapped[f"{POOL}query"].tensor.shape[-1] / width
    processor = find_processor(configs)
    pixels = "pixels on the scale 0..1, as in the official code"
    if processor is not None:
        values, notes = read_processor(path, {"do_normalize": False} | dict(processor))
        prism.config["preprocessing"] |= {name: values[name] for name in ("mean", "std")}
        pixels = ", ".join(notes) or "pixels as preprocessor_config.json says"
    prism.notes.append(f"{pixels}; frame_stride 4: the file does not say (the authors' demo spreads a clip over all)")
    return prism


def read_config(mapped: Mapping[str, MappedTensor], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return fields of ModelConfig from config.json, also of a video-text model. Raises ValueError.

    Every field that config.json has must be known, and must fit the tensors.
    """
    if config is None:
        raise ValueError("no config.json: number of heads and cap of the scores are not in the tensors; add the file")
    theirs = config
    if "vision_config" in config:
        check_fields(config, {"vision_config", "text_config"})
        theirs = json_object(config, "vision_config")
    check_fields(theirs, DEFAULTS.keys())
    values = DEFAULTS | dict(theirs)
    if values["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {values['hidden_act']!r}; VideoPrism has {', '.join(ACTIVATIONS)}")
    if values["num_channels"] != 3:
        raise ValueError(f"config.json: num_channels is {values['num_channels']!r}; a ViViT takes 3")
    check_biases(values, mapped)
    pooled = [name for name in POOLED if name in (config.get("architectures") or ())]
    if pooled and f"{POOL}query" not in mapped:
        raise ValueError(f"config.json says {pooled[0]}, which has a pooling head; the file has none")
    joint = values["num_auxiliary_layers"] if f"{POOL}query" in mapped and "head.weight" not in mapped else 0
    shapes = {name: list(entry.tensor.shape) for name, entry in mapped.items()}
    found = {
        "num_spatial_layers": (values["num_spatial_layers"], count_layers(mapped, "encoder.spatial.blocks.")),
        "num_temporal_layers": (values["num_temporal_layers"], count_layers(mapped, "encoder.temporal.blocks.")),
        "num_auxiliary_layers": (joint, count_joint(mapped)),
        "hidden_size and tubelet_size": (
            [values["hidden_size"], 3, *values["tubelet_size"]],
            shapes.get("tokenizer.proj.weight"),
        ),
        "intermediate_size": ([values["intermediate_size"]], shapes.get("encoder.spatial.blocks.0.mlp.fc1.bias")),
    }
    for name, (said, there) in found.items():
        if said != there:
            raise ValueError(f"config.json: {name} is {said!r}, and the tensors have {there!r}")
    cap, eps, heads = (values[x] for x in ("attn_logit_softcapping", "layer_norm_eps", "num_attention_heads"))
    numbers = {"attn_logit_softcapping": cap, "layer_norm_eps": eps, "num_attention_heads": heads}
    for name, value in numbers.items():
        if type(value) not in (int, float) or not value > 0 or (value is heads and type(value) is not int):
            raise ValueError(f"config.json: {name} is {str(value)[:60]}; it is a number above 0")
    if values["hidden_size"] % heads:
        raise ValueError(f"config.json: {heads} num_attention_heads do not divide hidden_size {values['hidden_size']}")
    if type(values["apply_l2norm"]) is not bool:
        raise ValueError(f"config.json: apply_l2norm is {str(values['apply_l2norm'])[:60]}; it is true or false")
    size = parse_size(values["image_size"])
    if size is None:
        raise ValueError(f"config.json: image_size is {str(values['image_size'])[:60]}; it is a side or (H, W)")
    out = {
        "activation": ACTIVATIONS[values["hidden_act"]],
        "attn_logit_cap": float(cap),
        "norm_eps": eps,
        "num_heads": heads,
        "image_size": size,
        "num_frames": values["num_frames"],
        "apply_l2norm": values["apply_l2norm"],
    }
    names = class_names(json_object(values, "id2label"))
    return out | ({"classes": {"label": names}} if names else {})


def check_biases(values: Mapping[str, Any], mapped: Mapping[str, MappedTensor]) -> None:
    """Check that biases of queries, keys and values are in the file only if config.json says so. Raises ValueError."""
    biases = [entry.sources[0] for name, entry in mapped.items() if re.fullmatch(r".*\.[qkv]\.bias", name)]
    if biases and not values["qkv_bias"]:
        raise ValueError(f"config.json: qkv_bias is {values['qkv_bias']}; the file has {biases[0]}")


def count_layers(names: Mapping[str, object], start: str) -> int:
    """Count the layers whose names begin with `start` and a number."""
    return len({m[1] for name in names if (m := re.match(re.escape(start) + r"(\d+)\.", name))})


def count_joint(names: Mapping[str, object]) -> int:
    """Count the layers over all tokens of the clip."""
    return count_layers(names, "encoder.temporal.joint.")


def fold_norms(mapped: dict[str, MappedTensor]) -> None:
    """Add 1 to the scale of every norm, in place: the file has scale - 1."""
    for name in [name for name in mapped if re.search(r"norm\d?\.weight$", name)]:
        entry = mapped[name]
        mapped[name] = MappedTensor(entry.tensor.float() + 1, entry.sources, reason="the file has scale - 1")


def fold_pool(mapped: dict[str, MappedTensor], num_heads: int) -> None:
    """Project and scale the query of the attention pooling, and fuse keys and values, in place.

    The scores of VideoPrism are q · softplus(scale) · log2(e) / √k, where ours are q / √k.
    """
    names = ["query", "per_dim_scale", *(f"{x}.weight" for x in "qkv")]
    if missing := [name for name in names if POOL + name not in mapped]:
        raise ValueError(f"{POOL}{missing[0]} is not in the file")
    scale, query, weight = (mapped.pop(POOL + x) for x in ("per_dim_scale", "query", "q.weight"))
    biases = {x: mapped.pop(f"{POOL}{x}.bias", None) for x in "qkv"}
    bias = None if biases["q"] is None else biases["q"].tensor.double()
    projected = F.linear(query.tensor.double(), weight.tensor.double(), bias)
    factor = F.softplus(scale.tensor.double()) * R_SOFTPLUS_0
    folded = (projected.unflatten(2, (num_heads, -1)) * factor).flatten(2).float()
    used = [x.sources for x in (query, weight, biases["q"], scale) if x is not None]
    mapped[f"{POOL}query"] = MappedTensor(folded, tuple(sum(used, ())), reason="projected and scaled")
    parts = [mapped.pop(f"{POOL}{x}.weight") for x in "kv"]
    sources = tuple(name for part in parts for name in part.sources)
    mapped[f"{POOL}kv.weight"] = MappedTensor(torch.cat([part.tensor for part in parts]), sources)
    zeros = parts[0].tensor.new_zeros(len(parts[0].tensor))
    kept = [biases[x] for x in "kv"]
    values = torch.cat([zeros if entry is None else entry.tensor for entry in kept])
    sources = tuple(name for entry in kept if entry is not None for name in entry.sources)
    mapped[f"{POOL}kv.bias"] = MappedTensor(values, sources, "loaded" if sources else "initialised")


R_SOFTPLUS_0 = 1.442695041  # 1 / softplus(0), to the digits of the official code


def map_flax(
    tensors: Mapping[str, Tensor], rules: Rules, ignore: Rules
) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """Return (tensors by our names, ignored names with their reasons) of the official .npz. Raises ValueError."""
    renamed = {flax_leaf(name): name for name in tensors}
    if len(renamed) < len(tensors):
        raise ValueError("two arrays of the file have names that mean the same")
    stacked, ignored = map_names({name: tensors[old] for name, old in renamed.items()}, rules, ignore)
    mapped: dict[str, MappedTensor] = {}
    for name, entry in stacked.items():
        sources = (renamed[entry.sources[0]],)
        layers = entry.tensor.unbind() if LAYERS in name else [entry.tensor]
        for i, layer in enumerate(layers):
            mapped[name.replace(LAYERS, str(i))] = MappedTensor(from_flax(name, layer), sources)
    return mapped, {renamed[name]: why for name, why in ignored.items()}


def flax_leaf(name: str) -> str:
    """Rename the last part of a name of the Flax file to weight or bias."""
    return re.sub(r"/b$", "/bias", re.sub(r"/(scale|kernel|w)$", "/weight", name))


def from_flax(name: str, x: Tensor) -> Tensor:
    """Bring the array of one parameter into PyTorch's layout."""
    if name == "tokenizer.proj.weight":  # (p·p·3, D), rows by height, width, channel
        side = math.isqrt(x.shape[0] // 3)
        if x.ndim != 2 or side * side * 3 != x.shape[0]:
            raise ValueError(f"the patch kernel has shape {tuple(x.shape)}; expected (3 p², D)")
        return x.reshape(side, side, 3, -1).permute(3, 2, 0, 1).unsqueeze(2)
    if name.endswith("pos_embed"):
        return x[None]
    if name in (f"{POOL}query", "cls_token"):
        return x.reshape(1, 1, -1)
    if name == "token_embed.weight":
        return x
    if re.search(r"\.proj\.weight$", name):  # (D, a, k), from heads to D
        return x.flatten(1)
    if re.search(r"[.][qkv]\.weight$", name):  # (D, a, k), from D to the heads
        return x.flatten(1).T
    if re.search(r"\.(fc[12]|head)\.weight$|^head\.weight$", name):
        return x.T
    return x.flatten()


def flax_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return fields of ModelConfig that the shapes of the official .npz and the official code say."""
    shapes = {ours: x.shape for name, x in tensors.items() if (ours := apply_rules(flax_leaf(name), FLAX))}
    needed = (f"encoder.spatial.blocks.{LAYERS}.attn.q.weight", "encoder.spatial.pos_embed", "tokenizer.proj.weight")
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"no {missing[0]} in the file; it is not a complete VideoPrism")
    query, positions, kernel = (shapes[name] for name in needed)
    side = math.isqrt(positions[0]) * math.isqrt(kernel[0] // 3)
    return {
        "activation": "gelu",
        "attn_logit_cap": 50.0,
        "norm_eps": 1e-6,
        "num_heads": query[2],
        "image_size": (side, side),
    }
