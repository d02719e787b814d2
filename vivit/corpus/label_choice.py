"""Choose what to label next, and find labels that look wrong, by the features of a model."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import EvalConfig
from ..data.sample import Sample
from ..data.sample_table import encode_labels
from ..engine.distributed import World
from ..engine.probe import clip_features, cross_validate_penalties, folds, leave_folds_out
from ..errors import DataError
from ..files import atomic_write
from ..model.vivit import ViViT
from ..text import listing
from .labels import path_in_table
from .lists import read_list

STRATEGIES = ("mixed", "uncertainty", "coverage")


@dataclass(frozen=True)
class Encoded:
    """Readable videos of a list, with what a model makes of the middle clip of each."""

    samples: list[Sample]
    features: Tensor
    """(N, D) float32."""
    logits: Tensor
    """(N, K) float32."""


def encode(model: ViViT, samples: Sequence[Sample], *, workers: int | None = None, precision: str = "auto") -> Encoded:
    """Compute features and logits of the middle clip of every sample; a warning lists those that cannot be read.

    Raises DataError if none can be read.
    """
    device = next(model.parameters()).device
    rows = clip_features(
        model,
        samples,
        protocol=EvalConfig(temporal_views=1, spatial_views=1),
        workers=workers,
        precision=precision,
        world=World(0, 1, device),
        title="features",
    )
    if rows.missing:
        message = listing("videos that cannot be read", list(rows.missing.values()))
        if not len(rows.videos):
            raise DataError(message)
        logging.getLogger("vivit").warning(message)
    with torch.no_grad():
        logits = model.head(rows.features.to(device)).float().cpu()
    return Encoded([samples[i] for i in rows.videos.tolist()], rows.features, logits)


def uncertainties(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return 1 - (best - second-best probability) of each video (N,), the mean over the label sets, in [0, 1]."""
    margins = []
    for part in logits.double().split(list(sizes), dim=1):
        top = part.softmax(dim=1).topk(min(2, part.shape[1]), dim=1).values
        margins.append(top[:, 0] - top[:, 1] if top.shape[1] > 1 else torch.ones(len(top), dtype=torch.float64))
    return 1 - torch.stack(margins).mean(dim=0)


def choose_next(
    features: Tensor, uncertainty: Tensor, count: int, *, strategy: str = "mixed", labelled: Tensor | None = None
) -> list[int]:
    """Return the numbers of the `count` videos to label next, the most useful first.

    Args:
        features: (N, D) of the unlabelled videos.
        uncertainty: (N,), 0 or more; see `uncertainties`.
        count: How many; all at most.
        strategy: `uncertainty`: the most uncertain. `coverage`: greedy k-centre (Gonzalez, 1985): always the video
            that is farthest from all labelled and chosen ones, in standardised features. `mixed`: the largest product
            of both, so that near-duplicates of one difficult video are not all chosen.
        labelled: (M, D) features of the videos that have labels.

    Raises ValueError for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; allowed are {', '.join(STRATEGIES)}")
    count = min(count, len(features))
    if strategy == "uncertainty":
        return uncertainty.argsort(descending=True, stable=True)[:count].tolist()
    every = features if labelled is None else torch.cat((features, labelled))
    every = every.double()
    std = every.std(dim=0, correction=0)
    every = (every - every.mean(dim=0)) / torch.where(std > 0, std, torch.inf)
    x, known = every[: len(features)], every[len(features) :]
    weight = uncertainty.double() if strategy == "mixed" else torch.ones(len(x), dtype=torch.float64)
    chosen: list[int] = []
    if len(known):
        distance = torch.cdist(x, known).min(dim=1).values
    else:  # without a label the first one is typical, or the most uncertain
        first = x.norm(dim=1).argmin() if strategy == "coverage" else weight.argmax()
        chosen.append(int(first))
        distance = (x - x[first]).norm(dim=1)
    while len(chosen) < count:
        value = distance * weight
        value[chosen] = -1
        chosen.append(int(value.argmax()))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).norm(dim=1))
    return chosen[:count]


def write_next(
    model: ViViT,
    source: str,
    out: Path,
    *,
    labelled: Sequence[str] = (),
    count: int = 20,
    strategy: str = "mixed",
    workers: int | None = None,
) -> int:
    """Write a table of the videos of a list to label next, with empty label columns and what the model suggests.

    Segments of the lists `labelled` are left out, and so are videos of which any part has a label; coverage takes them
    into account. Returns how many rows there are.
    Raises DataError if nothing is left to label, and for videos outside the folder of the table.
    """
    known = [sample for one in labelled for sample in read_list(one)[0]]
    done = {segment for s in known for segment in (key(s), (os.path.realpath(s.path), None, None))}
    samples = [s for s in read_list(source)[0] if key(s) not in done]
    if not samples:
        raise DataError(f"{source}: every video of it is in {', '.join(labelled)}")
    paths = {one.path: path_in_table(one.path, out) for one in samples}
    found = encode(model, samples, workers=workers)
    centres = encode(model, known, workers=workers).features if known and strategy != "uncertainty" else None
    classes = model.config.classes
    sizes = [len(names) for names in classes.values()]
    uncertainty = uncertainties(found.logits, sizes)
    chosen = choose_next(found.features, uncertainty, count, strategy=strategy, labelled=centres)
    with atomic_write(out, newline="", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        suggestions = [column for name in classes for column in (f"{name}_suggested", f"{name}_probability")]
        table.writerow(["path", "start", "end", *classes, *suggestions])
        for i in chosen:
            cells = []
            for names, logits in zip(classes.values(), found.logits[i].split(sizes)):
                p = logits.softmax(dim=0)
                cells += [names[int(p.argmax())], f"{float(p.max()):.4f}"]
            one = found.samples[i]
            table.writerow([paths[one.path], one.start, one.end, *[""] * len(classes), *cells])
    return len(chosen)


def key(sample: Sample) -> tuple[str, float | None, float | None]:
    """Return the file and the segment of a sample."""
    return os.path.realpath(sample.path), sample.start, sample.end


def rank_doubtful(features: Tensor, labels: Tensor, sizes: Sequence[int], groups: Tensor) -> tuple[Tensor, Tensor]:
    """Rank videos by how little a linear head that has not seen them believes their labels.

    features (N, D), labels (N, L), groups (N,): videos of one group stay in one fold. Returns (order (N,), the most
    doubtful first, and probabilities (N, K) of the classes by label set). Uses the L2 penalty of the best
    cross-validated loss.
    """
    parts = folds(labels, groups)
    _, _, found = cross_validate_penalties(leave_folds_out(features, labels, parts, sizes), sizes)
    logits = torch.zeros(len(labels), sum(sizes), dtype=torch.float64)
    logits[parts.argsort(stable=True)] = torch.cat(found)
    probabilities = [part.softmax(dim=1) for part in logits.split(list(sizes), dim=1)]
    belief = torch.stack([p.gather(1, labels[:, i : i + 1])[:, 0] for i, p in enumerate(probabilities)])
    return belief.min(dim=0).values.argsort(stable=True), torch.cat(probabilities, dim=1)


def write_doubtful(model: ViViT, samples: Sequence[Sample], out: Path, *, workers: int | None = None) -> int:
    """Write a row for each label of a labelled list, the most doubtful first; return how many videos there are.

    The columns are those of the table that the recipe finetune writes for its training videos. Raises DataError for
    labels that the model does not know and if fewer than two videos can be read.
    """
    found = encode(model, samples, workers=workers)
    classes = model.config.classes
    labels = encode_labels(found.samples, classes)
    paths = {path: i for i, path in enumerate(dict.fromkeys(one.path for one in found.samples))}
    groups = torch.tensor([paths[one.path] for one in found.samples])
    if len(paths) < 2:
        raise DataError(f"{len(paths)} video can be read; finding doubtful labels needs several of each class")
    sizes = [len(names) for names in classes.values()]
    _, probabilities = rank_doubtful(found.features, labels, sizes, groups)
    lines: list[tuple[float, list[Any]]] = []
    for i, one in enumerate(found.samples):
        where = [Path(os.path.relpath(one.path, out.parent)).as_posix(), one.start, one.end]
        for (label_set, names), p, label in zip(classes.items(), probabilities[i].split(sizes), labels[i].tolist()):
            belief, answer = float(p[label]), int(p.argmax())
            cells = [label_set, names[label], names[answer], f"{float(p[answer]):.3f}", f"{belief:.3f}"]
            lines.append((belief, [*where, *cells]))
    lines.sort(key=lambda line: line[0])
    with atomic_write(out, newline="", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "start", "end", "label_set", "label", "answer", "probability", "probability_of_label"])
        table.writerows(cells for _, cells in lines)
    return len(found.samples)
