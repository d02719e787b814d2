"""Time VideoPrism-B beside transformers' own model with the same weights."""

from __future__ import annotations

from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vivit.weights.load import from_pretrained

from .measure import Clock
from .models import Contender, Logits, Precision, held, in_precision, measure, operations_of

NAME = "VideoPrism-B"


def videoprism(*, precision: Precision, clock: Clock, **changes: Any) -> list[dict[str, Any]]:
    """Time the classifier without gradients, ours and transformers'; `changes` are fields of its config."""
    from transformers import VideoPrismForVideoClassification, VideoPrismVisionConfig

    torch.manual_seed(0)
    theirs = VideoPrismForVideoClassification(VideoPrismVisionConfig(num_labels=400, **changes)).eval()  # type: ignore[call-arg]
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = from_pretrained(folder).to(clock.device)
    c = ours.config
    video = torch.rand(1, c.num_frames, 3, *c.image_size, device=clock.device)
    operations, plain, pixels = operations_of(ours, video), in_precision(ours, precision), video
    exact: Any = NAME
    if precision != "float32":  # then both are held to our logits in float32
        with torch.no_grad():
            exact, pixels = ours(video), video.to(getattr(torch, precision))
    peer = Logits(theirs, video="pixel_values_videos").to(clock.device, getattr(torch, precision))
    contenders = {
        NAME: Contender(partial(plain, video), operations, 1, None if exact is NAME else exact, held(plain)),
        f"transformers {NAME}": Contender(lambda: peer(pixels).squeeze(1), operations, 1, exact, held(peer)),
    }
    return measure("videoprism", contenders, precision=precision, clock=clock, gradients=False)
