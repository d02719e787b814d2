"""3-D convolutional networks of torchvision with the interface of a ViViT, as baselines.

`vivit study architecture` trains them from a random start, without torchvision's weights. They reduce the resolution
16-fold (S3D: 32-fold) before the average pooling: frames of 48 pixels end as 3 x 3 (1 x 1) positions.
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
from ..files import atomic_write, write_json
from ..install_check import check_torchvision
from .vivit import Head, Normalize

check_torchvision()
from torchvision.models import video as networks  # noqa: E402

FORMAT = "vivit prior art"  # the name in the files of every release


class CNNBaseline(nn.Module):
    """Network from videos (B, T, C, H, W) to logits (B, K); like a ViViT, it normalises uint8 and its head starts at 0.

    It uses the classes, the preprocessing, the clip length and the frame size of `config`.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.network, width = self.build_network()
        self.head = Head(width, config.num_classes)
        self.normalization = Normalize(config.preprocessing)

    @staticmethod
    def build_network() -> tuple[nn.Module, int]:
        """Return the network without its classifier, and the width of its features."""
        raise NotImplementedError

    def forward(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, T, C, H, W) → (B, K)
        return self.head(self.features(video))

    def features(self, video: Tensor, seeds: Tensor | None = None) -> Tensor:  # (B, T, C, H, W) → (B, D)
        """Compute the input of the head. Nothing in these networks is random: `seeds` are ignored."""
        return self.network(self.normalization(video).transpose(1, 2))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write model.safetensors and config.json into `folder`, for `load` of the same class. Raises OSError."""
        folder = Path(folder)
        about = {"format": FORMAT, "network": type(self).__name__, "model": to_dict(self.config)}
        with atomic_write(folder / "model.safetensors", "wb") as file:
            file.write(safetensors.torch.save(self.state_dict()))
        write_json(folder / "config.json", about)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save_pretrained` wrote. Raises ValueError for another kind of model."""
        about = json.loads((Path(folder) / "config.json").read_text())
        if (about["format"], about.get("network")) != (FORMAT, cls.__name__):
            raise ValueError(f"{folder} holds {about['format']} {about.get('network', '')}, not {cls.__name__}")
        model = cls(from_dict(ModelConfig, about["model"]))
        model.load_state_dict(safetensors.torch.load_file(Path(folder) / "model.safetensors"))
        return model


def build_resnet(build: Callable[..., nn.Module]) -> tuple[nn.Module, int]:
    """Build a video ResNet of torchvision without its classifier; return it and the width of its features."""
    network = build(weights=None)
    width = network.get_submodule("fc").in_features
    network.fc = nn.Identity()
    return network, width  # type: ignore[return-value]


class R3D18(CNNBaseline):
    """ResNet-18 with 3 x 3 x 3 kernels (Tran et al., 2018)."""

    @staticmethod
    def build_network() -> tuple[nn.Module, int]:
        return build_resnet(networks.r3d_18)


class R2Plus1D18(CNNBaseline):
    """ResNet-18 with a kernel over space and one over time instead of each (Tran et al., 2018)."""

    @staticmethod
    def build_network() -> tuple[nn.Module, int]:
        return build_resnet(networks.r2plus1d_18)


class S3D(CNNBaseline):
    """Inception with kernels over space and kernels over time (Xie et al., 2018), without its dropout."""

    @staticmethod
    def build_network() -> tuple[nn.Module, int]:
        """Return the network, which averages its features over time and space, and their width."""
        network = networks.s3d(weights=None)
        network.avgpool = nn.Identity()  # type: ignore[assignment]  # asks for frames of 224 pixels
        width = network.get_submodule("classifier.1").in_channels
        network.classifier = nn.Identity()  # type: ignore[assignment]
        return network, width  # type: ignore[return-value]


CNN_BASELINES: dict[str, type[CNNBaseline]] = {"r3d_18": R3D18, "r2plus1d_18": R2Plus1D18, "s3d": S3D}
