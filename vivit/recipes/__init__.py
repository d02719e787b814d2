"""Training runs by name: functions that return a Config."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from ..config import Config
from . import modern, paper, videoprism
from .demo import demo
from .finetune import finetune

__all__ = ["RECIPES", "demo", "finetune", "missing_start", "modern", "paper", "videoprism"]

RECIPES: dict[str, Callable[..., Config]] = {
    "demo": demo,
    "finetune": finetune,
    "videoprism-probe": videoprism.probe,
    "videoprism-finetune": videoprism.finetune,
    "paper/kinetics400": paper.kinetics400,
    "paper/kinetics600": paper.kinetics600,
    "paper/moments": paper.moments,
    "paper/epic_kitchens": paper.epic_kitchens,
    "paper/ssv2": paper.ssv2,
    "modern/kinetics400": modern.kinetics400,
    "modern/kinetics600": modern.kinetics600,
    "modern/moments": modern.moments,
    "modern/epic_kitchens": modern.epic_kitchens,
    "modern/ssv2": modern.ssv2,
}


def missing_start(name: str, config: Config) -> str:
    """Return a warning if a recipe that needs trained weights to start from has none, else "".

    Such a recipe has --init in the command of its docstring. A run that resumes reads its checkpoint.
    """
    command = re.search(r"^ *(vivit train .*--init .*)$", RECIPES[name].__doc__ or "", re.MULTILINE)
    if not command or config.init or (Path(config.run) / "checkpoints").is_dir():
        return ""
    words = command[1].split()
    words[words.index("--data.root") + 1] = shlex.quote(config.data.root or "ROOT")
    return (
        f"recipe {name} is meant to start from trained weights; without --init it starts at random, which takes far "
        f"more videos and time. With weights: {' '.join(words)}"
    )
