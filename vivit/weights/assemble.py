"""From the tensors of a source to a filled model: nothing unexplained, nothing half-loaded.

A reader turns a file into a `Source`, whose pieces carry our names. An image ViT is a Model 1 of one frame with
tubelets of depth 1, so that images and videos have the same names. `fill` builds the model and says what it did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import WeightsError
from ..model.vivit import Normalize, ViViT, init_weights
from .load_report import LoadReport, Row, Status, rows_once


@dataclass(frozen=True)
class MappedTensor:
    """A tensor on its way into the model."""

    tensor: Tensor
    sources: tuple[str, ...]
    """Its names in the source; several where projections are fused, none where the value follows from the format."""
    status: Status = "loaded"
    reason: str = ""


@dataclass
class Source:
    """A checkpoint, read."""

    path: str
    format: str
    pieces: dict[str, MappedTensor]
    ignored: dict[str, str] = field(default_factory=dict)
    """Tensors that have no place in a ViViT, with the reason."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that the file, or its format, determines."""
    fresh: dict[str, str] = field(default_factory=dict)
    """Beginnings of the names of parameters that this format never has, with the reason."""
    inexact: list[str] = field(default_factory=list)
    """Why a ViViT with these weights is not the original: good to start from, not the same model."""
    image: bool = False
    """An image model: one frame, and a square grid where nothing else is said."""
    sine_positions: bool = False
    """The positions are fixed sines, which the file does not hold."""
    notes: list[str] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    """Every tensor of the file; `fill` refuses to lose one."""


# Tables of names are regular expressions for the whole name and what becomes of it.
Rules = Mapping[str, str]


# Parts that other vision transformers have and a ViViT lacks, by the names of their tensors.
FEATURES: Rules = {
    r".*\b([qk]_norm)\..*": "normalised queries and keys",
    r".*rel(ative)?_pos.*": "relative positions",
    r".*(rope|freqs).*": "rotary positions",
    r".*mlp\.(w\d+|fc\d_[gx]|gate\w*|up_proj|down_proj)\..*": "a gated MLP (SwiGLU)",
    r".*\bmlp\.norm\..*|.*\battn\.(sub_)?norm\..*|.*\bin(ner)?_attn_ln\..*|.*\bffn_ln\..*": "norms inside the branches",
    r".*norm_pre\..*|.*pre_layrnorm\..*": "a norm before the first block",
    r".*(attn_pool|MAPHead).*": "attention pooling",
    r".*patch_embed\.(backbone|norm|conv)\b.*": "a convolutional stem or a norm in the patch embedding",
    r".*\b(attns|ffns|in_proj|attn_out_proj|mlp_out_proj)\..*": "attention and MLP in parallel",
    r".*\b[qkv]_bias|.*\bq_proj\..*|.*\bgamma_?[123]": "blocks of BEiT, EVA or DINOv3",
    r".*\blambda_\w+": "differential attention",
    r".*(attn_time|time_embed|temporal_attn|temporal_embedding|norm_time).*": "attention over time inside the blocks",
    r".*neck\..*": "a neck",
}


def rename(
    tensors: Mapping[str, Tensor], rules: Rules, ignore: Rules
) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """(pieces by our names, ignored names with their reasons).

    Raises ValueError for names that neither table knows and for two tensors with one place.
    """
    pieces: dict[str, MappedTensor] = {}
    ignored: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        ours = first_match(name, rules)
        if ours is not None and ours in pieces:
            raise ValueError(f"{name} and {pieces[ours].sources[0]} are both {ours}")
        if ours is not None:
            pieces[ours] = MappedTensor(tensor, (name,))
        elif (why := first_match(name, ignore)) is not None:
            ignored[name] = why
        else:
            unknown.setdefault(first_match(name, FEATURES) or "", []).append(name)
    if unknown:
        raise ValueError(few([_no_place(names, feature) for feature, names in sorted(unknown.items(), reverse=True)]))
    return pieces, ignored


def _no_place(names: list[str], feature: str) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    why = f": a ViViT has no {feature}" if feature else ""
    return f"{', '.join(names[:4])}{more} has no place in this model{why}"


def first_match(name: str, rules: Rules) -> str | None:
    """What the first rule that matches the whole name makes of it."""
    return next((match.expand(new) for old, new in rules.items() if (match := re.fullmatch(old, name))), None)


def fuse_qkv(pieces: dict[str, MappedTensor]) -> None:
    """In place: `….q`, `….k` and `….v` become `….qkv`, each as weight and bias, fused in the file or not.

    A bias that no block has is zero, which is the same function. Raises ValueError for a part that is missing.
    """
    stems = [m[1] for name in pieces if (m := re.fullmatch(r"(.+\.)(?:q|qkv)\.weight", name))]
    biases = {stem: tuple(x for x in ("qkv", *"qkv") if f"{stem}{x}.bias" in pieces) for stem in stems}
    for stem in stems:
        if biases[stem] != biases[stems[0]]:
            one, other = (f"{name}: {', '.join(biases[name]) or 'none'}" for name in (stems[0], stem))
            raise ValueError(f"not every block has the same biases of queries, keys and values ({one}; {other})")
        if "qkv" in biases[stem] and len(biases[stem]) > 1:
            raise ValueError(f"{stem}qkv.bias stands there twice, fused and in parts")
        if f"{stem}qkv.weight" not in pieces:
            if missing := [x for x in "qkv" if f"{stem}{x}.weight" not in pieces]:
                raise ValueError(f"{stem}{missing[0]}.weight, a part of qkv.weight, is not in the source")
            weights = [pieces.pop(f"{stem}{x}.weight") for x in "qkv"]
            pieces[f"{stem}qkv.weight"] = MappedTensor(torch.cat([p.tensor for p in weights]), _sources(weights))
        if "qkv" not in biases[stem]:
            parts = [pieces.pop(f"{stem}{x}.bias", None) for x in "qkv"]
            have, weight = [p for p in parts if p is not None], pieces[f"{stem}qkv.weight"].tensor
            zero = weight.new_zeros(weight.shape[0] // 3)
            none = ", ".join(x for x, p in zip("qkv", parts) if p is None)
            bias = torch.cat([zero if p is None else p.tensor for p in parts])
            why = f"no bias for {none}: zero" if none else ""
            pieces[f"{stem}qkv.bias"] = MappedTensor(bias, _sources(have), "loaded" if have else "initialised", why)


def _sources(pieces: Iterable[MappedTensor]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for piece in pieces for name in piece.sources))


def fill(
    config: ModelConfig,
    source: Source,
    pieces: Mapping[str, MappedTensor],
    *,
    fresh: Mapping[str, str],
    ignored: Mapping[str, str],
) -> ViViT:
    """A model with `pieces` for parameters; those whose name begins with a key of `fresh` may start at random.

    The parameters are the pieces' own memory, mapped from the file where it can be: weights are never held twice.
    Raises WeightsError for tensors that do not fit, are missing, are not finite, or of which no row says what became.
    """
    with torch.device("meta"):
        model = ViViT(config)
    parameters = dict(model.named_parameters())
    reasons = {name: next((why for start, why in fresh.items() if name.startswith(start)), None) for name in parameters}
    missing = [name for name in parameters if name not in pieces]
    problems = [f"{name} is not in the source" for name in missing if reasons[name] is None]
    tensors: dict[str, Tensor] = {}
    for name, piece in pieces.items():
        origin = f"{name} (from {', '.join(piece.sources)})" if piece.sources not in ((), (name,)) else name
        if name not in parameters:
            problems.append(f"{origin} has no place in this model")
        elif piece.tensor.shape != parameters[name].shape:
            expected, got = tuple(parameters[name].shape), tuple(piece.tensor.shape)
            problems.append(f"{origin} has shape {got}; this model takes {expected}")
        elif not piece.tensor.is_floating_point():
            problems.append(f"{origin} holds {str(piece.tensor.dtype).removeprefix('torch.')} numbers, no weights")
        else:
            tensors[name] = piece.tensor.to(torch.float32).contiguous()
            if not is_finite(tensors[name]):
                problems.append(f"{origin} holds NaN or Inf (as float32)")
    if problems:
        raise WeightsError(f"{source.path}: cannot load this {source.format}: {few(problems)}")
    rows = [Row(p.status, p.sources, (name,), p.reason) for name, p in pieces.items()]
    rows += [Row("initialised", (), (name,), reasons[name] or "") for name in missing]
    rows += [Row("ignored", (name,), (), why) for name, why in (source.ignored | dict(ignored)).items()]
    if lost := sorted(source.names.difference(*(row.sources for row in rows))):
        raise WeightsError(f"{source.path}: this {source.format} has tensors that no rule reads: {few(lost)}")

    for name in missing:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Parameter(torch.empty(parameters[name].shape)))
    init_weights(model)  # the parameters that are still on the meta device take no values and no random numbers
    model.load_state_dict(tensors, strict=not missing, assign=True)
    model.normalization = Normalize(config.preprocessing)

    model.load_report = LoadReport(source.path, source.format, rows_once(rows), tuple(source.notes))
    return model


def is_finite(tensor: Tensor) -> bool:
    """Neither NaN nor Inf, in one pass and without a copy."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)  # NaN if any element is
    return bool(torch.isfinite(low) and torch.isfinite(high))


def few(items: list[str], most: int = 5) -> str:
    """A list for an error message: the first ones, and how many more."""
    more = f" … and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more
