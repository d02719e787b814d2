"""Video to tokens (paper, section 3.2): tubelets, or 2-D patches of uniformly sampled frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig


class Tokenizer(nn.Module):
    """Non-overlapping t × h × w boxes of pixels, each projected to one token.

    `uniform_frames` is the same with depth 1 on some of the frames. The kernel has Conv3d's layout (D, C, t, h, w); it
    is applied as one matrix product, which is the same sum and does not depend on a release's Conv3d being fast.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.frames = FRAMES[config.tokenizer](config)
        self.proj = nn.Conv3d(3, config.embed_dim, config.tubelet_size, stride=config.tubelet_size)
        self.t, self.h, self.w = config.tubelet_size

    def forward(self, video: Tensor) -> Tensor:  # (B, T, C, H, W) → (B, t, s, D)
        return F.linear(self.boxes(video), self.proj.weight.flatten(1), self.proj.bias)

    def boxes(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) → (B, t, s, C·t·h·w of a tubelet)."""
        pattern = "B (t dt) C (h dh) (w dw) -> B t (h w) (C dt dh dw)"
        return rearrange(video[:, self.frames], pattern, dt=self.t, dh=self.h, dw=self.w)

    def from_pixels(self, video: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
        """The tokens of uint8 pixels · scale + shift, each (3, 1, 1), with both folded into kernel and bias.

        Pixels stay one byte until the product. They are taken as pixel − 128, which any float type holds exactly, so
        that no large bias has to cancel. Without gradients: in training the kernel would be folded again in each step.
        """
        weight, bias = self.proj.weight, self.proj.bias
        assert bias is not None
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        kernel = wide * scale[:, None]
        offset = (wide * (shift.to(wide.dtype) + 128 * scale)[:, None]).sum(dim=(1, 2, 3, 4))
        centred = (self.boxes(video) ^ 128).view(torch.int8).to(weight.dtype)
        return F.linear(centred, kernel.flatten(1).to(weight.dtype), (bias + offset).to(weight.dtype))


def uniform_frame_indices(num_frames: int, sampled_frames: int) -> list[int]:
    """Frames at round(k · T / (n + 1)) for k = 1 … n, halves to even, as in the official code."""
    return [round(k * num_frames / (sampled_frames + 1)) for k in range(1, sampled_frames + 1)]


# Which frames of a clip become tokens.
FRAMES: dict[str, Callable[[ModelConfig], slice | list[int]]] = {
    "tubelet": lambda c: slice(None),
    "uniform_frames": lambda c: uniform_frame_indices(c.num_frames, c.sampled_frames or c.num_frames),
}
