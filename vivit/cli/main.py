"""Find the file of a command and run it; turn errors into one message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import nullcontext
from importlib import import_module

from ..config import suggestion
from ..errors import ProcessLost, Stopped, VivitError
from ..install_check import MEND, OTHER_VIVIT, installed_version
from .terminal import fail, lasting_output

# Each command is `run(args)` of the module vivit.cli.<command>, with what the help says about it.
COMMANDS = {
    "demo": ("", "make videos, train, test: 1 to 3 minutes"),
    "data": ("check|prepare|show", "check videos and labels, speed up loading, draw"),
    "train": ("RECIPE", "train a model, or resume an interrupted run"),
    "eval": ("WEIGHTS", "test weights: temporal views x spatial crops"),
    "compare": ("A B", "the better of two evaluations, with an interval"),
    "predict": ("WEIGHTS VIDEO ...", "class names and probabilities of videos"),
    "explain": ("WEIGHTS VIDEO", "where and when a clip speaks for a class"),
    "timeline": ("WEIGHTS VIDEO ...", "scores over time of long videos"),
    "features": ("WEIGHTS VIDEO ...", "features of videos as arrays, for other models"),
    "stream": ("WEIGHTS SOURCE ...", "scores of a camera, pipe or address as it comes"),
    "serve": ("WEIGHTS", "a server with a page: this machine or others"),
    "corpus": ("predict|timeline|...", "long lists of videos, resumable"),
    "labels": ("edit|import|...", "label videos, by hand or in other tools"),
    "weights": ("report|convert|verify", "inspect, convert and verify weights"),
    "starts": ("[NAME ...]", "weights to start from: sizes, licences, results"),
    "export": ("WEIGHTS DEST", "a file for onnxruntime and others, with a proof"),
    "info": ("[PRESET]", "parameters and multiply-adds of a model"),
    "plan": ("RECIPE|PRESET", "memory, speed and days of a run on GPUs"),
    "study": ("STUDY RECIPE", "an analysis of the paper on your own videos"),
    "slurm": ("RECIPE", "the batch script of a run on a cluster"),
    "runs": ("[FOLDER]", "results of all runs, and settings that differ"),
    "checks": ("", "versions, devices, decoders, memory and disk"),
}
# Commands whose files are worth more than what they print.
LASTING = ("demo", "train", "eval", "study", "corpus", "features", "export")


def main() -> None:
    """Run the command that sys.argv names. Exit codes: 0, 1 for bad files or results, 2 for errors, 75 where
    another process of the run was lost, 128 + N where signal N stopped it.
    """
    # Of several processes, only the first one warns.
    quiet = os.environ.get("RANK", "0") != "0"
    logging.basicConfig(format="%(message)s", level=logging.ERROR if quiet else logging.WARNING)
    if "from_pretrained" not in getattr(sys.modules["vivit"], "__all__", ()):
        fail(f"{sys.modules['vivit'].__file__} is a file of another package, such as {OTHER_VIVIT}; {MEND}")
    command, *args = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help", "--help-all"):
        print(usage())
        return
    if command == "--version":
        print(f"vivit {installed_version('vivit')}")
        return
    if command not in COMMANDS:
        fail(f"unknown command {command!r}{suggestion(command, COMMANDS)}")
    try:
        with lasting_output() if command in LASTING else nullcontext():
            import_module(f".{command}", __package__).run(args)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Stopped as error:
        sys.exit(128 + error.number)  # as a shell reports a signal
    except ProcessLost as error:
        fail(str(error), code=75)  # EX_TEMPFAIL: the same command may succeed
    except ModuleNotFoundError as error:  # of a package that is no extra: those have messages of their own
        fail(f"{error}; pip install . in a checkout, without --no-deps, brings all packages that vivit needs")
    except (VivitError, ValueError, OSError, ImportError, FloatingPointError) as error:
        fail(str(error))


def usage() -> str:
    """Return the help of `vivit`, one line per command."""
    lines = ["usage: vivit COMMAND [options]", "", "Video classification with pure transformers: the ViViT family.", ""]
    names = [f"{command} {arguments}" for command, (arguments, _) in COMMANDS.items()]
    width = max(map(len, names)) + 2
    lines += [f"  {name:{width}}{summary}" for name, (_, summary) in zip(names, COMMANDS.values(), strict=True)]
    return "\n".join(
        [
            *lines,
            "",
            "WEIGHTS is a run, a folder with model.safetensors, a file, a hub id or a start.",
            "`vivit COMMAND --help` lists the usual settings, `--help-all` all settings,",
            "`vivit --version` prints the version.",
        ]
    )
