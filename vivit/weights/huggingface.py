"""Read and write transformers' ViViT; read its ViT, DeiT and DINOv2.

Names are those of the hub (`encoder.layer.0.attention.attention.query`) or those of transformers 5
(`layers.0.attention.q_proj`). Files are written with the names of the hub, which every release loads.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import ModelConfig
from .assemble import Checkpoint, MappedTensor, count_blocks, fuse_qkv, map_names
from .image_vit import finish_image, json_object, parse_size, parse_triple

MODEL = r"(?:(?:vit|deit|dinov2|dinov2_with_registers|vivit)\.)?"
BLOCK = MODEL + r"(?:encoder\.layer|layers)\.(\d+)\."

# Our name → the hub's, which is written
MODULES: dict[str, str] = {
    "tokenizer.proj": "embeddings.patch_embeddings.projection",
    "encoder.cls_token": "embeddings.cls_token",
    "encoder.pos_embed": "embeddings.position_embeddings",
    "encoder.norm": "layernorm",
}

# Our name → the hub's, which is written, and that of transformers 5
BLOCK_MODULES: dict[str, tuple[str, str]] = {
    "norm1": ("layernorm_before", "norm1"),
    "norm2": ("layernorm_after", "norm2"),
    "attn.q": ("attention.attention.query", "attention.q_proj"),
    "attn.k": ("attention.attention.key", "attention.k_proj"),
    "attn.v": ("attention.attention.value", "attention.v_proj"),
    "attn.proj": ("attention.output.dense", "attention.o_proj"),
    "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
    "mlp.fc2": ("output.dense", "mlp.fc2"),
}


def block_rules(block: str) -> dict[str, str]:
    """Return the rules for parameters of blocks that match `block`, a pattern with a group for the number."""
    return {
        rf"{block}(?:{'|'.join(map(re.escape, names))})\.(weight|bias)": rf"encoder.blocks.\1.{ours}.\2"
        for ours, names in BLOCK_MODULES.items()
    }


RULES: dict[str, str] = {
    **{rf"{MODEL}{re.escape(name)}(|\.weight|\.bias)": rf"{ours}\1" for ours, name in MODULES.items()},
    MODEL + r"embeddings\.distillation_token": "dist_token",
    MODEL + r"embeddings\.register_tokens": "reg_token",
    r"(?:cls_)?classifier\.(weight|bias)": r"head.\1",
    BLOCK + r"layer_scale([12])\.lambda1": r"encoder.blocks.\1.ls\2.gamma",
    **block_rules(BLOCK),
}

IGNORED: dict[str, str] = {
    MODEL + r"pooler\.dense\.(weight|bias)": "pooler: the classifier does not use it",
    MODEL + r"embeddings\.mask_token": "mask token of the pre-training",
    r"distillation_classifier\.(weight|bias)": "head of the distillation token",
}

ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
ACTIVATIONS["quick_gelu"] = "quick_gelu"

# What transformers assumes where config.json says nothing. Of the sizes the second table holds, a file without
# config.json says nothing at all.
DEFAULTS: dict[str, dict[str, Any]] = {
    "vivit": {"hidden_act": "gelu_fast", "layer_norm_eps": 1e-6},
    "videomae": {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "vit": {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "deit": {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "dinov2_with_registers": {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "dinov3_vit": {"hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "vjepa2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "clip": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}

SIZES: dict[str, dict[str, Any]] = {kind: {"num_attention_heads": 12, "image_size": 224} for kind in DEFAULTS}
SIZES["vivit"]["num_frames"] = 32
SIZES["videomae"]["num_frames"] = 16
SIZES["vjepa2"] = {"num_attention_heads": 16}
SIZES["clip"] = SIZES["siglip"] = {"num_attention_heads": 12, "image_size": 224}
SIZES["dinov3_vit"] = {"num_attention_heads": 6, "image_size": 224}


def parse_huggingface(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict of ViViT, ViT, DeiT or DINOv2 with its JSON files into a Checkpoint. Raises ValueError."""
    theirs = configs.get("config.json", {})
    mapped, ignored = map_names(tensors, RULES, IGNORED)
    if "tokenizer.proj.weight" not in mapped:
        raise ValueError("no kernel of the patch embedding in the file; it is not a complete model")
    kind = theirs.get("model_type") or ("vivit" if mapped["tokenizer.proj.weight"].tensor.ndim == 5 else "vit")
    ours = Checkpoint(path, f"Hugging Face {kind}", mapped, ignored)
    ours.config, ours.notes = read_configs(path, kind, configs)
    if kind == "vivit":
        fuse_qkv(mapped)
        ours.config["tokenizer"] = "tubelet"
        return ours
    if "distillation_classifier.weight" in tensors:
        ours.inexact.append("it averages two heads")
    if kind.startswith("dinov2") and "head.weight" in mapped:
        ours.inexact.append("its head sees the mean of the patches as well")
    finish_image(ours, parse_size(ours.config.get("image_size")))
    return ours


def read_configs(path: str, kind: str, configs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """(fields of ModelConfig, notes) from config.json and preprocessor_config.json. Raises ValueError."""
    if not isinstance(kind, str) or kind not in DEFAULTS:
        raise ValueError(f"{path}: config.json is of a {str(kind)[:60]!r}; read are {', '.join(sorted(DEFAULTS))}")
    theirs = dict(DEFAULTS[kind])
    if "config.json" in configs:
        theirs |= SIZES[kind] | dict(configs["config.json"])
    if not isinstance(theirs["hidden_act"], str) or theirs["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {theirs['hidden_act']!r}; a ViViT has {', '.join(ACTIVATIONS)}")
    out: dict[str, Any] = {"activation": ACTIVATIONS[theirs["hidden_act"]]}
    numbers = {"layer_norm_eps": "norm_eps", "num_attention_heads": "num_heads", "num_frames": "num_frames"}
    for name, field in numbers.items():
        if name in theirs:
            allowed = (int, float) if field == "norm_eps" else (int,)
            if type(theirs[name]) not in allowed or not theirs[name] > 0:
                raise ValueError(f"config.json: {name} is {str(theirs[name])[:60]}; it is a number above 0")
            out[field] = theirs[name]
    if "image_size" in theirs:
        out["image_size"] = parse_size(theirs["image_size"])
        if out["image_size"] is None:
            raise ValueError(f"config.json: image_size is {str(theirs['image_size'])[:60]}; it is a side or (H, W)")
    if names := class_names(json_object(theirs, "id2label")):
        out["classes"] = {"label": names}
    processor = configs.get("preprocessor_config.json") or configs.get("video_preprocessor_config.json")
    if processor is None:
        return out, ["pixels: no preprocessor_config.json; mean and std 0.5"]
    out["preprocessing"], notes = read_processor(path, processor)
    return out, notes


def check_config(
    theirs: Mapping[str, Any], mapped: Mapping[str, MappedTensor], *, depth: str, pool_depth: str | None = None
) -> None:
    """Check that a config.json says as many blocks as the file holds; `depth` and `pool_depth` are its names for them.

    A file without its last block would be another model. Raises ValueError.
    """
    counts = {depth: count_blocks(mapped, "encoder.")}
    if pool_depth and any(name.startswith("encoder.attention_pool.") for name in mapped):
        counts[pool_depth] = count_blocks(mapped, "encoder.pool_")
    for name, found in counts.items():
        if theirs.get(name, found) != found:
            raise ValueError(f"config.json: {name} is {str(theirs[name])[:60]}; the file has {found} blocks")


def class_names(id2label: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of rows 0, 1, …, or () for placeholders such as LABEL_0 and for other row numbers.

    Repeated names (ImageNet has two cranes) get their row number.
    """
    names = {str(i): str(name) for i, name in id2label.items()}
    rows = [str(i) for i in range(len(names))]
    if set(names) != set(rows) or all(names[i] == f"LABEL_{i}" for i in rows):
        return ()
    counts = Counter(names.values())
    return tuple(f"{names[i]} ({i})" if counts[names[i]] > 1 else names[i] for i in rows)


def read_processor(path: str, processor: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(fields of Preprocessing, notes): what the processor does to a pixel v, as (v / 255 − mean) / std.

    Transformers' ViViT processor first maps pixels to [−1, 1] and then takes 0.5 off and divides by 0.5: [−3, 1]. The
    weights were trained on [−1, 1], which is what they get here, with a warning.
    """
    kind = str(processor.get("image_processor_type") or processor.get("video_processor_type") or "")
    rescale = processor.get("rescale_factor", 1 / 127.5 if kind.startswith("Vivit") else 1 / 255)
    factor = rescale * 255 if processor.get("do_rescale", True) else 255.0
    offset = 1.0 if processor.get("offset", kind.startswith("Vivit")) and processor.get("do_rescale", True) else 0.0
    normalises = processor.get("do_normalize", True)
    mean = parse_triple(processor.get("image_mean") or (0.5, 0.5, 0.5), "image_mean") if normalises else (0.0, 0.0, 0.0)
    std = parse_triple(processor.get("image_std") or (0.5, 0.5, 0.5), "image_std") if normalises else (1.0, 1.0, 1.0)
    ours_mean = tuple(round((m + offset) / factor, 6) for m in mean)
    ours_std = tuple(round(s / factor, 6) for s in std)
    notes = []
    if all(abs(m - 0.75) < 1e-3 and abs(s - 0.25) < 1e-3 for m, s in zip(ours_mean, ours_std)):
        why = (
            "its preprocessor_config.json maps pixels to [-3, 1] (an offset to [-1, 1] and then mean and std of 0.5); "
            "the weights were trained on [-1, 1], so that is what this model does"
        )
        warnings.warn(f"{path}: {why}", stacklevel=2)
        notes.append(f"pixels: {why}")
        ours_mean, ours_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    out: dict[str, Any] = {"mean": ours_mean, "std": ours_std}
    size, crop = processor.get("size"), processor.get("crop_size")
    if isinstance(size, Mapping) and isinstance(crop, Mapping) and "shortest_edge" in size and "height" in crop:
        out["crop_fraction"] = min(1.0, crop["height"] / size["shortest_edge"])
    return out, notes


def from_vivit(
    state: Mapping[str, Tensor], config: ModelConfig
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """(tensors, config.json, preprocessor_config.json) of transformers' VivitForVideoClassification.

    Raises ValueError for a model that transformers does not compute: it has Model 1 with a class token and tubelets.
    """
    needs = {"encoder": "spatiotemporal", "tokenizer": "tubelet", "pool": "cls"}
    needs |= {"attention_pool": False, "motion_pool": False, "positions": "learned", "num_registers": 0}
    needs |= {"norm_pre": False, "attn_logit_cap": None}
    if different := [f"{k}={getattr(config, k)!r}" for k, value in needs.items() if getattr(config, k) != value]:
        has = "transformers' ViViT is Model 1 with a class token and tubelets"
        raise ValueError(f"{has}; it has no {', '.join(different)}")
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, fused, leaf = name.rpartition("qkv.")
        parts = {f"{stem}{x}.{leaf}": t for x, t in zip("qkv", tensor.chunk(3))} if fused else {name: tensor}
        for ours, x in parts.items():
            out[_hub_name(ours)] = x.contiguous()
    p, names = config.preprocessing, [name for names in config.classes.values() for name in names]
    height, width = config.image_size
    theirs = {
        "architectures": ["VivitForVideoClassification"],
        "model_type": "vivit",
        "image_size": height if height == width else [height, width],
        "num_frames": config.num_frames,
        "tubelet_size": list(config.tubelet_size),
        "num_channels": 3,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": round(config.embed_dim * config.mlp_ratio),
        "hidden_act": {"gelu_tanh": "gelu_fast"}.get(config.activation, config.activation),
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    processor = {
        "image_processor_type": "VivitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(height / p.crop_fraction)},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 127.5,
        "offset": True,  # v / 127.5 − 1, which every release of the processor does, whatever it reads here
        "do_normalize": True,
        "image_mean": [2 * m - 1 for m in p.mean],
        "image_std": [2 * s for s in p.std],
    }
    return out, theirs, processor


def _hub_name(ours: str) -> str:
    """Return the hub's name of a parameter: the inverse of RULES."""
    stem, _, leaf = ours.rpartition(".")
    if ours in MODULES:
        return f"vivit.{MODULES[ours]}"
    if stem in MODULES:
        return f"vivit.{MODULES[stem]}.{leaf}"
    if stem == "head":
        return f"classifier.{leaf}"
    _, _, number, module = stem.split(".", 3)
    return f"vivit.encoder.layer.{number}.{BLOCK_MODULES[module][0]}.{leaf}"
