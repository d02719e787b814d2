"""What `sliding` asks of a model with PyTorch: encode single positions, classify windows of them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..engine.device import autocast, in_precision
from ..model.encoders import FactorisedEncoder
from ..model.modes import copy_sharing_weights
from ..model.token_reduction import TokenReducedViViT
from ..model.vivit import ViViT
from .predict import describe_source


class TorchSteps:
    """The two steps of a model in a precision, on its device, in evaluation mode. The model does not change."""

    def __init__(self, model: ViViT | TokenReducedViViT, precision: str):
        self.device = next(model.parameters()).device
        self.precision = precision
        self.shares = encodes_positions(model)
        self.source = describe_source(model)
        model = copy_sharing_weights(model) if model.training else model
        # in_precision returns a copy of the model for bfloat16 on a CPU; elsewhere `_autocast` does its work
        self.model = in_precision(model, precision) if self.device.type == "cpu" else model
        with torch.inference_mode():
            self.embedding = self.model.fold_normalization() if self.shares else ()  # type: ignore[operator]

    @torch.inference_mode()
    def encode(self, frames: list[Tensor]) -> list[Tensor]:
        """Map the frames (crops, depth, C, H, W) of positions to features (crops, D), in one forward pass."""
        crops = frames[0].shape[0]
        stacked = torch.cat(frames).to(self.device)
        with self._autocast():
            return list(self.model.encode_positions(stacked, self.embedding).unflatten(0, (-1, crops)))  # type: ignore[operator]

    @torch.inference_mode()
    def classify(self, positions: list[Tensor]) -> Tensor:
        """Map the features, or the frames, of the positions of a window to the mean logits of its crops (K,).

        They are float32 on the CPU.
        """
        x = torch.stack(positions, dim=1).to(self.device)  # (crops, t, …)
        with self._autocast():
            if self.shares:
                logits = self.model.classify_positions(x)  # type: ignore[operator]
            else:
                logits = torch.cat([self.model(one[None]) for one in x.flatten(1, 2)])
        return logits.float().mean(dim=0).cpu()

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.device, "float32" if self.device.type == "cpu" else self.precision)


def encodes_positions(model: object) -> bool:
    """Say whether the model encodes a position without regard to the others: Model 2 without motion pooling."""
    return isinstance(model, ViViT) and isinstance(model.encoder, FactorisedEncoder) and model.motion is None
