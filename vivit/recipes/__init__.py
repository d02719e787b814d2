"""Whole runs by name: functions that return a Config. Derive your own with `vivit.config.replace`."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from . import modern, paper
from .demo import demo
from .finetune import finetune

RECIPES: dict[str, Callable[..., Config]] = {
    "demo": demo,
    "finetune": finetune,
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
