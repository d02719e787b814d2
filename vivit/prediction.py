"""From a video file to class names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import EvalConfig
from .data.dataset import eval_views
from .data.sample import Sample
from .engine.device import in_precision
from .model.shorten import Shortened
from .model.vivit import ViViT


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one video, per label set, as (name, probability), best first."""

    path: str
    classes: dict[str, list[tuple[str, float]]]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        top = {k: [{"name": n, "probability": p} for n, p in v] for k, v in self.classes.items()}
        return {"path": self.path, "classes": top}

    def __str__(self) -> str:
        lines = [self.path]
        for label_set, top in self.classes.items():
            lines += [f"  {label_set:12} {p:6.1%}  {name}" for name, p in top]
        return "\n".join(lines)


@torch.no_grad()
def predict(
    model: ViViT | Shortened,
    path: str | os.PathLike,
    *,
    temporal_views: int = 4,
    spatial_views: int = 3,
    top_k: int = 5,
    start: float | None = None,
    end: float | None = None,
    precision: str = "auto",
) -> Prediction:
    """Classify the video at `path`, or its part from `start` to `end` seconds, with the weights' own preprocessing.

    Logits are averaged over the views, then softmax per label set. `precision` is float32, bfloat16, or auto: bfloat16
    on CUDA devices that have units for it, else float32. A model from `vivit.shorten` is faster, at a small loss.
    Raises VideoError for an unreadable file.
    """
    protocol = EvalConfig(temporal_views=temporal_views, spatial_views=spatial_views)  # type: ignore[arg-type]
    views = eval_views(Sample(os.fspath(path), start=start, end=end), model.config, protocol)
    views = views[1:] if len(views) > 1 else views
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    run = in_precision(model, precision)
    # On a CPU more views at once miss the caches, unless they have so much in common that there is less to compute.
    together = protocol.batch_views if device.type != "cpu" or overlap(model, views) else 1
    logits = torch.cat([run(batch.to(device)).float() for batch in views.split(together)])
    model.train(was_training)

    classes = {}
    sizes = [len(names) for names in model.config.classes.values()]
    for (label_set, names), part in zip(model.config.classes.items(), logits.mean(dim=0).split(sizes)):
        top = part.softmax(dim=0).topk(min(top_k, len(names)))
        classes[label_set] = [(names[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist())]
    return Prediction(os.fspath(path), classes)


def overlap(model: ViViT | Shortened, views: Tensor) -> bool:
    """Whether a tenth or more of the temporal positions of the views repeat others, which Model 2 computes once."""
    if not isinstance(model, ViViT) or model.config.encoder != "factorised_encoder":
        return False
    positions = views[:, model.tokenizer.frames].unflatten(1, (model.config.grid[0], -1)).flatten(0, 1)
    return len({position.numpy().tobytes() for position in positions}) <= 0.9 * len(positions)
