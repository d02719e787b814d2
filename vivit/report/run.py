"""Write a run or an evaluation as one HTML page that opens from disk."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import nn

from ..config import ALL, Config, DataConfig
from ..data.sample import Sample
from ..engine.eval_tables import describe_protocol
from ..engine.evaluation import Evaluation
from ..engine.metrics import most_confused
from ..engine.run import environment, read_config
from ..engine.runs import read_metrics
from ..inference.prediction import Prediction
from ..model.vivit import ViViT
from ..model_config import joint_name
from .charts import confusion_matrix, line_chart
from .doubtful import doubtful_examples
from .examples import EXAMPLES, answers, clip_figure, draw_examples, is_wrong, true_labels
from .html import percent, plural, write_html

LARGEST_MATRIX = 24  # classes; above, the most frequent confusions are listed
MOST_PAIRS = 15

MODELS = {
    "spatiotemporal": "ViViT Model 1, spatio-temporal attention",
    "factorised_encoder": "ViViT Model 2, factorised encoder",
    "factorised_self_attention": "ViViT Model 3, factorised self-attention",
    "factorised_dot_product": "ViViT Model 4, factorised dot-product attention",
}
Metrics = Sequence[Mapping[str, float]]  # the lines of metrics.jsonl


@dataclass(frozen=True)
class Training:
    """What the folder of a run says about its training."""

    config: Config
    environment: Mapping[str, Any]
    metrics: Metrics


def write_report(
    path: Path,
    *,
    title: str,
    model: nn.Module,
    evaluation: Evaluation,
    run: Path | None = None,
    shuffled: Evaluation | None = None,
    prediction: Prediction | None = None,
    timeline: Mapping[str, Any] | None = None,
    next_lines: Sequence[str] = (),
    examples: int = EXAMPLES,
    data: DataConfig | None = None,
) -> Path:
    """Write the page to `path` and return it.

    `run` is the folder that trained `model`, None for weights of unknown training; `evaluation` is the model's test,
    `shuffled` the same test with the frames of each clip in random order, `prediction` that of one more video,
    `timeline` the scores of a long one: title, summary, page and what `draw_lanes` returns;
    `next_lines` end the page: what to type next. `choose_examples` chooses the clips, which are read again from their
    files; so are training videos that look wrongly labelled, if the run lists any. `data` says which videos were
    tested, if they are not those that validated the run. A model that is no ViViT has no
    attention maps on the page. Raises OSError if `path` cannot be written.
    """
    training = read_training(run) if run else None
    about = training.environment if training else environment()
    drawn = draw_examples(model, evaluation, examples)
    doubtful, doubts = doubtful_examples(run, training.config, model) if run and training else ([], 0)
    return write_html(
        path,
        "run.html",
        title=title,
        summary=summary(training, model, evaluation, data),
        when=f"{about['started'][:10]}, {hardware(about)}",
        tiles=headline_numbers(evaluation, shuffled),
        tests=list(tests(evaluation, shuffled)),
        results=result_rows(evaluation, shuffled),
        shuffling=explain_shuffling(evaluation, shuffled) if shuffled else "",
        missing=list(evaluation.missing.values()),
        curves=learning_curves(training.metrics, evaluation) if training else "",
        confusions=confusions(evaluation, shuffled),
        not_finite=len(evaluation.not_finite),
        wrong=sum(map(is_wrong, answers(evaluation))),
        videos=len(evaluation.samples),
        examples=drawn,
        attention=any(column.heat for example in drawn for column in example.clip.columns),
        doubtful=doubtful,
        doubts=doubts,
        prediction=describe_prediction(model, prediction, evaluation) if prediction else None,
        timeline=timeline,
        facts=facts(training, about, model, evaluation, data),
        next_lines=next_lines,
    )


def read_training(run: Path) -> Training:
    """Read the config, environment and metrics of a run."""
    metrics = run / "metrics.jsonl"
    return Training(
        config=read_config(run),
        environment=json.loads((run / "environment.json").read_text()),
        metrics=list(read_metrics(metrics)) if metrics.is_file() else [],
    )


def display_name(label_set: str) -> str:
    """Return the name of a label set for people."""
    return "all together" if label_set == ALL else label_set


def summary(training: Training | None, model: nn.Module, evaluation: Evaluation, data: DataConfig | None = None) -> str:
    """Say what was trained, on how much and how long, and on how much it was tested.

    metrics.jsonl holds steps and rates, from which the number of videos and the time follow.
    """
    kind = MODELS[model.config.encoder] if isinstance(model, ViViT) else type(model).__name__
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    tested = f"tested on {plural(len(evaluation.samples), 'video')}"
    if training and (steps := [line for line in training.metrics if line.get("clips_per_second")]):
        last, batch, before = steps[-1], training.config.optim.batch_size, [0.0, *(line["step"] for line in steps)]
        seconds = sum((line["step"] - b) * batch / line["clips_per_second"] for line, b in zip(steps, before))
        took = f"{seconds / 3600:.1f} hours" if seconds > 7200 else f"{seconds / 60:.1f} minutes"
        shown, epochs = last["step"] * batch / last["epoch"], round(last["epoch"], 1)
        videos = round(shown / training.config.augment.repeats)
        other = "video" if data and data.eval_split == training.config.data.train_split else "other video"
        tested = (
            f"trained on {plural(videos, 'video')} for {plural(epochs, 'epoch')} in {took}, "
            f"tested on {plural(len(evaluation.samples), other)}"
        )
    return f"{kind}, {parameters:.1f} million parameters, {tested}."


def hardware(environment: Mapping[str, Any]) -> str:
    """Name the GPUs or count the CPU cores."""
    return ", ".join(environment["gpus"]) or f"{environment['threads']} of {environment['cpus']} CPU cores"


def facts(
    training: Training | None,
    environment: Mapping[str, Any],
    model: nn.Module,
    evaluation: Evaluation,
    data: DataConfig | None = None,
) -> dict[str, str]:
    """List what someone needs to repeat the run."""
    m = model.config
    size, seconds, stride = m.image_size, m.preprocessing.clip_seconds, m.preprocessing.frame_stride  # type: ignore[union-attr]
    rows = {"Model": type(model).__name__}
    if isinstance(model, ViViT):
        m = model.config
        two = m.encoder == "factorised_encoder"
        layers = f"{m.depth} over space + {m.temporal_depth} over time" if two else m.depth
        tubelet, grid = (" × ".join(map(str, x)) for x in (m.tubelet_size, m.grid))
        rows["Model"] = f"width {m.embed_dim}, {m.num_heads} heads, layers: {layers}; tokens {tubelet}, grid {grid}"
    spacing = f"{seconds} seconds" if seconds else f"frame stride {stride:g}"
    rows["Clip"] = f"{m.num_frames} frames, {' × '.join(map(str, size))}, {spacing}"  # type: ignore[union-attr,arg-type]
    if training:
        o = training.config.optim
        rows["Training"] = f"{o.name}, rate {o.lr:g}, {o.batch_size} clips a step, seed {training.config.seed}"
    rows["Test"] = f"{describe_protocol(evaluation.protocol)}, list {evaluation.list_hash}"
    if training:
        rows["Data"] = training.config.data.root
        if data and data.root != training.config.data.root:
            rows["Data"] += f"; tested: {data.root}"
    return rows | {
        "Hardware": f"{hardware(environment)}; {environment['machine']}",
        "Software": ", ".join([f"Python {environment['python']}", *map(" ".join, environment["packages"].items())]),
        "Commit": environment["commit"] or "unknown",
        "Started": environment["started"].replace("T", " "),
    }


def chance(evaluation: Evaluation) -> dict[str, float]:
    """Compute the accuracy of always giving the most frequent answer, per label set and for all together."""
    rows = [tuple(row) for row in evaluation.labels.tolist()]
    columns = {**dict(zip(evaluation.classes, zip(*rows))), joint_name(evaluation.classes): rows}
    return {name: max(Counter(labels).values()) / len(rows) for name, labels in columns.items() if rows}


def headline_numbers(evaluation: Evaluation, shuffled: Evaluation | None) -> list[tuple[str, float]]:
    """Choose the numbers to remember: top-1 per label set, and the one that shuffled frames lower most."""
    numbers = [(display_name(name), accuracy["top1"]) for name, accuracy in evaluation.accuracy.items()]
    if shuffled and (losses := accuracy_lost(evaluation, shuffled)) and max(losses.values()) > 0.5:
        name = max(losses, key=lambda name: losses[name])
        numbers.append((f"{name}, frames shuffled", shuffled.accuracy[name]["top1"]))
    return numbers


def tests(evaluation: Evaluation, shuffled: Evaluation | None) -> dict[str, tuple[Evaluation, Any]]:
    """Name the tests in the table of results, each with its evaluation and accuracies."""
    all_views = describe_protocol(evaluation.protocol)
    found = {"single view": (evaluation, evaluation.single_view_accuracy), all_views: (evaluation, evaluation.accuracy)}
    if shuffled:
        found[f"{all_views}, frames shuffled"] = shuffled, shuffled.accuracy
    return found


def result_rows(evaluation: Evaluation, shuffled: Evaluation | None) -> list[dict[str, Any]]:
    """Make a row per label set, with a cell per test."""
    guess, rows, columns = chance(evaluation), [], tests(evaluation, shuffled)
    for name in evaluation.accuracy:
        names = evaluation.classes.get(name)
        cells = [
            {
                **accuracy[name],
                "videos": len(test.samples),
                "correct": round(accuracy[name]["top1"] * len(test.samples)) if test.samples else 0,
            }
            for test, accuracy in columns.values()
        ]
        rows.append(
            {
                "name": display_name(name),
                "about": f"{len(names)} classes" if names else "every label right",
                "show_top5": not names or len(names) >= 20,
                "cells": cells,
                "chance": guess.get(name, math.nan),
            }
        )
    return rows


def accuracy_lost(evaluation: Evaluation, shuffled: Evaluation) -> dict[str, float]:
    """Compute the share of the accuracy above chance that shuffled frames lose, for label sets above chance."""
    guess = chance(evaluation)
    above = {name: evaluation.accuracy[name]["top1"] - guess[name] for name in evaluation.classes if guess}
    fall = {name: evaluation.accuracy[name]["top1"] - shuffled.accuracy[name]["top1"] for name in above}
    return {name: fall[name] / above[name] for name in above if above[name] > 0.05}


def explain_shuffling(evaluation: Evaluation, shuffled: Evaluation) -> str:
    """Say in words what the comparison with shuffled frames tells about motion."""
    guess, sentences = chance(evaluation), []
    for name, share in accuracy_lost(evaluation, shuffled).items():
        before, after = (percent(e.accuracy[name]["top1"]) for e in (evaluation, shuffled))
        falls = f"{name} falls from {before} to {after}"
        if share > 0.5:
            sentences.append(f"{falls} (chance: {percent(guess[name])}), so it is read from motion")
        elif share > 0.15:
            sentences.append(f"{falls}, so it partly needs their order")
        else:
            moves = f"goes from {before} to {after}" if before != after else f"stays at {after}"
            sentences.append(f"{name} {moves}, so single frames are enough")
    if not sentences:
        return "Nothing is clearly above chance yet, so shuffling the frames shows nothing."
    return f"With the frames of each clip in random order, {'; '.join(sentences)}."


def learning_curves(metrics: Metrics, evaluation: Evaluation) -> Markup:
    """Draw training loss and validation top-1 against the epoch."""

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]

    accuracy = {display_name(name): points(f"val/{name}/top1") for name in evaluation.accuracy}
    loss = line_chart("Training loss", {"loss": points("loss")}, format_value="{:.3g}".format)
    return loss + line_chart("Validation top-1, single view", accuracy, format_value="{:.0%}".format, top=1)


def confusions(evaluation: Evaluation, shuffled: Evaluation | None) -> list[dict[str, Any]]:
    """Make a matrix per label set, or a list of its most frequent confusions; and the same with shuffled frames."""
    versions = {", frames in order": evaluation, ", frames shuffled": shuffled} if shuffled else {"": evaluation}
    found = []
    for name, names in evaluation.classes.items():
        for suffix, test in versions.items():
            counts, title = test.confusion(name), display_name(name) + suffix
            matrix = confusion_matrix(title, counts, names) if len(names) <= LARGEST_MATRIX else ""
            pairs = [(names[true], names[answer], n) for true, answer, n in most_confused(counts, MOST_PAIRS)]
            found.append({"title": title, "matrix": matrix, "pairs": pairs})
    return found


def describe_prediction(model: nn.Module, prediction: Prediction, evaluation: Evaluation) -> dict[str, Any]:
    """Describe one more video: its most probable classes, and the ground truth if it is a test video."""
    return {
        "path": prediction.path,
        "classes": prediction.classes,
        "truth": true_labels(evaluation, prediction.path),
        "clip": clip_figure(model, Sample(prediction.path)),
    }
