"""Time forward passes, with peers and the matrix-product ceiling.

Operations are multiply-adds x 2, as PyTorch counts those that a forward pass carries out; ours leaves out what no layer
reads. In a training step it is those x 3, because a backward pass does twice the work of a forward pass. The share of
the ceiling is operations per second over those of a large matrix product in the same precision, round by round.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vivit.config import EvalConfig, ModelConfig
from vivit.data.dataset import eval_views
from vivit.engine.distributed import transformer_blocks
from vivit.engine.evaluate import SINGLE_VIEW, load_weights
from vivit.inference.predict import predict
from vivit.model.token_reduction import reduce_tokens
from vivit.model.vivit import ViViT
from vivit.presets import preset
from vivit.weights.convert import save_huggingface

from .measure import Clock, Times, interleave, matrix_product, one_line, peak_memory
from .pipeline import kinetics_like

Precision = Literal["float32", "bfloat16"]
CLASSES = {"label": tuple(str(i) for i in range(400))}
SMALL = {"image_size": (32, 32), "num_frames": 4, "depth": 2}
CEILING = "matrix product"
META = torch.device("meta")


@dataclass(frozen=True)
class Contender:
    """Something to time: what it does in one call, and what is known about it."""

    run: Callable[[], Tensor]
    operations: float
    """Of one call."""
    clips: int = 1
    equals: str | Tensor | None = None
    """What it should give, exactly or nearly: the result of another contender, or this."""
    held: float = 0.0
    """MiB that stay between two calls: weights, and in training the momentum; gradients are allocated in each step."""


def forward(name: str, *, precision: Precision, batch_size: int, compiled: bool, clock: Clock) -> list[dict[str, Any]]:
    """One preset without gradients, with its peer: transformers' ViViT for Model 1, an image ViT for Model 2."""
    model, video = build(config_of(name), device=clock.device, batch_size=batch_size)
    operations = operations_of(model, video)
    plain, exact = in_precision(model, precision), None
    if precision != "float32":  # then everyone is held to our logits in float32
        with torch.no_grad():
            exact = model(video)
    contenders = {name: Contender(lambda: plain(video), operations, batch_size, exact, held(plain))}
    same = name if exact is None else exact
    if compiled:
        fast = compiled_blocks(copy.deepcopy(plain))
        contenders[f"{name} compiled"] = Contender(lambda: fast(video), operations, batch_size, same, held(fast))
    if peer := transformers_vivit(model):
        peer, pixels = peer.to(getattr(torch, precision)), model.normalize(video).to(getattr(torch, precision))
        work = operations_of(peer, pixels)
        contenders[f"transformers {name}"] = Contender(lambda: peer(pixels), work, batch_size, same, held(peer))
    contenders |= image_vit(model, video, precision=precision)
    return measure("forward", contenders, precision=precision, clock=clock, gradients=False)


def shortened(
    source: str,
    *,
    trained: bool,
    merge_tokens: int,
    drop_static: float,
    precision: Precision,
    batch_size: int,
    clock: Clock,
) -> list[dict[str, Any]]:
    """Time a Model 1 without gradients, plain and on fewer tokens, on synthetic videos: noise has nothing to drop.

    `source` is a preset, or trained weights as `vivit eval` takes them.
    """
    random = None if trained else build(config_of(source), device=clock.device, batch_size=1)[0]
    exact = random or load_weights(source).to(clock.device)
    plain = in_precision(exact, precision)
    options: dict[str, tuple[int, float | None]] = {
        source: (0, None),
        f"{source}, {merge_tokens} merged per layer": (merge_tokens, None),
        f"{source}, static dropped at {drop_static:g}": (0, drop_static),
        f"{source}, both": (merge_tokens, drop_static),
    }
    with TemporaryDirectory() as folder:
        samples = kinetics_like(Path(folder), batch_size)
        video = torch.cat([eval_views(sample, plain.config, SINGLE_VIEW) for sample in samples]).to(clock.device)
    contenders = {}
    for name, (merge, drop) in options.items():
        reduced = reduce_tokens(exact, merge_tokens=merge, drop_static=drop)
        operations = operations_of(reduced, video, device=clock.device)
        equals, model = None if name == source else source, reduce_tokens(plain, merge_tokens=merge, drop_static=drop)
        contenders[name] = Contender(partial(model, video), operations, batch_size, equals, held(model))
    return measure("shorten", contenders, precision=precision, clock=clock, gradients=False)


def prediction(
    name: str, *, clock: Clock, num_frames: int | None = None, size: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """`vivit.predict` as it is by default, on one video, and the same views through transformers' ViViT as it is.

    Both decode the file and read 4 x 3 views; transformers' default is float32, ours what the device has units for.
    """
    model, _ = build(config_of(name), device=clock.device, batch_size=1)
    with TemporaryDirectory() as folder, torch.no_grad():
        [sample] = kinetics_like(Path(folder), 1, num_frames, size)

        def through(peer: nn.Module) -> None:
            together = 1 if clock.device.type == "cpu" else EvalConfig().batch_views  # as ours
            for view in eval_views(sample, model.config, EvalConfig())[1:].split(together):
                peer(model.normalize(view.to(clock.device)))

        contenders: dict[str, Callable[[], Any]] = {f"vivit.predict, {name}": partial(predict, model, sample.path)}
        if peer := transformers_vivit(model):
            contenders[f"transformers {name}"] = partial(through, peer)
        times = interleave(contenders, clock)
    first = next(iter(times.values()))
    return [
        {
            "case": "predict",
            "name": label,
            "seconds": round(t.median, 3),
            "spread": round(t.spread, 3),
            "time / ours": round(first.over(t), 3) if t is not first else None,
        }
        for label, t in times.items()
    ]


def peers(names: Sequence[str], *, precision: Precision, clock: Clock) -> list[dict[str, Any]]:
    """Time other video models and ours on one clip of 32 x 224 x 224, with random weights."""
    contenders: dict[str, Contender] = {}
    for name in names:
        model, video = build(config_of(name), device=clock.device, batch_size=1)
        model = in_precision(model, precision)
        contenders[name] = Contender(lambda m=model, v=video: m(v), operations_of(model, video))
    for label, make in OTHERS.items():
        try:
            other, shape = make()
        except ImportError:
            continue
        pixels = torch.randn(1, *shape, device=clock.device, dtype=getattr(torch, precision))
        other = other.eval().to(clock.device, getattr(torch, precision))
        contenders[label] = Contender(lambda m=other, x=pixels: m(x), operations_of(other, pixels))
    return measure("peers", contenders, precision=precision, clock=clock, gradients=False)


def measure(
    case: str,
    contenders: dict[str, Contender],
    *,
    precision: Precision,
    clock: Clock,
    gradients: bool,
) -> list[dict[str, Any]]:
    """One row a contender: seconds, clips/s, TFLOP/s, share of the ceiling, memory, distance of the logits."""
    ceiling, operations = matrix_product(getattr(torch, precision), clock.device, clock.matrix)
    first, warm, failed = next(iter(contenders)), {}, []
    with torch.set_grad_enabled(gradients):
        for name, c in contenders.items():
            try:
                warm[name] = peak_memory(c.run, clock.device)
            except Exception as error:  # a peer out of memory, or a compiler's fault: the others are timed all the same
                if name == first:
                    raise
                failed.append({"case": case, "name": name, "precision": precision, "error": one_line(error)})
        ceiling()
        times = interleave({name: contenders[name].run for name in warm} | {CEILING: ceiling}, clock, warm=True)
    memory = {name: extra for name, (extra, _) in warm.items()}
    outputs = {name: output.detach().float().cpu() for name, (_, output) in warm.items()}
    rows = []
    for name in warm:
        c = contenders[name]
        extra, expected = memory[name], outputs[c.equals] if isinstance(c.equals, str) else c.equals
        rows.append(
            {
                "case": case,
                "name": name,
                "precision": precision,
                "batch": c.clips,
                **numbers(times[name], c, times[CEILING], operations),
                "time / ours": round(times[first].over(times[name]), 3) if name != first else None,
                "memory MiB": round(c.held + extra) if extra is not None and c.held else None,
                "differs by": distance(outputs[name], expected.cpu()) if expected is not None else None,
                "same top-1": agreement(outputs[name], expected.cpu()) if expected is not None else None,
            }
        )
    return rows + failed


def numbers(times: Times, c: Contender, ceiling: Times, operations: float) -> dict[str, float]:
    share = times.over(ceiling) * c.operations / operations
    return {
        "seconds": round(times.median, 4),
        "spread": round(times.spread, 3),
        "clips/s": round(c.clips / times.median, 4),
        "GFLOP": round(c.operations / 1e9, 1),
        "TFLOP/s": round(c.operations / times.median / 1e12, 4),
        "of ceiling": round(share, 3),
        "ceiling TFLOP/s": round(operations / ceiling.median / 1e12, 4),
    }


def distance(result: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest number."""
    return float(f"{(result - expected).abs().max() / expected.abs().max():.1e}")


def agreement(logits: Tensor, expected: Tensor) -> float:
    """Share of the clips with the same best class."""
    return round((logits.argmax(dim=1) == expected.argmax(dim=1)).float().mean().item(), 3)


def config_of(name: str) -> ModelConfig:
    """Return the model of a preset for 400 classes; "… small" has two layers and 4 x 32 x 32 pixels, to try things."""
    base = name.removesuffix(" small")
    return preset(base, classes=CLASSES, **(SMALL if base != name else {}))


def build(config: ModelConfig, *, device: torch.device, batch_size: int) -> tuple[ViViT, Tensor]:
    """(model, pixels): random, with a head that is not zero, so that logits can be compared."""
    torch.manual_seed(0)
    model = ViViT(config).eval()
    nn.init.normal_(model.head.weight, std=0.02)
    video = torch.randint(256, (batch_size, config.num_frames, 3, *config.image_size), dtype=torch.uint8)
    return model.to(device), video.to(device)


def in_precision(model: ViViT, precision: Precision) -> ViViT:
    """Return the model itself, or a copy with its weights in bfloat16."""
    return model if precision == "float32" else copy.deepcopy(model).bfloat16()


def held(model: nn.Module) -> float:
    """MiB of the parameters."""
    return sum(p.nbytes for p in model.parameters()) / 2**20


def compiled_blocks(model: ViViT, backend: str = "inductor") -> ViViT:
    """Compile every block of the model, as `parallel.compile` does in training; return the model.

    What was compiled before is forgotten: its graphs count against PyTorch's limit for the code of a block, and another
    batch would get kernels for any batch.
    """
    torch.compiler.reset()
    for block in transformer_blocks(model):
        block.compile(backend=backend)
    return model


class Logits(nn.Module):
    """A model of transformers, on pixels as ours has them, as a function to logits."""

    def __init__(self, model: nn.Module, video: str = "pixel_values"):
        super().__init__()
        self.model, self.video = model, video  # the name of its argument

    def forward(self, video: Tensor) -> Tensor:
        return self.model(**{self.video: video}).logits


def transformers_vivit(model: ViViT) -> Logits | None:
    """Return transformers' ViViT with the float32 weights of a Model 1; None without the package or for others."""
    try:
        from transformers import VivitForVideoClassification
    except ImportError:
        return None
    c = model.config
    if (c.encoder, c.tokenizer, c.pool) != ("spatiotemporal", "tubelet", "cls"):
        return None
    with TemporaryDirectory() as folder:
        save_huggingface(model, Path(folder))
        theirs = VivitForVideoClassification.from_pretrained(folder)
    return Logits(theirs).eval().to(model.head.weight.device)


def image_vit(model: ViViT, video: Tensor, *, precision: Precision) -> dict[str, Contender]:
    """timm's ViT on one image a temporal position: the floor for Model 2, whose spatial part is such a ViT."""
    try:
        import timm
    except ImportError:
        return {}
    c = model.config
    if c.encoder != "factorised_encoder":
        return {}
    t, patch = c.grid[0], c.tubelet_size[1]
    vit = timm.models.VisionTransformer(
        img_size=c.image_size,
        patch_size=patch,
        embed_dim=c.embed_dim,
        depth=c.depth,
        num_heads=c.num_heads,
        num_classes=c.num_classes,
    )
    vit = vit.eval().to(video.device, getattr(torch, precision))
    images = model.normalize(video)[:, :: c.tubelet_size[0]].flatten(0, 1).to(getattr(torch, precision))
    label = f"timm ViT on {t} images" + (f" x {len(video)}" if len(video) > 1 else "")
    return {label: Contender(lambda: vit(images), operations_of(vit, images), len(video), None, held(vit))}


def operations_of(model: nn.Module, *inputs: Tensor, device: torch.device = META) -> float:
    """As PyTorch counts them; without computing, unless how much there is to do depends on the input."""
    counter = FlopCounterMode(display=False)
    shadow = copy.deepcopy(model).to(device)
    with counter, torch.no_grad():
        shadow(*(x.to(device) for x in inputs))
    return float(counter.get_total_flops())


def timesformer() -> tuple[nn.Module, tuple[int, ...]]:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config = TimesformerConfig(num_frames=32)
    return Logits(TimesformerForVideoClassification(config)), (32, 3, 224, 224)


def video_mae() -> tuple[nn.Module, tuple[int, ...]]:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(num_frames=32)
    return Logits(VideoMAEForVideoClassification(config)), (32, 3, 224, 224)


def r2plus1d() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models.video import r2plus1d_18

    return r2plus1d_18(), (3, 32, 112, 112)


def swin3d() -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision.models.video import swin3d_t

    return swin3d_t(), (3, 32, 224, 224)


OTHERS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "transformers TimeSformer-B/16, 32 x 224 x 224": timesformer,
    "transformers VideoMAE-B/16x2, 32 x 224 x 224": video_mae,
    "torchvision R(2+1)D-18, 32 x 112 x 112": r2plus1d,
    "torchvision Swin3D-T, 32 x 224 x 224": swin3d,
}
