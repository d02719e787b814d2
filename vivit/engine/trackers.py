"""Send metrics to TensorBoard and to W&B-shaped trackers, without waiting for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from ..config import Config, to_dict

QUEUE_SIZE = 1000  # lines of metrics that may wait for a slow tracker
PATIENCE = 30.0  # seconds that one call of a tracker may take, and that the end of a run waits for it


class Tracker:
    """A tracker in a thread of its own. It can neither stop nor slow the run: one that raises or hangs is dropped.

    `open_writer` returns an object with `write(step, values)` and `close()`; the thread makes all these calls.
    `problem` says why a tracker gets no more metrics; empty while it works.
    """

    def __init__(self, name: str, open_writer: Callable[[], Any]):
        self.name, self.problem = name, ""
        self._open = open_writer
        self._queue: Queue[tuple[int, dict[str, float]] | None] = Queue(QUEUE_SIZE)
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Queue the metrics of a step; returns at once."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > PATIENCE:
            self.problem = self.problem or f"it has not answered for {PATIENCE:g} s"
        if not self.problem:
            try:
                self._queue.put_nowait((step, dict(values)))
            except Full:
                self.problem = f"it is {QUEUE_SIZE} lines behind"

    def close(self) -> None:
        """Let the tracker finish, for at most PATIENCE seconds."""
        if not self.problem:
            try:
                self._queue.put_nowait(None)
            except Full:
                self.problem = f"it is {QUEUE_SIZE} lines behind"
                return
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                self.problem = f"it did not finish within {PATIENCE:g} s"

    def _work(self) -> None:
        try:
            writer = self._timed(self._open)
            while not self.problem:
                try:
                    entry = self._queue.get(timeout=1.0)  # a dropped tracker gets no end mark
                except Empty:
                    continue
                if entry is None:
                    break
                self._timed(writer.write, *entry)
            self._timed(writer.close)
        except Exception as error:  # whatever a package of others raises: the run does not depend on it
            self.problem = self.problem or f"{error}" or type(error).__name__

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._busy_since = time.monotonic()
        try:
            return call(*arguments)
        finally:
            self._busy_since = None


def open_trackers(config: Config, step: int) -> list[Tracker]:
    """Open TensorBoard, where it is installed, and the tracker of the config, for a run that starts after `step`.

    Raises ImportError if `config.tracker` is not installed.
    """
    trackers = []
    folder = Path(config.run) / "tensorboard"
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra vivit[tensorboard]; metrics.jsonl has the same numbers
        pass
    else:
        # TensorBoard hides events from purge_step on: the resumed run writes them again.
        purge_step = step + 1 if step else None
        trackers.append(
            Tracker("TensorBoard", lambda: TensorBoardWriter(SummaryWriter(str(folder), purge_step=purge_step)))
        )
    if config.tracker is not None:
        try:
            module = import_module(config.tracker)
        except ImportError as error:
            raise ImportError(f"tracker={config.tracker!r} is not installed: pip install {config.tracker}") from error
        trackers.append(Tracker(config.tracker, lambda: ModuleWriter(module, config)))
    return trackers


class TensorBoardWriter:
    """A SummaryWriter as `Tracker` calls it."""

    def __init__(self, writer: Any):
        self.writer = writer

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one scalar per value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()


class ModuleWriter:
    """wandb and packages of its shape: init(project, name, config), log(values, step), finish()."""

    def __init__(self, module: Any, config: Config):
        self.module = module
        module.init(project="vivit", name=config.run, config=to_dict(config))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log all values of a step."""
        self.module.log(values, step=step)

    def close(self) -> None:
        """Finish the run of the tracker."""
        self.module.finish()
