"""Create and load models: `create` and `from_pretrained`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..config import ModelConfig, from_dict, replace
from ..errors import WeightsError
from ..model.vivit import ViViT
from ..model_config import frame_size
from ..presets import preset
from ..settings import read_fields
from . import clip, dinov3, formats, huggingface, image_vit, scenic, video_mae, videoprism, vjepa2
from .adapt import adapt
from .assemble import Checkpoint, MappedTensor, build_model, join
from .classes import Classes, label_sets
from .config_from_weights import check_sizes, infer_config
from .inflate import KernelInit, TemporalInit, check_options, inflate
from .save import FORMAT, VERSION, save_pretrained

__all__ = ["create", "describe_loading", "from_pretrained", "load_checkpoint", "save_pretrained"]

# The fields that may differ from those of a trained model: its size, classes, input and training. Every other field is
# part of the function that was trained.
FREE = (
    *("classes", "num_frames", "sampled_frames", "image_size", "interpolation"),
    *("drop_path", "dropout", "preprocessing"),
)
IMAGE_ARCHITECTURE = ("embed_dim", "depth", "num_heads", "mlp_ratio")
IMAGE_TOKENS = ("pool", "pool_mlp_ratio", "positions", "num_registers", "norm_pre")
MAX_INIT_SIDE = 224  # pixels; positions of larger images are interpolated

Tensors = dict[str, Tensor]
JsonFiles = Mapping[str, Mapping[str, Any]]
# The first row whose test accepts the tensors of a file reads them, from (path, tensors, JSON files).
READERS: tuple[tuple[Callable[[Tensors], bool], Callable[[str, Tensors, JsonFiles], Checkpoint]], ...] = (
    (scenic.is_jax, lambda path, tensors, _: scenic.parse_scenic(path, tensors)),
    (videoprism.is_videoprism, videoprism.parse_videoprism),
    (vjepa2.is_huggingface, vjepa2.parse_huggingface),
    (vjepa2.is_original, lambda path, tensors, _: vjepa2.parse_original(path, tensors)),
    (dinov3.is_huggingface, dinov3.parse_huggingface),
    (clip.is_tower, clip.parse_tower),
    (dinov3.is_original, lambda path, tensors, _: dinov3.parse_original(path, tensors)),
    (video_mae.is_video_mae, video_mae.parse_video_mae),
    (huggingface.is_huggingface, huggingface.parse_huggingface),
    (image_vit.is_image_vit, image_vit.parse_image_vit),
)


def create(
    config_or_preset: str | ModelConfig,
    *,
    classes: Classes | None = None,
    init: str | os.PathLike[str] | None = None,
    kernel_init: KernelInit = "central_frame",
    temporal_init: TemporalInit | None = None,
    official: bool = False,
    **overrides: Any,
) -> ViViT:
    """Create a model in training mode from the name of a preset or from a config: at random or from the weights `init`.

    Args:
        config_or_preset: A name such as "ViViT-B/16x2 FE", or a ModelConfig.
        classes: Class names in the order of the logits: a list (one label set, "label"), a dict of several label sets,
            or a number of classes, whose names are then "0", "1", …  {} creates a model without a head. Required,
            unless the config has classes or `init` is a video model.
        init: A file, a folder (also of a run) or a hub id: an image ViT, which is inflated (paper, section 3.4), or a
            video model of this architecture. Rows of its head go to the classes of the same name. Activation, norm
            epsilon and pixel normalisation come from it; `overrides` can set others for an image model, and for a video
            model another pixel normalisation.
        kernel_init: How a 2-D patch kernel becomes that of a tubelet: central_frame, filter_inflation, arp, random or
            central_difference.
        temporal_init: Start of what an image model lacks. Model 2's temporal encoder: "random" (default) or "image",
            the first layers of the image model. Model 3's temporal attention: "zero" (default; a block starts as the
            image model's), "image" or "random".
        official: Do bit for bit what the official code does: resize positions with aligned corners, and do not take
            Model 2's class token and Model 3's temporal norms from the image model.
        overrides: Fields of ModelConfig.

    `model.load_report` says what happened to every tensor. Raises ValueError (WeightsError for a wrong file) and
    FileNotFoundError.
    """
    config = preset(config_or_preset) if isinstance(config_or_preset, str) else config_or_preset
    given = _settings(overrides, classes)
    config = replace(config, **given)
    checkpoint = None if init is None else load_checkpoint(init)
    is_image = checkpoint is not None and _is_image(checkpoint, config)
    if not config.classes and classes is None and (checkpoint is None or is_image):
        raise ValueError(
            'which classes? pass classes=["run", "jump"], classes=400 or several label sets, '
            'classes={"noun": [...], "verb": [...]}; classes={} creates a model without a head'
        )
    if not is_image and (kernel_init, temporal_init, official) != ("central_frame", None, False):
        raise ValueError("kernel_init, temporal_init and official say how an image model is inflated; init is not one")
    if checkpoint is None:
        return ViViT(config)
    checkpoint.is_image = is_image
    trained = _trained_config(checkpoint, {"num_heads": config.num_heads} if is_image else vars(config))
    config = _inherit_settings(checkpoint, trained, config, overrides)
    if not is_image:
        _refuse_changes(checkpoint, trained, config, _free_to_train(checkpoint, trained))
        config = config if config.classes else replace(config, classes=trained.classes)
        with weights_errors(checkpoint.path):
            return adapt(checkpoint, trained, config)
    _check_same_image_model(checkpoint, trained, config)
    temporal = check_options(config, kernel_init, temporal_init)
    with weights_errors(checkpoint.path):
        tensors, newly_initialized = inflate(
            checkpoint.tensors, trained, config, kernel_init=kernel_init, temporal_init=temporal, official=official
        )
        ignored = _unused_tensors(checkpoint, tensors)
        return build_model(config, checkpoint, tensors, newly_initialized=newly_initialized, ignored=ignored)


def from_pretrained(source: str | os.PathLike[str], *, classes: Classes | None = None, **overrides: Any) -> ViViT:
    """Load a trained model of any supported format from a folder (also of a run), a file or a hub id, in eval mode.

    `overrides` are fields of ModelConfig. They provide what the file does not say (an error names a missing one) or
    change what can change in a trained model (FREE): image_size and num_frames (positions are interpolated), drop_path,
    dropout, preprocessing; any other field is refused by its name. With other `classes` (see `create`) than those of
    the file, rows of the head go to the classes of the same name and the other rows start at zero. If the file has no
    class names, `classes` names its rows in order. An image ViT loads as a model of one frame.

    `model.load_report` says what happened to every tensor. Raises ValueError (WeightsError for a wrong file) and
    FileNotFoundError.
    """
    changes = _settings(overrides, classes)
    checkpoint = load_checkpoint(source)
    if checkpoint.inexact:
        raise WeightsError(
            f"{checkpoint.path}: this {checkpoint.format} is no ViViT: {', '.join(checkpoint.inexact)}. "
            "vivit.create(preset, init=…) starts from it"
        )
    trained = _trained_config(checkpoint, changes)
    config = replace(trained, **changes)
    _refuse_changes(checkpoint, trained, config)
    with weights_errors(checkpoint.path):
        return adapt(checkpoint, trained, config).eval()


def config_for_init(init: str | os.PathLike[str], config: ModelConfig) -> ModelConfig:
    """Return `config` with the architecture of the weights `init`, for `create(…, init=init)`.

    From a video model it takes everything but the classes. From an image model it takes width, depth, heads (of width
    64 if the file does not say), MLP, patches, pooling and frame size (at most 224 pixels); temporal settings stay as
    in `config`. Raises ValueError and FileNotFoundError.
    """
    checkpoint = load_checkpoint(init)
    checkpoint.is_image = _is_image(checkpoint, config)
    width = checkpoint.tensors["tokenizer.proj.weight"].tensor.shape[0]
    size = {name: getattr(config, name) for name in ("num_frames", "image_size")}
    trained = _trained_config(checkpoint, {"num_heads": max(width // 64, 1)} | ({} if checkpoint.is_image else size))
    if not checkpoint.is_image:
        return replace(trained, classes={}, drop_path=config.drop_path)
    t, (_, h, w) = config.tubelet_size[0], trained.tubelet_size
    image_size = tuple(min(side, MAX_INIT_SIDE) // patch * patch for side, patch in zip(trained.image_size, (h, w)))
    same = {name: getattr(trained, name) for name in (*IMAGE_ARCHITECTURE, *IMAGE_TOKENS)}
    return replace(config, tubelet_size=(t, h, w), image_size=image_size, **same)


def describe_loading(source: str | os.PathLike[str], *, preset: str | None = None, **options: Any) -> str:
    """Return the load report of `from_pretrained(source)` or, with a `preset`, of `create(preset, init=source)`."""
    if preset is None:
        return str(from_pretrained(source, **options).load_report)
    options.setdefault("classes", {})
    return str(create(preset, init=source, **options).load_report)


def load_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint in a run folder, a folder, a file or a hub id, with the names of our parameters.

    Raises WeightsError and FileNotFoundError.
    """
    formats.check_source(source)
    with weights_errors(source):
        files = formats.read_files(source)
        tensors = _without_wrappers(files.tensors)
        names = frozenset(tensors)
        checkpoint = _parse(files.path, tensors, files.configs)
        checkpoint.names = names
        checkpoint.notes += files.notes
        return checkpoint


def _parse(path: str, tensors: Tensors, configs: JsonFiles) -> Checkpoint:
    if configs.get("config.json", {}).get("format") == FORMAT:
        return _parse_own(path, tensors, configs["config.json"])
    for matches, read in READERS:
        if matches(tensors):
            return read(path, tensors, configs)
    if any(name.endswith(formats.OUR_KERNEL) for name in tensors):
        raise WeightsError(f"{path}: our own weights without their config.json; keep the two in one folder")
    raise WeightsError(
        f"{path}: neither a ViViT (ours, scenic, Hugging Face), nor an image ViT (timm, Hugging Face, DeiT, DINOv2, "
        f"DINOv3, CLIP, SigLIP, JAX), nor a VideoMAE, VideoPrism or V-JEPA 2; it holds {join(list(tensors), 4)}"
    )


@contextmanager
def weights_errors(source: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors about the contents of `source` into a WeightsError that names it."""
    path = str(source)
    try:
        yield
    except (WeightsError, OSError):
        raise
    except ValueError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(path) else f"{path}: {text}") from error
    except Exception as error:  # a tensor is missing, or has another type or shape than its name implies
        what = f"{type(error).__name__} {formats.first_line(error)}"
        raise WeightsError(f"{path}: not a complete checkpoint: {what}. Download or save it again") from error


def _parse_own(path: str, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Checkpoint:
    if config.get("version") != VERSION:
        raise WeightsError(f"{path}: config.json has version {config.get('version')!r}; this release reads {VERSION}")
    if not isinstance(config.get("model"), Mapping):
        raise WeightsError(f"{path}: config.json has no 'model', the settings of the model")
    kernels = [name for name in tensors if name.endswith(formats.OUR_KERNEL)]
    prefix = kernels[0].removesuffix(formats.OUR_KERNEL) if len(kernels) == 1 else ""
    mapped = {  # _orig_mod: a compiled part
        name.removeprefix(prefix).replace("_orig_mod.", ""): MappedTensor(tensor, (name,))
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    others = {name: f"not under {prefix}" for name in tensors if not name.startswith(prefix)}
    return Checkpoint(path, "ViViT", mapped, others, vars(from_dict(ModelConfig, config["model"])))


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that DataParallel, torch.compile and training loops put before all names."""
    prefixes = ("module.", "_orig_mod.", "model.")
    while tensors and (found := [p for p in prefixes if all(name.startswith(p) for name in tensors)]):
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
    return tensors


def _settings(overrides: Mapping[str, Any], classes: Classes | None) -> dict[str, Any]:
    """Return the arguments that are fields of ModelConfig, in the types of the fields. Raises ValueError."""
    given = dict(overrides) | label_sets(classes)
    if "image_size" in given:
        given["image_size"] = frame_size(given["image_size"])
    if isinstance(given.get("preprocessing"), Mapping):
        raise ValueError("preprocessing is a dict; pass vivit.config.Preprocessing(mean=…, std=…, …)")
    return read_fields(ModelConfig, given)


def _trained_config(checkpoint: Checkpoint, given: Mapping[str, Any]) -> ModelConfig:
    """Return the config that the checkpoint was trained with; finish what needs its sizes, in place.

    These are fixed positions, which no file contains, and the order of rotary pairs.
    """
    with weights_errors(checkpoint.path):
        if checkpoint.unused_positions and given.get("positions") != "rope_3d":
            raise WeightsError(
                f"{checkpoint.path}: the file holds positions (pos_embed), which V-JEPA adds and V-JEPA 2 does not "
                "use. If it is V-JEPA 2, say so by positions='rope_3d'; V-JEPA is not read"
            )
        own = checkpoint.format == "ViViT"
        config = replace(ModelConfig(), **checkpoint.config) if own else infer_config(checkpoint, given)
        check_sizes(checkpoint.tensors, config)
        if own and config.classes and "head.weight" not in checkpoint.tensors:
            heads = sorted(name for name in checkpoint.names if "head." in name)
            found = f".weight, but {join(heads, 3)}: merge replaced layers and" if heads else ";"
            raise WeightsError(f"{checkpoint.path}: config.json has classes, but there is no head{found} save it again")
        if checkpoint.sine_positions:
            t, h, w = config.grid
            positions = video_mae.sinusoidal_positions(t * h * w, config.embed_dim)
            why = "the fixed sinusoids of VideoMAE"
            checkpoint.tensors["encoder.pos_embed"] = MappedTensor(positions, (), "initialised", why)
        if checkpoint.interleaved_pairs:
            vjepa2.separate_pairs(checkpoint.tensors, config.num_heads)
        return config


def _is_image(checkpoint: Checkpoint, config: ModelConfig) -> bool:
    """Tell whether the checkpoint is an image model, where it is the start of a model of `config`."""
    if checkpoint.config.get("tokenizer") != "uniform_frames" or "encoder" in checkpoint.config:
        return False
    positions = checkpoint.tensors.get("encoder.pos_embed")
    if positions is None:
        return checkpoint.is_image
    t, h, w = config.grid
    sampled = config.tokenizer == "uniform_frames" and t > 1
    return not (sampled and positions.tensor.shape[1] - ("encoder.cls_token" in checkpoint.tensors) == t * h * w)


def _inherit_settings(
    checkpoint: Checkpoint, trained: ModelConfig, config: ModelConfig, overrides: Mapping[str, Any]
) -> ModelConfig:
    """Return `config` with the settings that belong to the weights, except those in `overrides`."""
    names = ["activation", "norm_eps"] + ["norm_after_pool", "pool_norm_eps"] * (config.pool == "mean")
    names += ["pool_norm_tokens"] * (config.pool == "attentive" == trained.pool)
    if not checkpoint.is_image:
        names.append("interpolation")
    else:
        names += ["positions", "norm_pre"] + ["num_registers"] * (config.pool == "cls" == trained.pool)
        names += ["pool_mlp_ratio"] * (config.pool == "attentive" == trained.pool)
    changes = {name: getattr(trained, name) for name in names if name not in overrides}
    if "preprocessing" not in overrides:
        pixels = {name: getattr(trained.preprocessing, name) for name in ("mean", "std")}
        changes["preprocessing"] = replace(config.preprocessing, **pixels)
    different = {name: value for name, value in changes.items() if getattr(config, name) != value}
    for name, value in different.items():
        checkpoint.notes.append(f"{name} comes from the source: {value}")
    return replace(config, **different)


def _free_to_train(checkpoint: Checkpoint, trained: ModelConfig) -> tuple[str, ...]:
    """Return the fields in which a config to train may differ from the video model that it starts from.

    They include a part that this file lacks, the length of the features, and the fields of other encoders, which
    presets have.
    """
    can_add_pool = any("attention_pool" in prefix for prefix in checkpoint.newly_initialized)
    free = (*FREE, "unit_features", *(("attention_pool", "attention_pool_ratio") if can_add_pool else ()))
    if trained.encoder != "factorised_encoder":
        free += ("temporal_depth", "temporal_skip")
    return free if trained.encoder == "factorised_self_attention" else (*free, "attention_order")


def _refuse_changes(
    checkpoint: Checkpoint, trained: ModelConfig, config: ModelConfig, free: Sequence[str] = FREE
) -> None:
    """Raise WeightsError if a config differs in more than the fields `free` from that of the trained model."""
    fixed = [name for name in vars(config) if name not in free]
    _check_same_model(checkpoint, trained, config, fixed, hint=f"; of trained weights can change: {', '.join(free)}")


def _check_same_model(
    checkpoint: Checkpoint,
    trained: ModelConfig,
    config: ModelConfig,
    names: Sequence[str],
    hint: str = "",
) -> None:
    """Raise WeightsError if the two configs differ in one of the fields `names`; `hint` ends its message."""
    different = [
        f"{name}={getattr(trained, name)!r}, not {getattr(config, name)!r}"
        for name in names
        if getattr(trained, name) != getattr(config, name)
    ]
    if different:
        raise WeightsError(f"{checkpoint.path}: this {checkpoint.format} has {'; '.join(different)}{hint}")


def _check_same_image_model(checkpoint: Checkpoint, trained: ModelConfig, config: ModelConfig) -> None:
    names = list(IMAGE_ARCHITECTURE)
    if config.encoder == "factorised_dot_product" and trained.num_heads % 2:
        names.remove("num_heads")
        checkpoint.notes.append(
            f"num_heads: {trained.num_heads} in the image model, {config.num_heads} here, since Model 4 halves them"
        )
    _check_same_model(checkpoint, trained, config, names)
    patch, wanted = trained.tubelet_size[1:], config.tubelet_size[1:]
    if patch != wanted:
        raise WeightsError(
            f"{checkpoint.path}: patches of {patch[0]} x {patch[1]}, not {wanted[0]} x {wanted[1]}; use "
            f"tubelet_size=({config.tubelet_size[0]}, {patch[0]}, {patch[1]}) and an image_size that it divides"
        )


def _unused_tensors(checkpoint: Checkpoint, tensors: Mapping[str, MappedTensor]) -> dict[str, str]:
    """Return the tensors of the image model that the video model does not use, with the reason."""
    used = {name for entry in tensors.values() for name in entry.sources}
    why = {
        "head.": "head of the image model",
        "tokenizer.": "kernel_init='random'",
        "encoder.cls_token": "this model takes no class token from it",
        "encoder.register_tokens": "this model has no register tokens",
        "encoder.attention_pool.": "this model pools otherwise",
    }
    return {
        source: reason
        for prefix, reason in why.items()
        for name, entry in checkpoint.tensors.items()
        for source in entry.sources
        if name.startswith(prefix) and source not in used
    }
