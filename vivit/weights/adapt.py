"""Adapt the tensors of a video model to another size and to other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch

from ..config import ModelConfig
from ..model.encoders import resize_positions
from ..model.vivit import ViViT
from .assemble import Checkpoint, MappedTensor, build_model, join


def adapt(checkpoint: Checkpoint, trained: ModelConfig, config: ModelConfig) -> ViViT:
    """Build a model of `config` from a checkpoint of `trained`, which differ in size and classes only.

    Positions are interpolated to the new token grid; the rows of the head go to the classes of the same name. Raises
    WeightsError.
    """
    tensors, ignored = dict(checkpoint.tensors), dict[str, str]()
    newly_initialized = dict(checkpoint.newly_initialized)
    newly_initialized |= (
        {"encoder.time_embed": "zero: the file has one temporal position"} if trained.grid[0] == 1 else {}
    )
    new = position_grids(config)
    for name, grid in position_grids(trained).items():
        if name not in tensors:
            continue
        if name not in new:
            ignored |= dict.fromkeys(tensors.pop(name).sources, "this model has one temporal position")
        elif new[name] != grid:
            entry, why = tensors[name], f"grid {_format_grid(grid)} to {_format_grid(new[name])}"
            resized = resize_positions(entry.tensor.float(), grid, new[name], config.interpolation)
            tensors[name] = MappedTensor(resized, entry.sources, "interpolated", _add_reason(entry, why))
    rows = head_rows(trained.classes, config.classes, named=bool(checkpoint.config.get("classes")))
    if "head.weight" not in tensors:
        newly_initialized["head."] = "the file has no head"
    elif rows != list(range(trained.num_classes)):
        other_head, new_head = _adapt_head(tensors, trained, config, rows)
        ignored |= other_head
        newly_initialized |= new_head
    return build_model(config, checkpoint, tensors, newly_initialized=newly_initialized, ignored=ignored)


def _adapt_head(
    tensors: dict[str, MappedTensor], trained: ModelConfig, config: ModelConfig, rows: list[int | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Select `rows` of the head in place; return (ignored tensors, newly initialised parameters), with reasons."""
    head = [name for name in ("head.weight", "head.bias") if name in tensors]
    if all(row is None for row in rows):
        why = f"other classes: {trained.num_classes} in the file, {config.num_classes} here"
        return {name: why for key in head for name in tensors.pop(key).sources}, {"head.": why}
    names = [name for labels in config.classes.values() for name in labels]
    new = [name for name, row in zip(names, rows) if row is None]
    why = f"rows follow class names: {len(rows) - len(new)} of {trained.num_classes} in the file"
    why += f"; newly initialised at zero: {join(new)}" if new else ""
    index = torch.tensor([-1 if row is None else row for row in rows])
    for key in head:
        entry = tensors[key]
        x = entry.tensor.float()[index]  # −1 takes any row, which the next line sets to zero
        x[index < 0] = 0
        tensors[key] = MappedTensor(x, entry.sources, "loaded", _add_reason(entry, why))
    return {}, {}


def head_rows(
    old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]], *, named: bool = True
) -> list[int | None]:
    """Return, for every class of `new`, the row of the same class in a head for `old`, or None.

    Label sets are matched by name. A label set of another name is matched with the one label set that shares class
    names, if there is only one. If no class matches, the names in `old` are only row numbers (not `named`) and `new`
    has as many classes, then `new` names the rows in order.
    """
    starts = dict(zip(old, accumulate(map(len, old.values()), initial=0)))
    rows: list[int | None] = []
    for label_set, names in new.items():
        others = [name for name in old if name not in new and not set(old[name]).isdisjoint(names)]
        match = label_set if label_set in old else others[0] if len(others) == 1 else None
        row_of = {} if match is None else {name: starts[match] + i for i, name in enumerate(old[match])}
        rows += [row_of.get(name) for name in names]
    total = sum(map(len, old.values()))
    if not named and len(rows) == total and all(row is None for row in rows):
        return list(range(total))
    return rows


def position_grids(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """Return {name of a position embedding: the token grid (t, h, w) that it covers}."""
    t, h, w = config.grid
    learned, only_time = config.positions == "learned", config.positions == "rope_2d" and t > 1
    if config.encoder != "factorised_encoder":
        return {"encoder.pos_embed": (t, h, w)} if learned else {"encoder.time_embed": (t, 1, 1)} if only_time else {}
    temporal = {"encoder.temporal.pos_embed": (t, 1, 1)} if config.temporal_depth else {}
    return ({"encoder.spatial.pos_embed": (1, h, w)} if learned else {}) | temporal


def _add_reason(entry: MappedTensor, why: str) -> str:
    return ", ".join(filter(None, (entry.reason, why)))


def _format_grid(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))
