"""All settings of a run, as frozen dataclasses that check their values; those of its model are in model_config.py.

A recipe derives one `Config` from another with `replace`. The command line sets the same fields; the docstring of a
field is its help text there. A run keeps its config as JSON (`to_dict`), which loads back equal (`from_dict`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .model_config import ALL as ALL
from .model_config import ENCODERS as ENCODERS
from .model_config import EncoderName as EncoderName
from .model_config import ModelConfig as ModelConfig
from .model_config import Preprocessing as Preprocessing
from .settings import check, one_of, positive, short_repr
from .settings import differences as differences
from .settings import from_dict as from_dict
from .settings import replace as replace
from .settings import suggestion as suggestion
from .settings import to_dict as to_dict


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
    frame_cache: float = 4.0
    """GiB in the run folder for decoded frames, until training ends; 0: none. A video whose frames take at most this /
    number of videos (and 256 MiB) is decoded once, others for each clip. No use from some thousand videos on."""

    def __post_init__(self):
        check(self.frame_cache >= 0, f"frame_cache is {self.frame_cache}; it is GiB, 0 or more")
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
    compile: bool | None = None
    """Train with blocks compiled by torch.compile; None: on CUDA in runs that are long enough for it to pay."""
    timeout: float = 600
    """Seconds to wait for a process that is late, before the run ends and names it; more than data.storage_timeout."""

    def __post_init__(self):
        one_of(self, "strategy")
        positive(self, "micro_batch", "timeout")


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
    """Weights to start from: a run, a folder, a file, a hub id or a start. A resumed run reads its checkpoint."""
    kernel_init: Literal["central_frame", "filter_inflation", "arp", "random", "central_difference"] = "central_frame"
    """How the patch kernel of an image model becomes that of a tubelet (paper, section 3.4); central_difference adds a
    random kernel on the change between frames to central_frame, so that motion shows from the start."""
    linear_probe: bool = False
    """Fit the head to the features of init before the first step: the frozen baseline from which training starts."""
    budget: str | None = None
    """Fit heads to cached features, then train the encoder as far as this time allows: 90s, 15m, 3h, auto or
    unlimited. auto is 15m on a CPU and unlimited elsewhere; None leaves the stages out."""
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
