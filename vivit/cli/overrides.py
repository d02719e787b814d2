"""Settings of the model that differ from those in the file of the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Overrides:
    """What a file cannot say about its model; each has the name of a field of ModelConfig."""

    encoder: str | None = None
    """The encoder, where the file does not say it."""
    image_size: tuple[int, int] | None = None
    """Height and width of the frames, in pixels."""
    num_frames: int | None = None
    """Frames of a clip."""
    positions: str | None = None
    """rope_3d for V-JEPA 2 as released, where the file holds positions that it does not use."""
    num_heads: int | None = None
    """Attention heads, where the file does not say it."""
    attention_order: str | None = None
    """factorised_self_attention only: time_space or space_time, where the file does not say it."""
    tokenizer: str | None = None
    """tubelet or uniform_frames, where the file does not say it."""
    sampled_frames: int | None = None
    """uniform_frames only: number of frames of the clip that become tokens."""

    def given(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PreprocessingOverrides:
    """Fields of Preprocessing; None keeps the value of the weights."""

    frame_stride: float | None = None
    """Distance between two frames of a clip, in frames of the video; replaces clip_seconds."""
    clip_seconds: float | None = None
    """Seconds that a clip covers at any frame rate; replaces frame_stride."""
    crop_fraction: float | None = None
    """Fraction of the resized short side that a test crop covers."""
    mean: tuple[float, float, float] | None = None
    """Mean of each color channel, on the scale 0..1."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of each color channel, on the scale 0..1."""


@dataclass(frozen=True)
class EvalOverrides(Overrides):
    """What may differ from the weights in a test; None keeps the value of the weights."""

    preprocessing: PreprocessingOverrides = field(default_factory=PreprocessingOverrides)
    """How a video becomes the input of the model."""

    def given(self) -> dict[str, Any]:
        """Return the fields that are set."""
        pixels = {name: value for name, value in vars(self.preprocessing).items() if value is not None}
        return super().given() | {"preprocessing": pixels}
