"""One door for weights: `from_pretrained` and `create`. The format is recognised by content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig, from_dict, replace, suggestion
from ..errors import WeightsError
from ..model.encoders import resize_positions
from ..model.vivit import ViViT
from ..presets import preset
from . import formats as files
from . import huggingface, image_vit, scenic, video_mae
from .assemble import MappedTensor, Source, few, fill
from .config_from_weights import check_sizes, infer_config
from .inflate import KernelInit, TemporalInit, inflate
from .save import FORMAT, VERSION, save_pretrained

__all__ = ["create", "from_pretrained", "read", "report", "save_pretrained"]

# What makes a model another model; from_pretrained changes none of it.
ARCHITECTURE = (
    "encoder",
    "tokenizer",
    "tubelet_size",
    "embed_dim",
    "depth",
    "temporal_depth",
    "temporal_skip",
    "num_heads",
    "mlp_ratio",
    "pool",
    "attention_order",
)
IMAGE_ARCHITECTURE = ("embed_dim", "depth", "num_heads", "mlp_ratio")
MOST_PIXELS = 224  # side of a frame that `adopt` takes over; positions of larger images are interpolated


def create(
    config_or_preset: str | ModelConfig,
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    init: str | os.PathLike | None = None,
    kernel_init: KernelInit = "central_frame",
    temporal_init: TemporalInit | None = None,
    official: bool = False,
    **overrides: Any,
) -> ViViT:
    """A model by the name of a preset or by its config; at random, or from the weights `init`.

    `init` is a file, a folder (also of a run) or a hub id: an image ViT, which is inflated (paper, section 3.4), or a
    video model of this architecture, whose head gives its rows to the classes of the same name. Its activation, norm
    epsilon and pixel normalisation come with it; `overrides` are fields of ModelConfig and go first. The model is in
    training mode.

    kernel_init: how a 2-D patch kernel becomes a tubelet's: central_frame, filter_inflation, arp or random.
    temporal_init: Model 2's temporal encoder, "random" (default) or "image", its first layers; Model 3's temporal
    attention, "zero" (default; the block starts as the image model's), "image" or "random".
    official: bit for bit what the official code does: positions resized with aligned corners, Model 2's class token and
    Model 3's temporal norms not taken from the image model.

    `model.load_report` says what happened to every tensor. Raises ValueError and FileNotFoundError.
    """
    config = preset(config_or_preset) if isinstance(config_or_preset, str) else config_or_preset
    config = replace(config, **overrides | _classes(classes))
    source = None if init is None else read(init)
    is_image = source is not None and _is_image(source, config)
    if not is_image and (kernel_init, temporal_init, official) != ("central_frame", None, False):
        raise ValueError("kernel_init, temporal_init and official say how an image model is inflated; init is not one")
    if source is None:
        return ViViT(config)
    given = {"num_heads": config.num_heads} if is_image else vars(config)
    source.image = is_image
    trained = _trained(source, given)
    config = _travel(source, trained, config, overrides)
    if not is_image:
        _same(source, trained, config, ARCHITECTURE)
        config = config if config.classes else replace(config, classes=trained.classes)
        with naming(source.path):
            return _fit(source, trained, config)
    _same_image(source, trained, config)
    with naming(source.path):
        pieces, fresh = inflate(
            source.pieces, trained, config, kernel_init=kernel_init, temporal_init=temporal_init, official=official
        )
        return fill(config, source, pieces, fresh=fresh, ignored=_left_out(source, pieces))


def from_pretrained(
    source: str | os.PathLike, *, classes: Mapping[str, Sequence[str]] | None = None, **overrides: Any
) -> ViViT:
    """The trained model in a folder (also of a run), a file or a hub id, in evaluation mode, whoever saved it.

    `overrides` are fields of ModelConfig. They say what the file cannot (a missing one is an error that names it), or
    change what a trained model lets change: image_size and num_frames (positions are interpolated), drop_path, dropout,
    preprocessing. With other `classes` than the source's, the head's rows go to the classes of the same name and the
    others start at zero; where the file has no names, `classes` names its rows in order. An image ViT loads as a model
    of one frame.

    `model.load_report` says what happened to every tensor. Raises ValueError and FileNotFoundError.
    """
    src = read(source)
    if src.inexact:
        raise WeightsError(
            f"{src.path}: this {src.format} is no ViViT: {', '.join(src.inexact)}. "
            "vivit.create(preset, init=…) starts from it"
        )
    wanted = {name: tuple(v) if isinstance(v, list) else v for name, v in overrides.items()} | _classes(classes)
    for name in wanted:
        if name not in vars(ModelConfig()):
            raise ValueError(f"unknown setting {name!r}{suggestion(name, vars(ModelConfig()))}")
    trained = _trained(src, wanted)
    config = replace(trained, **wanted)
    _same(src, trained, config, ARCHITECTURE)
    with naming(src.path):
        return _fit(src, trained, config).eval()


def config_for_init(source: str | os.PathLike, config: ModelConfig) -> ModelConfig:
    """`config` with the architecture of the weights `source`, for `create(…, init=source)`.

    Of a video model everything, without its classes. Of an image model width, depth, heads (64 wide where the file does
    not say), MLP, patches, pooling and frame size (at most 224 pixels); what concerns time stays as in `config`.
    Raises ValueError and FileNotFoundError.
    """
    src = read(source)
    src.image = _is_image(src, config)
    width = src.pieces["tokenizer.proj.weight"].tensor.shape[0]
    usual = {name: getattr(config, name) for name in ("num_frames", "image_size")}
    trained = _trained(src, {"num_heads": max(width // 64, 1)} | ({} if src.image else usual))
    if not src.image:
        return replace(trained, classes={}, drop_path=config.drop_path)
    t, (_, h, w) = config.tubelet_size[0], trained.tubelet_size
    size = tuple(min(side, MOST_PIXELS) // patch * patch for side, patch in zip(trained.image_size, (h, w)))
    same = {name: getattr(trained, name) for name in (*IMAGE_ARCHITECTURE, "pool")}
    return replace(config, tubelet_size=(t, h, w), image_size=size, **same)


def report(source: str | os.PathLike, *, preset: str | None = None, **options: Any) -> str:
    """What loading `source` does to every tensor, as text; with a `preset` as the start of that model."""
    model = create(preset, init=source, **options) if preset else from_pretrained(source, **options)
    return str(model.load_report)


def read(source: str | os.PathLike) -> Source:
    """The checkpoint in a run folder, a folder, a file or a hub id, by our names.

    Raises WeightsError and FileNotFoundError.
    """
    with naming(source):
        found = files.read(source)
        tensors = _without_wrappers(found.tensors)
        names = frozenset(tensors)
        src = _recognise(found.path, tensors, found.configs)
        src.names = names
        src.notes += found.notes
        return src


def _recognise(path: str, tensors: dict[str, Tensor], configs: Mapping[str, Mapping[str, Any]]) -> Source:
    if configs.get("config.json", {}).get("format") == FORMAT:
        return _own(path, tensors, configs["config.json"])
    if scenic.root(tensors) is not None:
        return scenic.source(path, tensors)
    if video_mae.is_original(tensors) or any(name.startswith("videomae.") for name in tensors):
        return video_mae.source(path, tensors, configs)
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in tensors):
        return huggingface.source(path, tensors, configs)
    if "patch_embed.proj.weight" in tensors:
        return image_vit.source(path, tensors, configs)
    if "tokenizer.proj.weight" in tensors:
        raise WeightsError(f"{path}: our own weights without their config.json; keep the two in one folder")
    raise WeightsError(
        f"{path}: neither a ViViT (ours, scenic, Hugging Face) nor an image ViT (timm, Hugging Face, DeiT, DINOv2, "
        f"JAX) nor a VideoMAE; it holds {few(list(tensors), 4)}"
    )


@contextmanager
def naming(source: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong inside with the content of `source` becomes a WeightsError that names it."""
    path = str(source)
    try:
        yield
    except (WeightsError, OSError):
        raise
    except ValueError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(path) else f"{path}: {text}") from error
    except Exception as error:  # a part is missing or has another type or shape than its name says
        what = f"{type(error).__name__} {files.shown(error)}"
        raise WeightsError(f"{path}: not a whole checkpoint: {what}. Download or save it again") from error


def _own(path: str, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Source:
    if config.get("version") != VERSION:
        raise WeightsError(f"{path}: config.json has version {config.get('version')!r}; this release reads {VERSION}")
    if not isinstance(config.get("model"), Mapping):
        raise WeightsError(f"{path}: config.json has no 'model', the settings of the model")
    pieces = {name: MappedTensor(tensor, (name,)) for name, tensor in tensors.items()}
    return Source(path, "ViViT", pieces, config=vars(from_dict(ModelConfig, config["model"])))


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, torch.compile and training loops put before all of them."""
    prefixes = ("module.", "_orig_mod.", "model.")
    while tensors and (found := [p for p in prefixes if all(name.startswith(p) for name in tensors)]):
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
    return tensors


def _classes(classes: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    return {} if classes is None else {"classes": {name: tuple(names) for name, names in classes.items()}}


def _trained(source: Source, given: Mapping[str, Any]) -> ModelConfig:
    """The config that the source was trained with; fixed positions, which no file holds, join the pieces."""
    with naming(source.path):
        own = source.format == "ViViT"
        config = replace(ModelConfig(), **source.config) if own else infer_config(source, given)
        check_sizes(source.pieces, config)
        if source.sine_positions:
            t, h, w = config.grid
            sines = video_mae.sine_positions(t * h * w, config.embed_dim)
            source.pieces["encoder.pos_embed"] = MappedTensor(sines, (), "initialised", "the fixed sines of VideoMAE")
        return config


def _is_image(source: Source, config: ModelConfig) -> bool:
    """Whether `source` is an image model, given that it is to start a model of `config`."""
    positions = source.pieces.get("encoder.pos_embed")
    if positions is None or source.config.get("tokenizer") != "uniform_frames" or "encoder" in source.config:
        return False
    t, h, w = config.grid
    sampled = config.tokenizer == "uniform_frames" and t > 1
    return not (sampled and positions.tensor.shape[1] - ("encoder.cls_token" in source.pieces) == t * h * w)


def _travel(source: Source, trained: ModelConfig, config: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """`config` with what the weights were trained with, as far as `overrides` do not say otherwise."""
    names = ["activation", "norm_eps"] + ["norm_after_pool"] * (config.pool == "mean")
    changes = {name: getattr(trained, name) for name in names if name not in overrides}
    if "preprocessing" not in overrides:
        pixels = {name: getattr(trained.preprocessing, name) for name in ("mean", "std")}
        changes["preprocessing"] = replace(config.preprocessing, **pixels)
    different = {name: value for name, value in changes.items() if getattr(config, name) != value}
    for name, value in different.items():
        source.notes.append(f"{name} comes from the source: {value}")
    return replace(config, **different)


def _same(source: Source, trained: ModelConfig, config: ModelConfig, names: Sequence[str]) -> None:
    """Raises ValueError where the two configs describe different models."""
    only = {"temporal_depth": "factorised_encoder", "temporal_skip": "factorised_encoder"}
    only |= {"attention_order": "factorised_self_attention"}
    different = [
        f"{name}={getattr(trained, name)!r}, not {getattr(config, name)!r}"
        for name in names
        if getattr(trained, name) != getattr(config, name)
        and (name not in only or trained.encoder == config.encoder == only[name])
    ]
    if different:
        raise WeightsError(f"{source.path}: this {source.format} has {'; '.join(different)}")


def _same_image(source: Source, trained: ModelConfig, config: ModelConfig) -> None:
    names = list(IMAGE_ARCHITECTURE)
    if config.encoder == "factorised_dot_product" and trained.num_heads % 2:
        names.remove("num_heads")
        source.notes.append(
            f"num_heads: {trained.num_heads} in the image model, {config.num_heads} here, since Model 4 halves them"
        )
    _same(source, trained, config, names)
    patch, wanted = trained.tubelet_size[1:], config.tubelet_size[1:]
    if patch != wanted:
        raise WeightsError(
            f"{source.path}: patches of {patch[0]} x {patch[1]}, not {wanted[0]} x {wanted[1]}; use "
            f"tubelet_size=({config.tubelet_size[0]}, {patch[0]}, {patch[1]}) and an image_size that it divides"
        )


def _left_out(source: Source, pieces: Mapping[str, MappedTensor]) -> dict[str, str]:
    """The image model's tensors that the video model has no use for, with the reason."""
    used = {name for piece in pieces.values() for name in piece.sources}
    why = {
        "head.": "head of the image model",
        "tokenizer.": "kernel_init='random'",
        "encoder.cls_token": "this model takes no class token from it",
    }
    return {
        origin: reason
        for start, reason in why.items()
        for name, piece in source.pieces.items()
        for origin in piece.sources
        if name.startswith(start) and origin not in used
    }


def _fit(source: Source, trained: ModelConfig, config: ModelConfig) -> ViViT:
    """The source's tensors for `config`: positions interpolated to its grid, of the head the rows of its classes."""
    pieces, ignored, fresh = dict(source.pieces), {}, dict(source.fresh)
    new = position_grids(config)
    for name, grid in position_grids(trained).items():
        if name in pieces and new.get(name, grid) != grid:
            piece, why = pieces[name], f"grid {_x(grid)} to {_x(new[name])}"
            resized = resize_positions(piece.tensor.float(), grid, new[name])
            pieces[name] = MappedTensor(
                resized, piece.sources, "interpolated", ", ".join(filter(None, (piece.reason, why)))
            )
    rows = head_rows(trained.classes, config.classes, named=bool(source.config.get("classes")))
    if "head.weight" not in pieces:
        fresh["head."] = "the source has no head"
    elif rows != list(range(trained.num_classes)):
        ignored, fresh_head = _fit_head(pieces, trained, config, rows)
        fresh |= fresh_head
    return fill(config, source, pieces, fresh=fresh, ignored=ignored)


def _fit_head(
    pieces: dict[str, MappedTensor], trained: ModelConfig, config: ModelConfig, rows: list[int | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """In place: the head's rows for the classes of `config`; (ignored tensors, parameters that start fresh)."""
    head = [name for name in ("head.weight", "head.bias") if name in pieces]
    if all(row is None for row in rows):
        why = f"other classes: {trained.num_classes} in the source, {config.num_classes} here"
        return {name: why for key in head for name in pieces.pop(key).sources}, {"head.": why}
    names = [name for labels in config.classes.values() for name in labels]
    new = [name for name, row in zip(names, rows) if row is None]
    why = f"rows follow class names: {len(rows) - len(new)} of {trained.num_classes} in the source"
    why += f"; newly initialised at zero: {few(new)}" if new else ""
    where = torch.tensor([-1 if row is None else row for row in rows])
    for key in head:
        piece = pieces[key]
        x = piece.tensor.float()[where]  # −1: any row, which the next line clears
        x[where < 0] = 0
        pieces[key] = MappedTensor(x, piece.sources, "loaded", ", ".join(filter(None, (piece.reason, why))))
    return {}, {}


def head_rows(
    old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]], *, named: bool = True
) -> list[int | None]:
    """For every class of `new`, the row of a head for `old` that has its name in its label set, or None.

    Label sets belong together by name; else those that share class names, where that leaves no choice. Where nothing
    agrees, the names in `old` are only numbers of rows (not `named`) and `new` has as many, `new` names the rows.
    """
    starts = dict(zip(old, accumulate(map(len, old.values()), initial=0)))
    rows: list[int | None] = []
    for label_set, names in new.items():
        others = [name for name in old if name not in new and not set(old[name]).isdisjoint(names)]
        partner = label_set if label_set in old else others[0] if len(others) == 1 else None
        place = {} if partner is None else {name: starts[partner] + i for i, name in enumerate(old[partner])}
        rows += [place.get(name) for name in names]
    total = sum(map(len, old.values()))
    if not named and len(rows) == total and all(row is None for row in rows):
        return list(range(total))
    return rows


def _x(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def position_grids(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """The model's position embeddings, each with the token grid (t, h, w) that it covers."""
    t, h, w = config.grid
    if config.encoder != "factorised_encoder":
        return {"encoder.pos_embed": (t, h, w)}
    temporal = {"encoder.temporal.pos_embed": (t, 1, 1)} if config.temporal_depth else {}
    return {"encoder.spatial.pos_embed": (1, h, w)} | temporal
