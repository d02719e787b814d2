"""Read the text tower of a VideoPrism video-text model and its tokenizer; classify videos by names of classes alone."""

from __future__ import annotations

import dataclasses
import math
import os
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..model.text import TextConfig, TextTower
from ..model.vivit import ViViT
from . import formats
from .assemble import MappedTensor, apply_rules, fuse_qkv, is_finite, map_names
from .config_fields import check_fields
from .huggingface import json_object
from .load import from_pretrained, weights_errors
from .videoprism import (
    BLOCK_MODULES,
    FLAX_LEAF,
    LAYERS,
    LEAF,
    check_biases,
    count_layers,
    flax_leaf,
    fold_norms,
    map_flax,
)

HUGGINGFACE: dict[str, str] = {
    r"text_model\.embeddings\.cls_emb": "cls_token",
    r"text_model\.embeddings\.position_embedding": "pos_embed",
    r"text_model\.embeddings\.token_embedding\.weight": "token_embed.weight",
    r"text_model\.layernorm" + LEAF: r"norm.\1",
    **{
        rf"text_model\.layers\.(\d+)\.{theirs.replace('.', r'[.]')}{LEAF}": rf"blocks.\1.{ours}.\2"
        for ours, (theirs, _) in BLOCK_MODULES.items()
    },
}
FLAX: dict[str, str] = {
    r"params/text_encoder/cls_emb": "cls_token",
    r"params/text_encoder/token_emb/emb_var": "token_embed.weight",
    r"params/text_encoder/unimodal_ln" + FLAX_LEAF: r"norm.\1",
    **{
        rf"params/text_encoder/unimodal_transformer/x_layers/{theirs}{FLAX_LEAF}": rf"blocks.{LAYERS}.{ours}.\1"
        for ours, (_, theirs) in BLOCK_MODULES.items()
    },
}
OTHERS = {
    r"text_model\.embeddings\.position_ids": "0, 1, 2, …",
    r"(?!text_model\.|params/text_encoder/).+": "video tower",
}
DEFAULTS: dict[str, Any] = {  # of transformers
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-6,
    "apply_l2norm": True,
    "qkv_bias": True,
    "attn_logit_softcapping": 50.0,
}
TEMPERATURE = 0.01  # of the authors' demo
TEMPLATE = "a video of {}"  # of the authors' demo
EXTRA = "pip install 'vivit[text]'"

Tokenize = Callable[[str], list[int]]


def zero_shot(
    source: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    template: str = TEMPLATE,
    temperature: float = TEMPERATURE,
) -> ViViT:
    """Return a classifier of the `classes`, in words, from a VideoPrism video-text model; nothing is trained.

    The rows of its head are the vectors of the texts, `template` with each class, divided by `temperature`. So logits
    are cosines / temperature, and the model is an ordinary one for prediction, timelines and export. `source` is a
    folder, a file or a hub id with tokenizer.json or a SentencePiece model next to the weights.

    Raises ValueError for classes that are no texts, WeightsError for weights without a text tower, FileNotFoundError
    for a missing tokenizer and ImportError without the extra `text`.
    """
    if isinstance(classes, str) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'classes is {classes!r}; pass two or more texts, ["a person runs", "a person jumps"]')
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it is a number above 0")
    tower = load_text_tower(source)
    model = from_pretrained(source, classes=list(classes))
    if not model.config.unit_features or model.config.num_features != tower.config.embed_dim:
        raise WeightsError(f"{source}: a text tower without a video tower that belongs to it")
    ids, is_token = tokenize([template.format(name) for name in classes], load_tokenizer(source), tower.config)
    with torch.inference_mode():
        vectors = tower(ids, is_token) / temperature
    model.head.weight.data.copy_(vectors)
    if model.load_report is not None:
        note = f"head: vectors of {template!r} with each class / {temperature}"
        model.load_report = dataclasses.replace(model.load_report, notes=(*model.load_report.notes, note))
    return model


def load_text_tower(source: str | os.PathLike[str]) -> TextTower:
    """Load the text tower of a video-text model, in evaluation mode. Raises WeightsError and FileNotFoundError."""
    formats.check_source(source)
    with weights_errors(source):
        files = formats.read_files(source)
        if not any(name.startswith(("text_model.", "params/text_encoder/")) for name in files.tensors):
            raise ValueError(
                "no text tower in the file, so classes cannot be given in words; the videoprism-lvt models have one"
            )
        if any(name.startswith("params/") for name in files.tensors):
            mapped, _ = map_flax(files.tensors, FLAX, OTHERS)
            config = flax_config(files.tensors)
            mapped["pos_embed"] = MappedTensor(official_positions(config), ())
        else:
            mapped, _ = map_names(files.tensors, HUGGINGFACE, OTHERS)
            config = read_config(mapped, files.configs.get("config.json"))
        fold_norms(mapped)
        fuse_qkv(mapped)
        if broken := [name for name, entry in mapped.items() if not is_finite(entry.tensor)]:
            raise ValueError(f"{broken[0]} holds NaN or Inf")
        tower = TextTower(config)
        tower.load_state_dict({name: entry.tensor.float() for name, entry in mapped.items()})
        return tower.eval().requires_grad_(False)


def read_config(mapped: Mapping[str, MappedTensor], config: Mapping[str, Any] | None) -> TextConfig:
    """Return the config of a text tower from config.json. Raises ValueError for what it does not know."""
    theirs = json_object(config or {}, "text_config")
    if config is None:
        raise ValueError("no config.json next to the weights; the text tower needs it")
    check_fields(theirs, DEFAULTS.keys(), "text_config of config.json")
    values = DEFAULTS | dict(theirs)
    if values["hidden_act"] != "relu":
        raise ValueError(f"config.json: hidden_act of the text tower is {values['hidden_act']!r}; it is 'relu'")
    check_biases(values, mapped)
    layers = count_layers(mapped, "blocks.")
    if values["num_hidden_layers"] != layers:
        raise ValueError(f"config.json: num_hidden_layers is {values['num_hidden_layers']}; the file has {layers}")
    if values["hidden_size"] % values["num_attention_heads"]:
        raise ValueError("config.json: num_attention_heads of the text tower does not divide hidden_size")
    return TextConfig(
        vocabulary=values["vocab_size"],
        embed_dim=values["hidden_size"],
        depth=layers,
        num_heads=values["num_attention_heads"],
        hidden=values["intermediate_size"],
        max_tokens=values["max_position_embeddings"],
        norm_eps=values["layer_norm_eps"],
        attn_logit_cap=float(values["attn_logit_softcapping"]),
        unit_length=values["apply_l2norm"],
    )


def flax_config(tensors: Mapping[str, Tensor]) -> TextConfig:
    """Return the config that the shapes of the official .npz and the official code say."""
    shapes = {ours: x.shape for name, x in tensors.items() if (ours := apply_rules(flax_leaf(name), FLAX))}
    vocabulary, width = shapes["token_embed.weight"]
    depth, _, heads, _ = shapes[f"blocks.{LAYERS}.attn.q.weight"]
    return TextConfig(vocabulary, width, depth, heads, hidden=shapes[f"blocks.{LAYERS}.mlp.fc1.bias"][1])


def official_positions(config: TextConfig) -> Tensor:
    """Return the fixed positions (n, D) of the official code: sines, then cosines, of frequencies from 1 to 1e-4.

    transformers has slightly other frequencies, 1e-4^(i / half) instead of 1e-4^(i / (half - 1)); its files hold them.
    """
    half = config.embed_dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float64) * -(math.log(1e4) / max(half - 1, 1)))
    angles = torch.arange(config.max_tokens, dtype=torch.float64)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


def canonical(text: str) -> str:
    """Return a text as the model was trained on: lower case, no punctuation, single spaces, a period at the end."""
    spaces = str.maketrans(dict.fromkeys(string.punctuation, " "))
    return " ".join(text.translate(spaces).lower().split()) + "."


def tokenize(texts: Sequence[str], encode: Tokenize, config: TextConfig) -> tuple[Tensor, Tensor]:
    """Return token ids (B, n) int64 and whether they are tokens (B, n) or padding. Raises ValueError for no words."""
    ids = torch.zeros(len(texts), config.max_tokens, dtype=torch.int64)
    is_token = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(texts):
        found = encode(canonical(text))[: config.max_tokens]
        if not found or max(found) >= config.vocabulary:
            raise ValueError(f"{text!r} gives the tokens {found[:8]}; the model knows {config.vocabulary} of them")
        ids[row, : len(found)], is_token[row, : len(found)] = torch.tensor(found), True
    return ids, is_token


def load_tokenizer(source: str | os.PathLike[str]) -> Tokenize:
    """Return the tokenizer next to the weights: tokenizer.json, or a SentencePiece model (.model).

    Raises FileNotFoundError, WeightsError for a broken file and ImportError without the extra `text`.
    """
    path = formats.local_path(source)
    folder = path if path.is_dir() else path.parent
    if (file := folder / "tokenizer.json").is_file():
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"{file} needs the package tokenizers: {EXTRA}") from error
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exceptions
            raise WeightsError(f"{file}: not a tokenizer ({formats.first_line(error)})") from error
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    if len(models := sorted(folder.glob("*.model"))) != 1:
        raise FileNotFoundError(
            f"{folder}: no tokenizer.json and {len(models) or 'no'} SentencePiece models (*.model); bring the official "
            "one, gs://t5-data/vocabs/cc_en.32000/sentencepiece.model, into this folder"
        )
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError(f"{models[0]} needs the package sentencepiece: {EXTRA}") from error
    try:
        pieces = SentencePieceProcessor(model_file=str(models[0]))
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{models[0]}: not a SentencePiece model ({formats.first_line(error)})") from error
    start = [pieces.bos_id()] if pieces.bos_id() >= 0 else []
    return lambda text: start + pieces.encode(text)
