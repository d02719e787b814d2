"""`vivit weights`: inspect, convert and verify weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import Positional

from .overrides import Overrides
from .parse import parse, pick_verb

USAGES = {
    "report": "vivit weights report SOURCE [options]",
    "convert": "vivit weights convert SOURCE DEST --to FORMAT [options]",
    "verify": "vivit weights verify SOURCE [CLIP] [options]",
}


def run(args: list[str]) -> None:
    """Run the verb that the first argument names."""
    verb, rest = pick_verb(
        "weights", args, {"report": report, "convert": convert, "verify": verify}, [*USAGES.values()]
    )
    print(verb(rest))


@dataclass(frozen=True)
class Report:
    """Show what loading does to every tensor of the source and of the model."""

    source: Positional[str]
    """A run, a folder, a file, a hub id or a start."""
    preset: str | None = None
    """Start this model, such as "ViViT-B/16x2 FE", from the source."""
    model: Overrides = field(default_factory=Overrides)
    """What the file cannot say."""


def report(args: list[str]) -> str:
    """Return the report as text."""
    asked = parse(Report, args, usage=USAGES["report"])

    from ..weights.load import describe_loading

    return describe_loading(asked.source, preset=asked.preset, **asked.model.given())


@dataclass(frozen=True)
class Convert:
    """Read weights of any known format and write them in another."""

    source: Positional[str]
    """A run, a folder, a file, a hub id or a start."""
    dest: Positional[str]
    """Folder or file to write."""
    to: str = "vivit"
    """Format: vivit (a folder), huggingface (a folder) or scenic (a file)."""
    model: Overrides = field(default_factory=Overrides)
    """What the file cannot say."""


def convert(args: list[str]) -> str:
    """Convert weights and return one line that says where they are."""
    asked = parse(Convert, args, usage=USAGES["convert"])

    from ..weights.convert import convert as convert_weights

    return f"written to {convert_weights(asked.source, asked.dest, to=asked.to, **asked.model.given())}"


@dataclass(frozen=True)
class Verify:
    """Compare a released checkpoint with the numbers that were published about it."""

    source: Positional[str]
    """One of the official checkpoints, google/vivit-b-16x2-kinetics400, a VideoPrism or a V-JEPA 2."""
    clip: Positional[str | None] = None
    """eating_spaghetti_32_frames.npy, uint8 frames (T, H, W, 3), to compare the first logits; for a VideoPrism float
    frames of water_bottle_drumming.mp4."""
    model: Overrides = field(default_factory=Overrides)
    """What the file cannot say."""


def verify(args: list[str]) -> str:
    """Return what could be verified, as text."""
    asked = parse(Verify, args, usage=USAGES["verify"])

    from ..weights.verify import verify as verify_weights

    return verify_weights(asked.source, asked.clip, **asked.model.given())
