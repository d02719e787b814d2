"""The command line: `vivit VERB …`. Every command is a thin shell around a function of the library.

Heavy imports stand inside the commands, so that `--help` does not wait for PyTorch.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

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
  vivit bench [CASE …]                        speed against the machine's limit and beside other libraries

WEIGHTS is a run folder, a folder with model.safetensors, a file or a hub id. `vivit COMMAND --help` lists settings."""


def main() -> None:
    """Entry point: run the command, turn the library's errors into one message and exit code 2."""
    # Of several processes, only the first one warns.
    quiet = os.environ.get("RANK", "0") != "0"
    logging.basicConfig(format="%(message)s", level=logging.ERROR if quiet else logging.WARNING)
    command, *args = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
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
        "bench": bench,
    }
    if command not in commands:
        from .config import suggestion

        fail(f"unknown command {command!r}{suggestion(command, commands)}")
    try:
        commands[command](args)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    except Exception as error:  # errors whose modules are too heavy to import here
        if type(error).__name__ == "Stopped":
            sys.exit(128 + error.number)  # type: ignore[attr-defined]  # as a shell reports a signal
        if type(error).__name__ in ("VideoError", "WorkerDied", "FloatingPointError"):
            fail(str(error))
        raise


def fail(message: str) -> NoReturn:
    lines = "\n".join(map(printable, message.split("\n")))  # names from outside may hold escape sequences
    print(f"vivit: {lines}", file=sys.stderr)
    sys.exit(2)


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

    from .data.check import check

    report = tyro.cli(check, args=named_dataset(args, places=1), prog="vivit data check")
    print(report)
    if report.problems:
        sys.exit(1)


def data_prepare(args: list[str]) -> None:
    import tyro

    from .data.prepare import prepare

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

    from .config import Config, suggestion
    from .recipes import RECIPES

    name, rest = positional(args, "usage: vivit data show RECIPE --data.root ROOT [--augment.erasing 0.25 …]")
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{suggestion(name, RECIPES)}")
    default = RECIPES[name]()

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
        from .show import show

        print(f"open {show(config, output=output, classes=classes, draws=draws, frames=frames).resolve()}")

    tyro.cli(ask, args=rest, prog=f"vivit data show {name}")


def train(args: list[str]) -> None:
    import tyro

    from .config import Config, suggestion
    from .recipes import RECIPES, missing_start

    name, *rest = args or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {name:21} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items()]
        print("usage: vivit train RECIPE [--data.root ROOT …]; `vivit train RECIPE --help` lists every setting\n")
        print("\n".join(lines))
        return
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{suggestion(name, RECIPES)}")
    default = RECIPES[name](**recipe_arguments(RECIPES[name], rest))
    config = tyro.cli(Config, default=default, args=rest, prog=f"vivit train {name}")
    if warning := missing_start(name, config):
        logging.getLogger("vivit").warning(warning)

    from .engine.train import train

    train(config)


def recipe_arguments(recipe: Callable[..., Any], args: list[str]) -> dict[str, Any]:
    """What the settings in `args` say to a recipe that fits itself to the data and the weights to start from."""
    import inspect

    import tyro

    from .config import DataConfig

    @dataclass(frozen=True)
    class Fitted:
        data: DataConfig = DataConfig()  # noqa: RUF009
        init: str | None = None

    if "init" not in inspect.signature(recipe).parameters or {"-h", "--help"} & set(args):
        return {}
    given, _ = tyro.cli(Fitted, args=args, return_unknown_args=True, prog="vivit train")
    return vars(given)


def evaluate(args: list[str]) -> None:
    from pathlib import Path

    import tyro

    from .config import Config
    from .engine.run import read_config

    weights, rest = positional(args, "usage: vivit eval WEIGHTS [--data.root ROOT --eval.temporal-views 4 …]")
    folder = Path(weights)
    # A run knows its data and protocol; for bare weights they come from the command line.
    default = read_config(folder) if (folder / "environment.json").is_file() else Config(run="")
    config = tyro.cli(Config, default=default, args=rest, prog=f"vivit eval {weights}")

    from .engine.evaluate import evaluate_weights

    evaluate_weights(weights, config)


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

    from .comparison import compare

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
    """Class names and probabilities of each file. Returns how many could not be read.

    Args:
        weights: A run folder, a folder with model.safetensors, a file or a hub id.
        files: Video files.
        temporal_views: Evenly spaced clips of a video.
        spatial_views: 1 centre crop, or 3 along the longer side.
        top_k: Classes to show.
        device: auto, cpu, cuda or mps.
        precision: float32, bfloat16, or auto: bfloat16 on CUDA devices that have units for it, else float32.
        merge_tokens: Model 1 only, faster at a small loss: each layer merges this many tokens into others like them.
        drop_static: Model 1 only, faster at a small loss: leave out tubelets that differ from the one before by at
            most this on average, on the scale 0..1.
        json: One JSON object a line.
    """
    from json import dumps

    from .data.decode import VideoError
    from .engine.device import choose_attention, pick_device
    from .engine.evaluate import load_weights
    from .model.shorten import shorten
    from .prediction import predict

    where = pick_device(device)
    choose_attention(where)
    model = shorten(load_weights(weights).to(where), merge_tokens=merge_tokens, drop_static=drop_static)
    how = {"temporal_views": temporal_views, "spatial_views": spatial_views, "top_k": top_k, "precision": precision}
    unreadable = 0
    for file in files:
        try:
            result = predict(model, file, **how)  # type: ignore[arg-type]
            print(dumps(result.to_dict()) if json else result)
        except VideoError as error:
            unreadable += 1
            print(f"vivit: {error}", file=sys.stderr)
    return unreadable


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
    image_size: tuple[int, int] | None = None
    num_frames: int | None = None
    num_heads: int | None = None
    attention_order: str | None = None
    tokenizer: str | None = None
    sampled_frames: int | None = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


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

    from .config import Config, suggestion
    from .presets import preset
    from .recipes import RECIPES

    name, rest = positional(args, "usage: vivit plan RECIPE|PRESET --gpus N … --num-samples N [--optim.batch-size N …]")
    if name not in RECIPES and not name.startswith("ViViT-"):
        raise ValueError(f"{name!r} is no recipe, and no preset such as 'ViViT-B/16x2 FE'{suggestion(name, RECIPES)}")
    config = RECIPES[name]() if name in RECIPES else Config(model=preset(name))

    from .plan import H100, Hardware, table

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

    from .config import Config, replace, suggestion
    from .recipes import RECIPES

    names = ("tokenisation", "architecture", "regularisation")
    usage = f"usage: vivit study {'|'.join(names)} RECIPE [--quick] [--seeds 5] [--jobs 2] [--data.root ROOT …]"
    kind, rest = positional(args, usage)
    if kind not in names:
        raise ValueError(f"unknown study {kind!r}{suggestion(kind, names)}")
    name, rest = positional(rest, usage)
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{suggestion(name, RECIPES)}")
    default = replace(RECIPES[name](**recipe_arguments(RECIPES[name], rest)), run=f"runs/study/{kind}")

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

        results = study(kind, config, recipe=name, seeds=seeds, quick=quick, at_once=jobs, cnn_epochs=cnn_epochs)
        return results["failed"]

    if tyro.cli(ask, args=rest, prog=f"vivit study {kind} {name}"):
        sys.exit(1)


def runs(args: list[str]) -> None:
    import tyro

    from .runs import table

    print(tyro.cli(table, args=args, prog="vivit runs"))


def bench(args: list[str]) -> None:
    import tyro

    from .bench import bench

    tyro.cli(bench, args=args, prog="vivit bench")


def positional(args: list[str], usage: str) -> tuple[str, list[str]]:
    """The first argument and the rest; where an option stands first, the usage."""
    if args[:1] in (["-h"], ["--help"]):
        print(usage)
        sys.exit(0)
    if not args or args[0].startswith("-"):
        raise ValueError(usage)
    return args[0], args[1:]
