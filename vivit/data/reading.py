"""Show that a long list is being read: a bar with a count on a terminal, one line elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

T = TypeVar("T")
AFTER = 2.0  # seconds of silence
EVERY = 0.1  # seconds between two updates of the bar
_showing = False  # one bar at a time: the outer loop's


def show_reading(items: Iterable[T], title: str, *, console: Console | None = None) -> Iterator[T]:
    """Yield `items`; after two seconds show on stderr how many were read, unless an outer loop does.

    `title` says what is read. Under torchrun only the first process of a machine shows it.
    """
    global _showing
    if _showing or os.environ.get("LOCAL_RANK", "0") != "0":
        yield from items
        return
    console = console or Console(stderr=True, soft_wrap=True, highlight=False)
    total = len(items) if isinstance(items, Sized) else None
    count = TextColumn("{task.completed:,.0f}" + ("" if total is None else f" of {total:,}") + " {task.description}")
    due = time.monotonic() + AFTER
    _showing = True
    try:
        with Progress(BarColumn(bar_width=16), count, console=console, transient=True, disable=True) as bar:
            task = bar.add_task(title, total=total)
            for done, item in enumerate(items):
                if time.monotonic() >= due:
                    due = time.monotonic() + EVERY
                    if not console.is_terminal:
                        console.print(f"{title}: {done:,}" + ("" if total is None else f" of {total:,}") + " so far")
                        due = float("inf")
                    elif bar.disable:
                        bar.disable = False
                        bar.start()
                    bar.update(task, completed=done)
                yield item
    finally:
        _showing = False
