"""The command line: `vivit VERB …`. Every command is a thin shell around a function of the library.

Heavy imports stand inside the commands, so that `--help` does not wait for PyTorch.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import metadata
from typing import Any, Literal, NoReturn

from .config import Config, DataConfig, EvalConfig, replace, suggestion
from .errors import Stopped, VivitError, WeightsError
from .text import printable

USAGE = """\
usage: vivit COMMAND …

Video classification with pure transformers: the ViViT family.

  vivit demo                                  the whole story on made videos, one CPU, about three minutes
  vivit data check [DATASET] ROOT             read every video and label once, list what is wrong
  vivit data prepare [DATASET] ROOT DEST      write videos that load faster, as files or in tar files
  vivit data show RECIPE --data.root ROOT     what the model is fed, before and after augmentation: a page
  vivit train RECIPE --data.root ROOT …       train; the same command goes on after an interruption
  vivit eval WEIGHTS [--data.root ROOT] …     temporal views x spatial crops, single and multi view
  vivit compare A B                           which is better on the same videos, with an interval
  vivit predict WEIGHTS FILE… [--json]        class names and probabilities
  vivit weights report SOURCE                 what loading does to every tensor; also convert, verify
  vivit info PRESET                           parameters and multiply-adds, part by part
  vivit plan RECIPE|PRESET --gpus N …         memory, speed and days of a run, before it starts
  vivit study STUDY RECIPE [--seeds 5] …      the paper's analyses: tokenisation, architecture, regularisation
  vivit runs [FOLDER]                         the runs of a folder: results, and settings that differ

WEIGHTS is a run folder, a folder with model.safetensors, a file or a hub id. `vivit COMMAND --help` lists settings;
`vivit --version` prints the version."""


def main() -> None:
    """Entry point: run the command, turn the library's errors into one message and exit code 2."""
    # Of several processes, only the first one warns.
    quiet = os.environ.get("RANK", "0") != "0"
    logging.basicConfig(format="%(message)s", level=logging.ERROR if quiet else logging.WARNING)
    command, *args = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return
    if command == "--version":
        print(f"vivit {metadata.version('vivit')}")
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        "demo": demo,
        "data": data,
        "train": train,
        "eval": evaluate,
        "compare": compare,
        "predict": predict,
        "weights": weights,
        "info": info,
        "plan": plan,
        "study": study,
        "runs": runs,
    }
    if command not in commands:
        fail(f"unknown command {command!r}{suggestion(command, commands)}")
    try:
        commands[command](args)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Stopped as error:
        sys.exit(128 + error.number)  # as a shell reports a signal
    except (VivitError, ValueError, OSError, ImportError, FloatingPointError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    complain(message)
    sys.exit(2)


def complain(message: str) -> None:
    """Print an error; names from outside may hold escape sequences, which are shown and not sent to the terminal."""
    print("vivit: " + "\n".join(map(printable, message.split("\n"))), file=sys.stderr)


def demo(args: list[str]) -> None:
    import tyro

    from .demo import demo

    tyro.cli(demo, args=args, prog="vivit demo")


def data(args: list[str]) -> None:
    verbs = {
        "check": ("[DATASET] ROOT", data_check),
        "prepare": ("[DATASET] ROOT DEST", data_prepare),
        "show": ("RECIPE --data.root ROOT", show),
    }
    verb, *rest = args or ["--help"]
    if verb not in verbs:
        usage = "usage: " + "\n       ".join(f"vivit data {name} {what} …" for name, (what, _) in verbs.items())
        print(usage, file=sys.stdout if verb in ("-h", "--help") else sys.stderr)
        sys.exit(0 if verb in ("-h", "--help") else 2)
    verbs[verb][1](rest)


def data_check(args: list[str]) -> None:
    import tyro

    from .data.tools.check import check

    report = tyro.cli(check, args=named_dataset(args, places=1), prog="vivit data check")
    print(report)
    if report.problems:
        sys.exit(1)


def data_prepare(args: list[str]) -> None:
    import tyro

    from .data.tools.prepare import prepare

    words, flat = named_dataset(args, places=2), (tyro.conf.OmitArgPrefixes,)
    done = tyro.cli(prepare, args=words, prog="vivit data prepare", config=flat)
    print(done)
    if done.bad or done.problems:
        sys.exit(1)


def named_dataset(args: list[str], *, places: int) -> list[str]:
    """`DATASET ROOT …` as `ROOT … --dataset DATASET`: one word more than there are places is the data set."""
    words = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
    return args[1:words] + ["--dataset", args[0], *args[words:]] if words == places + 1 else args


def show(args: list[str]) -> None:
    from typing import Annotated

    import tyro

    name, rest = positional(args, "usage: vivit data show RECIPE --data.root ROOT [--augment.random-erasing 0.25 …]")
    used = ["augment", "seed", "init", "run"]
    used += [f"data.{x}" for x in ("root", "dataset", "labels", "manifest", "train_split")]
    used += ["data.video_timeout", "data.storage_timeout"]
    used += [f"model.{x}" for x in ("num_frames", "image_size", "tubelet_size", "preprocessing", "classes")]
    refuse_unused(rest, used, "vivit data show")
    default = recipe_config(name, rest)

    def ask(
        *,
        output: str = "clips.html",
        classes: int = 8,
        draws: int = 2,
        frames: int = 4,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> None:
        """What the model is fed: clips before and after augmentation, class by class, on one HTML page.

        Args:
            output: The page to write.
            classes: Most classes to show, one video each.
            draws: Draws of the augmentation of each clip.
            frames: Frames of each clip.
            config: Settings of the run.
        """
        from .report.clips import show

        print(f"open {show(config, output=output, classes=classes, draws=draws, frames=frames).resolve()}")

    tyro.cli(ask, args=rest, prog=f"vivit data show {name}")


def train(args: list[str]) -> None:
    import tyro

    from .recipes import RECIPES, missing_start

    name, *rest = args or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {name:21} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items()]
        print("usage: vivit train RECIPE [--data.root ROOT …]; `vivit train RECIPE --help` lists every setting\n")
        print("\n".join(lines))
        return
    default = recipe_config(name, rest)
    config = tyro.cli(Config, default=default, args=rest, prog=f"vivit train {name}")
    if warning := missing_start(name, config):
        logging.getLogger("vivit").warning(warning)

    from .engine.train import train

    train(config)


# What the recipe `finetune` fits to the data and to the weights of --init.
FITTED = """\
With --init, these settings are fitted to the data and the weights, so their defaults below are not those of that run:
  model, augment.mixup, optim.lr, optim.layer-decay, optim.epochs, optim.warmup-epochs, linear-probe, \
final-weights, eval-every, save-every
To see its values, give --data.root and --init together with --help.
"""


def recipe_config(name: str, args: list[str]) -> Config:
    """The config of a recipe; one that fits itself to data and weights gets those that `args` name, also for --help."""
    import inspect

    import tyro

    from .recipes import RECIPES

    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{suggestion(name, RECIPES)}")
    recipe = RECIPES[name]
    if "init" not in inspect.signature(recipe).parameters:
        return recipe()

    @dataclass(frozen=True)
    class Fitted:
        data: DataConfig = DataConfig()  # noqa: RUF009
        init: str | None = None

    settings = [word for word in args if word not in ("-h", "--help")]
    given, _ = tyro.cli(Fitted, args=settings, return_unknown_args=True, prog="vivit train")
    if len(settings) < len(args) and not (given.init and given.data.root):
        print(FITTED)
        return recipe()
    return recipe(**vars(given))


def evaluate(args: list[str]) -> None:
    from pathlib import Path

    import tyro

    from .engine.run import read_config

    weights, rest = positional(args, "usage: vivit eval WEIGHTS [--data.root ROOT --eval.temporal-views 4 …]")
    used = [f"model.{name}" for name in (*vars(Overrides()), "preprocessing")]
    used += [f"data.{name}" for name in ("root", "dataset", "labels", "manifest", "eval_split", "workers")]
    refuse_unused(rest, [*used, "eval", "device", "precision", "run"], "vivit eval")
    folder = Path(weights)
    # A run knows its data and protocol; for bare weights they come from the command line.
    given = read_config(folder) if (folder / "environment.json").is_file() else Config(run="")

    def ask(
        *,
        model: Changes = Changes(),  # noqa: B008
        data: DataConfig = given.data,
        eval: EvalConfig = given.eval,  # noqa: A002
        device: Literal["auto", "cpu", "cuda", "mps"] = given.device,
        precision: Literal["auto", "float32", "bfloat16"] = given.precision,
        run: str | None = None,
    ) -> tuple[Changes, Config, str | None]:
        """Test weights on videos: temporal views x spatial crops, single view and multi view side by side.

        Args:
            model: Settings of the model that differ from those of the weights; positions are interpolated.
            data: The videos.
            eval: The test protocol.
            device: Where to compute.
            precision: float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32.
            run: Folder for results.json and predictions.npz; by default that of the weights.
        """
        return model, replace(given, data=data, eval=eval, device=device, precision=precision), run

    model, config, run = tyro.cli(ask, args=rest, prog=f"vivit eval {weights}")

    from .engine.evaluate import evaluate_weights

    evaluate_weights(weights, config, changes=model.given(), folder=run)


def refuse_unused(args: list[str], used: list[str], command: str) -> None:
    """Raise ValueError for a setting of a run that this command does not use; `used`: settings, or groups of them."""
    known = set(setting_names(Config()))
    for word in args:
        name = re.sub(r"(^|\.)no_", r"\1", word.split("=")[0].removeprefix("--").replace("-", "_"))
        if not word.startswith("--") or name not in known:
            continue
        if not any(name == one or name.startswith(f"{one}.") for one in used):
            settings = ", ".join(one.replace("_", "-") for one in used)
            raise ValueError(f"{command} does not use {word.split('=')[0]}; leave it out. Settings it uses: {settings}")


def setting_names(config: Any, prefix: str = "") -> Iterator[str]:
    """Every setting of a config and of its parts: 'optim.lr'."""
    for setting in fields(config):
        value = getattr(config, setting.name)
        yield f"{prefix}{setting.name}"
        if is_dataclass(value):
            yield from setting_names(value, f"{prefix}{setting.name}.")


def compare(args: list[str]) -> None:
    import tyro

    print(tyro.cli(compare_results, args=args, prog="vivit compare"))


def compare_results(
    a: str, b: str, /, single_view: bool = False, resamples: int = 10_000, seed: int = 0, json: bool = False
) -> str:
    """Top-1 accuracy of two evaluations on the same videos, their difference and its 95 % interval.

    Args:
        a: A folder where `vivit eval` left predictions.npz, such as a run, or that file.
        b: The same of the other.
        single_view: Compare the middle clip's centre crop, not the mean over all views.
        resamples: Of the paired bootstrap.
        seed: Of the paired bootstrap.
        json: Print the numbers as JSON.
    """
    from json import dumps

    from .engine.compare import compare

    result = compare(a, b, single_view=single_view, resamples=resamples, seed=seed)
    return dumps(result.to_dict(), indent=1) if json else str(result)


def predict(args: list[str]) -> None:
    import tyro

    if tyro.cli(predict_files, args=args, prog="vivit predict"):
        sys.exit(1)


def predict_files(
    weights: str,
    files: tuple[str, ...],
    /,
    temporal_views: int = 4,
    spatial_views: int = 3,
    top_k: int = 5,
    device: str = "auto",
    precision: Literal["auto", "bfloat16", "float32"] = "auto",
    merge_tokens: int = 0,
    drop_static: float | None = None,
    json: bool = False,
) -> int:
    """Class names and probabilities of each file. Returns how many have none.

    Args:
        weights: A run folder, a folder with model.safetensors, a file or a hub id.
        files: Video files.
        temporal_views: Evenly spaced clips of a video.
        spatial_views: 1 centre crop, or 3 along the longer side.
        top_k: Classes to show.
        device: auto, cpu, cuda or mps.
        precision: float32, bfloat16, or auto: bfloat16 on CUDA devices with units for it, else float32.
        merge_tokens: Model 1 only, faster at a small loss: each layer merges this many tokens into others like them.
        drop_static: Model 1 only, faster at a small loss: leave out tubelets that differ from the one before by at
            most this on average, on the scale 0..1.
        json: One JSON object a line.
    """
    from json import dumps

    from .engine.device import choose_attention, pick_device, uses_bfloat16
    from .engine.evaluate import load_weights
    from .inference.predict import predict
    from .model.token_reduction import shorten

    if not files:
        raise ValueError("no video to predict; usage: vivit predict WEIGHTS VIDEO [VIDEO …] [options]")
    where = pick_device(device)
    choose_attention(where)
    model = shorten(load_weights(weights).to(where), merge_tokens=merge_tokens, drop_static=drop_static)
    if uses_bfloat16(where, precision):
        print(f"computing in bfloat16 on {where.type}; --precision float32 is exact", file=sys.stderr)
    how = {"temporal_views": temporal_views, "spatial_views": spatial_views, "top_k": top_k, "precision": precision}
    failed = 0
    for file in files:
        try:
            result = predict(model, file, **how)  # type: ignore[arg-type]
            print(dumps(result.to_dict()) if json else result)
        except VivitError as error:  # also of the weights: logits that are not finite for this video
            failed += 1
            complain(f"{error} (weights: {weights})" if isinstance(error, WeightsError) else str(error))
    return failed


def weights(args: list[str]) -> None:
    import tyro

    verbs = {"report": weights_report, "convert": weights_convert, "verify": weights_verify}
    verb, *rest = args or ["--help"]
    if verb not in verbs:
        usage = "usage: vivit weights report SOURCE | convert SOURCE DEST --to FORMAT | verify SOURCE [CLIP]"
        if verb not in ("-h", "--help"):
            raise ValueError(f"unknown command 'weights {verb}'; {usage}")
        print(usage)
        return
    print(tyro.cli(verbs[verb], args=rest, prog=f"vivit weights {verb}"))


@dataclass(frozen=True)
class Overrides:
    """What a file cannot say about its model; each has the name of a field of ModelConfig."""

    encoder: str | None = None
    """The encoder, where the file does not say it."""
    image_size: tuple[int, int] | None = None
    """(H, W) of the frames."""
    num_frames: int | None = None
    """Frames of a clip."""
    num_heads: int | None = None
    """Attention heads, where the file does not say it."""
    attention_order: str | None = None
    """Of factorised_self_attention: time_space or space_time, where the file does not say it."""
    tokenizer: str | None = None
    """tubelet or uniform_frames, where the file does not say it."""
    sampled_frames: int | None = None
    """Of uniform_frames: how many of the clip's frames become tokens."""

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PixelChanges:
    """Fields of Preprocessing; None leaves them as the weights have them."""

    frame_stride: float | None = None
    """Distance between two frames of a clip, in frames of the video; replaces clip_seconds."""
    clip_seconds: float | None = None
    """Seconds that a clip covers whatever the frame rate; replaces frame_stride."""
    crop_fraction: float | None = None
    """Share of the resized short side that a test crop covers."""
    mean: tuple[float, float, float] | None = None
    """Mean of each colour channel, on the scale 0..1."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of each colour channel, on the scale 0..1."""


@dataclass(frozen=True)
class Changes(Overrides):
    """What may differ from the weights in a test, and what their file cannot say; None leaves it as it is."""

    preprocessing: PixelChanges = field(default_factory=PixelChanges)
    """What happens to a video before the network."""

    def given(self) -> dict[str, Any]:
        pixels = {name: value for name, value in vars(self.preprocessing).items() if value is not None}
        return super().given() | {"preprocessing": pixels}


def weights_report(source: str, /, preset: str | None = None, model: Overrides = Overrides()) -> str:  # noqa: B008
    """What loading does to every tensor of the source and of the model.

    Args:
        source: A file, a folder or a hub id.
        preset: Report the start of this model, such as "ViViT-B/16x2 FE", from the source.
        model: What the file cannot say.
    """
    from .weights.load import report

    return report(source, preset=preset, **model.given())


def weights_convert(source: str, dest: str, /, to: str = "vivit", model: Overrides = Overrides()) -> str:  # noqa: B008
    """Read weights of any kind and write them as vivit (a folder), huggingface (a folder) or scenic (a file).

    Args:
        source: A file, a folder or a hub id.
        dest: Where to write.
        to: vivit, huggingface or scenic.
        model: What the file cannot say.
    """
    from .weights.convert import convert

    return f"written to {convert(source, dest, to=to, **model.given())}"


def weights_verify(source: str, clip: str | None = None, /, model: Overrides = Overrides()) -> str:  # noqa: B008
    """Compare a released checkpoint with what was published about it.

    Args:
        source: One of the official checkpoints, or google/vivit-b-16x2-kinetics400.
        clip: eating_spaghetti_32_frames.npy, uint8 frames (T, H, W, 3), to compare the first logits.
        model: What the file cannot say.
    """
    from .weights.verify import verify

    return verify(source, clip, **model.given())


def info(args: list[str]) -> None:
    import tyro

    from .info import info

    print(tyro.cli(info, args=args, prog="vivit info"))


def plan(args: list[str]) -> None:
    from typing import Annotated

    import tyro

    from .presets import preset
    from .recipes import RECIPES

    name, rest = positional(args, "usage: vivit plan RECIPE|PRESET --gpus N … --num-samples N [--optim.batch-size N …]")
    if name not in RECIPES and not name.startswith("ViViT-"):
        raise ValueError(f"{name!r} is no recipe, and no preset such as 'ViViT-B/16x2 FE'{suggestion(name, RECIPES)}")
    config = recipe_config(name, rest) if name in RECIPES else Config(model=preset(name))

    from .engine.plan import H100, Hardware, table

    def ask(
        *,
        gpus: tuple[int, ...],
        num_samples: int,
        markdown: bool = False,
        hardware: Annotated[Hardware, tyro.conf.arg(name="")] = H100,
        config: Annotated[Config, tyro.conf.arg(name="")] = config,
    ) -> str:
        """Memory, speed and days of a run on some GPUs: estimates from the model's arithmetic, before it starts.

        Args:
            gpus: Numbers of GPUs to compare.
            num_samples: Training videos of an epoch.
            markdown: Print a Markdown table.
            hardware: The GPUs.
            config: Settings of the run.
        """
        return table(config, gpus=gpus, num_samples=num_samples, hardware=hardware, markdown=markdown)

    print(tyro.cli(ask, args=rest, prog=f"vivit plan {name!r}"))


def study(args: list[str]) -> None:
    from typing import Annotated

    import tyro

    names = ("tokenisation", "architecture", "regularisation")
    usage = f"usage: vivit study {'|'.join(names)} RECIPE [--quick] [--seeds 5] [--jobs 2] [--data.root ROOT …]"
    kind, rest = positional(args, usage)
    if kind not in names:
        raise ValueError(f"unknown study {kind!r}{suggestion(kind, names)}")
    name, rest = positional(rest, usage)
    default = replace(recipe_config(name, rest), run=f"runs/study/{kind}")

    def ask(
        *,
        seeds: int = 5,
        quick: bool = False,
        jobs: int = 1,
        cnn_epochs: float | None = None,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> int:
        """One of the paper's analyses on your videos. The same command goes on after an interruption.

        Args:
            seeds: Runs of each row, from `seed` upwards; the same for all rows.
            quick: A third of the epochs, one seed, a single view of each test video.
            jobs: Runs at once, each in a process of its own, sharing the cores.
            cnn_epochs: Of the 3-D convolutions, if fewer than of the rest: they cost many times more a clip.
            config: Settings of all runs; `run` is the folder of the study.
        """
        from .studies.study import study

        results = study(kind, config, recipe=name, seeds=seeds, quick=quick, num_jobs=jobs, cnn_epochs=cnn_epochs)
        return results["failed"]

    if tyro.cli(ask, args=rest, prog=f"vivit study {kind} {name}"):
        sys.exit(1)


def runs(args: list[str]) -> None:
    import tyro

    from .engine.runs import table

    print(tyro.cli(table, args=args, prog="vivit runs"))


def positional(args: list[str], usage: str) -> tuple[str, list[str]]:
    """The first argument and the rest; where an option stands first, the usage."""
    if args[:1] in (["-h"], ["--help"]):
        print(usage)
        sys.exit(0)
    if not args or args[0].startswith("-"):
        raise ValueError(usage)
    return args[0], args[1:]
