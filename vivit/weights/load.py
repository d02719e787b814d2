"""One door for weights: `from_pretrained` and `create`. The format is recognised by content."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import ModelConfig, from_dict, replace, suggestion
from ..model.encoders import resize_positions
from ..model.vivit import ViViT
from ..presets import preset
from . import files, huggingface, image_vit, scenic, video_mae
from .infer import infer_config
from .inflate import KernelInit, TemporalInit, inflate
from .plan import Piece, Source, few, fill
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

    `init` is a file, a folder or a hub id: an image ViT, which is inflated (paper, section 3.4), or a video model of
    this architecture. Its activation, norm epsilon and pixel normalisation come with it; `overrides` are fields of
    ModelConfig and go first.

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
        return _fit(source, trained, config if config.classes else replace(config, classes=trained.classes))
    _same_image(source, trained, config)
    pieces, fresh = inflate(
        source.pieces,
        trained,
        config,
        kernel_init=kernel_init,
        temporal_init=temporal_init,
        official=official,
    )
    return fill(config, source, pieces, fresh=fresh, ignored=_left_out(source, pieces, config))


def from_pretrained(
    source: str | os.PathLike, *, classes: Mapping[str, Sequence[str]] | None = None, **overrides: Any
) -> ViViT:
    """The trained model in a folder, a file or a hub id, whoever saved it: ours, scenic, Hugging Face ViViT, VideoMAE.

    `overrides` are fields of ModelConfig. They say what the file cannot (a missing one is an error that names it), or
    change what a trained model lets change: image_size and num_frames (positions are interpolated), drop_path, dropout,
    preprocessing. With other `classes` than the source's the head starts anew. An image ViT loads as a model of one
    frame.

    `model.load_report` says what happened to every tensor. Raises ValueError and FileNotFoundError.
    """
    src = read(source)
    if src.inexact:
        raise ValueError(
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
    return _fit(src, trained, config)


def adopt(source: str | os.PathLike, config: ModelConfig) -> ModelConfig:
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
    """The checkpoint in a folder, a file or a hub id, by our names. Raises ValueError and FileNotFoundError."""
    found = files.read(source)
    tensors, path = _without_wrappers(found.tensors), found.path
    try:
        if found.configs.get("config.json", {}).get("format") == FORMAT:
            return _own(path, tensors, found.configs["config.json"])
        if scenic.root(tensors) is not None:
            return scenic.source(path, tensors)
        if video_mae.is_original(tensors) or any(name.startswith("videomae.") for name in tensors):
            return video_mae.source(path, tensors, found.configs)
        if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in tensors):
            return huggingface.source(path, tensors, found.configs)
        if "patch_embed.proj.weight" in tensors:
            return image_vit.source(path, tensors, found.configs)
    except (KeyError, RuntimeError) as error:  # a part is missing or has another shape than its name says
        raise ValueError(f"{path}: not a whole checkpoint: {type(error).__name__} {error}") from error
    except ValueError as error:
        raise error if str(error).startswith(path) else ValueError(f"{path}: {error}") from error
    if "tokenizer.proj.weight" in tensors:
        raise ValueError(f"{path}: our own weights without their config.json; keep the two in one folder")
    raise ValueError(
        f"{path}: neither a ViViT (ours, scenic, Hugging Face) nor an image ViT (timm, Hugging Face, DeiT, DINOv2, "
        f"JAX) nor a VideoMAE; it holds {few(list(tensors), 4)}"
    )


def _own(path: str, tensors: dict[str, Any], config: Mapping[str, Any]) -> Source:
    if config.get("version") != VERSION:
        raise ValueError(f"config.json has version {config.get('version')!r}; this release reads {VERSION}")
    pieces = {name: Piece(tensor, (name,)) for name, tensor in tensors.items()}
    return Source(path, "ViViT", pieces, config=vars(from_dict(ModelConfig, config["model"])))


def _without_wrappers(tensors: dict[str, Any]) -> dict[str, Any]:
    """Names without what DataParallel, torch.compile and training loops put before all of them."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_wrappers({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _classes(classes: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    return {} if classes is None else {"classes": {name: tuple(names) for name, names in classes.items()}}


def _trained(source: Source, given: Mapping[str, Any]) -> ModelConfig:
    """The config that the source was trained with; fixed positions, which no file holds, join the pieces."""
    if source.format == "ViViT":
        return replace(ModelConfig(), **source.config)
    config = infer_config(source, given)
    if source.sine_positions:
        t, h, w = config.grid
        sines = video_mae.sine_positions(t * h * w, config.embed_dim)
        source.pieces["encoder.pos_embed"] = Piece(sines, (), "initialised", "the fixed sines of VideoMAE")
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
        raise ValueError(f"{source.path}: this {source.format} has {'; '.join(different)}")


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
        raise ValueError(
            f"{source.path}: patches of {patch[0]} x {patch[1]}, not {wanted[0]} x {wanted[1]}; use "
            f"tubelet_size=({config.tubelet_size[0]}, {patch[0]}, {patch[1]}) and an image_size that it divides"
        )


def _left_out(source: Source, pieces: Mapping[str, Piece], config: ModelConfig) -> dict[str, str]:
    """The image model's tensors that the video model has no use for, with the reason."""
    used = {name for piece in pieces.values() for name in piece.sources}
    why = {"head.": "head of the image model", "tokenizer.": "kernel_init='random'"}
    return {
        origin: next(
            (w for start, w in why.items() if name.startswith(start)), "this model takes no class token from it"
        )
        for name, piece in source.pieces.items()
        for origin in piece.sources
        if origin not in used
    }


def _fit(source: Source, trained: ModelConfig, config: ModelConfig) -> ViViT:
    """The source's tensors for `config`: positions interpolated to its grid, the head kept if the classes are equal."""
    pieces, ignored, fresh = dict(source.pieces), {}, dict(source.fresh)
    new = position_grids(config)
    for name, grid in position_grids(trained).items():
        if name in pieces and new.get(name, grid) != grid:
            piece, why = pieces[name], f"grid {_x(grid)} to {_x(new[name])}"
            resized = resize_positions(piece.tensor.float(), grid, new[name])
            pieces[name] = Piece(resized, piece.sources, "interpolated", ", ".join(filter(None, (piece.reason, why))))
    if "head.weight" not in pieces:
        fresh["head."] = "the source has no head"
    elif not _same_classes(trained, config):
        why = f"other classes: {trained.num_classes} in the source, {config.num_classes} here"
        fresh["head."] = why
        for name in ("head.weight", "head.bias"):
            ignored |= dict.fromkeys(pieces.pop(name).sources, why)
    return fill(config, source, pieces, fresh=fresh, ignored=ignored)


def _same_classes(trained: ModelConfig, config: ModelConfig) -> bool:
    """Whether the head fits: equal names in equal order, or as many, where the source has numbers for names."""
    old, new = ([name for names in c.classes.values() for name in names] for c in (trained, config))
    return old == new or (len(old) == len(new) and old == [str(i) for i in range(len(old))])


def _x(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def position_grids(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """The model's position embeddings, each with the token grid (t, h, w) that it covers."""
    t, h, w = config.grid
    if config.encoder != "factorised_encoder":
        return {"encoder.pos_embed": (t, h, w)}
    temporal = {"encoder.temporal.pos_embed": (t, 1, 1)} if config.temporal_depth else {}
    return {"encoder.spatial.pos_embed": (1, h, w)} | temporal
