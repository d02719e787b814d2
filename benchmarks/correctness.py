"""Check the four models on a device: the official code's arrays, and gradients against float64 on the CPU.

The official code's cases are those of tests/golden, so this runs from a checkout. Gradients are those of a fresh
random video each time; the CPU's are held to the official code by tests/parity.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.official import CASES, load_case
from vivit.engine.device import autocast
from vivit.engine.distributed import shard, transformer_blocks

from .measure import Clock
from .models import Precision, compiled_blocks

Way = Literal["eager", "compiled", "FSDP"]
ONE_EACH = ("m1_cls", "m2_cls", "m3_time_space", "m4")
# (largest difference of a logit as a share of the largest, ‖gradient − exact‖ / ‖exact‖)
BOUNDS: dict[Precision, tuple[float, float]] = {"float32": (1e-4, 1e-3), "bfloat16": (3e-2, 5e-2)}


def correct(
    way: Way, names: Sequence[str] = (), *, clock: Clock, backend: str = "inductor"
) -> Iterator[dict[str, Any]]:
    """Check cases of the official code in both precisions: `names`, or all if eager, else one of each model."""
    if way == "FSDP" and not dist.is_initialized():
        kind = "nccl" if clock.device.type == "cuda" else "gloo"
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  # public, but not re-exported
        dist.init_process_group(kind, store=store, rank=0, world_size=1)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for name in names or (CASES if way == "eager" else ONE_EACH):
        for precision in precisions:
            yield check_case(name, way, precision=precision, clock=clock, backend=backend)


def check_case(name: str, way: Way, *, precision: Precision, clock: Clock, backend: str) -> dict[str, Any]:
    """Compare logits with the official arrays, and the gradient of a random video with that of the CPU in float64."""
    plain, _, expected = load_case(name)
    video, labels = torch.randint_like(expected["video"], 256), expected["labels"].long()
    exact = gradient(copy.deepcopy(plain).double(), video, labels, precision="float32")
    model = plain.to(clock.device)
    if way == "compiled":
        compiled_blocks(model, backend)
    elif way == "FSDP":
        shard(model, transformer_blocks(model), device_type=clock.device.type, size=1, bfloat16=precision != "float32")
    # A compiled model has one graph with gradients and another without: the one of training is checked.
    with torch.set_grad_enabled(way == "compiled"), autocast(clock.device, precision):
        logits = model(expected["video"].to(clock.device)).detach().float().cpu()
    got = gradient(model, video, labels, precision=precision)
    logit_error = ((logits - expected["logits"]).abs().max() / expected["logits"].abs().max()).item()
    gradient_error = ((got - exact).norm() / exact.norm()).item()
    most_logit, most_gradient = BOUNDS[precision]
    return {
        "case": "correct",
        "name": name,
        "way": way,
        "precision": precision,
        "logits differ by": float(f"{logit_error:.1e}"),
        "gradient differs by": float(f"{gradient_error:.1e}"),
        # NaN is not below a bound
        "right": "yes" if logit_error <= most_logit and gradient_error <= most_gradient else "NO",
    }


def gradient(model: nn.Module, video: Tensor, labels: Tensor, *, precision: Precision) -> Tensor:
    """Return the gradient of the mean loss with respect to all parameters, as one float64 vector on the CPU."""
    from torch.distributed.tensor import DTensor

    device = next(model.parameters()).device
    with autocast(device, precision):
        logits = model(video.to(device))
    F.cross_entropy(logits.double(), labels.to(device)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([(g.full_tensor() if isinstance(g, DTensor) else g).double().cpu().flatten() for g in gradients])
