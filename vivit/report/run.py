"""A run as one HTML page that opens from disk: results, learning curves, confusions, clips, where the model looks."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ALL, Config
from ..data.dataset import eval_views
from ..data.sample import Sample
from ..engine.eval_tables import describe_protocol
from ..engine.evaluate import SINGLE_VIEW
from ..engine.evaluation import Evaluation
from ..engine.metrics import joint_name, most_confused, predicted, split
from ..engine.run import read_config
from ..files import atomic_write
from ..inference.predict import Prediction
from ..model.rollout import attention_maps, overlay
from ..model.vivit import ViViT
from .html import PAGE, enlarge, escape, figure, jpeg, line_chart, many, meter, percent

EXAMPLES, COLUMNS, PLAYED = 8, 8, 16  # clips shown, frames of a strip, frames of a playing clip
NO_ANSWER = "no answer: the logits are not finite"
LARGEST_MATRIX = 24  # classes; above, the most frequent confusions are listed

MODELS = {
    "spatiotemporal": "ViViT Model 1, spatio-temporal attention",
    "factorised_encoder": "ViViT Model 2, factorised encoder",
    "factorised_self_attention": "ViViT Model 3, factorised self-attention",
    "factorised_dot_product": "ViViT Model 4, factorised dot-product attention",
}
Metrics = Sequence[Mapping[str, float]]  # the lines of metrics.jsonl
Answer = tuple[str, str, float]  # true class, predicted class, its probability


def write_report(
    path: Path,
    *,
    title: str,
    run: Path,
    model: ViViT,
    evaluation: Evaluation,
    shuffled: Evaluation | None = None,
    prediction: Prediction | None = None,
    next_lines: Sequence[str] = (),
) -> Path:
    """Write the page to `path` and return it.

    `run` is the folder that trained `model`; `evaluation` is its test, `shuffled` the same with the frames of each clip
    in random order, `prediction` that of one more video; `next_lines` end the page: what to type next. The clips shown
    are chosen by `pick` and read again from their files.
    """
    config, environment = read_config(run), json.loads((run / "environment.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sections = {
        "Results": results(evaluation, shuffled),
        "Learning curves": learning_curves(metrics, evaluation),
        "Confusions": confusions(evaluation, shuffled),
        "Test clips, and where the model looks": examples(model, evaluation),
        "One more video": unseen(model, prediction, evaluation) if prediction else "",
        "The run": facts(config, environment, evaluation),
        "What to type next": f"<pre>{escape(chr(10).join(next_lines))}</pre>" if next_lines else "",
    }
    page = PAGE.substitute(
        title=escape(title),
        summary=escape(summary(config, model, metrics, evaluation)),
        when=escape(f"{environment['started'][:10]}, {hardware(environment)}"),
        tiles=tiles(evaluation, shuffled),
        sections="".join(f"<section><h2>{name}</h2>{body}</section>\n" for name, body in sections.items() if body),
    )
    with atomic_write(path) as file:
        file.write(page)
    return path


def display_name(label_set: str) -> str:
    return "all together" if label_set == ALL else label_set


def summary(config: Config, model: ViViT, metrics: Metrics, evaluation: Evaluation) -> str:
    """What was trained, on how much, how long. metrics.jsonl holds steps and rates, from which the rest follows."""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    tested = f"tested on {many(len(evaluation.samples), 'other video')}"
    if steps := [line for line in metrics if line.get("clips_per_second")]:
        last, batch, before = steps[-1], config.optim.batch_size, [0.0, *(line["step"] for line in steps)]
        seconds = sum((line["step"] - b) * batch / line["clips_per_second"] for line, b in zip(steps, before))
        took = f"{seconds / 3600:.1f} hours" if seconds > 7200 else f"{seconds / 60:.1f} minutes"
        videos, epochs = round(last["step"] * batch / last["epoch"]), round(last["epoch"], 1)
        tested = f"trained on {many(videos, 'video')} for {many(epochs, 'epoch')} in {took}, {tested}"
    return f"{MODELS[config.model.encoder]}, {parameters:.1f} million parameters, {tested}."


def hardware(environment: Mapping[str, Any]) -> str:
    return ", ".join(environment["gpus"]) or f"{environment['threads']} of {environment['cpus']} CPU cores"


def facts(config: Config, environment: Mapping[str, Any], evaluation: Evaluation) -> str:
    """What someone needs to repeat the run."""
    m, o, p = config.model, config.optim, evaluation.protocol
    layers = f"{m.depth} over space + {m.temporal_depth} over time" if m.encoder == "factorised_encoder" else m.depth
    tubelet, grid, size = (" × ".join(map(str, x)) for x in (m.tubelet_size, m.grid, m.image_size))
    seconds, stride = m.preprocessing.clip_seconds, m.preprocessing.frame_stride
    rows = {
        "Model": f"width {m.embed_dim}, {m.num_heads} heads, layers: {layers}; tokens {tubelet}, grid {grid}",
        "Clip": f"{m.num_frames} frames, {size}, " + (f"{seconds} seconds" if seconds else f"frame stride {stride:g}"),
        "Training": f"{o.name}, rate {o.lr:g}, {o.batch_size} clips a step, seed {config.seed}",
        "Test": f"{describe_protocol(p)}, list {evaluation.list_hash}",
        "Data": config.data.root,
        "Hardware": f"{hardware(environment)}; {environment['machine']}",
        "Software": ", ".join([f"Python {environment['python']}", *map(" ".join, environment["packages"].items())]),
        "Commit": environment["commit"] or "unknown",
        "Started": environment["started"].replace("T", " "),
    }
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in rows.items())}</dl>"


def chance(evaluation: Evaluation) -> dict[str, float]:
    """Accuracy of always giving the most frequent answer, per label set and for all together."""
    rows = [tuple(row) for row in evaluation.labels.tolist()]
    answers = {**dict(zip(evaluation.classes, zip(*rows))), joint_name(evaluation.classes): rows}
    return {name: max(Counter(given).values()) / len(rows) for name, given in answers.items() if rows}


def tiles(evaluation: Evaluation, shuffled: Evaluation | None) -> str:
    """The numbers to remember, large."""
    numbers = [(display_name(name), accuracy["top1"]) for name, accuracy in evaluation.accuracy.items()]
    if shuffled and (losses := lost(evaluation, shuffled)) and max(losses.values()) > 0.5:
        name = max(losses, key=lambda name: losses[name])
        numbers.append((f"{name}, frames shuffled", shuffled.accuracy[name]["top1"]))
    return "".join(f'<div class="tile"><b>{percent(n)}</b><span>{escape(name)}</span></div>' for name, n in numbers)


def results(evaluation: Evaluation, shuffled: Evaluation | None) -> str:
    """Single view, multi view and shuffled side by side, what that proves, and which videos are missing."""
    many_views = describe_protocol(evaluation.protocol)
    tests = {
        "single view": (evaluation, evaluation.single_view_accuracy),
        many_views: (evaluation, evaluation.accuracy),
    }
    if shuffled:
        tests[f"{many_views}, frames shuffled"] = shuffled, shuffled.accuracy
    guess, body = chance(evaluation), ""
    for name in evaluation.accuracy:
        names = evaluation.classes.get(name)
        about, top5 = (f"{len(names)} classes", len(names) >= 20) if names else ("every label right", True)
        cells = "".join(accuracy_cell(accuracy[name], len(e.samples), top5) for e, accuracy in tests.values())
        cells += f'<td class="faint">{percent(guess.get(name, math.nan))}</td>'
        body += f"<tr><th>{escape(display_name(name))}<small>{about}</small></th>{cells}</tr>"
    head = "".join(f"<th>{c}</th>" for c in ("top-1 accuracy", *tests, "chance"))
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    table += f"<p>{escape(proof(evaluation, shuffled))}</p>" if shuffled else ""
    if evaluation.missing:
        problems = "".join(f"<li>{escape(problem)}</li>" for problem in evaluation.missing.values())
        count = many(len(evaluation.missing), "video")
        table += f"<p>{count} could not be read, which no number includes:</p><ul>{problems}</ul>"
    return table + (
        '<p class="note">The single view is the middle clip’s centre crop; several views are evenly spaced clips × '
        "crops, with averaged logits. Chance is always giving the most frequent answer.</p>"
    )


def accuracy_cell(accuracy: Mapping[str, float], videos: int, show_top5: bool) -> str:
    top1 = accuracy["top1"]
    count = f"{round(top1 * videos)} of {videos}" if videos else "no videos"
    more = f" · top-5 {percent(accuracy['top5'])}" if show_top5 else ""
    return f"<td><b>{percent(top1)}</b>{meter(top1 if videos else 0)}<small>{count}{more}</small></td>"


def lost(evaluation: Evaluation, shuffled: Evaluation) -> dict[str, float]:
    """Of the accuracy beyond chance, the share that goes with the order of the frames, where there is any to lose."""
    guess = chance(evaluation)
    above = {name: evaluation.accuracy[name]["top1"] - guess[name] for name in evaluation.classes if guess}
    fall = {name: evaluation.accuracy[name]["top1"] - shuffled.accuracy[name]["top1"] for name in above}
    return {name: fall[name] / above[name] for name in above if above[name] > 0.05}


def proof(evaluation: Evaluation, shuffled: Evaluation) -> str:
    """What the comparison with shuffled frames says about motion, in words."""
    guess, parts = chance(evaluation), []
    for name, share in lost(evaluation, shuffled).items():
        before, after = (percent(e.accuracy[name]["top1"]) for e in (evaluation, shuffled))
        falls = f"{name} falls from {before} to {after}"
        if share > 0.5:
            parts.append(f"{falls} (chance: {percent(guess[name])}), so it is read from motion")
        elif share > 0.15:
            parts.append(f"{falls}, so it partly needs their order")
        else:
            parts.append(f"{name} goes from {before} to {after}, so single frames are enough")
    if not parts:
        return "Nothing is clearly above chance yet, so shuffling the frames shows nothing."
    return f"With the frames of each clip in random order, {'; '.join(parts)}."


def learning_curves(metrics: Metrics, evaluation: Evaluation) -> str:
    """Training loss and validation top-1 against the epoch."""

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["epoch"], line[key]) for line in metrics if line.get(key) is not None]

    accuracy = {display_name(name): points(f"val/{name}/top1") for name in evaluation.accuracy}
    charts = (
        line_chart("Training loss", {"loss": points("loss")}, show="{:.3g}".format),
        line_chart("Validation top-1, single view", accuracy, show="{:.0%}".format, top=1),
    )
    return f'<div class="two">{"".join(charts)}</div>'


def confusions(evaluation: Evaluation, shuffled: Evaluation | None) -> str:
    """One matrix per label set, and beside it the one with shuffled frames."""
    tests = {", frames in order": evaluation, ", frames shuffled": shuffled} if shuffled else {"": evaluation}
    figures = ""
    for name, names in evaluation.classes.items():
        draw = heat_map if len(names) <= LARGEST_MATRIX else confused_pairs
        figures += "".join(figure(name + how, draw(test.confusion(name), names)) for how, test in tests.items())
    note = "Number of videos by true class (rows) and predicted class (columns), all views; colour: share of the row."
    if evaluation.not_finite:
        note += f" {many(len(evaluation.not_finite), 'video')} with logits that are not finite: in no cell, and wrong."
    return f'<div class="two">{figures}</div><p class="note">{note}</p>'


def heat_map(counts: Tensor, names: Sequence[str]) -> str:
    """Counts (true, predicted) as SVG, coloured by each row's shares."""
    labels = [escape(name if len(name) <= 24 else f"{name[:23]}…") for name in names]
    cell, longest = 34, 7 * min(max(map(len, names)), 24)
    left, top = longest + 14, round(longest * 0.7) + 20
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).tolist()
    svg = ""
    for i, label in enumerate(labels):
        x, y = left + cell * i + 20, top + cell * i + 21
        svg += f'<text class="to" x="{left - 8}" y="{y}">{label}</text>'
        svg += f'<text transform="translate({x} {top - 8}) rotate(-45)">{label}</text>'
        for j, count in enumerate(counts[i].tolist()):
            x, share = left + cell * j, shares[i][j]
            box = f'x="{x + 1}" y="{y - 20}" width="{cell - 2}" height="{cell - 2}" rx="3"'
            tone = "on" if share > 0.65 else "off"
            svg += f"<g><title>{escape(names[i])} → {escape(names[j])}: {count}</title>"
            svg += f'<rect class="empty" {box}/><rect class="heat" {box} opacity="{share:.2f}"/>'
            svg += f'<text class="middle {tone}" x="{x + 17}" y="{y}">{count or ""}</text></g>'
    width, height = left + cell * len(names) + top, top + cell * len(names)
    return f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px">{svg}</svg>'


def confused_pairs(counts: Tensor, names: Sequence[str], most: int = 15) -> str:
    """The most frequent confusions as a list, for label sets whose matrix would not fit a page."""
    items = "".join(
        f"<li>{escape(names[true])} → {escape(names[said])} <b>{count}</b></li>"
        for true, said, count in most_confused(counts, most)
    )
    return f"<ol>{items}</ol>" if items else "<p>None.</p>"


def answers(evaluation: Evaluation) -> list[dict[str, Answer]]:
    """The answer to every test video from all its views, per label set; NO_ANSWER where the logits are not finite."""
    found: list[dict[str, Answer]] = [{} for _ in evaluation.samples]
    parts = split(evaluation.multi, evaluation.classes)
    for (label_set, names), logits, labels in zip(evaluation.classes.items(), parts, evaluation.labels.unbind(dim=1)):
        probabilities = logits.softmax(dim=1).amax(dim=1).tolist()
        for answer, label, p, i in zip(found, labels.tolist(), probabilities, predicted(logits).tolist()):
            answer[label_set] = names[label], names[i] if i >= 0 else NO_ANSWER, p
    return found


def is_wrong(answer: Mapping[str, Answer]) -> bool:
    return any(true != said for true, said, _ in answer.values())


def pick(evaluation: Evaluation, count: int = EXAMPLES, seed: int = 0) -> list[int]:
    """Test videos to show: first errors, half of them or as many as there are, then classes not shown yet."""
    order = random.Random(seed).sample(range(len(evaluation.samples)), len(evaluation.samples))
    errors = [is_wrong(answer) for answer in answers(evaluation)]
    wrong, rest = [i for i in order if errors[i]], [i for i in order if not errors[i]]
    chosen = wrong[: max(count // 2, count - len(rest))]
    seen: Counter[tuple[str, str]] = Counter()
    while rest and len(chosen) < count:
        chosen.append(min(rest, key=lambda i: sum(seen[label] for label in evaluation.samples[i].labels.items())))
        rest.remove(chosen[-1])
        seen.update(evaluation.samples[chosen[-1]].labels.items())
    return chosen


def examples(model: ViViT, evaluation: Evaluation) -> str:
    """Some test videos with true and predicted classes and the model's attention."""
    given = answers(evaluation)
    errors = sum(map(is_wrong, given))
    score = f"{errors} of {many(len(given), 'video')} got a wrong answer; such come first." if errors else ""
    intro = (
        f"<p>{score} Under each frame: where the model looks in it (bright: much attention), and how much of its "
        "attention this moment gets.</p>"
    )
    clips = ""
    for i in pick(evaluation):
        chips = "".join(label_badge(label_set, *answer) for label_set, answer in given[i].items())
        clips += f'<article><p class="chips">{chips}</p>{clip_figure(model, evaluation.samples[i])}</article>'
    note = "Middle clip, centre crop; answers from all views. Attention rollout through all layers, mean over heads."
    return f'{intro}{clips}<p class="note">{note}</p>'


def label_badge(label_set: str, true: str, said: str, probability: float) -> str:
    """One answer; the mark tells right from wrong without colour."""
    p, label_set = percent(probability), escape(label_set)
    if true == said:
        return f"<span>✓ {label_set} <b>{escape(true)}</b> {p}</span>"
    return f'<span class="bad">✗ {label_set} <b>{escape(true)}</b>, predicted <b>{escape(said)}</b> {p}</span>'


def clip_figure(model: ViViT, sample: Sample) -> str:
    """The middle clip of a video: playing, and frame by frame with attention over space and over time."""
    video = eval_views(sample, model.config, SINGLE_VIEW)[0]
    maps = attention_maps(model, video)
    maps = replace(maps, space=maps.space.nan_to_num(0), time=maps.time.nan_to_num(0))  # of weights that are not finite
    n, columns = min(len(video), PLAYED), []
    for group in torch.arange(len(maps.time)).tensor_split(min(len(maps.time), COLUMNS)):
        share = maps.time[group].sum()
        space = (maps.space[group] * maps.time[group, None, None]).sum(dim=0) / (share or 1)
        columns.append((maps.frames[int(group[len(group) // 2])], space, share.item()))
    frames, space, shares = zip(*columns)
    plain = enlarge(video[list(frames)])
    strip = ""
    for frame, heat, share in zip(plain, overlay(plain, torch.stack(space)), shares):
        bar = f'<i style="height:{36 * share / (max(shares) or 1):.0f}px"></i>'
        pictures = f'<img alt="frame" src="{jpeg(frame)}"><img alt="attention" src="{jpeg(heat)}">'
        strip += f"<li>{pictures}<p>{bar}{share:.0%}</p></li>"
    sheet = torch.cat([*enlarge(video[torch.linspace(0, len(video) - 1, n).round().long()])], dim=-1)
    style = f"width:{n}00%;animation:play {n / 8:.2f}s steps({n}) infinite"
    play = f'<img alt="the clip" src="{jpeg(sheet)}" style="{style}">'
    play = f'<div class="play" style="aspect-ratio:{plain.shape[-1] / plain.shape[-2]:.3f}">{play}</div>'
    return f'<div class="film">{play}<ol style="--n:{len(frames)}">{strip}</ol></div>'


def unseen(model: ViViT, prediction: Prediction, evaluation: Evaluation) -> str:
    """The most probable classes of one more video as bars, the true ones marked if it is a test video."""
    known = {sample.path: sample.labels for sample in evaluation.samples}.get(prediction.path, {})
    charts = ""
    for label_set, top in prediction.classes.items():
        rows = ""
        for name, p in top:
            mark = " <b>✓</b>" if known.get(label_set) == name else ""
            rows += f"<tr><th>{escape(name)}{mark}</th><td>{meter(p)}</td><td>{percent(p)}</td></tr>"
        charts += figure(label_set, f'<table class="bars">{rows}</table>')
    note = "; ✓ marks what it is" if known else ""
    return (
        f"<p><code>{escape(prediction.path)}</code>, probabilities from all views{note}.</p>"
        f'<article>{clip_figure(model, Sample(prediction.path))}</article><div class="two">{charts}</div>'
    )
