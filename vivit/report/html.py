"""Render HTML pages from templates, escape text, encode pictures."""

from __future__ import annotations

import math
from base64 import b64encode
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as escape_markup
from PIL import Image
from torch import Tensor

from ..files import atomic_write
from ..text import printable

FRAME_HEIGHT = 112  # pixels


def write_html(path: Path, template: str, **values: Any) -> Path:
    """Render `templates/<template>` with `values` into the file `path` and return `path`.

    A page loads nothing: style and pictures are inside it. Only that of a timeline has a script, and plays its video.
    Text in `values` is escaped, Markup is inserted as it is. Raises OSError if the file cannot be written.
    """
    page = templates().get_template(template).render(values)
    with atomic_write(path) as file:
        file.write(page)
    return path


@cache
def templates() -> Environment:
    """Return the templates of this package, with the filters that they use."""
    environment = Environment(
        loader=PackageLoader("vivit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.filters.update(percent=percent, plural=plural)
    return environment


def visible(value: Any) -> Any:
    """Replace control characters, and bytes that UTF-8 cannot encode, by visible escapes; Markup stays as it is."""
    return value if isinstance(value, Markup) else "\n".join(map(printable, str(value).split("\n")))


def escape(text: str) -> Markup:
    """Escape text for a page, in or between tags: no markup and no control characters."""
    return escape_markup(visible(text))


def percent(share: float) -> str:
    """Format a share of 1 in percent; NaN as a dash."""
    return "–" if math.isnan(share) else f"{share:.1%}"


def plural(count: float, noun: str) -> str:
    """Format a count with its noun: "1 video", "2 videos"."""
    return f"{count:,g} {noun}" + ("" if count == 1 else "s")


def enlarge(frames: Tensor) -> Tensor:
    """Resize frames (n, 3, H, W) uint8 to the height of the page's pictures, FRAME_HEIGHT."""
    size = FRAME_HEIGHT, round(FRAME_HEIGHT * frames.shape[-1] / frames.shape[-2])
    return F.interpolate(frames.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)


def join_frames(frames: Tensor) -> Tensor:
    """Put frames (n, 3, H, W) into one row (3, H, n·W)."""
    return rearrange(frames, "n c h w -> c h (n w)")


def jpeg(picture: Tensor) -> str:
    """Encode a picture (3, H, W) uint8 as a data URL."""
    pixels = rearrange(picture, "c h w -> h w c").contiguous().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()
