"""Slide a model over a video: encode each temporal position once, classify every window of positions.

A position is what the model embeds together: the `depth` frames of a tubelet or, with `uniform_frames`, a single
frame. Consecutive windows share positions, so that Model 2 encodes each position once for all windows that contain it.
Its tokens of a position do not depend on the place in the clip; only the temporal transformer adds positions in time.
The other models attend across positions from the first layer on, so that for them only the pixels are shared.

With tubelets a window is t consecutive positions. With `uniform_frames` it spans as many positions as the clip has
frames, and the model reads those that it samples from a clip: windows share them where the hop is a multiple of
their distance; otherwise each frame is still encoded at most once.

What comes out of a window is its readout: the logits, the features that the head maps to them, or what the encoder
makes of single positions and tokens.

Which positions go through the encoder together depends only on their number since the start of the video, so that a
file, a stream, and a resumed run give the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..errors import WeightsError
from ..model_config import uniform_frame_indices
from .exported import ExportedModel, ExportedSteps

if TYPE_CHECKING:
    from ..model.token_reduction import TokenReducedViViT
    from ..model.vivit import ViViT

    AnyModel = ViViT | TokenReducedViViT | ExportedModel

CPU_BATCH, GPU_BATCH = 4, 128  # positions in one forward pass
Readout = Literal["logits", "features", "positions", "tokens"]


@dataclass(frozen=True)
class Windows:
    """Which positions make which window: window r spans positions r · hop … r · hop + span − 1.

    A centered window stands for the time of its middle, from the first frame of the video to the last, so that both
    ends are padded. Of windows that are not, the first begins with the video, and the last reaches its end.
    """

    depth: int
    """Sampled frames of a position."""
    span: int
    """Positions from the first to the last of a window."""
    offsets: tuple[int, ...]
    """The positions of a window that the model reads, counted from its first one."""
    hop: int
    """Positions from one window to the next."""
    centered: bool = True

    @property
    def lead(self) -> int:
        """The positions before the video that the first window has."""
        return self.span // 2 if self.centered else 0

    def is_read(self, position: int) -> bool:
        """Say whether some window reads the position."""
        return any(o <= position and (position - o) % self.hop == 0 for o in self.offsets)

    def number(self, positions: int) -> int:
        """Count the windows of a video with this many positions."""
        starts = -(-positions // self.hop)  # in the video
        return starts if self.centered else min(-(-max(positions - self.span, 0) // self.hop) + 1, starts)

    def total(self, positions: int) -> int:
        """Count the positions of a video and of all its windows together, those before and after it included.

        The last ones may be in no window; they are in the batches of a stream, which does not know its end.
        """
        return max((self.number(positions) - 1) * self.hop + self.span, self.lead + positions)


def make_windows(model: AnyModel, *, hop: int) -> Windows:
    """Return the windows of a model for a hop of this many positions."""
    c = model.config
    if c.tokenizer == "uniform_frames":
        read = uniform_frame_indices(c.num_frames, c.grid[0]) if shares_positions(model) else range(c.num_frames)
        return Windows(1, c.num_frames, tuple(read), hop)
    t = c.num_frames // c.tubelet_size[0]
    return Windows(c.tubelet_size[0], t, tuple(range(t)), hop)


def shares_positions(model: object, readout: Readout = "logits") -> bool:
    """Say whether the model encodes a position without regard to the others.

    Model 2 does. Its motion pooling reads neighbouring positions, for logits and features of clips.
    """
    if isinstance(model, ExportedModel):
        return model.shares_positions
    from .steps import encodes_positions

    return encodes_positions(model, readout)


class Steps(Protocol):
    """The two steps of a model; its arrays are tensors of PyTorch or arrays of numpy."""

    source: str
    """Where the weights come from, for messages."""

    def encode(self, frames: list[Any]) -> list[Any]:
        """Map the frames (crops, depth, C, H, W) of positions to features (crops, D)."""
        ...

    def read(self, windows: list[list[Any]], most: int) -> list[Any]:
        """Map the features, or the frames, of the positions of windows to their readouts, each the mean of its crops.

        `most` is how many windows there are at most when a full batch of positions is encoded.
        """
        ...


def make_steps(model: AnyModel, precision: str, readout: Readout) -> Steps:
    """Return the steps of a model. Only weights need PyTorch; an exported model has only logits."""
    if isinstance(model, ExportedModel):
        assert readout == "logits"
        return ExportedSteps(model)
    from .steps import TorchSteps

    return TorchSteps(model, precision, readout)


class SlidingModel:
    """Map positions, pushed one after the other, to the readout of windows, by default the logits.

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
        readout: Readout = "logits",
    ):
        self.windows, self.next, self.first_window = windows, first, first_window
        self.batch = choose_batch(model, batch, readout)
        self.shares, self.readout = shares_positions(model, readout), readout
        self.steps = make_steps(model, precision, readout)
        self.features: deque[Any] = deque(maxlen=windows.span)  # (crops, D), or pixels (crops, depth, C, H, W)
        self.waiting: list[tuple[Hashable, Any]] = []
        self.last: tuple[Hashable, Any] = object(), None  # key and feature of the last encoded position
        self.encoded = 0
        """Positions that went through the model so far."""

    def push(self, key: Hashable, frames: Any) -> list[tuple[int, Any]]:
        """Take the next position, (crops, depth, C, H, W) uint8; return (number, readout) of finished windows.

        A position whose `key` is that of the one before has the same frames and is not encoded again.
        """
        return self.flush() if self.add(key, frames) else []

    def add(self, key: Hashable, frames: Any) -> bool:
        """Let a position wait; say whether a batch is full, for `flush` or `flush_together`."""
        self.waiting.append((key, frames))
        self.next += 1
        return (self.next - self.windows.span) % self.batch == 0

    def flush(self) -> list[tuple[int, Any]]:
        """Encode the positions that wait; return the windows that this finishes."""
        return flush_together([self])[0]

    def restarted(self, windows: Windows, *, batch: int) -> SlidingModel:
        """Return one for another video, which shares the prepared model."""
        other = copy(self)
        other.windows, other.batch, other.next, other.first_window, other.encoded = windows, batch, 0, 0, 0
        other.features, other.waiting = deque(maxlen=windows.span), []
        other.last = object(), None
        return other

    def _take_waiting(self) -> tuple[list[Any], list[int]]:
        """Return the distinct positions that wait and are read, and of each waiting position its place among them.

        The place is -1 for a position that repeats the last one of the batch before.
        """
        key, todo, places = self.last[0], [], []
        for position, (new, frames) in enumerate(self.waiting, start=self.next - len(self.waiting)):
            if new != key and self.windows.is_read(position):
                todo.append(frames)
                key = new
            places.append(len(todo) - 1)
        self.waiting.clear()
        self.last = (key, self.last[1])
        return todo, places

    def _finish_windows(self, encoded: list[Any], places: list[int]) -> list[tuple[int, list[Any]]]:
        """Take what was encoded for the positions that waited; return (number, positions) of the finished windows."""
        key, old = self.last
        finished = []
        for position, place in enumerate(places, start=self.next - len(places)):
            self.features.append(encoded[place] if place >= 0 else old)
            window, rest = divmod(position + 1 - self.windows.span, self.windows.hop)
            if rest == 0 and window >= self.first_window:
                finished.append((window, [self.features[i] for i in self.windows.offsets]))
        if places:
            self.last = (key, self.features[-1])
        return finished

    def _encode(self, frames: list[Any]) -> list[Any]:
        return self.steps.encode(frames) if self.shares and frames else frames

    def _read(self, windows: list[list[Any]], most: int) -> list[Any]:
        """Return the readouts of windows, each (K,) or (…, D) float32 on the CPU. Raises WeightsError for NaN."""
        readouts = self.steps.read(windows, most) if windows else []
        for values in readouts:
            finite = np.isfinite(np.asarray(values))
            if not finite.all():
                raise WeightsError(
                    f"no result, because {int((~finite).sum())} of {finite.size} {self.readout} are not finite (NaN or "
                    f"infinite){self.steps.source}; check the weights or, in bfloat16, use float32"
                )
        return readouts


def flush_together(several: Sequence[SlidingModel]) -> list[list[tuple[int, Any]]]:
    """Encode what waits in several videos of one model in one forward pass; return the windows this finishes, by video.

    They share the model and the number of crops; see `SlidingModel.restarted`.
    """
    taken = [one._take_waiting() for one in several]
    encoded = iter(several[0]._encode([frames for todo, _ in taken for frames in todo]))
    finished = []
    for one, (todo, places) in zip(several, taken):
        one.encoded += len(todo) if one.shares else 0
        finished.append(one._finish_windows(list(islice(encoded, len(todo))), places))
    most = sum(-(-one.batch // one.windows.hop) for one in several)
    readouts = iter(several[0]._read([positions for rows in finished for _, positions in rows], most))
    return [[(window, next(readouts)) for window, _ in rows] for rows in finished]


def choose_batch(model: AnyModel, batch: int | None = None, readout: Readout = "logits") -> int:
    """Return how many positions go through the encoder in one forward pass: `batch`, or what the device prefers.

    On a CPU reading the weights once for CPU_BATCH positions saves a tenth of the time, and more gain nothing. Models
    that encode no single positions take one, so that a row waits for no position behind its window.
    """
    if not shares_positions(model, readout):
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
