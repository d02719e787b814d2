"""Run the models that `vivit export` writes, with the classes and the sampling in their metadata.

An .onnx file needs onnxruntime and an .xml file of OpenVINO needs openvino, and neither needs PyTorch; a .pt2 file is a
program of PyTorch itself, by torch.export. All compute float32 or int8 on the CPU.

Next to a Model 2 are the graphs of its two parts, `NAME.position.onnx` and `NAME.window.onnx`. With them a timeline
encodes each temporal position once, as it does with the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import EvalConfig
from ..data.sample import Sample
from ..data.views import eval_views
from ..errors import WeightsError
from ..model_config import ModelConfig
from ..settings import from_dict
from .prediction import Prediction, top_classes

FORMAT, VERSION = "vivit-export", 1
METADATA = "vivit"  # the key of the JSON text in every format
PARTS = ("position", "window")
Runner = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ExportedModel:
    """A model that another runtime computes. Arrays of numpy in and out."""

    path: Path
    config: ModelConfig
    weights: str
    """The SHA-256 of the weights that were exported, and how they are stored."""
    run: Runner = field(repr=False)
    """Map clips (B, T, C, H, W) uint8 to logits (B, K) float32."""
    encode: Runner | None = field(default=None, repr=False)
    """Map the frames of temporal positions (n, dt, C, H, W) uint8 to features (n, D); Model 2 with its two parts."""
    classify: Runner | None = field(default=None, repr=False)
    """Map the features of the temporal positions of clips (B, t, D) to logits (B, K)."""

    @property
    def shares_positions(self) -> bool:
        """Say whether positions can be encoded one by one."""
        return self.encode is not None and self.classify is not None


def is_exported(source: str | os.PathLike) -> bool:
    """Say whether this is a file that `open_exported` reads, by its suffix."""
    return Path(source).suffix in RUNTIMES and Path(source).is_file()


def open_exported(source: str | os.PathLike) -> ExportedModel:
    """Open an exported model and, if they are there, its two parts.

    Raises FileNotFoundError, WeightsError for a file that `vivit export` did not write, and ImportError that names the
    package of the runtime.
    """
    path = Path(source)
    if path.suffix not in RUNTIMES:
        raise WeightsError(f"{path}: not an exported model; its name ends in {', '.join(RUNTIMES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    run, about = load_graph(path)
    if about["graph"] != "clip":
        name = path.name.replace(f".{about['graph']}{path.suffix}", path.suffix)
        raise WeightsError(f"{path}: only a part of a model; give the file of the complete one, {name}")
    parts: dict[str, Runner] = {}
    for part in PARTS:
        beside = part_path(path, part)
        if beside.is_file():
            runner, of = load_graph(beside)
            if (of["graph"], of["weights"]) == (part, about["weights"]):
                parts[part] = runner
    config = from_dict(ModelConfig, about["model"], "model.")
    return ExportedModel(path, config, about["weights"], run, parts.get("position"), parts.get("window"))


def part_path(path: Path, part: str) -> Path:
    """Return where a part of a model is: model.onnx → model.position.onnx."""
    return path.with_name(f"{path.stem}.{part}{path.suffix}")


def load_graph(path: Path) -> tuple[Runner, dict[str, Any]]:
    """Load one file: what computes it, and its metadata."""
    try:
        run, text = RUNTIMES[path.suffix](path)
    except (ImportError, OSError):
        raise
    except Exception as error:  # every runtime has errors of its own
        reason = str(error).partition("\n")[0][:200]
        raise WeightsError(f"{path}: cannot be loaded ({type(error).__name__}: {reason}); export it again") from error
    about = json.loads(text) if text else {}
    if about.get("format") != FORMAT:
        raise WeightsError(f"{path}: not written by vivit export, so that its classes and sampling are unknown")
    if about["version"] > VERSION:
        raise WeightsError(
            f"{path}: of version {about['version']}; this vivit reads up to {VERSION}; install a newer one"
        )
    return run, about


def load_onnx(path: Path) -> tuple[Runner, str]:
    """Load an .onnx file into onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path} needs onnxruntime: pip install 'vivit[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()

    def run(x: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {given.name: np.ascontiguousarray(x)})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(METADATA, "")


def load_openvino(path: Path) -> tuple[Runner, str]:
    """Load an .xml file into OpenVINO, in float32 also where the processor has units for bfloat16."""
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f"{path} needs openvino: pip install 'vivit[openvino]'") from error
    core = openvino.Core()
    model = core.read_model(path)
    text = model.get_rt_info([METADATA]).value if model.has_rt_info([METADATA]) else ""
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": n} if (n := num_threads()) else {})
    compiled = core.compile_model(model, "CPU", settings)

    def run(x: np.ndarray) -> np.ndarray:
        return compiled([np.ascontiguousarray(x)])[0].copy()

    return run, text


def load_pt2(path: Path) -> tuple[Runner, str]:
    """Load a .pt2 file, a program of torch.export, into PyTorch."""
    import torch

    files = {METADATA: ""}
    module = torch.export.load(path, extra_files=files).module()

    @torch.no_grad()
    def run(x: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    return run, files[METADATA]


RUNTIMES: dict[str, Callable[[Path], tuple[Runner, str]]] = {
    ".onnx": load_onnx,
    ".xml": load_openvino,
    ".pt2": load_pt2,
}


def num_threads() -> int:
    """Return the threads to compute with: OMP_NUM_THREADS, as for PyTorch, or 0 for those of the runtime."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    return int(number) if number.isdecimal() else 0


def predict_exported(
    model: ExportedModel,
    sample: Sample,
    *,
    temporal_views: int = 4,
    spatial_views: int = 3,
    top_k: int = 5,
) -> Prediction:
    """Classify a video with an exported model, as `vivit.inference.predict.predict` does with the weights.

    Raises VideoError for an unreadable file and WeightsError for logits that are not finite.
    """
    protocol = EvalConfig(temporal_views=temporal_views, spatial_views=spatial_views)  # type: ignore[arg-type]
    views = eval_views(sample, model.config, protocol)
    views = views[1:] if len(views) > 1 else views
    logits = np.concatenate([model.run(view[None]) for view in views]).mean(axis=0)
    check_finite(logits, model, sample.path)
    return Prediction(sample.path, top_classes(model.config.classes, logits, top_k))


class ExportedSteps:
    """What `vivit.inference.sliding` asks of a model: encode single positions, classify windows of them."""

    def __init__(self, model: ExportedModel):
        self.model, self.source = model, f" by {model.path}"

    def encode(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        """Map the frames (crops, depth, C, H, W) of positions to features (crops, D), in one call of the runtime."""
        assert self.model.encode is not None
        return np.split(self.model.encode(np.concatenate(frames)), len(frames))

    def read(self, windows: list[list[np.ndarray]], most: int) -> list[np.ndarray]:
        """Map the features, or the frames, of the positions of windows to the mean logits of their crops, each (K,)."""
        return [self._read_window(np.stack(positions, axis=1)) for positions in windows]

    def _read_window(self, x: np.ndarray) -> np.ndarray:  # (crops, t, …) → (K,)
        if self.model.shares_positions:
            assert self.model.classify is not None
            return self.model.classify(x).mean(axis=0)
        clips = x.reshape(len(x), 1, -1, *x.shape[3:])
        return np.concatenate([self.model.run(clip) for clip in clips]).mean(axis=0)


def check_finite(logits: np.ndarray, model: ExportedModel, path: str | os.PathLike) -> None:
    """Raise WeightsError if a logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        wrong = int((~np.isfinite(logits)).sum())
        raise WeightsError(
            f"{os.fspath(path)}: no result, because {wrong} of the {logits.size} logits by {model.path} are not finite "
            "(NaN or infinite); export other weights"
        )
