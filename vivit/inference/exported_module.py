"""An exported model as a module of PyTorch, for what asks a model for nothing but its config and logits."""

from __future__ import annotations

from torch import Tensor, from_numpy, nn

from .exported import ExportedModel


class ExportedModule(nn.Module):
    """Map clips (B, T, C, H, W) uint8 to logits (B, K) float32, both on the CPU, by the runtime of the export."""

    load_report = None

    def __init__(self, model: ExportedModel):
        super().__init__()
        self.config, self.run = model.config, model.run
        self.precision = "int8" if model.weights.endswith(" in int8") else "float32"

    def forward(self, video: Tensor) -> Tensor:
        return from_numpy(self.run(video.numpy()))
