"""Whole runs by name: functions that return a Config. Derive your own with `vivit.config.replace`."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from .demo import demo
from .finetune import finetune

RECIPES: dict[str, Callable[[], Config]] = {"demo": demo, "finetune": finetune}
