"""ViViT: tokenizer, encoder and head (paper, section 3)."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from ..config import ModelConfig, Preprocessing, replace
from ..torch_private import is_plain
from .cpu_kernels import is_jit_tracing
from .encoders import ENCODERS, FactorisedEncoder, Transformer
from .layers import Attention, AttentionPool, Mlp
from .modes import copy_sharing_weights
from .motion import MotionPool
from .rope import fill_tables
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..weights.load_report import LoadReport


class ViViT(nn.Module):
    """Video transformer described by `config`, randomly initialised; the head starts at zero.

    Videos are (B, T, C, H, W): uint8 pixels, which the model normalises, or float already normalised. Logits are
    (B, K); those of several label sets are concatenated in the order of `config.classes`.
    """

    load_report: LoadReport | None = None
    """What loading did with every tensor; None after a random start."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config)
        self.encoder = ENCODERS[config.encoder](config)
        self.motion = MotionPool(config) if config.motion_pool else None
        self.head = Head(config.num_features, config.num_classes)
        self.normalization = Normalize(config.preprocessing)
        init_weights(self)

    def forward(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map videos (B, T, C, H, W) to logits (B, K). See `features` for `seeds` and errors."""
        return self.head(self.features(video, seeds))

    def features(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map videos (B, T, C, H, W) to features (B, num_features), the input of the head.

        In training mode, `seeds` (B,) int64 determine what dropout and stochastic depth drop from each clip; the
        default draws them from PyTorch's generator. Raises ValueError for a video of another shape or dtype.
        """
        self.check_video(video)
        if not (self.training and (self.config.dropout or self.config.drop_path)):
            seeds = None
        elif seeds is None:
            seeds = torch.randint(2**32, video.shape[:1], device=video.device)
        return self.add_motion(self.encoder(self.tokenize(video), seeds), video)

    def add_motion(self, features: Tensor, video: Tensor) -> Tensor:
        """Append the motion features of videos (B, T, C, H, W) to (B, D), if the model has any."""
        if self.motion is None:
            return features
        return torch.cat((features, self.motion(self.normalize(video)).to(features.dtype)), dim=1)

    def tokenize(self, video: Tensor) -> Tensor:
        """Normalise the pixels of a video (B, T, C, H, W) and embed its tubelets: → (B, t, s, D)."""
        folds = video.dtype == torch.uint8 and not (torch.is_grad_enabled() or is_jit_tracing())
        embedding = self.fold_normalization() if folds else None
        if embedding is None:
            return self.tokenizer(self.normalize(video))
        return self.tokenizer.embed_uint8(self.tokenizer.tubelets(video), *embedding)

    def fold_normalization(self) -> tuple[Tensor, Tensor] | None:
        """Return kernel and bias of the tokenizer for uint8 pixels, with the normalisation folded in.

        None if the tokenizer has to be called, because it or its layer is wrapped or has hooks.
        """
        if not (is_plain(self.tokenizer, Tokenizer) and is_plain(self.tokenizer.proj, nn.Conv3d)):
            return None
        return self.tokenizer.fold(scale=self.normalization.scale, shift=self.normalization.shift)

    def encode_positions(self, frames: Tensor, embedding: tuple[Tensor, Tensor] | None, *, pool: bool = True) -> Tensor:
        """Map the frames of single temporal positions (n, dt, C, H, W) uint8 to features (n, D); Model 2, no gradients.

        `embedding` is what `fold_normalization` returns. `classify_positions` maps t consecutive positions to logits,
        the same as of the clip that their frames make. Without `pool` these are the tokens (n, s, D).
        """
        assert isinstance(self.encoder, FactorisedEncoder)
        spatial = self.encoder.spatial
        if embedding is None:
            tokens = self.tokenizer.embed(self.normalize(frames))[:, 0]
        else:
            tokens = self.tokenizer.embed_uint8(self.tokenizer.cut(frames), *embedding)[:, 0]
        return spatial(tokens) if pool else spatial.encode_tokens(tokens)

    def encode_clip_tokens(self, video: Tensor) -> Tensor:
        """Map clips (B, T, C, H, W) to their tokens after the encoder (B, t, s, D); Models 1, 3 and 4, inference."""
        self.check_video(video)
        assert isinstance(self.encoder, Transformer)
        tokens = self.tokenize(video)
        return self.encoder.encode_tokens(tokens).view_as(tokens)

    def classify_positions(self, features: Tensor) -> Tensor:
        """Map the features of the temporal positions of clips (B, t, D) to logits (B, K); Model 2."""
        assert isinstance(self.encoder, FactorisedEncoder)
        return self.head(self.encoder.encode_time(features))

    def normalize(self, video: Tensor) -> Tensor:
        """Map uint8 pixels to (x / 255 − mean) / std in the dtype of the model; cast float videos to it."""
        dtype = next(self.parameters()).dtype  # not of the head, which may have been replaced
        return self.normalization(video, torch.promote_types(dtype, torch.float32)).to(dtype)

    def resize(self, *, num_frames: int | None = None, image_size: tuple[int, int] | int | None = None) -> Self:
        """Change the clip length and the frame size in place by interpolating the positions; return the model.

        `image_size` is (H, W), or one side of a square. Positions that change are new parameters: create an optimizer
        afterwards. All other parameters stay the same objects, and `training` and `requires_grad` stay as they are.
        Tokenizer and encoder are new modules, so their hooks and what `compile` made of them are gone. Raises
        ValueError for sizes that the tubelets do not divide, and for a model with wrapped layers (LoRA).
        """
        config = replace(
            self.config,
            num_frames=self.config.num_frames if num_frames is None else num_frames,
            image_size=self.config.image_size if image_size is None else image_size,
        )
        old, trainable = self.state_dict(keep_vars=True), {n: p.requires_grad for n, p in self.named_parameters()}
        encoder = copy_sharing_weights(self.encoder)  # where this fails, the model stays as it is
        encoder.resize(config.grid)  # type: ignore[operator]
        state = {name: tensor for name, tensor in old.items() if not name.startswith("encoder.")}
        for name, tensor in encoder.state_dict(prefix="encoder.", keep_vars=True).items():
            same = (
                name in old and old[name].shape == tensor.shape and (tensor.is_meta or torch.equal(old[name], tensor))
            )
            state[name] = old[name] if same else tensor
        with torch.device("meta"):  # the same modules for the new grid, which get these tensors
            resized = type(self)(config)
        if others := sorted(state.keys() ^ resized.state_dict().keys()):
            raise ValueError(f"{others[0]}: a layer has been replaced; resize the model before you replace its layers")
        resized.load_state_dict(state, assign=True)
        fill_tables(resized, self.head.weight.device)
        for name, parameter in resized.named_parameters():
            parameter.requires_grad_(trainable.get(name, True))
        modes = {name: module.training for name, module in self.named_modules()}
        for name, module in resized.named_modules():
            module.training = modes.get(name, self.training)
        self.tokenizer, self.encoder, self.config = resized.tokenizer, resized.encoder, config
        return self

    # vivit.weights imports this module, so these two methods import it when they are called.

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write model.safetensors and config.json into `folder`, for `vivit.from_pretrained`. Raises OSError."""
        from ..weights.save import save_pretrained

        return save_pretrained(self, folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: Mapping[str, float | str] | None = None,
        recipe: str = "",
        license: str | None = None,
        private: bool = False,
    ) -> str:
        """Upload the model with a model card to the Hugging Face hub; return its URL.

        The card shows the config, `results` and `recipe` (Markdown).
        """
        from ..weights.hub import push_to_hub

        return push_to_hub(self, repo_id, results=results, recipe=recipe, license=license, private=private)

    def check_video(self, video: Tensor) -> None:
        """Raise ValueError for a video whose shape does not fit this model, or that is neither uint8 nor float."""
        c = self.config
        expected = (c.num_frames, 3, *c.image_size)
        if video.ndim != 5 or tuple(video.shape[1:]) != expected:
            takes = ", ".join(map(str, expected))
            raise ValueError(
                f"video has shape {tuple(video.shape)}; this model takes (B, T, C, H, W) = (B, {takes}). For "
                f"other clip lengths and frame sizes that tubelets of {c.tubelet_size} divide, call "
                "model.resize(num_frames=…, image_size=(H, W))"
            )
        if not (video.dtype == torch.uint8 or video.is_floating_point()):
            raise ValueError(f"video is {video.dtype}; give pixels as uint8 0 … 255 or float already normalised")

    def __repr__(self) -> str:
        c, parameters = self.config, sum(p.numel() for p in self.parameters())
        takes = f"{c.num_frames} frames of {c.image_size[0]}x{c.image_size[1]} pixels"
        return f"ViViT({c.encoder}: {takes} → {c.num_classes} classes; {parameters / 1e6:.2f} M parameters)"


class Head(nn.Linear):
    """Linear layer from features to logits. It starts at zero: all classes are equally likely."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Normalize(nn.Module):
    """Map uint8 pixels (…, 3, H, W) to (x / 255 − mean) / std, computed as x · scale + shift.

    Scale and shift are stored as fractions of integers, which `model.bfloat16()` does not round. A rounded scale would
    shift all pixels of all tokens in the same direction.
    """

    numerator: Tensor
    denominator: Tensor

    def __init__(self, p: Preprocessing):
        super().__init__()
        # Computed without tensors: arithmetic on the meta device imports PyTorch's compiler, which takes seconds.
        numbers = [1 / (255 * std) for std in p.std] + [-mean / std for mean, std in zip(p.mean, p.std)]
        for name, values in zip(("numerator", "denominator"), zip(*map(as_fraction, numbers))):
            self.register_buffer(name, torch.tensor(values).view(2, 3, 1, 1), persistent=False)

    @property
    def scale(self) -> Tensor:  # (3, 1, 1) float32
        return self.numerator[0].float() / self.denominator[0].float()

    @property
    def shift(self) -> Tensor:  # (3, 1, 1) float32
        return self.numerator[1].float() / self.denominator[1].float()

    def forward(self, video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalise a uint8 video in `dtype`; return a float video as it is."""
        return video * self.scale.to(dtype) + self.shift.to(dtype) if video.dtype == torch.uint8 else video


def as_fraction(x: float) -> tuple[int, int]:
    """Round x to float32; return (numerator, denominator), both exact in float32. The denominator is a power of two."""
    [single] = struct.unpack("f", struct.pack("f", x))
    return (round(single * 2**62) / 2**62).as_integer_ratio()


@torch.no_grad()
def init_weights(model: ViViT) -> None:
    """Initialise all parameters, as the official code does.

    | parameter             | value                                                                      |
    |-----------------------|----------------------------------------------------------------------------|
    | tubelet kernel        | normal, variance 1 / fan-in, truncated at two standard deviations; bias 0   |
    | queries, keys, values | Xavier uniform, each separately; bias 0                                     |
    | attention output, MLP | Xavier uniform; bias 0 and normal(1e-6)                                     |
    | attention pooling     | as attention; the query normal(0.02)                                        |
    | positions, registers  | normal(0.02)                                                                |
    | class token, head     | 0; and the temporal positions that come with rope_2d                        |
    | norms, motion pooling | scale 1, bias or center 0                                                   |
    | temporal_skip         | scale 0 in the norm after time, so that features start as the average of    |
    |                       | the frames; temporal positions are sinusoids, as large as the features      |

    Parameters on the meta device get no values and draw no random numbers. Modules of other types, as in an encoder of
    your own, keep the values that their constructor gave them.
    """
    if all(p.is_meta for p in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, Tokenizer | MotionPool):
            std = 1 / math.sqrt(module.proj.weight[0].numel()) / 0.8796  # 0.8796: std of N(0, 1) cut at ±2
            nn.init.trunc_normal_(module.proj.weight, std=std, a=-2 * std, b=2 * std)
            if module.proj.bias is not None:
                nn.init.zeros_(module.proj.bias)
            if isinstance(module, MotionPool):
                nn.init.zeros_(module.center)
                nn.init.ones_(module.scale)
        elif isinstance(module, Attention):
            for weight in (*module.qkv.weight.chunk(3), module.proj.weight):
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(module.qkv.bias)
            nn.init.zeros_(module.proj.bias)
        elif isinstance(module, Mlp):
            for linear in (module.fc1, module.fc2):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.normal_(linear.bias, std=1e-6)
        elif isinstance(module, Transformer):
            for tokens in (module.pos_embed, module.register_tokens):
                if tokens is not None:
                    nn.init.normal_(tokens, std=0.02)
            for tokens in (module.cls_token, module.time_embed):
                if tokens is not None:
                    nn.init.zeros_(tokens)
        elif isinstance(module, AttentionPool):
            for weight in (*module.kv.weight.chunk(2), module.proj.weight):
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(module.kv.bias)
            nn.init.zeros_(module.proj.bias)
            nn.init.normal_(module.query, std=0.02)
        elif isinstance(module, nn.LayerNorm | Head):
            module.reset_parameters()
    if model.config.temporal_skip:
        pooled = model.config.attention_pool and model.config.temporal_depth
        nn.init.zeros_(model.get_parameter(f"encoder.temporal.{'attention_pool.' if pooled else ''}norm.weight"))
        if model.config.temporal_depth:
            positions = model.get_parameter("encoder.temporal.pos_embed")
            positions.copy_(temporal_sinusoids(*positions.shape[1:]))


def temporal_sinusoids(n: int, width: int) -> Tensor:
    """Return positions (n, width): sines and cosines at frequencies from 1 to 1 / n radians a step, mean square 1."""
    frequencies = n ** -torch.linspace(0, 1, -(-width // 2))
    angles = torch.arange(n)[:, None] * frequencies
    return math.sqrt(2) * torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]
