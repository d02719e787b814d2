"""Store the linear layers of an ONNX graph in int8, and keep that only where the best classes stay."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..inference.exported import METADATA, Runner
from ..model_config import ModelConfig
from ..text import listing
from ..torch_private import cpu_supports
from .formats import quiet
from .proof import evenly_spaced, read_clips, top1

CALIBRATION_CLIPS = 32
MIN_CLIPS = 500  # on fewer, half a point is less than one or two clips; then the report says so
MAX_LOSS = 0.5  # points of top-1
# What stays in float32, tried in this order: the inputs of fc2, behind the GELU, have the longest tails. The pixels and
# the head always do: they are a hundredth of the work.
FLOAT_LAYERS = ((), ("mlp.fc2",), ("mlp.fc2", "attn.proj", "attn_time.proj"), ("mlp.fc1", "mlp.fc2"))


@dataclass(frozen=True)
class Gate:
    """How often int8 is right on videos, beside float32."""

    clips: int
    labelled: bool
    """Whether the folders of all videos are classes; otherwise the best class of float32 counts as right."""
    float_correct: int
    int8_correct: int
    unreadable: int = 0
    """Videos that are left out because they cannot be read."""

    @property
    def loss(self) -> float:
        """Points of top-1 that are lost; without labels the share of clips with another best class, which bounds it."""
        return 100 * (self.float_correct - self.int8_correct) / self.clips

    def __str__(self) -> str:
        few = "" if self.clips >= MIN_CLIPS else f", all there are; {MIN_CLIPS} would say more"
        few += f"; {self.unreadable} more cannot be read" if self.unreadable else ""
        if not self.labelled:
            return f"the best class is that of float32 on {self.int8_correct} of {self.clips} videos{few}"
        shares = [f"{100 * n / self.clips:.1f} %" for n in (self.float_correct, self.int8_correct)]
        return f"top-1 {shares[0]} in float32 and {shares[1]} in int8 on {self.clips} videos{few}"


def quantize(source: Path, dest: Path, inputs: Sequence[np.ndarray], keep_float: Sequence[str]) -> list[str]:
    """Write the linear layers of an .onnx file in int8, per channel, calibrated on `inputs` of the graph.

    Returns the names of the linear layers that stay in float32: pixels, head and those that end in one of
    `keep_float`. Raises ImportError without onnxruntime and onnx.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ImportError("--int8 needs onnx and onnxruntime: pip install 'vivit[onnx]'") from error

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            found = next(self.inputs, None)
            return None if found is None else {"input": found}

    layers = linear_layers(onnx.load(source))
    in_float = {node: name for node, name in layers.items() if stays_float(name, keep_float)}
    with quiet():
        quantize_static(
            str(source),
            str(dest),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=list(in_float),
            per_channel=True,
            reduce_range=not has_vnni(),  # sums of two products of 8 bits overflow the 16 bits of older processors
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    return list(dict.fromkeys(in_float.values()))


def linear_layers(model: Any) -> dict[str, str]:
    """Return the name of the layer in the model by the name of the node, for all products with a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
            names = ast.literal_eval(scopes)
            found[node.name] = names[-2].removeprefix("model.") if len(names) > 1 else node.name
    return found


def stays_float(name: str, keep_float: Sequence[str]) -> bool:
    """Say whether a layer stays in float32."""
    return name in ("pixels", "head") or name.endswith(tuple(keep_float))


def set_metadata(path: Path, about: Mapping[str, Any]) -> None:
    """Replace our metadata of an .onnx file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    onnx.save(model, path)


def calibration_clips(videos: Sequence[str], config: ModelConfig) -> tuple[list[str], list[np.ndarray]]:
    """Return the videos that are left for the gate, and the clips to calibrate on: at most a quarter of the videos.

    With fewer than eight videos, all serve both. Raises DataError if none of those to calibrate on can be read.
    """
    chosen = evenly_spaced(videos, min(CALIBRATION_CLIPS, len(videos) // 4)) if len(videos) >= 8 else list(videos)
    problems: list[str] = []
    clips = [clip for _, clip in read_clips(chosen, config, problems)]
    if not clips:
        raise DataError(
            listing(f"no clip to calibrate int8 on: none of the {len(chosen)} videos can be read", problems)
        )
    rest = [path for path in videos if path not in set(chosen)]
    return rest or list(videos), clips


def gate(
    config: ModelConfig,
    in_float: Runner,
    in_int8: Iterable[Runner],
    videos: Sequence[str],
    progress: Callable[[int], None] = lambda done: None,
) -> Gate:
    """Compare float32 with all int8 forms of a model on the middle clips of videos; the worst form counts.

    Raises DataError if none of the videos can be read.
    """
    labels = folder_labels(videos, config)
    runners = list(in_int8)
    problems: list[str] = []
    clips, float_correct, int8_correct = 0, 0, [0] * len(runners)
    for path, clip in read_clips(videos, config, problems):
        best = top1(config, in_float(clip))
        truth = best if labels is None else [labels[path]]
        float_correct += best[: len(truth)] == truth
        for i, run in enumerate(runners):
            int8_correct[i] += top1(config, run(clip))[: len(truth)] == truth
        clips += 1
        progress(clips)
    if not clips:
        raise DataError(listing(f"no clip to test int8 on: none of the {len(videos)} videos can be read", problems))
    return Gate(clips, labels is not None, float_correct, min(int8_correct), len(problems))


def folder_labels(videos: Sequence[str], config: ModelConfig) -> dict[str, int] | None:
    """Return the class of each video if the model has one label set and the folder of every video is a class of it."""
    names = list(config.classes.values())
    if len(names) != 1:
        return None
    number = {name: i for i, name in enumerate(names[0])}
    labels = {path: number.get(Path(path).parent.name, -1) for path in videos}
    return None if -1 in labels.values() else labels


def positions_of(clips: Iterable[np.ndarray], frame_index: slice | list[int], t: int) -> Iterator[np.ndarray]:
    """Yield the frames of the temporal positions (t, dt, C, H, W) of each clip (1, T, C, H, W)."""
    for clip in clips:
        yield clip[0, frame_index].reshape(t, -1, *clip.shape[2:])


def has_vnni() -> bool:
    """Say whether the processor multiplies int8 in hardware: VNNI of x86, dot products of ARM."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return cpu_supports("vnni")
    return bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"})
