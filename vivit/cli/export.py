"""`vivit export`: write weights as a file of another runtime, with a proof that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from .parse import WithWeights, parse
from .predict import find_inputs

USAGE = "vivit export WEIGHTS DEST [options]"
USUAL = ("format", "videos", "int8")


@dataclass(frozen=True)
class Export(WithWeights):
    """Write weights as a file of another runtime, and compare it with the weights on clips of videos.

    The file takes uint8 pixels (B, T, C, H, W) and holds the normalisation, the class names and how clips are sampled:
    vivit predict and vivit timeline take it like any weights. Of Model 2 its two parts are written too. Exits with an
    error, and leaves no file, if logits differ by more than 1e-4 of the largest one or a best class differs.
    """

    dest: Positional[str]
    """The file to write: .onnx, .pt2 (torch-export) or .xml (openvino)."""
    format: Literal["onnx", "torch-export", "openvino"] = "onnx"
    """onnx runs in onnxruntime and openvino in OpenVINO, both without PyTorch; torch-export runs in PyTorch."""
    videos: tuple[str, ...] = ()
    """Videos and folders of them for the comparison; of many, 32 are taken. By default synthetic ones."""
    int8: bool = False
    """onnx: store the linear layers in 8 bits, calibrated on the videos, and keep that only if it loses at most 0.5
    points of top-1 on them. The names of their folders are their classes, where all of them are."""


def run(args: list[str]) -> None:
    """Export, compare, and print the table."""
    asked = parse(Export, args, usage=USAGE, usual=USUAL)
    videos = find_inputs(asked.videos)

    from ..export.export import export, format_rows

    rows = export(asked.weights, asked.dest, format=asked.format, videos=videos, int8=asked.int8)
    print(format_rows(rows))
    print(f"\nwritten to {asked.dest}; vivit predict {asked.dest} VIDEO takes it")
