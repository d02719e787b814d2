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
from .config_fields import READ, UNUSED, check_fields, check_shapes
from .image_vit import CLIP_PIXELS, HALF, IMAGENET, finish_image, json_object, parse_size, parse_triple

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

# What transformers assumes where config.json says nothing. Of the sizes the second table holds, a checkpoint without
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

USUAL = {"num_attention_heads": 12, "image_size": 224, "num_hidden_layers": 12}
SIZES: dict[str, dict[str, Any]] = {kind: dict(USUAL) for kind in DEFAULTS}
SIZES["vivit"]["num_frames"] = 32
SIZES["videomae"]["num_frames"] = 16
SIZES["vjepa2"] = {"num_attention_heads": 16, "num_hidden_layers": 24, "num_pooler_layers": 3}
SIZES["dinov3_vit"]["num_attention_heads"] = 6

# Settings for biases: (our names of them, what transformers assumes where config.json says nothing)
BLOCKS = r"encoder\.blocks\.\d+\."
Biases = dict[str, tuple[str, bool]]
QKV_BIASES: Biases = {"qkv_bias": (BLOCKS + r"attn\.(?:[qkv]|qkv)\.bias", True)}
BIASES: dict[str, Biases] = {
    **dict.fromkeys(("vivit", "vit", "deit", "dinov2", "dinov2_with_registers", "vjepa2"), QKV_BIASES),
    "videomae": dict.fromkeys(("qv_bias", "qkv_bias"), (BLOCKS + r"attn\.[qv]\.bias", True)),
    "dinov3_vit": {
        **{f"{name}_bias": (rf"{BLOCKS}attn\.{name[0]}\.bias", name != "key") for name in ("query", "key", "value")},
        "proj_bias": (BLOCKS + r"attn\.proj\.bias", True),
        "mlp_bias": (BLOCKS + r"mlp\.fc[12]\.bias", True),
    },
}

# Our names → (what they are, the model types that have them)
DINO_2 = ("dinov2", "dinov2_with_registers")
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    r"encoder\.cls_token": ("a class token", ("vivit", "vit", "deit", *DINO_2, "dinov3_vit", "clip")),
    r"dist_token": ("a distillation token", ("deit",)),
    BLOCKS + r"ls[12]\.gamma": ("layer scales", (*DINO_2, "dinov3_vit")),
    r"encoder\.norm_pre\.weight": ("a norm before the first block (pre_layrnorm)", ("clip",)),
    r"tokenizer\.proj\.bias": ("a bias of the patches", tuple(kind for kind in DEFAULTS if kind != "clip")),
}
REGISTERS = {"dinov2_with_registers": 4, "dinov3_vit": 0}  # as transformers assumes

# Mean and std of a model type that comes without a processor's file, and of a processor that does not say them
PIXELS = {"clip": CLIP_PIXELS, **dict.fromkeys(("videomae", "deit", *DINO_2, "dinov3_vit", "vjepa2"), IMAGENET)}
PROCESSOR_PIXELS = {"CLIP": CLIP_PIXELS, "Bit": CLIP_PIXELS, "DINOv3ViT": IMAGENET, "VJEPA2": IMAGENET}
PROCESSOR_PIXELS |= dict.fromkeys(("ViT", "DeiT", "Siglip", "VideoMAE", "Vivit"), HALF)
CROPPING = ("CLIP", "Bit", "DeiT", "VideoMAE", "Vivit", "VJEPA2")  # processors that crop unless they say otherwise


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of a vision transformer of transformers."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in tensors)


def parse_huggingface(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    """Turn a state dict of ViViT, ViT, DeiT or DINOv2 with its JSON files into a Checkpoint. Raises ValueError."""
    theirs = configs.get("config.json", {})
    mapped, ignored = map_names(tensors, RULES, IGNORED)
    if "tokenizer.proj.weight" not in mapped:
        raise ValueError("no kernel of the patch embedding in the file; it is not a complete model")
    kind = theirs.get("model_type") or infer_kind(mapped)
    ours = Checkpoint(path, f"Hugging Face {kind}", mapped, ignored)
    ours.config, ours.notes = read_configs(path, kind, configs)
    check_config(kind, theirs, mapped)
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


def infer_kind(mapped: Mapping[str, MappedTensor]) -> str:
    """Infer the model type from the tensors, of a file without config.json."""
    if mapped["tokenizer.proj.weight"].tensor.ndim == 5:
        return "vivit"
    if "reg_token" in mapped:
        return "dinov2_with_registers"
    if any(name.endswith("ls1.gamma") for name in mapped):
        return "dinov2"
    return "deit" if "dist_token" in mapped else "vit"


def read_configs(path: str, kind: str, configs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """(fields of ModelConfig, notes) from config.json and the file of a processor. Raises ValueError."""
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
    pixels, processor = PIXELS.get(kind, HALF), find_processor(configs)
    if processor is None:
        out["preprocessing"] = dict(pixels)
        notes = [f"pixels: mean {pixels['mean']} and std {pixels['std']}, as usual for {kind}; no file of a processor"]
    else:
        out["preprocessing"], notes = read_processor(path, processor, pixels)
    if "config.json" not in configs:
        usual = f"{out['activation']} and norm_eps {out['norm_eps']}, which transformers assumes for {kind}"
        notes.append(f"{usual}; no config.json")
    return out, notes


def check_config(kind: str, theirs: Mapping[str, Any], mapped: Mapping[str, MappedTensor]) -> None:
    """Check that the file holds the tensors that a model of `kind` with this config.json has, and no others; and that
    every field of config.json is known.

    Names are ours, before LayerScale is folded and tokens are sorted. transformers initialises what is missing and
    leaves out what it does not expect: another model. Raises ValueError.
    """
    check_shapes(theirs, mapped)
    said = SIZES[kind] | dict(theirs) if theirs else {}
    counts = {"num_hidden_layers": count_blocks(mapped, "encoder.")}
    if kind == "vjepa2" and any(name.startswith("encoder.attention_pool.") for name in mapped):
        counts["num_pooler_layers"] = count_blocks(mapped, "encoder.pool_")
    for name, found in counts.items():
        if said.get(name, found) != found:
            raise ValueError(f"config.json: {name} is {str(said[name])[:60]}; the file has {found} blocks")
    for flag, (pattern, default) in BIASES.get(kind, {}).items():
        biases = [entry.sources[0] for name, entry in mapped.items() if re.fullmatch(pattern, name)]
        if biases and not theirs.get(flag, default):
            where = "is" if flag in theirs else "by default is"
            raise ValueError(f"config.json: {flag} {where} {theirs.get(flag, default)}; the file has {biases[0]}")
    for pattern, (what, kinds) in PARTS.items():
        there = [entry.sources[0] for name, entry in mapped.items() if re.fullmatch(pattern, name)]
        if there and kind not in kinds:
            raise ValueError(f"the file has {what} ({there[0]}), which a {kind} has not: is model_type right?")
        if not there and kind in kinds:
            raise ValueError(f"the file lacks {what}, which a {kind} has: is it complete, and model_type right?")
    registers = mapped["reg_token"].tensor.shape[-2] if "reg_token" in mapped else 0
    number = theirs.get("num_register_tokens", REGISTERS[kind] if theirs else registers) if kind in REGISTERS else 0
    if registers != number:
        raise ValueError(f"config.json: num_register_tokens is {number} for a {kind}; the file has {registers}")
    if gated := [name for name in ("use_gated_mlp", "use_swiglu_ffn") if theirs.get(name)]:
        raise ValueError(f"config.json: {gated[0]} is true: a gated MLP, which a ViViT has not")
    check_fields(theirs, READ[kind] | UNUSED[kind])  # last: of another model type, the parts above say more


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


def find_processor(configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the settings of the image or video processor, None if no file has them. Raises ValueError.

    As in transformers, an object in processor_config.json comes before a file of its own.
    """
    both = configs.get("processor_config.json", {})
    nested = [json_object(both, name) for name in ("image_processor", "video_processor")]
    files = [configs.get(name) for name in ("preprocessor_config.json", "video_preprocessor_config.json")]
    return next((settings for settings in (*nested, *files) if settings), None)


def read_processor(
    path: str, processor: Mapping[str, Any], pixels: Mapping[str, Any] = HALF
) -> tuple[dict[str, Any], list[str]]:
    """(fields of Preprocessing, notes): what the processor does to a pixel v, as (v / 255 − mean) / std.

    `pixels` has mean and std for a processor that says neither them nor its type. Transformers' ViViT processor first
    maps pixels to [−1, 1] and then takes 0.5 off and divides by 0.5: [−3, 1]. The weights were trained on [−1, 1],
    which is what they get here, with a warning.
    """
    kinds = ("image_processor_type", "video_processor_type", "feature_extractor_type")
    kind = str(next((processor[name] for name in kinds if processor.get(name)), ""))
    rescales, normalises = processor.get("do_rescale", True), processor.get("do_normalize", True)
    factor = processor.get("rescale_factor", 1 / 127.5 if kind.startswith("Vivit") else 1 / 255) * 255
    factor = factor if rescales else 255.0
    moves = processor.get("offset", kind.startswith("Vivit")) and (kind.startswith("Vivit") or not kind)
    offset = 1.0 if moves and rescales else 0.0
    usual = next((values for start, values in PROCESSOR_PIXELS.items() if kind.startswith(start)), pixels)
    mean, std = (
        parse_triple(processor.get(f"image_{name}") or usual[name], f"image_{name}") if normalises else (plain,) * 3
        for name, plain in (("mean", 0.0), ("std", 1.0))
    )
    notes = []
    if normalises and not (processor.get("image_mean") and processor.get("image_std")):
        notes.append(f"pixels: mean {mean} and std {std}; the processor's file does not say both")
    ours_mean = tuple(round((m + offset) / factor, 12) for m in mean)
    ours_std = tuple(round(s / factor, 12) for s in std)
    if all(abs(m - 0.75) < 1e-3 and abs(s - 0.25) < 1e-3 for m, s in zip(ours_mean, ours_std)):
        why = (
            "its preprocessor_config.json maps pixels to [-3, 1] (an offset to [-1, 1] and then mean and std of 0.5); "
            "the weights were trained on [-1, 1], so that is what this model does"
        )
        warnings.warn(f"{path}: {why}", stacklevel=2)
        notes.append(f"pixels: {why}")
        ours_mean, ours_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    crop = crop_fraction(processor, kind)
    return {"mean": ours_mean, "std": ours_std} | ({} if crop is None else {"crop_fraction": crop}), notes


def crop_fraction(processor: Mapping[str, Any], kind: str) -> float | None:
    """Return which part of a side the centre crop keeps after resizing, None where the processor does not say."""
    crops = processor.get("do_center_crop")
    if crops is None:
        crops = bool(processor.get("crop_size")) or kind.startswith(CROPPING)
    size = _side(processor.get("size"))
    if crops and (size is None or not processor.get("do_resize", True)):
        return None
    if not crops:
        return None if size is None and "do_center_crop" not in processor else 1.0
    crop = _side(processor.get("crop_size") or (256 if kind.startswith("VJEPA2") else 224))
    return None if crop is None or size is None else min(1.0, crop / size)


def _side(size: Any) -> int | None:
    """Return one side, the short one or the height, of a size in a processor's file, None if it has none."""
    side = size.get("shortest_edge", size.get("height")) if isinstance(size, Mapping) else size
    return side if type(side) is int and side > 0 else None


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
