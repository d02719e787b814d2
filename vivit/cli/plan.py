"""`vivit plan`: estimate memory, speed and days of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ..config import Config, suggestion
from ..presets import preset
from ..recipes import RECIPES
from .parse import parse, take_word, wants_help
from .recipe_config import follow_epochs, recipe_config

USUAL = ("gpu_memory_gib", "peak_tflops", "markdown", "optim.batch_size", "optim.epochs", "model.num_frames")


@dataclass(frozen=True)
class Plan:
    """Estimate memory, speed and days of a run on GPUs from the arithmetic of the model; nothing is timed."""

    gpus: tuple[int, ...]
    """Numbers of GPUs to compare."""
    num_samples: int
    """Training videos of an epoch."""
    markdown: bool = False
    """Print a Markdown table."""
    gpu_memory_gib: float = 80
    """Memory of a GPU in GiB."""
    peak_tflops: float = 989
    """Peak of a GPU for dense bfloat16 matrix products, in TFLOP/s; the default is an H100."""
    utilisation: float = 0.4
    """Share of the peak that training reaches; `vivit train` shows it for a run."""
    reserve: float = 0.1
    """Share of the memory that is not counted: CUDA, communication, temporaries, fragmentation."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """Settings of the run."""


def run(args: list[str]) -> None:
    """Print the estimates for the recipe or preset that the first argument names."""
    usage = "vivit plan RECIPE|PRESET --gpus N [N ...] --num-samples N [options]"
    if args and wants_help(args[:1]):
        parse(Plan, args, usage=usage, usual=USUAL)
    name, rest = take_word(args, usage)
    if name not in RECIPES and not name.startswith("ViViT-"):
        raise ValueError(f"{name!r} is no recipe, and no preset such as 'ViViT-B/16x2 FE'{suggestion(name, RECIPES)}")
    config = recipe_config(name, rest) if name in RECIPES else follow_epochs(Config(model=preset(name)), rest)
    default = Plan(gpus=tyro.MISSING, num_samples=tyro.MISSING, config=config)
    asked = parse(Plan, rest, default=default, usage=usage, usual=USUAL)

    from ..engine.plan import Hardware, format_plans

    hardware = Hardware(
        gpu_memory_gib=asked.gpu_memory_gib,
        peak_tflops=asked.peak_tflops,
        utilisation=asked.utilisation,
        reserve=asked.reserve,
    )
    print(
        format_plans(
            asked.config,
            gpus=asked.gpus,
            num_samples=asked.num_samples,
            hardware=hardware,
            markdown=asked.markdown,
        )
    )
