"""`vivit explain`: which places and moments of a clip speak for a class, and whether the map is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..inference.explain_config import METHODS, ExplainConfig
from .parse import WithWeights, parse
from .predict import refuse_unwritable

USAGE = "vivit explain WEIGHTS VIDEO [options]"
USUAL = ("method", "label_set", "class", "html", "out", "start", "end", "random_orders", "tile", "device")


@dataclass(frozen=True)
class Explain(WithWeights):
    """Show which places and moments of a video's middle clip speak for a class.

    Deletion and insertion scores beside those of random orders say whether a map is to be trusted.
    """

    video: Positional[str]
    """A video file or a folder of images."""
    method: Literal["gradient_attention", "rollout", "occlusion", "all"] = "gradient_attention"
    """How the map is computed; occlusion is the slowest."""
    label_set: str | None = None
    """Label set of the class; by default the first one."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class")] = None
    """Class to explain; by default the predicted one."""
    html: str | None = None
    """Write one page to this file: frames with their maps, moments, curves."""
    out: str | None = None
    """Write overlays (PNG), maps (npz) and numbers (JSON) into this folder."""
    start: float | None = None
    """Start of the segment whose middle clip is explained, in seconds."""
    end: float | None = None
    """End of that segment, in seconds."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    config: Annotated[ExplainConfig, tyro.conf.arg(name="")] = field(default_factory=ExplainConfig)
    """How maps are computed and checked."""


def run(args: list[str]) -> None:
    """Explain the video that the arguments name."""
    asked = parse(Explain, args, usage=USAGE, usual=USUAL)
    if asked.html:
        refuse_unwritable(Path(asked.html), "--html")

    from ..engine.device import choose_attention, pick_device
    from ..engine.evaluate import load_weights
    from ..inference.explain import explain_clip, read_clip
    from ..report.explain import to_text, write_files, write_page

    device = pick_device(asked.device)
    choose_attention(device)
    model = load_weights(asked.weights).to(device)
    clip = read_clip(asked.video, model.config, start=asked.start, end=asked.end)
    explanations = [
        explain_clip(
            model,
            clip,
            method=method,
            label_set=asked.label_set,
            label=asked.class_name,
            config=asked.config,
            progress=True,
        )
        for method in (METHODS if asked.method == "all" else (asked.method,))
    ]
    predicted = asked.class_name is None
    print(to_text(clip, explanations, predicted=predicted))
    if asked.out:
        write_files(Path(asked.out), clip, explanations)
        print(f"\noverlays, maps and numbers are in {asked.out}")
    if asked.html:
        page = write_page(Path(asked.html), clip, explanations, weights=asked.weights, predicted=predicted)
        print(f"\nopen {page.resolve()}")
