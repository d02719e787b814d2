"""The 3-D convolutions that the paper compares with, from torchvision, under the contract of a ViViT.

From a random start and without torchvision's weights, for `vivit study architecture`. They shrink a frame 16-fold
(S3D: 32-fold) before they average it: of frames of 48 pixels 3 x 3 places (1 x 1) are left at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import safetensors.torch
from torch import Tensor, nn

from ..config import ModelConfig, from_dict, to_dict
from ..files import atomic_write
from ..install_check import check_torchvision
from .vivit import Head, Normalise

check_torchvision()
from torchvision.models import video as networks  # noqa: E402

FORMAT = "vivit prior art"


class PriorArt(nn.Module):
    """Videos (B, T, C, H, W) → logits (B, K), as a ViViT: uint8 is normalised here, the head starts at zero.

    Of `config` the classes, the preprocessing, the clip's length and the frame's size count.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.network, width = self.make()
        self.head = Head(width, config.num_classes)
        self.pixels = Normalise(config.preprocessing)

    @staticmethod
    def make() -> tuple[nn.Module, int]:
        """The network without its classifier, and the width of its features."""
        raise NotImplementedError

    def forward(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, T, C, H, W) → (B, K)
        return self.head(self.features(video))

    def features(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, T, C, H, W) → (B, D)
        """The input of the head. Nothing here is left to chance, so `seeds` do not matter."""
        return self.network(self.pixels(video).transpose(1, 2))

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write model.safetensors and config.json into `folder`; `load` of the same class reads them."""
        folder = Path(folder)
        about = {"format": FORMAT, "network": type(self).__name__, "model": to_dict(self.config)}
        with atomic_write(folder / "model.safetensors", "wb") as file:
            file.write(safetensors.torch.save(self.state_dict()))
        with atomic_write(folder / "config.json") as file:
            file.write(json.dumps(about, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Self:
        """The model that `save_pretrained` wrote."""
        about = json.loads((Path(folder) / "config.json").read_text())
        if (about["format"], about.get("network")) != (FORMAT, cls.__name__):
            raise ValueError(f"{folder} holds {about['format']} {about.get('network', '')}, not {cls.__name__}")
        model = cls(from_dict(ModelConfig, about["model"]))
        model.load_state_dict(safetensors.torch.load_file(Path(folder) / "model.safetensors"))
        return model


def resnet(build: Callable[..., nn.Module]) -> tuple[nn.Module, int]:
    """A video ResNet of torchvision up to its features."""
    network = build(weights=None)
    width = network.get_submodule("fc").in_features
    network.fc = nn.Identity()
    return network, width  # type: ignore[return-value]


class R3D18(PriorArt):
    """ResNet-18 with 3 x 3 x 3 kernels (Tran et al., 2018)."""

    @staticmethod
    def make() -> tuple[nn.Module, int]:
        return resnet(networks.r3d_18)


class R2Plus1D18(PriorArt):
    """ResNet-18 with a kernel over space and one over time in the place of each (Tran et al., 2018)."""

    @staticmethod
    def make() -> tuple[nn.Module, int]:
        return resnet(networks.r2plus1d_18)


class S3D(PriorArt):
    """Inception with kernels over space and kernels over time (Xie et al., 2018), without its dropout."""

    @staticmethod
    def make() -> tuple[nn.Module, int]:
        """The features are averaged over whatever is left of time and space."""
        network = networks.s3d(weights=None)
        network.avgpool = nn.Identity()  # type: ignore[assignment]  # asks for frames of 224 pixels
        width = network.get_submodule("classifier.1").in_channels
        network.classifier = nn.Identity()  # type: ignore[assignment]
        return network, width  # type: ignore[return-value]


PRIOR_ART: dict[str, type[PriorArt]] = {"r3d_18": R3D18, "r2plus1d_18": R2Plus1D18, "s3d": S3D}
