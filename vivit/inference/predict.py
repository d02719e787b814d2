"""Predict the classes of a video file."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import EvalConfig
from ..data.dataset import eval_views
from ..data.sample import Sample, as_sample
from ..engine.device import in_precision, load_to_device
from ..errors import WeightsError
from ..model.modes import copy_sharing_weights
from ..model.token_reduction import TokenReducedViViT
from ..model.vivit import ViViT
from .exported import ExportedModel, is_exported, open_exported, predict_exported
from .prediction import Prediction, top_classes


@torch.no_grad()
def predict(
    model: ViViT | TokenReducedViViT | ExportedModel | str | os.PathLike[str],
    path: str | os.PathLike[str] | Sample,
    *,
    temporal_views: int = 4,
    spatial_views: int = 3,
    top_k: int = 5,
    start: float | None = None,
    end: float | None = None,
    precision: str = "auto",
) -> Prediction:
    """Classify the video at `path`, or its segment from `start` to `end` seconds; a Sample has its own segment.

    Prepares the frames as the weights need them. Averages the logits over temporal_views x spatial_views views, then
    takes a softmax per label set. `precision` is float32, bfloat16, or auto: bfloat16 on CUDA devices with units for
    it, else float32. A model from `vivit.reduce_tokens` is faster, at a small loss. The model computes in
    evaluation mode and does not change, so threads may share it.

    Raises VideoError for an unreadable file and WeightsError for logits that are not finite.

    In place of a model, give the name of weights: a run, a folder, a file or a hub id. Each call loads them to the best
    device; load them once with `vivit.from_pretrained` to predict many videos. A file of `vivit export`, or what
    `vivit.inference.exported.open_exported` makes of it, computes on the CPU in the precision of the file.
    """
    if isinstance(model, str | os.PathLike) and is_exported(model):
        model = open_exported(model)
    sample = as_sample(path, start=start, end=end)
    if isinstance(model, ExportedModel):
        return predict_exported(model, sample, temporal_views=temporal_views, spatial_views=spatial_views, top_k=top_k)
    if isinstance(model, str | os.PathLike):
        model = load_to_device(model)
    protocol = EvalConfig(temporal_views=temporal_views, spatial_views=spatial_views)  # type: ignore[arg-type]
    views = eval_views(sample, model.config, protocol)
    views = views[1:] if len(views) > 1 else views
    run = in_precision(copy_sharing_weights(model) if model.training else model, precision)
    logits = mean_logits(model, run, views, batch_views=protocol.batch_views)
    check_finite(model, logits, sample.path)
    return Prediction(sample.path, top_classes(model.config.classes, logits.cpu().numpy(), top_k))


def mean_logits(
    model: ViViT | TokenReducedViViT, run: Callable[[Tensor], Tensor], views: Tensor, *, batch_views: int
) -> Tensor:
    """Return the mean logits (K,) float32 of the views (V, T, C, H, W) of one video; `run` is the model in a precision.

    Call it without gradients.
    """
    device = next(model.parameters()).device
    # On a CPU a batch of views misses the caches; it pays only where the views share enough positions.
    batch_size = batch_views if device.type != "cpu" or views_overlap(model, views) else 1
    return torch.cat([run(batch.to(device)).float() for batch in views.split(batch_size)]).mean(dim=0)


def check_finite(model: ViViT | TokenReducedViViT, logits: Tensor, path: str) -> None:
    """Raise WeightsError for logits (K,) that are not finite."""
    if not logits.isfinite().all():
        raise WeightsError(
            f"{path}: no prediction, because {int((~logits.isfinite()).sum())} of the {len(logits)} logits "
            f"are not finite (NaN or infinite){describe_source(model)}; check the weights or, in bfloat16, use float32"
        )


def describe_source(model: ViViT | TokenReducedViViT) -> str:
    """Return where the weights come from, for messages: " by the weights ...", or "" for a random start."""
    report = getattr(model.model if isinstance(model, TokenReducedViViT) else model, "load_report", None)
    return f" by the weights {report.source}" if report else ""


def views_overlap(model: ViViT | TokenReducedViViT, views: Tensor) -> bool:
    """Say whether a tenth or more of the temporal positions repeat others; Model 2 computes equal ones once."""
    if not isinstance(model, ViViT) or model.config.encoder != "factorised_encoder":
        return False
    positions = views[:, model.tokenizer.frame_index].unflatten(1, (model.config.grid[0], -1)).flatten(0, 1)
    return len({position.numpy().tobytes() for position in positions}) <= 0.9 * len(positions)
