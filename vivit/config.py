"""All settings of a model and of a run, as frozen dataclasses that check their values.

A recipe derives one `Config` from another with `replace`. The command line sets the same fields; the docstring of a
field is its help text there. A run keeps its config as JSON (`to_dict`), which loads back equal (`from_dict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .settings import check, divides, one_of, positive, short_repr
from .settings import differences as differences
from .settings import from_dict as from_dict
from .settings import replace as replace
from .settings import suggestion as suggestion
from .settings import to_dict as to_dict

EncoderName = Literal[
    "spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"
]  # Models 1, 2, 3, 4 of the paper
ENCODERS: dict[str, Callable[[ModelConfig], Any]] = {}
"""The table of encoders, which vivit.model.encoders fills."""
ALL = "all"  # names all label sets of a video together in results, so no label set may have this name


@dataclass(frozen=True)
class Preprocessing:
    """How a video becomes the input of the model. Weights are saved with these settings."""

    frame_stride: float = 2
    """Distance between two frames of a clip, in frames of the video."""
    clip_seconds: float | None = None
    """Seconds that a clip covers at any frame rate; replaces frame_stride. None: frame_stride applies."""
    crop_fraction: float = 0.875
    """Fraction of the resized short side that a test crop covers, such as 224 of 256 pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of each color channel, on the scale 0..1."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of each color channel, on the scale 0..1: pixels become (x / 255 - mean) / std."""

    def __post_init__(self):
        positive(self, "frame_stride", "clip_seconds")
        check(0 < self.crop_fraction <= 1, f"crop_fraction is {self.crop_fraction}; it must be in (0, 1]")
        check(min(self.std) > 0, f"std is {self.std}; every channel needs a value above 0")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a model. `vivit.presets` has the usual ones by name."""

    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Label sets by name, each with its class names in the order of the logits. Training fills them from the data."""
    encoder: EncoderName = "factorised_encoder"
    """The encoder of Model 1, 2, 3 or 4 of the paper, in this order of the names."""
    tokenizer: Literal["tubelet", "uniform_frames"] = "tubelet"
    """tubelet: a token is a tubelet of several frames; uniform_frames: a token is a patch of one sampled frame."""
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    """Frames, height and width of one token, in frames and pixels; uniform_frames needs 1 frame."""
    sampled_frames: int | None = None
    """uniform_frames only: number of frames of the clip that become tokens."""
    num_frames: int = 32
    """Frames of a clip."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width of a frame, in pixels."""
    embed_dim: int = 768
    """Width of a token inside the encoder."""
    depth: int = 12
    """Transformer layers; for factorised_encoder the layers over space."""
    temporal_depth: int = 4
    """factorised_encoder only: layers over time; 0 averages the frames (the baseline in the paper)."""
    temporal_skip: bool = False
    """factorised_encoder only: add the average of the frames to the output of the layers over time, which starts at
    zero. A model inflated from an image model then starts as the average of its frames."""
    attention_pool: bool = False
    """Pool by attention with a learned query, not as `pool` says, which the layers over space of Model 2 still do."""
    motion_pool: bool = False
    """The head also reads how much the patches change between neighbouring frames, as filters of the patch see it."""
    num_heads: int = 12
    """Attention heads of each layer."""
    mlp_ratio: float = 4.0
    """Width of the hidden layer of each MLP, as a multiple of embed_dim."""
    pool: Literal["cls", "mean"] = "cls"
    """What the head reads: the class token (cls) or the mean of all tokens (mean)."""
    norm_after_pool: bool = False
    """pool mean only: normalize the mean of the tokens instead of every token (fc_norm of VideoMAE)."""
    attention_order: Literal["time_space", "space_time"] = "time_space"
    """factorised_self_attention only: which attention of a block comes first."""
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    """Activation of the MLPs: GELU by its tanh approximation, or exact."""
    norm_eps: float = 1e-6
    """Epsilon of the layer norms."""
    drop_path: float = 0.0
    """Stochastic depth: probability to skip the last layer; it grows linearly from 0 at the first layer."""
    dropout: float = 0.0
    """Dropout probability of tokens and of layer outputs."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """How a video becomes the input of the model."""

    def __post_init__(self):
        if self.encoder not in ENCODERS:  # an encoder of one's own need not be in the annotation
            one_of(self, "encoder")
        one_of(self, "tokenizer", "pool", "attention_order", "activation")
        positive(self, "num_frames", "embed_dim", "depth", "num_heads", "mlp_ratio", "sampled_frames")
        check(min(*self.tubelet_size, *self.image_size) > 0, "tubelet_size and image_size take sizes above 0")
        for name, labels in self.classes.items():
            repeated = [label for label, times in Counter(labels).items() if times > 1]
            check(len(labels) > 0, f"classes: label set {name!r} has no class")
            check(not repeated, f"classes: label set {name!r} has {', '.join(map(repr, repeated))} more than once")
        check(ALL not in self.classes, f"classes: {ALL!r} is the name of all label sets together; take another")
        for name in ("drop_path", "dropout"):
            check(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        check(self.temporal_depth >= 0, f"temporal_depth is {self.temporal_depth}; it is 0 or more")
        check(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}",
        )
        if self.encoder in ("factorised_self_attention", "factorised_dot_product"):
            check(self.pool == "mean", f"{self.encoder} has no class token (paper, section 3.3); use pool='mean'")
        check(
            not self.temporal_skip
            or (self.encoder == "factorised_encoder" and (self.temporal_depth > 0 or self.attention_pool)),
            "temporal_skip bypasses the layers over time of a factorised_encoder; this model has none",
        )
        if self.encoder == "factorised_dot_product":
            check(
                self.num_heads % 2 == 0,
                f"factorised_dot_product splits the heads in two halves; num_heads {self.num_heads} is odd",
            )
        check(
            not (self.norm_after_pool and self.attention_pool), "norm_after_pool and attention_pool exclude each other"
        )
        check(
            self.pool == "mean" or not self.norm_after_pool,
            "norm_after_pool changes nothing with a class token; it belongs to pool='mean'",
        )
        if self.tokenizer == "uniform_frames":
            check(
                self.sampled_frames is not None and self.sampled_frames <= self.num_frames,
                f"uniform_frames needs sampled_frames between 1 and num_frames={self.num_frames}, "
                f"got {self.sampled_frames}",
            )
            check(
                self.tubelet_size[0] == 1,
                f"uniform_frames embeds single frames; use tubelet_size=(1, {self.tubelet_size[1]}, "
                f"{self.tubelet_size[2]}), got {self.tubelet_size}",
            )
        else:
            check(self.sampled_frames is None, "sampled_frames belongs to tokenizer='uniform_frames'")
        divides(self.num_frames, self.tubelet_size[0], "num_frames", "tubelet depth")
        divides(self.image_size[0], self.tubelet_size[1], "image height", "tubelet height")
        divides(self.image_size[1], self.tubelet_size[2], "image width", "tubelet width")

    @property
    def grid(self) -> tuple[int, int, int]:
        """The token grid (t, h, w)."""
        t = self.sampled_frames or self.num_frames // self.tubelet_size[0]
        return t, self.image_size[0] // self.tubelet_size[1], self.image_size[1] // self.tubelet_size[2]

    @property
    def num_features(self) -> int:
        """The width of the features that the head reads."""
        return self.embed_dim * (3 if self.motion_pool else 1)

    @property
    def num_classes(self) -> int:
        """K: the number of classes of all label sets together."""
        return sum(len(names) for names in self.classes.values())

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True)
class DataConfig:
    """Which videos to read, and how."""

    root: str = ""
    """A folder with one subfolder per class, or a .csv/.jsonl file with path, label columns[, start, end, split]."""
    dataset: str = "folder"
    """The format of the annotations: folder, kinetics400, ssv2, epic_kitchens, …; docs/guides/datasets.md lists all."""
    manifest: str = ""
    """The manifest that `vivit data check` wrote; empty: its default place next to the data."""
    labels: tuple[str, ...] = ()
    """Label columns of a table, or label sets of a dataset, to train on; empty: all label columns."""
    train_split: str = "train"
    """Name of the split to train on."""
    eval_split: str = "val"
    """Name of the split to validate and evaluate on."""
    workers: int | None = None
    """Processes per device that read videos; 0: read in the main process. None: one per core, at most 12."""
    max_unreadable: int = 50
    """Unreadable training videos are skipped and counted; the run stops when there are more than this."""
    video_timeout: float = 60
    """Seconds of decoding after which a video counts as unreadable."""
    storage_timeout: float = 300
    """Seconds to wait for data.root to come back when it disappears during training."""

    def __post_init__(self):
        check(self.workers is None or self.workers >= 0, f"workers is {self.workers}; it is 0 or more, or None")


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of a training clip, the same draw for every frame (paper, section 4.1 and table 4)."""

    scale_jitter: tuple[float, float] = (0.9, 1.33)
    """The short side is resized by a random factor in this range before the random crop."""
    flip: float = 0.5
    """Probability of mirroring left and right; set 0 where the direction is the label."""
    flip_directed: bool = False
    """Also mirror the videos whose class names contain left or right."""
    color_jitter: float = 0.0
    """Probability of changing brightness, saturation, contrast and hue."""
    grayscale: float = 0.0
    """Probability of converting the clip to grayscale."""
    rand_augment_layers: int = 0
    """RandAugment: number of random operations in sequence; 0: off."""
    rand_augment_magnitude: float = 15.0
    """RandAugment: strength of the operations, 0 to 30; RandAugment for images ends at 10."""
    rand_augment_geometry: bool = False
    """RandAugment: also rotate, shear and translate, as for images; the official video code does not."""
    random_erasing: float = 0.0
    """Probability of replacing a random box of the clip by noise."""
    mixup: float = 0.0
    """Mix two clips and their labels in a proportion drawn from Beta(mixup, mixup); 0: off."""
    cutmix: float = 0.0
    """Paste a box of another clip, its area drawn from Beta(cutmix, cutmix); 0: off. With mixup, each has half."""
    repeats: int = 1
    """Repeated augmentation: each video is this often in a batch, each time with its own draw, and in an epoch.
    optim.batch_size counts clips and must be a multiple of it."""

    @property
    def mixes(self) -> bool:
        """Whether pairs of clips are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self):
        low, high = self.scale_jitter
        check(0 < low <= high, f"scale_jitter is {self.scale_jitter}; it is (low, high) with 0 < low <= high")
        for name in ("flip", "color_jitter", "grayscale", "random_erasing"):
            check(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}; it is a probability")
        check(self.rand_augment_layers >= 0, f"rand_augment_layers is {self.rand_augment_layers}; it is 0 or more")
        magnitude = self.rand_augment_magnitude
        check(0 <= magnitude <= 30, f"rand_augment_magnitude is {magnitude}; it must be in [0, 30]")
        for name in ("mixup", "cutmix"):
            check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it is 0 or more")
        positive(self, "repeats")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule (paper, section 4.1)."""

    name: Literal["sgd", "adamw"] = "sgd"
    """The optimizer."""
    lr: float = 0.1
    """Base learning rate, reached at the end of the warmup."""
    batch_size: int = 64
    """Clips of one step on all devices together."""
    epochs: float = 30
    """Epochs of the run; 0 only validates the start."""
    warmup_epochs: float = 2.5
    """Epochs in which the learning rate grows linearly from 0."""
    momentum: float = 0.9
    """sgd: momentum; adamw: beta1."""
    weight_decay: float = 0.0
    """Weight decay; norms, biases, position embeddings and class tokens have none."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a fraction of that of the layer above; Model 2 trains its layers over time at the
    rate of the head."""
    freeze: tuple[str, ...] = ()
    """Freeze parameters whose names start with one of these prefixes, such as encoder.spatial or tokenizer."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is then evaluated and saved. None: off."""
    grad_clip: float | None = 1.0
    """Clip the L2 norm of all gradients together to this value. None: off."""
    max_nonfinite_steps: int = 10
    """Steps with gradients that are not finite are skipped and counted; the run stops when there are more than this."""
    label_smoothing: float = 0.0
    """Label smoothing: probability mass that the target spreads evenly over all classes."""

    def __post_init__(self):
        one_of(self, "name")
        positive(self, "lr", "batch_size", "grad_clip")
        check(0 <= self.epochs < float("inf"), f"epochs is {self.epochs}; it is a number, 0 or more")
        check(
            0 <= self.warmup_epochs < self.epochs or self.warmup_epochs == self.epochs == 0,
            f"warmup_epochs is {self.warmup_epochs}; it is 0 or more and below epochs={self.epochs}",
        )
        check(0 <= self.momentum < 1, f"momentum is {self.momentum}; it must be in [0, 1)")
        check(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; it is 0 or more")
        check(0 < self.layer_decay <= 1, f"layer_decay is {self.layer_decay}; it must be in (0, 1]")
        check(self.ema is None or 0 < self.ema < 1, f"ema is {self.ema}; it must be in (0, 1), or is None")
        check(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)")


@dataclass(frozen=True)
class EvalConfig:
    """The test protocol (paper, section 4.1): logits averaged over temporal views x spatial crops."""

    temporal_views: int = 4
    """Evenly spaced clips of a video."""
    spatial_views: Literal[1, 3] = 3
    """Crops of a clip: 1 (center), or 3 along the longer side."""
    batch_views: int = 24
    """Views in one forward pass; changes memory and speed, not the result."""
    shuffle_frames: bool = False
    """Show the frames of every clip in random order, to measure the accuracy without motion."""
    merge_tokens: int = 0
    """Model 1 only, faster with a small loss of accuracy: each layer merges this many tokens into similar ones."""
    drop_static: float | None = None
    """Model 1 only, faster with a small loss of accuracy: drop tubelets whose pixels differ from those of the previous
    tubelet by at most this on average, on the scale 0..1."""

    def __post_init__(self):
        one_of(self, "spatial_views")
        positive(self, "temporal_views", "batch_views")
        check(self.merge_tokens >= 0, f"merge_tokens is {self.merge_tokens}; it is 0 (off) or more tokens a layer")
        check(
            self.drop_static is None or 0 <= self.drop_static <= 1,
            f"drop_static is {self.drop_static}; it must be None (off) or in [0, 1], where 1 is black to white",
        )


@dataclass(frozen=True)
class ParallelConfig:
    """How to distribute a step over devices and memory. The result does not change, except for rounding."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ddp keeps a copy of the model in each, fsdp shards its parameters among them."""
    micro_batch: int | None = None
    """Most clips in one forward pass of a device; gradient accumulation covers the rest. None: no limit."""
    checkpoint_activations: bool = False
    """Activation checkpointing: recompute each block in the backward pass instead of keeping its activations."""
    compile: bool = False
    """Compile each block with torch.compile."""

    def __post_init__(self):
        one_of(self, "strategy")
        positive(self, "micro_batch")


@dataclass(frozen=True)
class Config:
    """All settings of a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The architecture."""
    data: DataConfig = field(default_factory=DataConfig)
    """The videos."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """The augmentation."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """The test protocol."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Devices and memory."""
    init: str | None = None
    """Weights to start from: a run, a file, a folder or a hub id. Resuming a run needs no init."""
    kernel_init: Literal["central_frame", "filter_inflation", "arp", "random", "central_difference"] = "central_frame"
    """How the patch kernel of an image model becomes that of a tubelet (paper, section 3.4); central_difference adds a
    random kernel on the change between frames to central_frame, so that motion shows from the start."""
    linear_probe: bool = False
    """Fit the head to the features of init before the first step: the frozen baseline from which training starts."""
    budget: str | None = None
    """Fit heads to cached features, then train the encoder as far as this time allows: 15m, 3h, auto, none: no end."""
    final_weights: Literal["last", "best"] = "last"
    """The weights that the run ends with: the last ones, or those best in validation (linear_probe's among them)."""
    run: str = "runs/default"
    """Folder of this run; starting again with the same folder resumes it."""
    seed: int = 0
    """Seed of the initialization, the order of the videos and the augmentation."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on; auto takes CUDA, then MPS, then the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA devices that support it, else float32; the same in train, eval and predict."""
    eval_every: float = 1
    """Epochs between two single-view validations."""
    save_every: float = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep, in addition to the weights that were best in validation."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    deterministic: bool = False
    """Use only deterministic algorithms; they are slower on CUDA."""
    tracker: str | None = None
    """A module with the functions init, log and finish of wandb: wandb, trackio, swanlab."""

    def __post_init__(self):
        one_of(self, "device", "precision", "final_weights", "kernel_init")
        positive(self, "eval_every", "save_every", "log_every", "keep_checkpoints")
        check(self.seed >= 0, f"seed is {self.seed}; it is 0 or more")

    def __repr__(self) -> str:
        return short_repr(self)
