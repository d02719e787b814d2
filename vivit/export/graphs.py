"""The graphs that are exported: uint8 pixels in, normalisation inside, float32 out, any batch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.encoders import FactorisedEncoder
from ..model.modes import copy_sharing_weights
from ..model.vivit import ViViT


class Pixels(nn.Module):
    """Embed uint8 pixels with the normalisation folded into the kernel, in operators that every runtime has.

    The pixel − 128 is exact in float32, so that this is `Tokenizer.embed_uint8` without its bit operations.
    """

    kernel: Tensor
    bias: Tensor

    def __init__(self, model: ViViT):
        super().__init__()
        embedding = model.fold_normalization()
        assert embedding is not None  # the weights come from a file, so no layer is wrapped
        for name, tensor in zip(("kernel", "bias"), embedding):
            self.register_buffer(name, tensor.detach().clone())

    def forward(self, tubelets: Tensor) -> Tensor:  # (B, t, s, C·dt·dh·dw) uint8 → (B, t, s, D)
        return F.linear(tubelets.to(self.kernel.dtype) - 128, self.kernel, self.bias)


class ClipGraph(nn.Module):
    """Map clips (B, T, C, H, W) uint8 to logits (B, K)."""

    def __init__(self, model: ViViT):
        super().__init__()
        self.pixels, self.model = Pixels(model), model

    def forward(self, video: Tensor) -> Tensor:
        model = self.model
        features = model.encoder(self.pixels(model.tokenizer.tubelets(video)))
        return model.head(model.add_motion(features, video))


class PositionGraph(nn.Module):
    """Map the frames of single temporal positions (n, dt, C, H, W) uint8 to features (n, D); Model 2."""

    def __init__(self, model: ViViT):
        super().__init__()
        assert isinstance(model.encoder, FactorisedEncoder)
        self.pixels, self.tokenizer, self.spatial = Pixels(model), model.tokenizer, model.encoder.spatial

    def forward(self, frames: Tensor) -> Tensor:
        return self.spatial(self.pixels(self.tokenizer.cut(frames))[:, 0])


class WindowGraph(nn.Module):
    """Map the features of the temporal positions of clips (B, t, D), or (B, t, s, D), to logits (B, K); Model 2."""

    def __init__(self, model: ViViT):
        super().__init__()
        assert isinstance(model.encoder, FactorisedEncoder)
        self.encoder, self.head = copy_sharing_weights(model.encoder), model.head
        del self.encoder.spatial  # a .pt2 file holds all weights of its module, also those that it does not use

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.encoder.encode_time(features))


def example_input(graph: nn.Module, model: ViViT, batch: int = 2) -> Tensor:
    """Return an input of a graph; the batch of 2 is what the tracer sees, since it treats 1 as a constant."""
    c = model.config
    if isinstance(graph, WindowGraph):
        t, h, w = c.grid
        return torch.zeros(batch, t, c.embed_dim) if c.pool_space else torch.zeros(batch, t, h * w, c.embed_dim)
    frames = c.num_frames if isinstance(graph, ClipGraph) else c.tubelet_size[0]
    return torch.zeros(batch, frames, 3, *c.image_size, dtype=torch.uint8)
