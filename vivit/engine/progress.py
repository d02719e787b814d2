"""Progress bars that fit a terminal of 80 columns: the bar and the time left come first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column


class TrainingBar:
    """The bar of a training run, which moves every step.

    The time left counts steps only: the time until the first step, and what runs inside `paused`, such as a
    validation, is left out. Nothing is shown if the console is no terminal or not `enabled`.
    """

    def __init__(self, *, step: int, steps: int, enabled: bool = True, console: Console | None = None):
        self.steps, self.step = steps, step
        self.console = console or Console(highlight=False, soft_wrap=True, quiet=not enabled)
        self.seconds, self.timed_steps = 0.0, 0
        self.last: float | None = None
        columns = (
            BarColumn(bar_width=16),
            TextColumn("{task.fields[left]} left", table_column=Column(no_wrap=True)),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        disabled = not (enabled and self.console.is_terminal)
        self.bar = Progress(*columns, console=self.console, transient=True, disable=disabled)
        self.task = self.bar.add_task("starting", total=steps, completed=step, left=self.time_left())

    def start(self) -> None:
        """Show the bar."""
        self.bar.start()

    def stop(self) -> None:
        """Remove the bar."""
        self.bar.stop()

    def advance(self) -> None:
        """Count one step."""
        now = time.monotonic()
        if self.last is not None:
            self.seconds, self.timed_steps = self.seconds + now - self.last, self.timed_steps + 1
        self.last = now
        self.step += 1
        self.bar.update(self.task, completed=self.step, left=self.time_left())

    def show(self, values: dict[str, float]) -> None:
        """Show the metrics of the last steps."""
        line = f"loss {values['loss']:.4f}  {values['clips_per_second']:.1f} clips/s"
        self.bar.update(self.task, description=line)

    def time_left(self) -> str:
        """Return the time of the remaining steps, such as 1:02:03; '-' before two steps are timed."""
        if self.step >= self.steps:
            return "0:00:00"
        if not self.timed_steps:
            return "-:--:--"
        return str(timedelta(seconds=round(self.seconds / self.timed_steps * (self.steps - self.step))))

    @contextmanager
    def paused(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show another bar below, and do not count its time. Yields a function that takes the number of items done."""
        started = time.monotonic()
        task = self.bar.add_task(description, total=total, left="-:--:--")

        def update(done: int) -> None:
            left = (time.monotonic() - started) / done * (total - done) if done else 0
            self.bar.update(task, completed=done, left=str(timedelta(seconds=round(left))))

        try:
            yield update
        finally:
            self.bar.remove_task(task)
            if self.last is not None:
                self.last += time.monotonic() - started


@contextmanager
def progress_bar(
    description: str, total: int, *, enabled: bool = True, console: Console | None = None
) -> Iterator[Callable[..., None]]:
    """Show a bar with the time left on a terminal.

    Yields a function that takes the number of items done and, if it changes, the description.
    """
    console = console or Console()
    columns = (
        BarColumn(bar_width=16),
        TimeRemainingColumn(),
        TextColumn("left  {task.completed:.0f}/{task.total:.0f}  {task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done, description=None: bar.update(task, completed=done, description=description)
