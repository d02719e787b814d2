"""Slide a model over a video: encode each temporal position once, classify every window of positions.

A position is what the model embeds together: the `depth` frames of a tubelet or, with `uniform_frames`, a single
frame. Consecutive windows share positions, so that Model 2 encodes each position once for all windows that contain it.
Its tokens of a position do not depend on the place in the clip; only the temporal transformer adds positions in time.
The other models attend across positions from the first layer on, so that for them only the pixels are shared.

With tubelets a window is t consecutive positions. With `uniform_frames` it spans as many positions as the clip has
frames, and the model reads those that it samples from a clip: windows share them where the hop is a multiple of
their distance; otherwise each frame is still encoded at most once.

Which positions go through the encoder together depends only on their number since the start of the video, so that a
file, a stream, and a resumed run give the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import WeightsError
from ..model_config import uniform_frame_indices
from .exported import ExportedModel, ExportedSteps

if TYPE_CHECKING:
    from ..model.token_reduction import TokenReducedViViT
    from ..model.vivit import ViViT

    AnyModel = ViViT | TokenReducedViViT | ExportedModel

CPU_BATCH, GPU_BATCH = 4, 32  # positions in one forward pass


@dataclass(frozen=True)
class Windows:
    """Which positions make which window: window r spans positions r · hop … r · hop + span − 1."""

    depth: int
    """Sampled frames of a position."""
    span: int
    """Positions from the first to the last of a window."""
    offsets: tuple[int, ...]
    """The positions of a window that the model reads, counted from its first one."""
    hop: int
    """Positions from one window to the next."""

    @property
    def lead(self) -> int:
        """The positions before the video that the first window has: its center is the video's first frame."""
        return self.span // 2

    def is_read(self, position: int) -> bool:
        """Say whether some window reads the position."""
        return any(o <= position and (position - o) % self.hop == 0 for o in self.offsets)

    def number(self, positions: int) -> int:
        """Count the windows of a video with this many positions; the center of the last one is inside."""
        return -(-positions // self.hop)

    def total(self, positions: int) -> int:
        """Count the positions of all windows of a video together, those before and after it included."""
        return (self.number(positions) - 1) * self.hop + self.span


def make_windows(model: AnyModel, *, hop: int) -> Windows:
    """Return the windows of a model for a hop of this many positions."""
    c = model.config
    if c.tokenizer == "uniform_frames":
        read = uniform_frame_indices(c.num_frames, c.grid[0]) if shares_positions(model) else range(c.num_frames)
        return Windows(1, c.num_frames, tuple(read), hop)
    t = c.num_frames // c.tubelet_size[0]
    return Windows(c.tubelet_size[0], t, tuple(range(t)), hop)


def shares_positions(model: object) -> bool:
    """Say whether the model encodes a position without regard to the others: Model 2 without motion pooling."""
    if isinstance(model, ExportedModel):
        return model.shares_positions
    from .steps import encodes_positions

    return encodes_positions(model)


class Steps(Protocol):
    """The two steps of a model; its arrays are tensors of PyTorch or arrays of numpy."""

    source: str
    """Where the weights come from, for messages."""

    def encode(self, frames: list[Any]) -> list[Any]:
        """Map the frames (crops, depth, C, H, W) of positions to features (crops, D)."""
        ...

    def classify(self, positions: list[Any]) -> Any:
        """Map the features, or the frames, of the positions of a window to the mean logits of its crops (K,)."""
        ...


def make_steps(model: AnyModel, precision: str) -> Steps:
    """Return the steps of a model. Only weights need PyTorch."""
    if isinstance(model, ExportedModel):
        return ExportedSteps(model)
    from .steps import TorchSteps

    return TorchSteps(model, precision)


class SlidingModel:
    """Map positions, pushed one after the other, to the logits of windows.

    Holds the positions of one window and those that wait for a full batch: with Model 2 their features, with others
    their pixels. `first` is the number of the first position that will be pushed; see `restart`.
    """

    def __init__(
        self,
        model: AnyModel,
        windows: Windows,
        *,
        precision: str = "auto",
        batch: int | None = None,
        first: int = 0,
        first_window: int = 0,
    ):
        self.windows, self.next, self.first_window = windows, first, first_window
        self.batch = choose_batch(model, batch)
        self.shares = shares_positions(model)
        self.steps = make_steps(model, precision)
        self.features: deque[Any] = deque(maxlen=windows.span)  # (crops, D), or pixels (crops, depth, C, H, W)
        self.waiting: list[tuple[Hashable, Any]] = []
        self.last: tuple[Hashable, Any] = object(), None  # key and feature of the last encoded position
        self.encoded = 0
        """Positions that went through the model so far."""

    def push(self, key: Hashable, frames: Any) -> list[tuple[int, Any]]:
        """Take the next position, (crops, depth, C, H, W) uint8; return (number, logits (K,)) of finished windows.

        A position whose `key` is that of the one before has the same frames and is not encoded again.
        """
        self.waiting.append((key, frames))
        self.next += 1
        return [] if (self.next - self.windows.span) % self.batch else self.flush()

    def flush(self) -> list[tuple[int, Any]]:
        """Encode the positions that wait; return the windows that this finishes."""
        first = self.next - len(self.waiting)
        rows = []
        for position, feature in enumerate(self._encode_waiting(), start=first):
            self.features.append(feature)
            window, rest = divmod(position + 1 - self.windows.span, self.windows.hop)
            if rest == 0 and window >= self.first_window:
                rows.append((window, self._classify([self.features[i] for i in self.windows.offsets])))
        return rows

    def _encode_waiting(self) -> list[Any]:
        """Encode the distinct positions that wait and are read, in one forward pass: one tensor a waiting position."""
        first = self.next - len(self.waiting)
        key, old = self.last
        todo, places = [], []  # of each position: its place in `todo`, -1 for the last one of the batch before
        for position, (new, frames) in enumerate(self.waiting, start=first):
            if new != key and self.windows.is_read(position):
                todo.append(frames)
                key = new
            places.append(len(todo) - 1)
        self.waiting.clear()
        features = self._encode(todo) if todo else []
        result = [features[place] if place >= 0 else old for place in places]
        self.last = (key, result[-1] if result else old)
        return result

    def _encode(self, frames: list[Any]) -> list[Any]:
        if not self.shares:
            return frames
        self.encoded += len(frames)
        return self.steps.encode(frames)

    def _classify(self, positions: list[Any]) -> Any:
        """Average the logits of the crops of one window: (K,) float32 on the CPU. Raises WeightsError for NaN."""
        logits = self.steps.classify(positions)
        finite = np.isfinite(np.asarray(logits))
        if not finite.all():
            raise WeightsError(
                f"no timeline, because {int((~finite).sum())} of {len(finite)} logits are not finite (NaN or infinite)"
                f"{self.steps.source}; check the weights or, in bfloat16, use float32"
            )
        return logits


def choose_batch(model: AnyModel, batch: int | None = None) -> int:
    """Return how many positions go through the encoder in one forward pass: `batch`, or what the device prefers.

    On a CPU reading the weights once for CPU_BATCH positions saves a tenth of the time, and more gain nothing. Models
    that encode no single positions take one, so that a row waits for no position behind its window.
    """
    if not shares_positions(model):
        return 1
    on_cpu = isinstance(model, ExportedModel) or next(model.parameters()).device.type == "cpu"
    return batch or (CPU_BATCH if on_cpu else GPU_BATCH)


def restart(windows: Windows, window: int, *, batch: int, key: Callable[[int], Hashable]) -> int:
    """Return the position from which to push in order to get `window` and those after it, to the bit.

    That is the start of a batch, at a position that does not repeat the one before; `key` gives the keys of positions.
    """
    position = window * windows.hop
    while position > 0 and ((position - windows.span) % batch or key(position) == key(position - 1)):
        position -= 1
    return position


def batch_end(windows: Windows, position: int, *, batch: int, total: int) -> int:
    """Return where the batch ends that encodes the position before `position`; a video has `total` positions."""
    return min(position + (windows.span - position) % batch, total)
