"""The settings of a model: its architecture, its classes and how a video becomes its input."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from .settings import check, divides, make_plain, one_of, positive, short_repr

EncoderName = Literal[
    "spatiotemporal", "factorised_encoder", "factorised_self_attention", "factorised_dot_product"
]  # Models 1, 2, 3, 4 of the paper
ENCODERS: dict[str, Callable[[ModelConfig], Any]] = {}
"""The table of encoders, which vivit.model.encoders fills."""
ALL = "all"  # names all label sets of a video together in results, so no label set may have this name
# What a field calls the right answer in every label set at once; elsewhere it is called `ALL`.
JOINT_NAMES = {frozenset({"verb", "noun"}): "action"}


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
        make_plain(self)
        positive(self, "frame_stride", "clip_seconds")
        check(0 < self.crop_fraction <= 1, f"crop_fraction is {self.crop_fraction}; it must be in (0, 1]")
        check(min(self.std) > 0, f"std is {self.std}; every channel needs a value above 0")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a model. `vivit.presets` has the usual ones by name."""

    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Label sets by name, each with its class names in the order of the logits. Training fills them from the data."""
    encoder: EncoderName = "factorised_encoder"
    """The encoder: Models 1 to 4 of the paper, in this order."""
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
    pool_space: bool = True
    """factorised_encoder only: pool each frame to one token before the layers over time. False, as in VideoPrism: these
    layers run at every place of the frame on its own, and the features pool all tokens of the clip; no class token."""
    joint_depth: int = 0
    """pool_space=False only: layers over all tokens of the clip, after the layers over time and their norm."""
    attention_pool: bool = False
    """Pool the tokens by attention of a learned query, instead of `pool`; in Model 2 over time only."""
    attention_pool_ratio: float = 1.0
    """attention_pool only: width of its queries, keys and values, as a multiple of embed_dim."""
    unit_features: bool = False
    """attention_pool only: divide the pooled features by their length, as video-text models do."""
    motion_pool: bool = False
    """The head also reads how much the patches change between neighbouring frames, as filters of the patch see it."""
    positions: Literal["learned", "rope_2d", "rope_3d"] = "learned"
    """learned: added to the tokens. Rotary positions turn queries and keys, without parameters: rope_3d over time,
    height and width, as in V-JEPA 2; rope_2d over height and width, as in DINOv3, with learned temporal positions that
    start at zero. Model 2's layers over time always learn theirs."""
    num_registers: int = 0
    """Register tokens, placed after the class token; needs pool='cls'. In Model 2 only over space."""
    norm_pre: bool = False
    """Normalize the tokens before the first layer, as in CLIP; not before Model 2's layers over time."""
    num_heads: int = 12
    """Attention heads of each layer."""
    mlp_ratio: float = 4.0
    """Width of the hidden layer of each MLP, as a multiple of embed_dim."""
    pool: Literal["cls", "mean", "attentive"] = "cls"
    """What the head reads: the class token (cls), the mean of all tokens (mean), or attention of a learned query and an
    MLP (attentive), as in SigLIP and in V-JEPA 2's probe; Model 2's layers over time then take the mean."""
    pool_depth: int = 0
    """pool attentive only: layers after the norm of the encoder and before the query, as in V-JEPA 2's probe."""
    pool_mlp_ratio: float | None = None
    """pool attentive only: width of the hidden layer of its MLPs, as a multiple of embed_dim. None: as mlp_ratio."""
    pool_norm_tokens: bool = True
    """pool attentive only: normalize the tokens again before the query, as in V-JEPA 2; False, as in SigLIP: no."""
    norm_after_pool: bool = False
    """pool mean only: normalize the mean of the tokens instead of every token (fc_norm of VideoMAE)."""
    pool_norm_eps: float | None = None
    """norm_after_pool only: epsilon of that norm. None: norm_eps."""
    attn_logit_cap: float | None = None
    """Soft cap c of the attention scores, c · tanh(score / c); None: no cap."""
    interpolation: Literal["bicubic", "linear"] = "bicubic"
    """How positions change to another grid: bicubic in space and linear in time; or linear in both with antialiasing,
    as in VideoPrism."""
    attention_order: Literal["time_space", "space_time"] = "time_space"
    """factorised_self_attention only: which attention of a block comes first."""
    activation: Literal["gelu_tanh", "gelu", "quick_gelu"] = "gelu_tanh"
    """Activation of the MLPs: GELU by its tanh approximation, exact, or x · sigmoid(1.702 x) as in CLIP."""
    norm_eps: float = 1e-6
    """Epsilon of the layer norms."""
    drop_path: float = 0.0
    """Stochastic depth: probability to skip the last layer; it grows linearly from 0 at the first layer."""
    dropout: float = 0.0
    """Dropout probability of tokens and of layer outputs."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """How a video becomes the input of the model."""

    def __post_init__(self):
        make_plain(self)
        self._check_sizes()
        if self.encoder not in ENCODERS:  # an encoder of one's own need not be in the annotation
            one_of(self, "encoder")
        one_of(self, "tokenizer", "pool", "attention_order", "activation", "positions", "interpolation")
        positive(self, "num_frames", "embed_dim", "depth", "num_heads", "mlp_ratio", "sampled_frames")
        positive(self, "attn_logit_cap", "attention_pool_ratio", "pool_norm_eps")
        self._check_classes()
        for name in ("drop_path", "dropout"):
            check(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        check(self.temporal_depth >= 0, f"temporal_depth is {self.temporal_depth}; it is 0 or more")
        divides(self.embed_dim, self.num_heads, "embed_dim", "num_heads")
        if self.encoder in ("factorised_self_attention", "factorised_dot_product"):
            check(self.pool == "mean", f"{self.encoder} has no class token (paper, section 3.3); use pool='mean'")
        check(
            not self.temporal_skip
            or (self.encoder == "factorised_encoder" and (self.temporal_depth > 0 or self.attention_pool)),
            "temporal_skip bypasses the layers over time of a factorised_encoder; this model has none",
        )
        self._check_tokens_over_time()
        if self.encoder == "factorised_dot_product":
            check(
                self.num_heads % 2 == 0,
                f"factorised_dot_product splits the heads in two halves; num_heads {self.num_heads} is odd",
            )
        check(
            not (self.norm_after_pool and self.attention_pool), "norm_after_pool and attention_pool exclude each other"
        )
        self._check_tokens()
        check(
            self.pool == "mean" or not self.norm_after_pool,
            "norm_after_pool changes nothing with a class token; it belongs to pool='mean'",
        )
        check(self.pool_norm_eps is None or self.norm_after_pool, "pool_norm_eps belongs to norm_after_pool")
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

    def _check_sizes(self) -> None:
        object.__setattr__(self, "image_size", frame_size(self.image_size))
        for name, axes in {"image_size": "(H, W)", "tubelet_size": "(frames, H, W)"}.items():
            sizes = getattr(self, name)
            ok = isinstance(sizes, tuple) and len(sizes) == axes.count(",") + 1 and all(type(n) is int for n in sizes)
            check(ok and min(sizes) > 0, f"{name} is {sizes!r}; it is {axes}, whole numbers above 0")
        check(type(self.num_frames) is int, f"num_frames is {self.num_frames!r}; it is a whole number")

    def _check_classes(self) -> None:
        for name, labels in self.classes.items():
            check(
                isinstance(name, str) and isinstance(labels, tuple) and all(isinstance(x, str) for x in labels),
                f"classes maps {name!r} to {reprlib.repr(labels)}; it maps the name of each label set to a list of "
                'class names, as {"label": ["run", "jump"]}',
            )
            repeated = [label for label, times in Counter(labels).items() if times > 1]
            check(len(labels) > 0, f"classes: label set {name!r} has no class")
            check(not repeated, f"classes: label set {name!r} has {', '.join(map(repr, repeated))} more than once")
        check(ALL not in self.classes, f"classes: {ALL!r} is the name of all label sets together; take another")

    def _check_tokens_over_time(self) -> None:
        """Check the fields of a Model 2 whose layers over time see all places of the frames."""
        inner = self.embed_dim * self.attention_pool_ratio
        check(
            abs(inner - round(inner)) < 1e-6 and round(inner) % self.num_heads == 0,
            f"attention_pool_ratio {self.attention_pool_ratio} gives {inner:g} features for {self.num_heads} heads; "
            "it must give each head an equal number",
        )
        check(self.attention_pool or self.attention_pool_ratio == 1, "attention_pool_ratio belongs to attention_pool")
        check(self.attention_pool or not self.unit_features, "unit_features belongs to attention_pool")
        check(
            not (self.unit_features and (self.temporal_skip or self.motion_pool)),
            "unit_features excludes temporal_skip and motion_pool, with which the features have no unit length",
        )
        if self.pool_space:
            check(self.joint_depth == 0, "joint_depth belongs to pool_space=False")
            return
        check(
            self.encoder == "factorised_encoder" and self.temporal_depth > 0,
            "pool_space=False belongs to a factorised_encoder with layers over time",
        )
        check(self.joint_depth >= 0, f"joint_depth is {self.joint_depth}; it is 0 or more")
        check(
            self.pool == "mean" and not self.norm_after_pool and not self.temporal_skip,
            "pool_space=False keeps all tokens of a frame: it takes pool='mean', no norm_after_pool, no temporal_skip",
        )

    def _check_tokens(self) -> None:
        """Check positions, registers and pooling."""
        width, parts = self.embed_dim // self.num_heads, {"rope_2d": 4, "rope_3d": 2}.get(self.positions, 1)
        check(
            width % parts == 0 and (self.positions != "rope_3d" or width >= 6),
            f"{self.positions} needs heads whose width {parts} divides{', of 6 or more' * (parts == 2)}; embed_dim "
            f"{self.embed_dim} with num_heads {self.num_heads} has heads of {width}",
        )
        check(
            self.num_registers == 0 or (self.num_registers > 0 and self.pool == "cls"),
            f"num_registers is {self.num_registers} with pool={self.pool!r}; it is 0 or, with pool='cls', more",
        )
        check(
            self.pool_depth == 0 or (self.pool_depth > 0 and self.pool == "attentive"),
            f"pool_depth is {self.pool_depth} with pool={self.pool!r}; it is 0 or, with pool='attentive', more",
        )
        positive(self, "pool_mlp_ratio")
        check(
            self.pool_mlp_ratio is None or self.pool == "attentive",
            f"pool_mlp_ratio belongs to pool='attentive'; pool is {self.pool!r}",
        )
        check(
            self.pool_norm_tokens or self.pool == "attentive",
            f"pool_norm_tokens=False belongs to pool='attentive'; pool is {self.pool!r}",
        )
        check(
            self.encoder == "factorised_encoder" or not (self.attention_pool and self.pool == "attentive"),
            "attention_pool and pool='attentive' both pool",
        )

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens, before the tokens of the video."""
        return (self.pool == "cls") + self.num_registers

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
    def class_counts(self) -> list[int]:
        """The number of classes of each label set."""
        return [len(names) for names in self.classes.values()]

    @property
    def num_classes(self) -> int:
        """K: the number of classes of all label sets together."""
        return sum(self.class_counts)

    def __repr__(self) -> str:
        return short_repr(self)


def uniform_frame_indices(num_frames: int, sampled_frames: int) -> list[int]:
    """Return the frames round(k · T / (n + 1)) for k = 1 … n, halves to even, as in the official code."""
    return [round(k * num_frames / (sampled_frames + 1)) for k in range(1, sampled_frames + 1)]


def joint_name(label_sets: Iterable[str]) -> str:
    """Return the name, in results and logs, of several label sets together: "action" for verb and noun, else "all"."""
    return JOINT_NAMES.get(frozenset(label_sets), ALL)


def frame_size(size: Any) -> Any:
    """Return (side, side) for one side of a square, as timm takes it; anything else as it is."""
    return (size, size) if isinstance(size, int) else size
