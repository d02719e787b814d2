"""Write a submission to the EPIC-Kitchens-100 action recognition challenge (C1): scores of the test actions.

The form is that of the public code, epic-kitchens/C1-Action-Recognition: test.json in a zip file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from torch import Tensor, nn

from ..config import Config
from ..data.datasets.epic_kitchens import read_epic_test
from ..data.sample import Classes
from ..engine.evaluate import describe_changes, evaluate_in_world, load_weights
from ..engine.metrics import finite, split_logits
from ..errors import DataError
from ..files import atomic_write
from ..text import listing
from .formats.common import FormatOptions
from .formats.detections import EPIC_CLASSES, EPIC_VERSION

SUBMISSION = "epic_test.zip"


def write_epic_test(
    source: str,
    config: Config,
    *,
    levels: tuple[int, int, int],
    changes: Mapping[str, Any] | None = None,
    folder: Path,
    exported: nn.Module | None = None,
) -> None:
    """`vivit eval` of the test split, whose labels the owners keep: write the scores of its actions for their server.

    Args:
        source: The weights.
        config: Data, protocol, device and precision; `config.model` is not used.
        levels: Supervision of pretraining, training labels and training data, 0 to 5 each.
        changes: Those of `load_weights`.
        folder: Where epic_test.zip goes.
        exported: The model that computes instead of that of the weights, on the CPU.

    Raises DataError for a model without the 97 verbs and 300 nouns, and for a list or videos that cannot be used.
    """
    options = FormatOptions(epic_levels=levels)
    changes = {name: value for name, value in (changes or {}).items() if value not in (None, {})}
    model: Any = exported or load_weights(source, **changes)
    classes = model.config.classes
    check_classes(classes)
    placeholder = {name: names[0] for name, names in classes.items()}
    actions = {key: replace(one, labels=placeholder) for key, one in read_epic_test(Path(config.data.root)).items()}
    result, world = evaluate_in_world(
        model, [*actions.values()], config, device=config.device if exported is None else "cpu"
    )
    if not world.is_main:
        return
    if changes:
        print(describe_changes(model, changes))
    read = [key for i, key in enumerate(actions) if i not in result.missing]
    known = {key: row for key, row, good in zip(read, result.multi, finite(result.multi).tolist()) if good}
    scores = {key: known.get(key, result.multi.new_zeros(model.config.num_classes)) for key in actions}
    if lost := [key for key in actions if key not in known]:
        logging.getLogger("vivit").warning("%s", listing("no scores, all are 0 in the submission", lost))
    path = folder / SUBMISSION
    folder.mkdir(parents=True, exist_ok=True)
    write_submission(path, scores, classes, options)
    print(f"{len(scores)} actions, {len(lost)} without scores; to submit: {path}")


def check_classes(classes: Classes) -> None:
    """Raise DataError unless these are as many verbs and nouns as those of EPIC-Kitchens-100."""
    sizes = {name: len(names) for name, names in classes.items()}
    if sizes != EPIC_CLASSES:
        got = ", ".join(f"{size} of {name}" for name, size in sizes.items()) or "none"
        raise DataError(f"a submission takes the 97 classes of verb and the 300 of noun, the model has {got}")


def write_submission(path: Path, scores: Mapping[str, Tensor], classes: Classes, options: FormatOptions) -> None:
    """Write logits (K,) by narration_id. The server makes the scores of an action from those of verb and noun."""
    results = {
        key: {
            name: {str(i): float(f"{score:.6g}") for i, score in enumerate(part[0].tolist())}
            for name, part in sorted(zip(classes, split_logits(row[None], classes)), reverse=True)
        }
        for key, row in scores.items()
    }
    levels = dict(zip(("sls_pt", "sls_tl", "sls_td"), options.epic_levels))
    content = {"version": EPIC_VERSION, "challenge": "action_recognition", **levels, "results": results}
    with atomic_write(path, "wb") as file, ZipFile(file, "w", ZIP_DEFLATED) as archive:
        archive.writestr("test.json", json.dumps(content, allow_nan=False))
