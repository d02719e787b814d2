"""Print the parameters and multiply-adds of a preset, part by part."""

from __future__ import annotations

from .model.cost import count_cost
from .presets import preset


def info(
    name: str,
    /,
    num_classes: int = 400,
    num_frames: int = 32,
    image_size: tuple[int, int] = (224, 224),
) -> str:
    """Describe the parameters and multiply-adds of one view, one line per part.

    Args:
        name: A preset such as "ViViT-B/16x2 FE".
        num_classes: Size of the head.
        num_frames: Frames of a clip.
        image_size: Height and width of a frame.
    """
    classes = {"label": tuple(str(i) for i in range(num_classes))}
    config = preset(name, classes=classes, num_frames=num_frames, image_size=image_size)
    t, h, w = config.grid
    lines = [f"{name}  {config.encoder}  {num_frames} x {image_size[0]} x {image_size[1]}  tokens {t} x {h} x {w}"]
    lines.append(f"{'part':18} {'parameters':>14} {'multiply-adds':>16}")
    lines += [f"{p.name:18} {p.parameters / 1e6:12.3f} M {p.multiply_adds / 1e9:14.2f} G" for p in count_cost(config)]
    return "\n".join(lines)
