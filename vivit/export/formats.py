"""Trace graphs with torch.export and write them to files: ONNX, torch.export, OpenVINO."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..inference.exported import METADATA

Format = Literal["onnx", "torch-export", "openvino"]
OPSET = 20  # of ONNX: the first with both kinds of GELU; onnxruntime 1.17 and newer read it
MAX_ONNX = 2**31 - 2**24  # bytes of weights; protobuf, in which ONNX files are stored, ends at 2 GiB


def trace(graph: nn.Module, example: Tensor) -> ExportedProgram:
    """Record the operators of a graph, for any batch size. The weights are shared, not copied."""
    with quiet():
        return torch.export.export(graph.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1)},))


def write_onnx(program: ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    """Write one .onnx file. Raises ImportError without onnx and onnxscript, ValueError for more than 2 GiB."""
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > MAX_ONNX:
        raise ValueError(
            f"the weights have {size / 2**30:.1f} GiB and an .onnx file holds 2; use --format torch-export or openvino"
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("--format onnx needs onnx, onnxscript and onnxruntime: pip install 'vivit[onnx]'") from error
    with quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props[METADATA] = json.dumps(about)
    converted.save(path, external_data=False)


def write_torch_export(program: ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    """Write one .pt2 file, which `torch.export.load` reads."""
    with quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(about)})


def write_openvino(program: ExportedProgram, path: Path, about: dict[str, Any]) -> None:
    """Write an .xml file, and a .bin file of its weights next to it. Raises ImportError without openvino.

    By way of ONNX, because OpenVINO's own converter of PyTorch models sends statistics of its use.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError("--format openvino needs openvino: pip install 'vivit[openvino]'") from error
    write_onnx(program, path.with_suffix(".onnx"), {})
    model = openvino.Core().read_model(path.with_suffix(".onnx"))
    path.with_suffix(".onnx").unlink()
    model.set_rt_info(json.dumps(about), [METADATA])
    openvino.save_model(model, path, compress_to_fp16=False)


# The suffix of a format, the files that belong to NAME.suffix, and what writes it.
WRITERS: dict[str, tuple[str, tuple[str, ...], Callable[[ExportedProgram, Path, dict[str, Any]], None]]] = {
    "onnx": (".onnx", (".onnx",), write_onnx),
    "torch-export": (".pt2", (".pt2",), write_torch_export),
    "openvino": (".xml", (".bin", ".xml"), write_openvino),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore the warnings of the exporters, which are about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
