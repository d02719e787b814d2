"""ViViT: tokenizer + encoder + head (paper, section 3)."""

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
from .cpu_kernels import is_traced
from .encoders import ENCODERS, Transformer
from .layers import Attention, Mlp
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..weights.load_report import LoadReport


class ViViT(nn.Module):
    """A video transformer as `config` describes it, randomly initialised; the head starts at zero.

    Videos are (B, T, C, H, W): uint8 pixels, which the model normalises, or float already normalised. The logits of
    several label sets stand side by side in the order of `config.classes`.
    """

    load_report: LoadReport | None = None
    """What loading did to every tensor; None for a random start."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config)
        self.encoder = ENCODERS[config.encoder](config)
        self.head = Head(config.embed_dim, config.num_classes)
        self.pixels = Normalise(config.preprocessing)
        init_weights(self)

    def forward(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, T, C, H, W) → (B, K)
        return self.head(self.features(video, seeds))

    def features(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, T, C, H, W) → (B, D), the input of the head.

        In training, `seeds` (B,) int64 decide what dropout and stochastic depth take from each clip; by default they
        are drawn from PyTorch's generator.
        """
        self.check(video)
        if not (self.training and (self.config.dropout or self.config.drop_path)):
            seeds = None
        elif seeds is None:
            seeds = torch.randint(2**32, video.shape[:1], device=video.device)
        return self.encoder(self.tokens(video), seeds)

    def tokens(self, video: Tensor) -> Tensor:  # (B, T, C, H, W) → (B, t, s, D)
        if video.dtype == torch.uint8 and not (torch.is_grad_enabled() or is_traced()):
            return self.tokenizer.from_pixels(video, scale=self.pixels.scale, shift=self.pixels.shift)
        return self.tokenizer(self.normalise(video))

    def normalise(self, video: Tensor) -> Tensor:
        """uint8 pixels → (x / 255 − mean) / std in the model's dtype; float videos count as normalised."""
        dtype = self.head.weight.dtype
        return self.pixels(video, torch.promote_types(dtype, torch.float32)).to(dtype)

    def resize(self, *, num_frames: int | None = None, image_size: tuple[int, int] | None = None) -> Self:
        """Change the clip length and frame size (H, W) in place, interpolating the positions; returns the model."""
        config = replace(
            self.config,
            num_frames=num_frames or self.config.num_frames,
            image_size=tuple(image_size or self.config.image_size),
        )
        self.encoder.resize(config.grid)  # type: ignore[operator]
        with torch.device("meta"):  # the same modules for the new grid; they take over this model's tensors
            resized = type(self)(config)
        resized.load_state_dict(self.state_dict(), assign=True)
        resized.train(self.training)
        self.tokenizer, self.encoder, self.config = resized.tokenizer, resized.encoder, config
        return self

    # Files belong to vivit.weights, which imports this module; hence the imports inside.

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write model.safetensors and config.json into `folder`; `vivit.from_pretrained(folder)` reads them."""
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
        """Upload the model with a model card to the Hugging Face hub; returns the address.

        `results` and `recipe` (Markdown) go into the card; what the config says is there by itself.
        """
        from ..weights.hub import push_to_hub

        return push_to_hub(self, repo_id, results=results, recipe=recipe, license=license, private=private)

    def check(self, video: Tensor) -> None:
        """Raise ValueError unless the video has this model's shape, and pixels as uint8 or float."""
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
    """Features → logits; starts at zero, so that all classes are equally likely. Without classes it is empty."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Normalise(nn.Module):
    """uint8 pixels (…, 3, H, W) → (x / 255 − mean) / std, as x · scale + shift.

    The numbers are kept as fractions of integers, which no `model.bfloat16()` rounds: a scale of 2 / 255 that is off by
    a thousandth moves all pixels of all tokens to the same side.
    """

    numerator: Tensor
    denominator: Tensor

    def __init__(self, p: Preprocessing):
        super().__init__()
        # Computed before there are tensors: arithmetic on the meta device imports PyTorch's compiler, in seconds.
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
        """uint8 → dtype, computed in it; a float video as it is."""
        return video * self.scale.to(dtype) + self.shift.to(dtype) if video.dtype == torch.uint8 else video


def as_fraction(x: float) -> tuple[int, int]:
    """x, rounded to float32, as numerator and denominator, a power of two; both are exact in float32."""
    [single] = struct.unpack("f", struct.pack("f", x))
    return (round(single * 2**62) / 2**62).as_integer_ratio()


@torch.no_grad()
def init_weights(model: ViViT) -> None:
    """Random start, as in the official code.

    | parameter             | start                                                                      |
    |-----------------------|----------------------------------------------------------------------------|
    | tubelet kernel        | normal, variance 1 / fan-in, cut off at two standard deviations; bias 0     |
    | queries, keys, values | Xavier uniform, each on its own; bias 0                                     |
    | attention output, MLP | Xavier uniform; bias 0 and normal(1e-6)                                     |
    | positions             | normal(0.02)                                                                |
    | class token, head     | 0                                                                           |
    | norms                 | scale 1, bias 0                                                             |
    | temporal_skip         | scale 0 in the last norm over time: features start as the frames' average;  |
    |                       | positions over time are sines, as large as the features that they join      |

    Parameters on the meta device take no values and no random numbers.
    """
    if all(p.is_meta for p in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, Tokenizer):
            std = 1 / math.sqrt(module.proj.weight[0].numel()) / 0.8796  # of a normal cut off at ±2
            nn.init.trunc_normal_(module.proj.weight, std=std, a=-2 * std, b=2 * std)
            assert module.proj.bias is not None
            nn.init.zeros_(module.proj.bias)
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
            nn.init.normal_(module.pos_embed, std=0.02)
            if module.cls_token is not None:
                nn.init.zeros_(module.cls_token)
        elif isinstance(module, nn.LayerNorm | Head):
            module.reset_parameters()
    if model.config.temporal_skip:
        nn.init.zeros_(model.get_parameter("encoder.temporal.norm.weight"))
        positions = model.get_parameter("encoder.temporal.pos_embed")
        positions.copy_(sines(*positions.shape[1:]))


def sines(n: int, width: int) -> Tensor:
    """Positions (n, width): sine and cosine at frequencies from 1 down to 1 / n radians a step, of mean square 1."""
    frequencies = n ** -torch.linspace(0, 1, -(-width // 2))
    angles = torch.arange(n)[:, None] * frequencies
    return math.sqrt(2) * torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]
