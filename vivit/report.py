"""A run as one HTML page that opens from disk: results, learning curves, confusions, clips and where the model looks.

Small functions that return HTML or SVG; the page has no script and refers to nothing outside itself.
"""

from __future__ import annotations

import json
import math
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import av
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .attention import attention_maps, overlay
from .config import ALL, Config
from .data.dataset import eval_views
from .data.sample import Sample
from .engine.evaluate import SINGLE_VIEW, Evaluation, views
from .engine.metrics import joint_name, most_confused
from .engine.run import read_config
from .model.vivit import ViViT
from .prediction import Prediction

EXAMPLES, COLUMNS, PLAYED = 8, 8, 16  # clips shown, frames of a strip, frames of a playing clip
FRAME_HEIGHT = 112  # pixels
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"


def many(count: float, what: str) -> str:
    return f"{count:,g} {what}" + ("" if count == 1 else "s")


def spoken(label_set: str) -> str:
    return "all together" if label_set == ALL else label_set


def figure(title: str, body: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>"


def meter(share: float) -> str:
    return f'<i class="meter"><i style="width:{share:.1%}"></i></i>'


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
        "Test": f"{views(p)}, list {evaluation.list_hash}",
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
    numbers = [(spoken(name), accuracy["top1"]) for name, accuracy in evaluation.accuracy.items()]
    if shuffled and (losses := lost(evaluation, shuffled)) and max(losses.values()) > 0.5:
        name = max(losses, key=lambda name: losses[name])
        numbers.append((f"{name}, frames shuffled", shuffled.accuracy[name]["top1"]))
    return "".join(f'<div class="tile"><b>{percent(n)}</b><span>{escape(name)}</span></div>' for name, n in numbers)


def results(evaluation: Evaluation, shuffled: Evaluation | None) -> str:
    """Single view, multi view and shuffled side by side, what that proves, and which videos are missing."""
    many_views = views(evaluation.protocol)
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
        body += f"<tr><th>{escape(spoken(name))}<small>{about}</small></th>{cells}</tr>"
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

    accuracy = {spoken(name): points(f"val/{name}/top1") for name in evaluation.accuracy}
    charts = (
        line_chart("Training loss", {"loss": points("loss")}, show="{:.3g}".format),
        line_chart("Validation top-1, single view", accuracy, show="{:.0%}".format, top=1),
    )
    return f'<div class="two">{"".join(charts)}</div>'


def ticks(top: float) -> list[float]:
    """Round numbers from 0 up to `top`, at most six."""
    step = next(f * 10.0**e for e in range(-9, 19) for f in (1, 2, 5) if top / (f * 10.0**e) <= 5)
    return [i * step for i in range(math.floor(top / step + 1e-9) + 1)]


def line_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    show: Callable[[float], str],
    top: float = 0,
    across: str = "epoch",
) -> str:
    """Lines of (epoch, value) as SVG, each labelled at its end; `top` of the axis, else the largest value.

    `across` says what runs along the other axis.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return figure(title, '<p class="note">Nothing was recorded.</p>')
    left, right, down = 44, 390, 240
    last = max(x for x, _ in points) or 1
    top = top or 1.05 * max(y for _, y in points) or 1

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + (right - left) * point[0] / last, down - 230 * point[1] / top

    svg = f'<path class="axis" d="M{left} {down}H{right}"/><text x="217" y="277" class="middle">{across}</text>'
    for value in ticks(top):
        _, y = at((0, value))
        svg += f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        svg += f'<text x="{left - 8}" y="{y + 4:.1f}" class="to">{show(value)}</text>'
    for epoch in ticks(last):
        x, _ = at((epoch, 0))
        svg += f'<path class="axis" d="M{x:.1f} {down}v5"/><text x="{x:.1f}" y="259" class="middle">{epoch:g}</text>'
    lowest = 0.0  # where the next label may stand
    for i, (name, line) in sorted(enumerate(series.items()), key=lambda s: -s[1][1][-1][1] if s[1][1] else 0):
        if not line:
            continue
        svg += f'<g class="s{i % 5}"><path class="line" d="M{"L".join("{:.1f} {:.1f}".format(*at(p)) for p in line)}"/>'
        for point in line if len(line) <= 20 else line[-1:]:
            x, y = at(point)
            says = escape(f"{name}, {across} {point[0]:g}: {show(point[1])}")
            svg += f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{says}</title></circle>'
        x, y = at(line[-1])
        lowest = max(y + 4, lowest + 17)
        svg += f'<text x="{x + 10:.1f}" y="{lowest:.1f}">{escape(name)} {show(line[-1][1])}</text></g>'
    return figure(title, f'<svg viewBox="0 0 530 280" role="img" aria-label="{escape(title)}">{svg}</svg>')


def confusions(evaluation: Evaluation, shuffled: Evaluation | None) -> str:
    """One matrix per label set, and beside it the one with shuffled frames."""
    tests = {", frames in order": evaluation, ", frames shuffled": shuffled} if shuffled else {"": evaluation}
    figures = ""
    for name, names in evaluation.classes.items():
        draw = heat_map if len(names) <= LARGEST_MATRIX else confused_pairs
        figures += "".join(figure(name + how, draw(test.confusion(name), names)) for how, test in tests.items())
    note = "Number of videos by true class (rows) and predicted class (columns), all views; colour: share of the row."
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
    """The answer to every test video from all its views, per label set."""
    found: list[dict[str, Answer]] = [{} for _ in evaluation.samples]
    parts = evaluation.multi.split([len(names) for names in evaluation.classes.values()], dim=1)
    for (label_set, names), logits, labels in zip(evaluation.classes.items(), parts, evaluation.labels.unbind(dim=1)):
        best = logits.softmax(dim=1).max(dim=1)
        for answer, label, p, i in zip(found, labels.tolist(), best.values.tolist(), best.indices.tolist()):
            answer[label_set] = names[label], names[i], p
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
        chips = "".join(chip(label_set, *answer) for label_set, answer in given[i].items())
        clips += f'<article><p class="chips">{chips}</p>{film(model, evaluation.samples[i])}</article>'
    note = "Middle clip, centre crop; answers from all views. Attention rollout through all layers, mean over heads."
    return f'{intro}{clips}<p class="note">{note}</p>'


def chip(label_set: str, true: str, said: str, probability: float) -> str:
    """One answer; the mark tells right from wrong without colour."""
    p, label_set = percent(probability), escape(label_set)
    if true == said:
        return f"<span>✓ {label_set} <b>{escape(true)}</b> {p}</span>"
    return f'<span class="bad">✗ {label_set} <b>{escape(true)}</b>, predicted <b>{escape(said)}</b> {p}</span>'


def film(model: ViViT, sample: Sample) -> str:
    """The middle clip of a video: playing, and frame by frame with attention over space and over time."""
    video = eval_views(sample, model.config, SINGLE_VIEW)[0]
    maps = attention_maps(model, video)
    n, columns = min(len(video), PLAYED), []
    for group in torch.arange(len(maps.time)).tensor_split(min(len(maps.time), COLUMNS)):
        share = maps.time[group].sum()
        space = (maps.space[group] * maps.time[group, None, None]).sum(dim=0) / share
        columns.append((maps.frames[int(group[len(group) // 2])], space, share.item()))
    frames, space, shares = zip(*columns)
    plain = enlarge(video[list(frames)])
    strip = ""
    for frame, heat, share in zip(plain, overlay(plain, torch.stack(space)), shares):
        bar = f'<i style="height:{36 * share / max(shares):.0f}px"></i>'
        pictures = f'<img alt="frame" src="{jpeg(frame)}"><img alt="attention" src="{jpeg(heat)}">'
        strip += f"<li>{pictures}<p>{bar}{share:.0%}</p></li>"
    sheet = torch.cat([*enlarge(video[torch.linspace(0, len(video) - 1, n).round().long()])], dim=-1)
    style = f"width:{n}00%;animation:play {n / 8:.2f}s steps({n}) infinite"
    play = f'<img alt="the clip" src="{jpeg(sheet)}" style="{style}">'
    play = f'<div class="play" style="aspect-ratio:{plain.shape[-1] / plain.shape[-2]:.3f}">{play}</div>'
    return f'<div class="film">{play}<ol style="--n:{len(frames)}">{strip}</ol></div>'


def enlarge(frames: Tensor) -> Tensor:
    """Frames (n, 3, H, W) uint8 at the height of the page's pictures."""
    size = FRAME_HEIGHT, round(FRAME_HEIGHT * frames.shape[-1] / frames.shape[-2])
    return F.interpolate(frames.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)


def jpeg(picture: Tensor) -> str:
    """A picture (3, H, W) uint8 as a data address. A frame of Motion JPEG is a JPEG file."""
    pixels = rearrange(picture, "c h w -> h w c").contiguous().numpy()
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj444p")
    encoder = av.VideoCodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
        frame.width,
        frame.height,
        "yuvj444p",
        Fraction(1),
    )
    encoder.options = {"qmin": "2", "qmax": "2"}
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return "data:image/jpeg;base64," + b64encode(b"".join(map(bytes, packets))).decode()


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
        f'<article>{film(model, Sample(prediction.path))}</article><div class="two">{charts}</div>'
    )


PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1a1d21; --soft: #59616b; --line: #dfe3e8;
  --accent: #0067b1; --heat: #00528f; --on: #fff; --bad: #b3410b;
  --s0: #0067b1; --s1: #b84a08; --s2: #007a58; --s3: #96437d; --s4: #626600 }
@media screen and (prefers-color-scheme: dark) { :root { --page: #121417; --card: #1b1e23; --ink: #e8eaed;
  --soft: #a3abb5; --line: #343a42; --accent: #5fb4f0; --heat: #8accff; --on: #10151a; --bad: #ff9e5e;
  --s0: #5fb4f0; --s1: #ff9e5e; --s2: #3ccb9f; --s3: #e29ccb; --s4: #d3cf4e } }
* { box-sizing: border-box; -webkit-print-color-adjust: exact; print-color-adjust: exact }
body { margin: 0; background: var(--page); color: var(--ink); font-variant-numeric: tabular-nums;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 1080px; margin: auto; padding: 48px 24px }
h1 { font-size: 2.2rem; line-height: 1.15; margin: 0 0 8px; letter-spacing: -0.02em }
h2 { font-size: 1.25rem; margin: 0 0 16px; letter-spacing: -0.01em }
p { margin: 12px 0; max-width: 80ch }
small, .note, .faint, .lead { color: var(--soft) }
small { display: block; font-weight: 400; font-size: 0.8rem }
.note { font-size: 0.875rem; margin-bottom: 0 }
.lead { font-size: 1.1rem; margin: 0 0 24px }
.lead small { font-size: 0.9rem; margin-top: 4px }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px }
section { padding: 24px; margin: 20px 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 16px }
.tile { padding: 14px 20px }
.tile b { display: block; font-size: 2rem; line-height: 1.25; letter-spacing: -0.02em }
.tile span { color: var(--soft); font-size: 0.9rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: 10px 20px 10px 0; border-top: 1px solid var(--line) }
thead th { border: 0; padding-top: 0; color: var(--soft); font-size: 0.875rem; font-weight: 400 }
.bars th, .bars td { border: 0; padding: 3px 12px 3px 0; font-weight: 400; width: 40% }
.bars td:last-child { width: 20%; text-align: right; padding: 3px 0 }
.meter { display: block; height: 6px; min-width: 90px; margin: 5px 0; border-radius: 3px; background: var(--line) }
.meter i { display: block; height: 100%; border-radius: 3px; background: var(--accent) }
.bars .meter { height: 12px; margin: 7px 0 }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 24px 32px }
figure { margin: 0; min-width: 0 }
figcaption { font-weight: 600; margin-bottom: 8px }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font-size: 12px; fill: var(--soft) }
svg .to { text-anchor: end }
svg .middle { text-anchor: middle }
.s0 { --c: var(--s0) } .s1 { --c: var(--s1) } .s2 { --c: var(--s2) } .s3 { --c: var(--s3) } .s4 { --c: var(--s4) }
.grid { stroke: var(--line) }
.axis { stroke: var(--soft) }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round }
.dot { fill: var(--c); stroke: var(--card); stroke-width: 2 }
g[class] text { fill: var(--c); font-size: 13px; font-weight: 600 }
.empty { fill: var(--line); opacity: 0.4 }
.heat { fill: var(--heat) }
svg .on { fill: var(--on); font-weight: 600 }
svg .off { fill: var(--ink) }
article { border-top: 1px solid var(--line); padding: 16px 0 }
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 10px; max-width: none }
.chips span { border: 1px solid var(--line); border-radius: 14px; padding: 1px 12px; font-size: 0.9rem }
.chips .bad { border-color: var(--bad); color: var(--bad) }
.film { display: grid; grid-template-columns: minmax(90px, 1fr) 6fr; gap: 16px; align-items: start }
.film img { display: block; width: 100%; border-radius: 4px; margin-bottom: 3px }
.play { overflow: hidden; border-radius: 4px }
.play img { height: 100%; margin: 0; border-radius: 0; max-width: none }
@keyframes play { to { transform: translateX(-100%) } }
.film ol { display: grid; grid-template-columns: repeat(var(--n), 1fr); gap: 3px; margin: 0; padding: 0;
  list-style: none }
.film p { display: flex; flex-direction: column; justify-content: end; align-items: center; height: 56px; margin: 0;
  font-size: 0.75rem; color: var(--soft) }
.film p i { width: 50%; min-height: 1px; background: var(--accent); border-radius: 3px 3px 0 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; font-size: 0.9rem }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
code, pre { font: 0.9em/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere }
pre { margin: 0; white-space: pre-wrap }
@media (max-width: 600px) { th, td { padding-right: 10px } .meter { min-width: 60px }
  main { padding: 24px 12px } section { padding: 16px } h1 { font-size: 1.7rem }
  .film { grid-template-columns: 1fr } .play { max-width: 130px } .film ol { grid-template-columns: repeat(4, 1fr) }
  dl { grid-template-columns: 1fr } dd { margin-bottom: 8px } }
@media (prefers-reduced-motion: reduce) { .play img { animation: none !important } }
@media print { :root { --page: #fff; font-size: 12px } main { padding: 0 } .two { grid-template-columns: 1fr 1fr }
  h2 { break-after: avoid } article, figure, tr { break-inside: avoid } .play img { animation: none !important } }
</style>
</head>
<body>
<main>
<header><h1>$title</h1><p class="lead">$summary<small>$when</small></p><div class="tiles">$tiles</div></header>
$sections</main>
</body>
</html>
""")
