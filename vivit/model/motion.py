"""Motion features: how much each patch changes between neighbouring frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig

SMALLEST = 1e-3  # of a response, in the units of normalised pixels, so that its logarithm is finite in a still video


class MotionPool(nn.Module):
    """Responses of patch filters to the change between neighbouring frames, without their sign, pooled over the clip.

    Maps normalised videos (B, T, C, H, W) to (B, 2 D): for each of D filters the logarithm of its mean absolute
    response over time, averaged over the places, and that at the place where it is largest. A clip of one frame has no
    change. The filters start as the patch kernel of an image model (see `weights.inflate`); `center` and `scale`, which
    `calibrate` sets, standardise the result.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        patch = config.tubelet_size[1:]
        self.proj = nn.Conv2d(3, config.embed_dim, patch, stride=patch, bias=False)
        self.center = nn.Parameter(torch.zeros(2 * config.embed_dim))
        self.scale = nn.Parameter(torch.ones(2 * config.embed_dim))

    def forward(self, video: Tensor) -> Tensor:  # (B, T, C, H, W) → (B, 2 D)
        return (self.responses(video) - self.center) * self.scale

    def responses(self, video: Tensor) -> Tensor:
        """Compute the features before they are standardised: (B, T, C, H, W) → (B, 2 D)."""
        pairs = max(video.shape[1] - 1, 1)
        change = video[:, -pairs:] - video[:, :pairs]
        mean: Tensor | float = 0.0
        for frame in change.unbind(1):  # one at a time: the responses of a whole clip do not fit into the caches
            mean = mean + self.proj(frame).abs() / pairs
        assert isinstance(mean, Tensor)
        return torch.cat((mean.mean(dim=(2, 3)), mean.amax(dim=(2, 3))), dim=1).add(SMALLEST).log()

    @torch.no_grad()
    def calibrate(self, responses: Tensor) -> None:
        """Standardise by the mean and the standard deviation of `responses` (N, 2 D)."""
        std, mean = torch.std_mean(responses.float(), dim=0, correction=0)
        self.center.copy_(mean)
        self.scale.copy_(1 / std.clamp_min(1e-3))
