"""Build a model from the tensors of a checkpoint, and account for every tensor.

A reader turns a file into a `Checkpoint`, whose tensors have the names of our parameters. An image ViT is a Model 1 of
one frame with tubelets of depth 1, so image and video models have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import WeightsError
from ..model.rope import fill_tables
from ..model.vivit import Normalize, ViViT, init_weights
from ..text import shorten_list
from .load_report import LoadReport, Row, Status, merge_rows


@dataclass(frozen=True)
class MappedTensor:
    """A tensor with the name and layout of a model parameter."""

    tensor: Tensor
    sources: tuple[str, ...]
    """Names in the file: several for fused projections, none for a value that follows from the format."""
    status: Status = "loaded"
    reason: str = ""


@dataclass
class Checkpoint:
    """The contents of a file of weights, in our names."""

    path: str
    format: str
    tensors: dict[str, MappedTensor]
    ignored: dict[str, str] = field(default_factory=dict)
    """Tensors that a ViViT does not have, with the reason."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that the file or its format determines."""
    newly_initialized: dict[str, str] = field(default_factory=dict)
    """Name prefixes of parameters that this format never has, with the reason."""
    inexact: list[str] = field(default_factory=list)
    """Why a ViViT with these weights computes something else than the original: usable as `init` only."""
    is_image: bool = False
    """An image model: one frame, and a square token grid unless the file says otherwise."""
    sine_positions: bool = False
    """The positions are fixed sinusoids, which the file does not contain."""
    unused_positions: bool = False
    """The file holds positions that V-JEPA adds and V-JEPA 2 does not use; only the user knows which of them it is."""
    interleaved_pairs: bool = False
    """Rotary pairs are the features (2i, 2i + 1) of a head, which loading permutes to (i, i + k / 2)."""
    notes: list[str] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    """All tensors of the file. `build_model` raises an error if one of them is neither used nor ignored."""


# Regular expression for a complete name → replacement
Rules = Mapping[str, str]


# Tensor names → the feature of other vision transformers that a ViViT lacks
UNSUPPORTED_FEATURES: Rules = {
    r".*\b([qk]_norm)\..*": "normalised queries and keys",
    r".*rel(ative)?_pos.*": "relative positions",
    r".*(rope|freqs).*": "rotary positions",
    r".*mlp\.(w\d+|fc\d_[gx]|gate\w*|up_proj|down_proj)\..*": "a gated MLP (SwiGLU)",
    r".*\bmlp\.norm\..*|.*\battn\.(sub_)?norm\..*|.*\bin(ner)?_attn_ln\..*|.*\bffn_ln\..*": "norms inside the branches",
    r".*norm_pre\..*": "a norm before the first block, but for CLIP of transformers",
    r".*(attn_pool|MAPHead).*": "attention pooling, but for SigLIP of transformers",
    r".*patch_embed\.(backbone|norm|conv)\b.*": "a convolutional stem or a norm in the patch embedding",
    r".*\b(attns|ffns|in_proj|attn_out_proj|mlp_out_proj)\..*": "attention and MLP in parallel",
    r".*\b[qkv]_bias|.*\bq_proj\..*|.*\bgamma_?[123]": "blocks of BEiT, EVA or DINOv3",
    r".*\blambda_\w+": "differential attention",
    r".*(attn_time|time_embed|temporal_attn|temporal_embedding|norm_time).*": "attention over time inside the blocks",
    r".*neck\..*": "a neck",
}


def map_names(
    tensors: Mapping[str, Tensor], rules: Rules, ignore: Rules
) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """Return (tensors by our names, ignored names with their reasons).

    Raises ValueError for names that neither table knows, and for two tensors with one name.
    """
    mapped: dict[str, MappedTensor] = {}
    ignored: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        ours = apply_rules(name, rules)
        if ours is not None and ours in mapped:
            raise ValueError(f"{name} and {mapped[ours].sources[0]} are both {ours}")
        if ours is not None:
            mapped[ours] = MappedTensor(tensor, (name,))
        elif (why := apply_rules(name, ignore)) is not None:
            ignored[name] = why
        else:
            unknown.setdefault(apply_rules(name, UNSUPPORTED_FEATURES) or "", []).append(name)
    if unknown:
        found = sorted(unknown.items(), reverse=True)
        raise ValueError(join([_unknown_names(names, feature) for feature, names in found]))
    return mapped, ignored


def _unknown_names(names: list[str], feature: str) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    why = f": a ViViT has no {feature}" if feature else ""
    return f"{', '.join(names[:4])}{more} has no place in this model{why}"


def apply_rules(name: str, rules: Rules) -> str | None:
    """Return the replacement by the first rule that matches the complete name, None where no rule does."""
    return next((match.expand(new) for old, new in rules.items() if (match := re.fullmatch(old, name))), None)


def fuse_qkv(mapped: dict[str, MappedTensor]) -> None:
    """Fuse `….q`, `….k` and `….v` to `….qkv` in place, weights and biases; tensors that are fused already stay.

    A bias that no block has becomes zero, which is the same function. Raises ValueError for a missing part.
    """
    stems = [m[1] for name in mapped if (m := re.fullmatch(r"(.+\.)(?:q|qkv)\.weight", name))]
    biases = {stem: tuple(x for x in ("qkv", *"qkv") if f"{stem}{x}.bias" in mapped) for stem in stems}
    for stem in stems:
        if biases[stem] != biases[stems[0]]:
            one, other = (f"{name}: {', '.join(biases[name]) or 'none'}" for name in (stems[0], stem))
            raise ValueError(f"not every block has the same biases of queries, keys and values ({one}; {other})")
        if "qkv" in biases[stem] and len(biases[stem]) > 1:
            raise ValueError(f"{stem}qkv.bias is in the file twice, fused and in parts")
        if f"{stem}qkv.weight" not in mapped:
            if missing := [x for x in "qkv" if f"{stem}{x}.weight" not in mapped]:
                raise ValueError(f"{stem}{missing[0]}.weight, a part of qkv.weight, is not in the file")
            weights = [mapped.pop(f"{stem}{x}.weight") for x in "qkv"]
            mapped[f"{stem}qkv.weight"] = MappedTensor(torch.cat([p.tensor for p in weights]), join_sources(weights))
        if "qkv" not in biases[stem]:
            parts = [mapped.pop(f"{stem}{x}.bias", None) for x in "qkv"]
            have, weight = [p for p in parts if p is not None], mapped[f"{stem}qkv.weight"].tensor
            zero = weight.new_zeros(weight.shape[0] // 3)
            none = ", ".join(x for x, p in zip("qkv", parts) if p is None)
            bias = torch.cat([zero if p is None else p.tensor for p in parts])
            why = f"no bias for {none}: zero" if none else ""
            mapped[f"{stem}qkv.bias"] = MappedTensor(bias, join_sources(have), "loaded" if have else "initialised", why)


def join_sources(mapped: Iterable[MappedTensor]) -> tuple[str, ...]:
    """Return the names in the file of all of `mapped`, each once."""
    return tuple(dict.fromkeys(name for entry in mapped for name in entry.sources))


def count_blocks(names: Iterable[str], start: str) -> int:
    """Count the blocks whose names start with `start`."""
    return len({m[1] for name in names if (m := re.match(re.escape(start) + r"blocks\.(\d+)\.", name))})


def build_model(
    config: ModelConfig,
    checkpoint: Checkpoint,
    tensors: Mapping[str, MappedTensor],
    *,
    newly_initialized: Mapping[str, str],
    ignored: Mapping[str, str],
) -> ViViT:
    """Build a model whose parameters are `tensors`.

    Parameters that are missing are initialised if their name starts with a key of `newly_initialized`; its value is the
    reason for the report, as in `ignored`. The parameters use the memory of `tensors`, which is mapped from the file
    where possible: weights are never in memory twice.

    Raises WeightsError for tensors that do not fit, are missing or not finite, and for tensors of the file that no rule
    reads.
    """
    with torch.device("meta"):
        model = ViViT(config)
    parameters = dict(model.named_parameters())
    missing = {
        name: next((why for prefix, why in newly_initialized.items() if name.startswith(prefix)), None)
        for name in parameters
        if name not in tensors
    }
    problems = [f"{name} is not in the file" for name, reason in missing.items() if reason is None]
    problems += [problem for name, entry in tensors.items() if (problem := _problem(name, entry, parameters.get(name)))]
    loaded = {} if problems else {name: entry.tensor.to(torch.float32).contiguous() for name, entry in tensors.items()}
    problems += [
        f"{_origin(name, tensors[name])} holds NaN or Inf (as float32)"
        for name in loaded
        if not is_finite(loaded[name])
    ]
    where = f"{checkpoint.path}: cannot load this {checkpoint.format}"
    if problems:
        raise WeightsError(f"{where}: {join(problems)}")
    rows = [Row(entry.status, entry.sources, (name,), entry.reason) for name, entry in tensors.items()]
    rows += [Row("initialised", (), (name,), reason or "") for name, reason in missing.items()]
    rows += [Row("ignored", (name,), (), reason) for name, reason in (checkpoint.ignored | dict(ignored)).items()]
    if unread := sorted(checkpoint.names.difference(*(row.sources for row in rows))):
        raise WeightsError(f"{where}: no rule reads its tensors {join(unread)}")

    for name in missing:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Parameter(torch.empty(parameters[name].shape)))
    init_weights(model)  # parameters on the meta device get no values and draw no random numbers
    model.load_state_dict(loaded, strict=not missing, assign=True)
    fill_tables(model)
    model.normalization = Normalize(config.preprocessing)

    model.load_report = LoadReport(checkpoint.path, checkpoint.format, merge_rows(rows), tuple(checkpoint.notes))
    return model


def _problem(name: str, entry: MappedTensor, parameter: Tensor | None) -> str | None:
    """Say why a tensor cannot become `parameter`, None where it can; parameter None means that the model has none."""
    tensor, origin = entry.tensor, _origin(name, entry)
    if parameter is None:
        return f"{origin} has no place in this model"
    if tensor.shape != parameter.shape:
        return f"{origin} has shape {tuple(tensor.shape)}; this model takes {tuple(parameter.shape)}"
    if not tensor.is_floating_point():
        return f"{origin} holds {str(tensor.dtype).removeprefix('torch.')} numbers, no weights"
    return None


def _origin(name: str, entry: MappedTensor) -> str:
    return f"{name} (from {', '.join(entry.sources)})" if entry.sources not in ((), (name,)) else name


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor has neither NaN nor Inf, in one pass and without a copy."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)  # NaN if any element is
    return bool(torch.isfinite(low) and torch.isfinite(high))


def join(items: Sequence[str], most: int = 5) -> str:
    """Join the first `most` items for an error message, and say how many more there are."""
    return "; ".join(shorten_list(items, most))
