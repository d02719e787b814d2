"""Every setting of a model and a run, as frozen dataclasses: a wrong key or pair of values cannot start a run.

A recipe derives one `Config` from another with `replace`; the command line sets the same fields and adds none; the
resolved config is written to the run as JSON (`to_dict`) and loads back equal (`from_dict`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

EncoderName = Literal[
    "spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"
]  # Models 1, 2, 3, 4 of the paper
ENCODERS: dict[str, typing.Callable[[ModelConfig], Any]] = {}
"""The table of encoders, which vivit.model.encoders fills."""
ALL = "all"  # in results: every label set of a video at once, so no label set may be called this
T = TypeVar("T")


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a video before the network; it travels with the weights."""

    frame_stride: float = 2
    """Distance between two frames of a clip, in frames of the video."""
    clip_seconds: float | None = None
    """If set, a clip covers this many seconds whatever the frame rate, and frame_stride is not used."""
    crop_fraction: float = 0.875
    """Share of the resized short side that a test crop covers: 224 of 256."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of each colour channel, on the scale 0..1."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of each colour channel, on the scale 0..1: pixels become (x / 255 - mean) / std."""

    def __post_init__(self):
        _positive(self, "frame_stride", "clip_seconds")
        _check(0 < self.crop_fraction <= 1, f"crop_fraction is {self.crop_fraction}; it lies in (0, 1]")
        _check(min(self.std) > 0, f"std is {self.std}; every channel needs a value above 0")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. Sizes are in pixels and frames; `vivit.presets` names the usual ones."""

    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Label sets by name, each with its class names in the order of the logits. Filled from the data in training."""
    encoder: EncoderName = "factorised_encoder"
    tokenizer: Literal["tubelet", "uniform_frames"] = "tubelet"
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    """(t, h, w) of one token; t is 1 for uniform_frames."""
    sampled_frames: int | None = None
    """uniform_frames only: how many of the clip's frames become tokens."""
    num_frames: int = 32
    image_size: tuple[int, int] = (224, 224)
    """(H, W)."""
    embed_dim: int = 768
    depth: int = 12
    temporal_depth: int = 4
    """factorised_encoder only: layers over time; 0 averages the frames (the paper's baseline)."""
    temporal_skip: bool = False
    """factorised_encoder only: add the frames' average to what the layers over time give, which starts at zero. So a
    model inflated from an image model starts as the average of its frames."""
    num_heads: int = 12
    mlp_ratio: float = 4.0
    pool: Literal["cls", "mean"] = "cls"
    norm_after_pool: bool = False
    """Mean pooling only: the last norm sees the mean of the tokens instead of every token (VideoMAE's fc_norm)."""
    attention_order: Literal["time_space", "space_time"] = "time_space"
    """factorised_self_attention only: which attention of a block comes first."""
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    """Stochastic depth: the last layer's probability to be skipped; it grows linearly from 0 at the first."""
    dropout: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self):
        if self.encoder not in ENCODERS:  # one of the user's own does not have to be in the annotation
            _one_of(self, "encoder")
        _one_of(self, "tokenizer", "pool", "attention_order", "activation")
        _positive(self, "num_frames", "embed_dim", "depth", "num_heads", "mlp_ratio", "sampled_frames")
        _check(min(*self.tubelet_size, *self.image_size) > 0, "tubelet_size and image_size take sizes above 0")
        for name, labels in self.classes.items():
            repeated = [label for label, times in Counter(labels).items() if times > 1]
            _check(len(labels) > 0, f"classes: label set {name!r} has no class")
            _check(not repeated, f"classes: label set {name!r} has {', '.join(map(repr, repeated))} more than once")
        _check(ALL not in self.classes, f"classes: {ALL!r} is the name of all label sets together; take another")
        for name in ("drop_path", "dropout"):
            _check(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it lies in [0, 1)")
        _check(self.temporal_depth >= 0, f"temporal_depth is {self.temporal_depth}; it is 0 or more")
        _check(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}",
        )
        if self.encoder in ("factorised_self_attention", "factorised_dot_product"):
            _check(self.pool == "mean", f"{self.encoder} has no class token (paper, section 3.3); use pool='mean'")
        _check(
            not self.temporal_skip or (self.encoder == "factorised_encoder" and self.temporal_depth > 0),
            "temporal_skip goes around the layers over time of a factorised_encoder; this model has none",
        )
        if self.encoder == "factorised_dot_product":
            _check(
                self.num_heads % 2 == 0,
                f"factorised_dot_product splits the heads in two halves; num_heads {self.num_heads} is odd",
            )
        _check(
            self.pool == "mean" or not self.norm_after_pool,
            "norm_after_pool changes nothing with a class token; it belongs to pool='mean'",
        )
        if self.tokenizer == "uniform_frames":
            _check(
                self.sampled_frames is not None and self.sampled_frames <= self.num_frames,
                f"uniform_frames needs sampled_frames between 1 and num_frames={self.num_frames}, "
                f"got {self.sampled_frames}",
            )
            _check(
                self.tubelet_size[0] == 1,
                f"uniform_frames embeds single frames; use tubelet_size=(1, {self.tubelet_size[1]}, "
                f"{self.tubelet_size[2]}), got {self.tubelet_size}",
            )
        else:
            _check(self.sampled_frames is None, "sampled_frames belongs to tokenizer='uniform_frames'")
        _divides(self.num_frames, self.tubelet_size[0], "num_frames", "tubelet depth")
        _divides(self.image_size[0], self.tubelet_size[1], "image height", "tubelet height")
        _divides(self.image_size[1], self.tubelet_size[2], "image width", "tubelet width")

    @property
    def grid(self) -> tuple[int, int, int]:
        """The token grid (t, h, w)."""
        t = self.sampled_frames or self.num_frames // self.tubelet_size[0]
        return t, self.image_size[0] // self.tubelet_size[1], self.image_size[1] // self.tubelet_size[2]

    @property
    def num_classes(self) -> int:
        """K: the classes of all label sets, side by side."""
        return sum(len(names) for names in self.classes.values())

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True)
class DataConfig:
    """Which videos, and what happens to a training clip on its way to the model."""

    root: str = ""
    """A folder with one subfolder per class, or a .csv/.jsonl file with path, label columns[, start, end, split]."""
    dataset: str = "folder"
    """The reader of the annotations (see vivit.data.sample.read)."""
    manifest: str = ""
    """What `vivit data check` wrote; "": where it writes it by default, beside the data."""
    labels: tuple[str, ...] = ()
    """Which label columns of a table, or label sets of a data set, to learn; none: those whose names say so."""
    train_split: str = "train"
    eval_split: str = "val"
    workers: int | None = None
    """Processes that read videos, for each device; 0: the main process does. None: one a core, at most 12."""
    max_unreadable: int = 50
    """Unreadable training videos are left out and counted; more than this many stop the run."""
    video_timeout: float = 60
    """Seconds after which a video that is still being decoded counts as unreadable."""
    storage_timeout: float = 300
    """Seconds to wait for data.root to come back when it disappears during training."""

    def __post_init__(self):
        _check(self.workers is None or self.workers >= 0, f"workers is {self.workers}; it is 0 or more, or None")


@dataclass(frozen=True)
class AugmentConfig:
    """What chance does to a training clip, alike to all its frames (paper, section 4.1 and table 4)."""

    scale_jitter: tuple[float, float] = (0.9, 1.33)
    """The resized short side is multiplied by a random factor in this range before the random crop."""
    flip: float = 0.5
    """Probability of mirroring left and right; set 0 where direction is the label."""
    flip_directed: bool = False
    """Mirror also the videos whose class names say left or right; see vivit.data.transforms.directed."""
    colour_jitter: float = 0.0
    """Probability of changing brightness, saturation, contrast and hue."""
    colour_drop: float = 0.0
    """Probability of taking the colour away."""
    rand_augment_layers: int = 0
    """RandAugment: how many random operations follow one another; 0 for none."""
    rand_augment_magnitude: float = 15.0
    """RandAugment: how strong they are, 0 to 30; 10 is the end of the scale of RandAugment for images."""
    rand_augment_geometry: bool = False
    """RandAugment: also rotate, shear and translate, as for images; the official code for video does not."""
    erasing: float = 0.0
    """Probability of replacing a random box of the clip by noise."""
    mixup: float = 0.0
    """Two clips and their labels are mixed in a proportion drawn from Beta(mixup, mixup); 0 for never."""
    cutmix: float = 0.0
    """A box of another clip is pasted in, its share drawn from Beta(cutmix, cutmix); with mixup each has half."""
    repeats: int = 1
    """Repeated augmentation: a batch holds each of its videos this many times, augmented anew, and an epoch shows
    every video this often. optim.batch_size counts clips, so it is a multiple of this."""

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self):
        low, high = self.scale_jitter
        _check(0 < low <= high, f"scale_jitter is {self.scale_jitter}; it is (low, high) with 0 < low <= high")
        for name in ("flip", "colour_jitter", "colour_drop", "erasing"):
            _check(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; it is a probability")
        _check(self.rand_augment_layers >= 0, f"rand_augment_layers is {self.rand_augment_layers}; it is 0 or more")
        magnitude = self.rand_augment_magnitude
        _check(0 <= magnitude <= 30, f"rand_augment_magnitude is {magnitude}; it lies in [0, 30]")
        for name in ("mixup", "cutmix"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it is 0 or more")
        _positive(self, "repeats")


@dataclass(frozen=True)
class OptimConfig:
    """How the weights are learned (paper, section 4.1)."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    """Base learning rate, reached after the warm-up."""
    batch_size: int = 64
    epochs: float = 30
    warmup_epochs: float = 2.5
    momentum: float = 0.9
    """sgd: momentum; adamw: beta1."""
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    """Learning rate of each layer, as a factor of the one above it; Model 2's layers over time learn at the head's."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by the beginning of their names: encoder.spatial, tokenizer."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is then what is evaluated and saved."""
    grad_clip: float | None = 1.0
    """Largest L2 norm of all gradients together."""
    max_skipped: int = 10
    """Steps whose gradients are not finite are skipped and named; more than this many stop the run."""
    label_smoothing: float = 0.0

    def __post_init__(self):
        _one_of(self, "name")
        _positive(self, "lr", "batch_size", "epochs", "grad_clip")
        _check(
            0 <= self.warmup_epochs < self.epochs,
            f"warmup_epochs is {self.warmup_epochs}; it is 0 or more and below epochs={self.epochs}",
        )
        _check(0 <= self.momentum < 1, f"momentum is {self.momentum}; it lies in [0, 1)")
        _check(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; it is 0 or more")
        _check(0 < self.layer_decay <= 1, f"layer_decay is {self.layer_decay}; it lies in (0, 1]")
        _check(self.ema is None or 0 < self.ema < 1, f"ema is {self.ema}; it lies in (0, 1), or is None")
        _check(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}; it lies in [0, 1)")


@dataclass(frozen=True)
class EvalConfig:
    """The test protocol (paper, section 4.1): logits averaged over temporal views x spatial crops."""

    temporal_views: int = 4
    spatial_views: Literal[1, 3] = 3
    batch_views: int = 24
    """Views that go through the model together; changes memory and speed, not the result."""
    shuffle_frames: bool = False
    """Show the frames of every clip in random order: what a model still knows without motion."""
    merge_tokens: int = 0
    """Model 1 only, faster at a small loss: each layer merges this many tokens into others like them (see
    vivit.model.token_reduction)."""
    drop_static: float | None = None
    """Model 1 only, faster at a small loss: leave out tubelets whose pixels differ from those of the tubelet before by
    at most this on average, on the scale 0..1."""

    def __post_init__(self):
        _one_of(self, "spatial_views")
        _positive(self, "temporal_views", "batch_views")
        _check(self.merge_tokens >= 0, f"merge_tokens is {self.merge_tokens}; it is 0 (off) or more tokens a layer")
        _check(
            self.drop_static is None or 0 <= self.drop_static <= 1,
            f"drop_static is {self.drop_static}; it is None (off) or lies in [0, 1], where 1 is black to white",
        )


@dataclass(frozen=True)
class ScaleConfig:
    """How a step is spread over devices and memory. None of it changes the result, beyond rounding."""

    shard: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: a copy of the model in each, or its parameters divided among them."""
    micro_batch: int | None = None
    """Most clips in one forward pass of a device; the rest of its share is accumulated."""
    checkpoint_activations: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile each block with torch.compile."""

    def __post_init__(self):
        _one_of(self, "shard")
        _positive(self, "micro_batch")


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    init: str | None = None
    """Weights to start from: a file, a folder or a hub id. Going on with an interrupted run needs no init."""
    kernel_init: Literal["central_frame", "filter_inflation", "arp", "random"] = "central_frame"
    """init is an image model: how its patch kernel becomes a tubelet's (paper, section 3.4)."""
    probe: bool = False
    """Fit the head to the features of the start before the first step: the frozen baseline, from which training goes
    on. Needs init."""
    result: Literal["last", "best"] = "last"
    """The weights that a run ends with: the last ones, or those best in validation (with probe, the start is among
    them)."""
    run: str = "runs/default"
    """Folder of this run; starting again with the same folder continues it."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA devices that have units for it, float32 elsewhere; the same in train, eval and predict."""
    eval_every: float = 1
    """Epochs between two single-view evaluations."""
    save_every: float = 1
    """Epochs between two checkpoints."""
    keep: int = 2
    """Checkpoints to keep, besides the weights that were best in validation."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    deterministic: bool = False
    """Use only algorithms that give the same bits every time."""
    tracker: str | None = None
    """A module with wandb's init, log and finish: wandb, trackio, swanlab."""

    def __post_init__(self):
        _one_of(self, "device", "precision", "result", "kernel_init")
        _positive(self, "eval_every", "save_every", "log_every", "keep")
        _check(self.seed >= 0, f"seed is {self.seed}; it is 0 or more")

    def __repr__(self) -> str:
        return short_repr(self)


def short_repr(config: Any) -> str:
    """Name the fields of a config, and of its parts, that differ from their defaults: 'Config(seed=1)'."""
    default, changed = type(config)(), []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value != getattr(default, f.name):
            changed.append(f"{f.name}={(short_repr if dataclasses.is_dataclass(value) else reprlib.repr)(value)}")
    return f"{type(config).__name__}({', '.join(changed)})"


def replace(config: T, **changes: Any) -> T:
    """A copy of `config` with some fields changed; an unknown field is an error with a suggestion."""
    _known(type(config), changes)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain dicts, lists and values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The inverse of `to_dict`, also after a trip through JSON. Missing keys take the defaults, unknown ones raise."""
    _known(cls, values, where)
    hints = typing.get_type_hints(cls)
    return cls(**{key: _restore(hints[key], value, f"{where}{key}.") for key, value in values.items()})


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Fields in which two configs of one type differ, as lines 'optim.lr: 0.1 -> 0.2'."""
    lines = []
    for f in dataclasses.fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if dataclasses.is_dataclass(x):
            lines += differences(x, y, f"{prefix}{f.name}.")
        elif x != y:
            lines.append(f"{prefix}{f.name}: {x!r} -> {y!r}")
    return lines


def _restore(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _restore(next(a for a in args if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        _typed(isinstance(value, Mapping), where, value, "an object of settings")
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        _typed(isinstance(value, list | tuple), where, value, "a list")
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        _typed(len(inner) == len(value), where, value, f"a list of {len(inner)}")
        return tuple(_restore(h, v, where) for h, v in zip(inner, value, strict=True))
    if origin is dict:
        _typed(isinstance(value, Mapping), where, value, "an object")
        return {key: _restore(args[1], v, where) for key, v in value.items()}
    if hint in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
        whole = hint is float or (is_number and value == int(value))
        _typed(is_number and whole, where, value, "a whole number" if hint is int else "a finite number")
        return int(value) if hint is int else value
    if hint in (str, bool):
        _typed(isinstance(value, hint), where, value, "text" if hint is str else "true or false")
    return value


def _typed(condition: bool, where: str, value: Any, kind: str) -> None:
    _check(condition, f"{where.removesuffix('.')} is {str(value)[:60]!r}; it is {kind}")


def suggestion(name: str, allowed: typing.Iterable[str]) -> str:
    """'; did you mean …?' when a name is close to an allowed one, else the list of what is allowed."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(sorted(allowed))}"


def _known(cls: type, values: Mapping[str, Any], where: str = "") -> None:
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ValueError(f"unknown setting {where + key!r}{suggestion(key, names)}")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value is None or 0 < value < math.inf, f"{name} is {value}; it must be above 0 and finite")


def _one_of(config: Any, *names: str) -> None:
    hints = typing.get_type_hints(type(config))
    for name in names:
        value, allowed = getattr(config, name), typing.get_args(hints[name])
        _check(value in allowed, f"{name} is {value!r}{suggestion(str(value), map(str, allowed))}")


def _divides(size: int, part: int, size_name: str, part_name: str) -> None:
    below = size - size % part
    options = f"{below} or {below + part}" if below else f"{part}"
    _check(size % part == 0, f"{part_name} {part} does not divide {size_name} {size}; use {size_name} {options}")
