"""Cache what the frozen part of Model 2 computes for each training video, so that the rest trains on it in seconds.

A cache is a folder of memory-mapped arrays with one row per video. A video is marked as done after its numbers are
written, so a killed run resumes with the next one. The key of a cache is a hash of the weights, of the list of videos
and of everything that determines their views; a run takes the cache of another run next to it that has the same key.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..config import Config, ModelConfig, replace, to_dict
from ..data.dataset import TrainViews
from ..data.frame_cache import FrameCache
from ..data.loader import eval_clips
from ..data.sample import Sample, file_state
from ..data.transforms import has_direction
from ..errors import DataError
from ..files import write_json
from ..model.encoders import FactorisedEncoder
from ..model.motion import MotionPool
from ..model.vivit import ViViT
from ..text import listing
from .device import autocast, format_size, uses_bfloat16
from .distributed import World
from .progress import progress_bar

FOLDER = "features"
VERSION = 1  # of the cached numbers; a cache of another version is not used
READ, UNREADABLE, NO_TIME = 1, 2, 3  # in the array `done`
FEWEST = 16  # videos that each process reads even after its time is over
ARRAYS = ("positions", "motion", "activations", "done")
Shapes = dict[str, tuple[tuple[int, ...], str]]
MOST_BYTES = 4 * 2**30  # larger activations are not cached


@dataclass(frozen=True)
class Features:
    """The cached numbers of V views of N videos: the single test view first; the third, fifth, … are mirrored."""

    positions: Tensor
    """(N, V, t, D) float32: the temporal positions, encoded over space."""
    motion: Tensor
    """(N, V, 2 D) float32: see `MotionPool.responses`."""
    activations: Tensor | None
    """(N, V, t, n, D) float16, memory-mapped: the tokens below the layers that are trained; None if too large."""
    readable: Tensor
    """(N,) bool: False for a video that cannot be read or that there was no time for; its numbers are 0."""


def cache_features(
    model: ViViT,
    samples: Sequence[Sample],
    labels: Tensor,
    *,
    config: Config,
    views: int,
    cut: int,
    name: str,
    world: World,
    log: Callable[[str], None],
    frame_cache: FrameCache | None = None,
    skipped: dict[str, str] | None = None,
    seconds: float = math.inf,
) -> Features:
    """Compute or reuse the features of `views` views of every sample.

    The activations are those before block `cut` over space, because the blocks from there on are trained later.

    labels (N, L). The cache is `name` in the run's folder features/. Each of several processes computes its share of
    the videos; the folder must be shared. `views` counts if the cache is new. Where `seconds` do not suffice for it, a
    video has fewer, repeated; after them no further video is begun, but FEWEST are read; the order is random, so that
    no class is left out. Raises DataError if no video can be read or too many cannot, and OSError if there is no room.
    """
    assert isinstance(model.encoder, FactorisedEncoder)
    key = cache_key(model, samples, labels, config, cut)
    folder, stored = find_cache(Path(config.run), name, key)
    own = folder == Path(config.run) / FOLDER / name
    views = stored or views
    shapes = feature_shapes(model.config, len(samples), views, cut)
    world.on_main(lambda: None if stored else open_cache(folder, key, views, shapes))
    mode = "r+" if own else "c"  # another run's cache is complete, and stays as it is
    arrays = {array: np.load(folder / f"{array}.npy", mmap_mode=mode) for array in shapes}
    done = arrays.pop("done")
    rows = np.random.default_rng(config.seed).permutation(np.flatnonzero((done != READ) & (done != NO_TIME)))
    waiting = rows[world.rank :: world.size].tolist() if own else []
    world.barrier()  # before a process marks a video as done that another one has not listed
    if world.sum([len(waiting)])[0]:
        size = format_size(bytes_of(shapes))
        log(f"features: {len(samples)} videos x {views} views of the frozen encoder, {size} in {folder}")
    else:
        log(f"features: {len(samples)} videos x {views} views are in {folder} already")
    missing: dict[int, str] = {}
    hurried = compute_waiting(
        model,
        samples,
        labels,
        arrays,
        done,
        waiting,
        config=config,
        views=views,
        cut=cut,
        world=world,
        frame_cache=frame_cache,
        skipped=skipped,
        seconds=seconds,
        missing=missing,
    )
    if own:
        for array in (*arrays.values(), done):
            array.flush()
    world.barrier()
    report_missing([why for share in world.gather(missing) for why in share.values()], config, log)
    if hurried := int(world.sum([hurried])[0]):
        log(f"features: fewer than {views} views of {hurried} videos, so that all fit into the budget")
    states = np.load(folder / "done.npy")
    if left_out := int((states == NO_TIME).sum()):
        log(f"features: the budget had no time for {left_out} of the {len(samples)} videos; a longer --budget has it")
    readable = torch.from_numpy(states == READ)
    if not readable.any():
        raise DataError(f"none of the {len(samples)} videos can be read: {next(iter(missing.values()), '')}")
    return Features(
        positions=torch.from_numpy(np.array(arrays["positions"])),
        motion=torch.from_numpy(np.array(arrays["motion"])),
        activations=torch.from_numpy(arrays["activations"]) if "activations" in arrays else None,
        readable=readable,
    )


def compute_waiting(
    model: ViViT,
    samples: Sequence[Sample],
    labels: Tensor,
    arrays: Mapping[str, np.ndarray],
    done: np.ndarray,
    waiting: Sequence[int],
    *,
    config: Config,
    views: int,
    cut: int,
    world: World,
    frame_cache: FrameCache | None,
    skipped: dict[str, str] | None,
    seconds: float,
    missing: dict[int, str],
) -> int:
    """Compute the features of the samples `waiting` into `arrays` and mark them in `done`; add to `missing` why not.

    Returns how many have fewer views than `views`, for lack of time.
    """
    dataset = TrainViews(
        [samples[i] for i in waiting],
        labels[list(waiting)],
        model=model.config,
        data=config.data,
        augment=config.augment,
        seed=config.seed,
        count=views,
        numbers=waiting,
        frame_cache=frame_cache,
    )
    motion, since, encoded, hurried = image_filters(model), time.monotonic(), 0, 0
    with (
        progress_bar("features", len(waiting), enabled=world.is_main) as update,
        eval_clips(dataset, workers=config.data.workers, skipped=skipped) as clips,
    ):
        for count, clip in enumerate(clips, start=1):
            row = waiting[clip.index]
            if clip.video is None:
                missing[row] = clip.problem or ""
            else:
                used = max(time.monotonic() - since, 1e-9)
                fits = (seconds - used) / (len(waiting) - count + 1) * encoded / used if encoded else views
                chosen = view_sources(views, int(min(max(fits, 1), views)))
                with autocast(world.device, config.precision):
                    found = encode(model, motion, clip.video[: max(chosen) + 1].to(world.device), cut)
                for array, values in found.items():
                    if array in arrays:
                        arrays[array][row] = values.float().cpu().numpy()[chosen]
                encoded, hurried = encoded + max(chosen) + 1, hurried + (max(chosen) + 1 < views)
            done[row] = READ if clip.video is not None else UNREADABLE
            update(count)
            if count >= FEWEST and time.monotonic() - since > seconds:
                done[waiting[count:]] = NO_TIME
                break
    return hurried


def view_sources(views: int, computed: int) -> list[int]:
    """Return which of the first `computed` views stands for each view: a mirrored one for mirrored ones, if it can."""
    return [v if v < computed else (v - 1) % 2 + 1 if (v - 1) % 2 + 1 < computed else 0 for v in range(views)]


def report_missing(problems: Sequence[str], config: Config, log: Callable[[str], None]) -> None:
    """Name the videos that could not be read. Raises DataError if they are more than data.max_unreadable."""
    if len(problems) > config.data.max_unreadable:
        raise DataError(listing("more unreadable videos than data.max_unreadable allows", problems))
    if problems:
        log(listing("skipped, unreadable", problems))


@torch.no_grad()
def encode(model: ViViT, motion: MotionPool, views: Tensor, cut: int) -> dict[str, Tensor]:
    """Encode views (V, T, C, H, W) uint8 over space; `activations` are the tokens before block number `cut`."""
    assert isinstance(model.encoder, FactorisedEncoder)
    space, t = model.encoder.spatial, model.config.grid[0]
    x = space.add_positions(rearrange(model.tokenize(views), "V t s D -> (V t) s D"))
    for block in space.blocks[:cut]:
        x = block(x)
    pooled = space.forward_blocks(x, [None] * len(space.blocks), cut)
    return {
        "positions": rearrange(pooled, "(V t) D -> V t D", t=t),
        "motion": motion.responses(model.normalize(views)),
        "activations": rearrange(x, "(V t) n D -> V t n D", t=t),
    }


def image_filters(model: ViViT) -> MotionPool:
    """Return a MotionPool with the tubelet kernel summed over its frames: what it does to a still video."""
    with torch.device(model.head.weight.device):
        motion = MotionPool(model.config).requires_grad_(False)
    motion.proj.weight.copy_(model.tokenizer.proj.weight.detach().sum(dim=2))
    return motion


def feature_shapes(model: ModelConfig, videos: int, views: int, cut: int) -> Shapes:
    """Return (shape, dtype) of each array; without activations if these would be larger than MOST_BYTES."""
    t, h, w = model.grid
    d, n = model.embed_dim, h * w + model.num_prefix_tokens
    shapes = {
        "positions": ((videos, views, t, d), "float32"),
        "motion": ((videos, views, 2 * d), "float32"),
        "done": ((videos,), "uint8"),
    }
    if cut < model.depth and videos * views * t * n * d * 2 <= MOST_BYTES:
        shapes["activations"] = ((videos, views, t, n, d), "float16")
    return shapes


def bytes_of(shapes: Shapes) -> int:
    """Return the size of a cache."""
    return sum(math.prod(shape) * int(np.dtype(kind).itemsize) for shape, kind in shapes.values())


def cache_key(model: ViViT, samples: Sequence[Sample], labels: Tensor, config: Config, cut: int) -> str:
    """Hash everything that determines the cached numbers of a view, but not how many views there are."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name.startswith(("tokenizer.", "encoder.spatial.")):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    c, augment = model.config, config.augment
    directed = has_direction(labels, c.classes).tolist() if not augment.flip_directed and c.classes else []
    bfloat16 = uses_bfloat16(model.head.weight.device, config.precision)
    settings = [
        c.num_frames,
        c.image_size,
        c.tokenizer,
        c.sampled_frames,
        c.pool,
        c.norm_eps,
        c.activation,
        c.num_heads,
        c.tubelet_size,
        c.positions,
        c.num_registers,
        c.norm_pre,
        c.norm_after_pool,
        c.pool_norm_eps,
        c.attn_logit_cap,
        c.pool_mlp_ratio,
    ]
    settings += [to_dict(c.preprocessing), to_dict(replace(augment, mixup=0.0, cutmix=0.0)), config.seed, bfloat16, cut]
    files = [[os.path.basename(s.path), s.start, s.end, s.fps, s.offset, *file_state(s.path)] for s in samples]
    digest.update(json.dumps([VERSION, settings, directed, files], sort_keys=True).encode())
    return digest.hexdigest()


def find_cache(run: Path, name: str, key: str) -> tuple[Path, int | None]:
    """Return (folder, views) of the cache with this key: of this run, or a complete one of a run next to it.

    The views are None for a new one, which belongs to this run.
    """
    own = run / FOLDER / name
    for folder in (own, *sorted(run.parent.glob(f"*/{FOLDER}/{name}"))):
        try:
            found = json.loads((folder / "key.json").read_text())
            complete = bool((np.load(folder / "done.npy") != 0).all())
        except (OSError, ValueError):
            continue
        if found.get("key") == key and (folder == own or complete):
            return folder, found["views"]
    return own, None


def open_cache(folder: Path, key: str, views: int, shapes: Shapes) -> None:
    """Create the arrays of a cache. Raises OSError if there is no room for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("key.json", *(f"{array}.npy" for array in ARRAYS)):  # the folder may hold files of the user
        (folder / name).unlink(missing_ok=True)
    needed, free = bytes_of(shapes), shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        raise OSError(
            f"{folder}: the features need {format_size(needed)}, free are {format_size(free)}; make room or give "
            "another --run"
        )
    for array, (shape, kind) in shapes.items():
        np.lib.format.open_memmap(folder / f"{array}.npy", mode="w+", dtype=kind, shape=shape).flush()
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process without a word
            with (folder / f"{array}.npy").open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(file.name))
    write_json(folder / "key.json", {"key": key, "views": views})
