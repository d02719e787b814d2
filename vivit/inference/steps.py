"""What `sliding` asks of a model with PyTorch: encode single positions, and read what comes out of windows of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
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

    def __init__(self, model: ViViT | TokenReducedViViT, precision: str, readout: str = "logits"):
        self.device = next(model.parameters()).device
        self.precision = precision
        self.shares, self.readout = encodes_positions(model, readout), readout
        self.reads_together = self.shares and self.device.type != "cpu"
        self.source = describe_source(model)
        model = copy_sharing_weights(model) if model.training else model
        # in_precision returns a copy of the model for bfloat16 on a CPU; elsewhere `_autocast` does its work
        self.model = in_precision(model, precision) if self.device.type == "cpu" else model
        with torch.inference_mode():
            self.embedding = self.model.fold_normalization() if self.shares else None  # type: ignore[operator]

    @torch.inference_mode()
    def encode(self, frames: list[np.ndarray]) -> list[Tensor]:
        """Map the frames (crops, depth, C, H, W) of positions to features (crops, D) or (crops, s, D), in one pass."""
        crops = frames[0].shape[0]
        stacked = torch.from_numpy(np.concatenate(frames)).to(self.device)
        with self._autocast():
            encoded = self.model.encode_positions(stacked, self.embedding, pool=self.readout != "tokens")  # type: ignore[operator]
        return list(encoded.unflatten(0, (-1, crops)))

    @torch.inference_mode()
    def read(self, windows: list[list[Tensor]], most: int) -> list[Tensor]:
        """Map the features, or the frames, of the positions of windows to their readouts, each the mean of its crops.

        They are (K,) or (…, D), float32 on the CPU. Features of positions are read in one forward pass on a GPU, where
        launches would take most of the time of a window; it is filled up to `most` windows, because another number of
        them may give other bits. On a CPU that gains nothing.
        """
        if not self.reads_together:
            return [self._read_together([window])[0] for window in windows]
        filled = [*windows, *windows[-1:] * (most - len(windows))]
        return self._read_together(filled)[: len(windows)]

    def _read_together(self, windows: list[list[Tensor]]) -> list[Tensor]:
        clips = torch.stack([torch.stack([*map(torch.as_tensor, window)], dim=1) for window in windows]).to(
            self.device
        )  # (N, crops, t, …)
        with self._autocast():
            values = self._read_crops(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return list(values.float().mean(dim=1).cpu())

    def _read_crops(self, clip: Tensor) -> Tensor:
        """Map the positions or the pixels of windows (N, t, …) to their readouts (N, …)."""
        model: Any = self.model
        if not self.shares:
            methods = {"features": "features", "tokens": "encode_clip_tokens"}
            read = model if self.readout == "logits" else getattr(model, methods[self.readout])
            return torch.cat([read(one[None]) for one in clip.flatten(1, 2)])
        if self.readout in ("positions", "tokens"):  # a window of one position
            return clip[:, 0]
        return model.classify_positions(clip) if self.readout == "logits" else model.encoder.encode_time(clip)

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.device, "float32" if self.device.type == "cpu" else self.precision)


def encodes_positions(model: object, readout: str = "logits") -> bool:
    """Say whether the model encodes a position without regard to the others; see `sliding.shares_positions`."""
    if not (isinstance(model, ViViT) and isinstance(model.encoder, FactorisedEncoder)):
        return False
    return model.motion is None or readout in ("positions", "tokens")
