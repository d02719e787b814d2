"""Define the paper's analyses: rows of settings derived from one recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Config, ModelConfig, replace
from ..recipes.paper import COLUMNS

NEEDS_INIT = "it needs an image model: --init vit-base"
QUICK = 3  # factor by which --quick shortens training


@dataclass(frozen=True)
class Row:
    """One line of a table: a config without seed and folder, trained once for every seed."""

    name: str
    """The name of its folder."""
    title: str
    config: Config | None
    """None if the row cannot be run here; `why_not` says why."""
    why_not: str = ""
    paper: float | None = None
    """The paper's top-1 in percent."""
    network: str = ""
    """A key of CNN_BASELINES; "" for a ViViT."""
    temporal_depth: int | None = None
    """Its x value on the curve of the temporal depth; None if it is not on the curve."""
    view_curve: bool = False
    """Whether it is also tested with other numbers of views."""


@dataclass(frozen=True)
class Study:
    """A table of rows, and where it comes from."""

    name: str
    title: str
    rows: tuple[Row, ...]
    paper: str
    """Where the paper's numbers come from."""
    steps: bool
    """Whether each row is also compared with the row before."""
    views: tuple[int, ...] = ()
    """Temporal views of the curve."""


def tokenisation(config: Config, *, quick: bool = False, cnn_epochs: float | None = None) -> Study:
    """Define table 1: how frames become tokens, and how the tubelets' kernel is initialised from an image model.

    Every row has the same number of tokens. Without `init` all weights are random and only the tokens differ.
    """
    m = config.model
    t, h, w = (m.tubelet_size[0] if m.tubelet_size[0] > 1 else 2, *m.tubelet_size[1:])

    def tubelets(kernel_init: str) -> Config:
        model = replace(m, tokenizer="tubelet", sampled_frames=None, tubelet_size=(t, h, w))
        return replace(config, model=model, kernel_init=kernel_init if config.init else "central_frame")

    def uniform() -> Config:
        model = replace(m, tokenizer="uniform_frames", sampled_frames=m.num_frames // t, tubelet_size=(1, h, w))
        return replace(config, model=model, kernel_init="central_frame")

    def inflated(kernel_init: str) -> Config:
        return tubelets(kernel_init) if config.init else unavailable(NEEDS_INIT)

    rows = (
        row("uniform_frames", "Uniform frame sampling", uniform, paper=78.5),
        row("random", "Tubelets, random kernel", lambda: tubelets("random"), paper=73.2),
        row("filter_inflation", "Tubelets, filter inflation", lambda: inflated("filter_inflation"), paper=77.6),
        row("central_frame", "Tubelets, central frame", lambda: inflated("central_frame"), paper=79.2),
    )
    return Study("tokenisation", "Tokenisation", rows, "table 1: Model 1, Kinetics-400", steps=True)


def architecture(config: Config, *, quick: bool = False, cnn_epochs: float | None = None) -> Study:
    """Define table 2: Models 1 to 4, averaging over time, 3-D CNNs; temporal depth and number of views of Model 2.

    `cnn_epochs` shortens the training of the CNNs, whose cost per clip is many times higher.
    """
    m = config.model
    depth = m.temporal_depth or 4
    no_skip = {"temporal_skip": False}
    mean = no_skip | {"pool": "mean"}
    curve = tuple(d for d in ((1, 2) if quick else (1, 2, 4)) if d != depth)

    def model(**changes: Any) -> Callable[[], Config]:
        return lambda: replace(config, model=replace(m, **changes))

    def factorised(temporal_depth: int) -> Callable[[], Config]:
        skip = {"temporal_skip": m.temporal_skip and temporal_depth > 0}
        return model(encoder="factorised_encoder", temporal_depth=temporal_depth, **skip)

    def dot_product() -> Config:
        heads = m.num_heads + m.num_heads % 2  # even: half attend over time, half over space
        return model(encoder="factorised_dot_product", num_heads=heads, **mean)()

    def cnn() -> Config:
        epochs = min(cnn_epochs or config.optim.epochs / (10 * QUICK if quick else 1), config.optim.epochs)
        warmup = config.optim.warmup_epochs * epochs / config.optim.epochs
        optim = replace(config.optim, epochs=epochs, warmup_epochs=warmup, freeze=(), layer_decay=1.0)
        return replace(
            config, optim=optim, init=None, linear_probe=False, final_weights="last", kernel_init="central_frame"
        )

    rows = (
        row("model_1", "Model 1, spatio-temporal", model(encoder="spatiotemporal", **no_skip), paper=80.0),
        row(
            "model_2",
            f"Model 2, factorised encoder ({depth} over time)",
            factorised(depth),
            paper=78.8,
            temporal_depth=depth,
            view_curve=True,
        ),
        row(
            "model_3",
            "Model 3, factorised self-attention",
            model(encoder="factorised_self_attention", **mean),
            paper=77.4,
        ),
        row("model_4", "Model 4, factorised dot-product", dot_product, paper=76.3),
        row("average", "Model 2, average over time", factorised(0), paper=75.8, temporal_depth=0),
        *(row(f"depth_{d}", f"Model 2, {d} over time", factorised(d), temporal_depth=d) for d in curve),
        row("r3d_18", "R3D-18", cnn, network="r3d_18"),
        row("r2plus1d_18", "R(2+1)D-18", cnn, network="r2plus1d_18"),
        row("s3d", "S3D", cnn, network="s3d"),
    )
    views = (1, 2, 4) if quick else (1, 2, 4, 8)
    return Study("architecture", "Architecture", rows, "table 2: ViViT-B, Kinetics-400", steps=False, views=views)


def regularisation(config: Config, *, quick: bool = False, cnn_epochs: float | None = None) -> Study:
    """Define table 4: one regulariser after the other, each added to those before.

    Crops, scale jitter and flip are those of the recipe in every row. The other strengths come from the recipe or,
    where it has none, from the paper's EPIC-Kitchens column. Cutmix, erasing and dropout, which the table does not
    have, are off.
    """
    paper, a, o, m = COLUMNS["epic_kitchens"], config.augment, config.optim, config.model
    layers, magnitude = paper.rand_augment
    if a.rand_augment_layers:
        layers, magnitude = a.rand_augment_layers, a.rand_augment_magnitude
    color_jitter = a.color_jitter or COLUMNS["kinetics400"].color_jitter
    base = replace(
        config,
        model=replace(m, drop_path=0.0, dropout=0.0),
        augment=replace(a, color_jitter=color_jitter, rand_augment_layers=0, mixup=0.0, cutmix=0.0, random_erasing=0.0),
        optim=replace(o, label_smoothing=0.0),
    )
    ladder: dict[str, tuple[str, float, Mapping[str, Mapping[str, Any]]]] = {
        "drop_path": ("+ stochastic depth", 40.2, {"model": {"drop_path": m.drop_path or paper.drop_path}}),
        "rand_augment": (
            "+ RandAugment",
            41.1,
            {"augment": {"rand_augment_layers": layers, "rand_augment_magnitude": magnitude}},
        ),
        "label_smoothing": (
            "+ label smoothing",
            43.1,
            {"optim": {"label_smoothing": o.label_smoothing or paper.label_smoothing}},
        ),
        "mixup": ("+ mixup", 43.7, {"augment": {"mixup": a.mixup or paper.mixup}}),
    }
    flip = ", flip" if a.flip else ""
    rows = [
        row(
            "start",
            f"Random crop{flip}, colour jitter",
            lambda: replace(base, init=None, linear_probe=False, kernel_init="central_frame", final_weights="last"),
            paper=38.4,
        )
    ]
    if config.init:
        rows.append(row("init", "+ start from --init", lambda: base, paper=39.6))
    for name, (title, accuracy, changes) in ladder.items():
        base = replace(base, **{part: replace(getattr(base, part), **values) for part, values in changes.items()})
        rows.append(row(name, title, lambda rung=base: rung, paper=accuracy))
    source = "table 4: Model 2, EPIC-Kitchens-100, action"
    return Study("regularisation", "Regularisation", tuple(rows), source, steps=True)


STUDIES: dict[str, Callable[..., Study]] = {
    "tokenisation": tokenisation,
    "architecture": architecture,
    "regularisation": regularisation,
}


def row(name: str, title: str, make: Callable[[], Config], **more: Any) -> Row:
    """Make a row of the config that `make` returns; if it raises ValueError, a row that says why it is left out."""
    try:
        return Row(name, title, make(), **more)
    except ValueError as error:
        return Row(name, title, None, why_not=str(error), **more)


def unavailable(why: str) -> Config:
    """Raise ValueError, for a row that cannot be run."""
    raise ValueError(why)


def shorter(config: Config) -> Config:
    """Return the quick version of a config: a third of the epochs, one validation, a single view per test video."""
    epochs = config.optim.epochs / QUICK
    optim = replace(config.optim, epochs=epochs, warmup_epochs=config.optim.warmup_epochs / QUICK)
    test = replace(config.eval, temporal_views=1, spatial_views=1)
    return replace(config, optim=optim, eval=test, eval_every=epochs, save_every=epochs)


def with_classes(config: Config, classes: Mapping[str, tuple[str, ...]]) -> Config:
    """Return the config with the classes of its data."""
    model: ModelConfig = replace(config.model, classes=dict(classes))
    return replace(config, model=model)
