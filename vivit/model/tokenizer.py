"""Video to tokens: tubelets, or patches of uniformly sampled frames (paper, 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..model_config import ModelConfig, uniform_frame_indices
from ..torch_private import is_plain


class Tokenizer(nn.Module):
    """Project each non-overlapping tubelet of t × h × w pixels to one token.

    `uniform_frames` takes tubelets of depth 1 from some of the frames. The kernel has the layout of Conv3d,
    (D, C, t, h, w), and is applied as one matrix product: the same sum, and as fast in every release of PyTorch. A
    `proj` that is wrapped or has hooks is called.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.frame_index = FRAME_INDEX[config.tokenizer](config)
        self.proj = nn.Conv3d(3, config.embed_dim, config.tubelet_size, stride=config.tubelet_size)
        self.t, self.h, self.w = config.tubelet_size

    def forward(self, video: Tensor) -> Tensor:  # (B, T, C, H, W) → (B, t, s, D)
        return self.embed(video[:, self.frame_index])

    def embed(self, frames: Tensor) -> Tensor:
        """Embed frames (B, t·dt, C, H, W), all of which become tokens: → (B, t, s, D)."""
        if not is_plain(self.proj, nn.Conv3d):
            return rearrange(self.proj(frames.transpose(1, 2)), "B D t h w -> B t (h w) D")
        return F.linear(self.cut(frames), self.proj.weight.flatten(1), self.proj.bias)

    def tubelets(self, video: Tensor) -> Tensor:
        """Cut a video (B, T, C, H, W) into flattened tubelets (B, t, s, C·dt·dh·dw)."""
        return self.cut(video[:, self.frame_index])

    def cut(self, frames: Tensor) -> Tensor:
        """Cut frames (B, t·dt, C, H, W), all of which become tokens, into tubelets (B, t, s, C·dt·dh·dw)."""
        pattern = "B (t dt) C (h dh) (w dw) -> B t (h w) (C dt dh dw)"
        return rearrange(frames, pattern, dt=self.t, dh=self.h, dw=self.w)

    def fold(self, *, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return kernel and bias that embed uint8 pixels as `proj` embeds pixels · scale + shift, both (3, 1, 1).

        For `embed_uint8`. For inference: in training each step would fold the kernel again.
        """
        weight, bias = self.proj.weight, self.proj.bias
        assert bias is not None
        wide_weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        kernel = wide_weight * scale[:, None]
        offset = (wide_weight * (shift.to(wide_weight.dtype) + 128 * scale)[:, None]).sum(dim=(1, 2, 3, 4))
        return kernel.flatten(1).to(weight.dtype), (bias + offset).to(weight.dtype)

    def embed_uint8(self, tubelets: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """Embed tubelets of uint8 pixels (B, t, s, C·dt·dh·dw) with a folded kernel: → (B, t, s, D).

        They stay uint8 until the product. They are taken as pixel − 128, which each float type holds exactly, so that
        no large bias has to cancel.
        """
        return F.linear(tubelets.to(kernel.dtype).sub_(128), kernel, bias)


# config.tokenizer → which frames of a clip become tokens
FRAME_INDEX: dict[str, Callable[[ModelConfig], slice | list[int]]] = {
    "tubelet": lambda c: slice(None),
    "uniform_frames": lambda c: uniform_frame_indices(c.num_frames, c.sampled_frames or c.num_frames),
}
