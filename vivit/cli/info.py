"""`vivit info`: parameters and multiply-adds of a model."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ..presets import PRESETS, preset
from ..text import format_table
from .parse import parse


@dataclass(frozen=True)
class Info:
    """Print parameters and multiply-adds of one view, one line per module; without a preset, list the presets."""

    preset: Positional[str] = ""
    """A preset such as "ViViT-B/16x2 FE"."""
    num_classes: int = 400
    """Number of classes."""
    num_frames: int = 32
    """Frames of a clip."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width of a frame, in pixels."""


def run(args: list[str]) -> None:
    """Print the table of a preset, or the names of the presets."""
    asked = parse(Info, args, usage="vivit info [PRESET] [options]")
    print(info(asked) if asked.preset else "\n".join(PRESETS))


def info(asked: Info) -> str:
    """Return the table of modules as text. Raises ValueError for an unknown preset."""
    from ..model.cost import count_cost

    classes = {"label": tuple(str(i) for i in range(asked.num_classes))}
    config = preset(asked.preset, classes=classes, num_frames=asked.num_frames, image_size=asked.image_size)
    t, h, w = config.grid
    size = f"{asked.num_frames} x {asked.image_size[0]} x {asked.image_size[1]}"
    rows = [["module", "parameters", "multiply-adds"]]
    rows += [[p.name, f"{p.parameters / 1e6:.3f} M", f"{p.multiply_adds / 1e9:.2f} G"] for p in count_cost(config)]
    table = format_table(rows, min_widths=(18, 13, 15))
    return f"{asked.preset}  {config.encoder}  {size}  tokens {t} x {h} x {w}\n{table}"
