"""Find the best start for few clips: a head on cached features of the frozen encoder, then its last layers.

Each stage is kept only where it is better on videos that it was not fitted to. The result is written to start/ in the
run folder, as an ordinary model, together with stages.json. Training then begins there and takes as many epochs as fit
into the rest of the budget, often none on a CPU.
"""

from __future__ import annotations

import copy
import csv
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config, ModelConfig, from_dict, replace, to_dict
from ..data.groups import source_groups
from ..files import atomic_write, write_json
from ..model.vivit import ViViT
from ..text import printable
from ..weights.inflate import add_change
from ..weights.load import create, load_checkpoint
from .budget import (
    HEAD_FITS,
    LAST_LAYERS,
    MOST_FEATURES,
    VALIDATION,
    Budget,
    estimate,
    fitting_epochs,
    number_of_views,
    parse_budget,
    seconds_per_clip,
)
from .distributed import World
from .feature_cache import Features, cache_features
from .heads import (
    HEADS,
    CrossValidation,
    Head,
    LabelledFeatures,
    Tail,
    cross_validate,
    fit_head,
    score_on,
    train_tail,
)
from .interruption import note_skipped_files, skipped_files
from .metrics import Score
from .progress import progress_bar
from .run import check_same_settings
from .setup import START, Data, Staged, check_same_lists, hashes

STAGES, DOUBTFUL = "stages.json", "doubtful.csv"
TUNED_LAYERS = 0.25  # the share of the layers over space that is trained on cached activations
EPOCHS, CHECKS = 20, 8  # when these are trained: most epochs, and how often they are evaluated
UNEQUAL = 2  # classes are unequal if one has more than this many times the videos of another
ENOUGH = 0.5  # the share of optim.epochs that the usual rate, and a new part of the patch kernel, need
NO_TIME = "left out: the budget has no time for it"
RATE = 0.1  # the learning rate of the last layers is RATE / embed_dim

Log = Callable[[str], None]


def choose_start(world: World, config: Config, videos: Data, log: Log) -> Staged:
    """Find the best start within the budget, or read what an earlier call found.

    Writes the weights to start from into start/. Raises ValueError for a model without layers over space to freeze,
    and DataError if no video can be read.
    """
    if config.model.encoder != "factorised_encoder" or config.init is None:
        raise ValueError("budget needs init and model.encoder factorised_encoder, whose layers over space it freezes")
    if not config.model.pool_space or config.model.attn_logit_cap:
        raise ValueError("budget fits heads to one token a frame without a cap of the scores; use --budget None")
    if not load_checkpoint(config.init).is_image:
        raise ValueError(f"budget fits heads to an image model, and {config.init} is a video model; use --budget None")
    if found := read_stages(config, videos):
        return found
    budget = Budget(parse_budget(config.budget or "auto", world.device))
    torch.manual_seed(config.seed)
    model = (
        create(config.model, init=config.init, kernel_init=config.kernel_init)
        .to(world.device)
        .requires_grad_(False)
        .eval()
    )
    skipped = skipped_files(Path(config.run))
    budget.per_clip = world.gather(seconds_per_clip(model, config, videos))[0] / world.size
    cut = model.config.depth - max(round(TUNED_LAYERS * model.config.depth), 1)
    views = number_of_views(budget, videos)
    log(estimate(budget, config, videos, views))
    most = MOST_FEATURES * budget.seconds
    splits = (
        ("train", videos.train, videos.labels, views, (1 - VALIDATION) * most),
        ("val", videos.val, videos.val_labels, 1, VALIDATION * most),
    )
    caches = [
        cache_features(
            model,
            samples,
            labels,
            config=config,
            views=count,
            cut=cut,
            name=name,
            world=world,
            log=log,
            frame_cache=videos.frame_cache,
            skipped=skipped,
            seconds=seconds,
        )
        for name, samples, labels, count, seconds in splits
    ]
    note_skipped_files(Path(config.run), skipped, world)
    world.on_main(lambda: fit_stages(model, config, videos, caches, cut, budget, log))
    found = read_stages(config, videos)
    assert found is not None
    return found


def read_stages(config: Config, videos: Data) -> Staged | None:
    """Return what the stages found; None before they are done.

    Raises ValueError if they were done with other settings or other videos.
    """
    path = Path(config.run) / STAGES
    if not path.is_file():
        return None
    stages = json.loads(path.read_text())
    check_same_settings(from_dict(Config, stages["asked"]), config)
    check_same_lists(path, stages, videos, config)
    epochs = stages["epochs"]
    share = epochs / config.optim.epochs if config.optim.epochs else 0.0
    lr = stages.get("lr", config.optim.lr)  # earlier versions wrote none
    chosen = replace(
        config,
        model=from_dict(ModelConfig, stages["model"]),
        optim=replace(config.optim, lr=lr, epochs=epochs, warmup_epochs=share * config.optim.warmup_epochs),
        augment=config.augment if stages["mirrored"] else replace(config.augment, flip=0.0),
        eval_every=share * config.eval_every or 1.0,
        save_every=share * config.save_every or 1.0,
    )
    return Staged(chosen, stages["baseline"], stages.get("best", -1.0))


def fit_stages(
    model: ViViT, config: Config, videos: Data, caches: Sequence[Features], cut: int, budget: Budget, log: Log
) -> None:
    """Choose a head by cross-validation, then train the last layers over space; write start/ and stages.json."""
    views = caches[0].positions.shape[1]
    train = LabelledFeatures(
        caches[0], videos.labels, torch.from_numpy(source_groups(videos.train)), tuple(range(views))
    )
    val = LabelledFeatures(caches[1], videos.val_labels, torch.arange(len(videos.val)), (0,))
    table = StageTable(log, "head, on held-out training videos")
    chosen = choose_head(model, train, table, budget, mirror=bool(config.augment.flip))
    head, motion, train = chosen.head, chosen.motion, chosen.train
    fitted = fit_head(model, head, train, motion=motion, setting=chosen.found.setting)
    doubts = write_doubtful(
        Path(config.run) / DOUBTFUL, videos, chosen.found.logits, fitted.config, train.rows(), train.groups
    )
    log(f"{doubts} training videos are confidently taken for another class: {Path(config.run) / DOUBTFUL}")

    table.title(f"on the {int(val.features.readable.sum())} validation videos")
    frozen = fit_head(model, HEADS[0], train, motion=False, setting=chosen.linear.setting)
    baseline = score_on(frozen, val)
    table.row("linear", baseline, 0, "the frozen baseline")
    name, on_val = head.name + " + motion" * motion, score_on(fitted, val)
    lead = len(train.rows()) * (chosen.found.score.value - chosen.linear.score.value)
    lead += int(val.features.readable.sum()) * (on_val.value - baseline.value)
    stays = name != "linear" and lead < 1e-9
    table.row(name, on_val, 0, "training and validation: linear stays" if stays else "chosen on the training videos")
    accuracy, linear = chosen.found.score.accuracy, chosen.linear.score.accuracy
    reason = f"{name}, {accuracy:.1%} where linear has {linear:.1%}, on held-out training videos"
    if stays:
        reason = f"linear; {name} is not better on held-out training and validation videos together"
        name, fitted, on_val = "linear", frozen, baseline
    if train.features.activations is not None and val.features.activations is not None:
        with table.stage(f"{name}, last {model.config.depth - cut} layers") as note:
            tuned, found = tune_last_layers(fitted, train, val, cut=cut, budget=budget)
            kept = (found.value, -found.loss) > (on_val.value, -on_val.loss)
            note(found, "kept" if kept else "not better, not kept")
        if kept:
            fitted = tuned
            reason += f"; then its last layers, {found.accuracy:.1%} instead of {on_val.accuracy:.1%} in validation"
            on_val = found
    log(f"chosen: {reason}")
    epochs, best = fitting_epochs(budget, config, videos), -1.0
    fitted.requires_grad_(True)
    long_enough = epochs > 0 and epochs >= ENOUGH * config.optim.epochs
    if long_enough and sees_motion(fitted.config) and fitted.config.tubelet_size[0] > 1:
        log("motion helps: the whole encoder is trained with a patch kernel that sees the change between frames")
        fitted.save_pretrained(Path(config.run) / "best")
        best = on_val.joint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            add_change(fitted.tokenizer.proj.weight)
    fitted.save_pretrained(Path(config.run) / START)
    stages = {
        "asked": to_dict(config),
        **hashes(videos),
        "model": to_dict(fitted.config),
        "mirrored": chosen.mirrored,
        "epochs": epochs,
        "lr": rate_of(config, epochs),
        "baseline": baseline.joint,
        "best": best,
        "stages": table.rows,
    }
    write_json(Path(config.run) / STAGES, stages)


@dataclass(frozen=True)
class Chosen:
    """The head that is best on held-out training videos."""

    head: Head
    motion: bool
    mirrored: bool
    train: LabelledFeatures
    """What to fit it to: with or without mirrored views, classes balanced or as they are."""
    found: CrossValidation
    linear: CrossValidation
    """The frozen baseline."""


def choose_head(model: ViViT, train: LabelledFeatures, table: StageTable, budget: Budget, *, mirror: bool) -> Chosen:
    """Compare the heads by cross-validation, within their share of the budget."""
    seconds = budget.stages(HEAD_FITS, count=6)
    with table.stage("linear") as note:
        linear = cross_validate(model, HEADS[0], train, motion=False, seconds=next(seconds))
        assert linear is not None  # a linear head always has the time for one penalty
        note(linear.score, "the frozen baseline")
    head, motion, best = HEADS[0], False, linear
    if mirror and len(train.views) > 2 and linear.score.value < 1:
        with table.stage("linear, no clip mirrored") as note:
            found = cross_validate(model, HEADS[0], train.without_mirrored(), motion=False, seconds=next(seconds))
            assert found is not None
            mirror = found.score.value <= best.score.value
            note(found.score, "mirroring stays" if mirror else "better: no mirroring from here on")
    if not mirror:
        train = train.without_mirrored()
    for other, with_motion in ((HEADS[0], True), (HEADS[1], None), (HEADS[2], None)):
        if model.config.norm_after_pool and other.settings["attention_pool"]:
            continue  # it needs the norm before pooling
        has_motion = motion if with_motion is None else with_motion
        if best.score.value == 1:
            table.row(other.name + " + motion" * has_motion, None, 0, "left out: all is right without it")
            continue
        with table.stage(other.name + " + motion" * has_motion) as note:
            found = cross_validate(model, other, train, motion=has_motion, seconds=next(seconds))
            better = found is not None and found.score.value > best.score.value
            note(found and found.score, "best so far" if better else "not better" if found else NO_TIME)
        if found is not None and better:
            head, motion, best = other, has_motion, found
    if unequal(train.labels) and best.score.value < 1:
        balanced = replace(train, balanced=True)
        with table.stage(f"{head.name + ' + motion' * motion}, balanced") as note:
            found = cross_validate(model, head, balanced, motion=motion, seconds=next(seconds))
            better = found is not None and found.score.value > best.score.value
            kept = "better: every class counts equally" if better else "not better: classes as they are"
            note(found and found.score, kept if found else NO_TIME)
        if found is not None and better:
            train, best = balanced, found
    return Chosen(head, motion, mirror, train, best, linear)


def rate_of(config: Config, epochs: float) -> float:
    """Return the learning rate of the whole encoder for a schedule of some of the epochs asked for.

    It shrinks with them below ENOUGH: the usual rate first undoes a part of what the stages have learned, and a short
    schedule ends before that is made up for.
    """
    enough = ENOUGH * config.optim.epochs
    return config.optim.lr * min(epochs / enough, 1.0) if epochs and enough else config.optim.lr


def sees_motion(model: ModelConfig) -> bool:
    """Return whether a head on the layers over space sees the change between frames, or their order."""
    return model.motion_pool or model.temporal_depth > 0


def unequal(labels: Tensor) -> bool:
    """Return whether some class has more than UNEQUAL times as many videos as another that occurs; labels (N, L)."""
    counts = [column.bincount() for column in labels.unbind(1)]
    return any(count.max() > UNEQUAL * count[count > 0].min() for count in counts)


def tune_last_layers(
    head: ViViT, train: LabelledFeatures, val: LabelledFeatures, *, cut: int, budget: Budget
) -> tuple[ViViT, Score]:
    """Train the layers over space from `cut` on, and the head, on cached activations; return the best of `val`."""
    tuned = copy.deepcopy(head)
    for name, parameter in tuned.named_parameters():
        layer = re.match(r"encoder\.spatial\.blocks\.(\d+)\.", name)
        free = name.startswith(("encoder.temporal.", "encoder.spatial.norm.", "head."))
        parameter.requires_grad_(free or (layer is not None and int(layer[1]) >= cut))
    tail = Tail(tuned, cut)
    seconds, rate = min(budget.share(LAST_LAYERS), 0.8 * budget.left()), RATE / tuned.config.embed_dim
    steps, checks = EPOCHS * max(len(train.rows()) // train.batch(tail), 1), 0
    best, weights = score_on(head, val), {k: v.clone() for k, v in tuned.state_dict().items()}
    with progress_bar("last layers", steps) as update:
        for step in train_tail(tail, train, steps=steps, rate=rate, layer_decay=0.75, seconds=seconds):
            update(step)
            if step * CHECKS // steps > checks:
                checks = step * CHECKS // steps
                found = score_on(tuned, val, cut)
                if (found.value, -found.loss) > (best.value, -best.loss):
                    best, weights = found, {k: v.clone() for k, v in tuned.state_dict().items()}
    tuned.load_state_dict(weights)
    return tuned.eval(), best


def write_doubtful(path: Path, videos: Data, logits: Tensor, model: ModelConfig, rows: Tensor, groups: Tensor) -> int:
    """Write the training videos that heads fitted without them take for another class, the most confident first.

    Wrong labels are among the first of them. Returns how many are taken for another class with 90 % or more.
    """
    found: list[tuple[float, list[str]]] = []
    parts = logits.softmax(1) if len(model.classes) == 1 else logits
    for i, (label_set, names) in enumerate(model.classes.items()):
        sizes = [len(n) for n in model.classes.values()]
        part = parts.split(sizes, dim=1)[i].softmax(1) if len(sizes) > 1 else parts
        pairs = torch.stack((videos.labels[rows, i], groups[rows]), dim=1).unique(dim=0)
        recordings = pairs[:, 0].bincount(minlength=len(names))  # a class of one is unknown to the other folds
        for row in rows.tolist():
            truth, p = int(videos.labels[row, i]), part[row]
            if int(p.argmax()) != truth and recordings[truth] > 1:
                answer = names[int(p.argmax())]
                sample = videos.train[row]
                where = [sample.path, *("" if x is None else str(x) for x in (sample.start, sample.end))]
                line = [*where, label_set, names[truth], answer, f"{p.max():.3f}", f"{p[truth]:.3f}"]
                found.append((float(p.max()), line))
    found.sort(key=lambda pair: -pair[0])
    with atomic_write(path, newline="", errors="surrogateescape") as file:  # paths need not be UTF-8
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "label_set", "label", "answer", "probability", "probability_of_label"])
        writer.writerows(line for _, line in found)
    return sum(p >= 0.9 for p, _ in found)


class StageTable:
    """Prints one line per stage, and keeps them for stages.json."""

    def __init__(self, log: Log, title: str):
        self.log, self.rows = log, list[dict[str, Any]]()
        self.title(title)

    def title(self, text: str) -> None:
        """Print a line above the columns."""
        self.where = text
        self.log(f"{text:36}   top-1  balanced   loss  time")

    def row(self, name: str, found: Score | None, seconds: float, kept: str) -> None:
        """Print and keep the result of a stage; it has no score if there was no time for it."""
        scores = vars(found) if found else {}
        self.rows.append({"on": self.where, "stage": name, **scores, "seconds": seconds, "kept": kept})
        numbers = f"{'–':>7}  {'–':>8}  {'–':>5}"
        if found:
            numbers = f"{found.accuracy:7.1%}  {found.balanced:8.1%}  {found.loss:5.2f}"
        numbers += f"  {seconds:3.0f}s"
        self.log(f"  {printable(name):34}{numbers}  {kept}")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[Score | None, str], None]]:
        """Time a stage; yields a function that takes its score and what becomes of it."""
        since = time.monotonic()
        yield lambda found, kept: self.row(name, found, time.monotonic() - since, kept)
