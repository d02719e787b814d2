import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from vivit.cli.main import main

from ..model import tiny
from ..processes import forkserver


def start_vivit(*args: object, log: Path) -> BaseProcess:
    """Start a command line in a process of its own, which takes milliseconds; what it prints goes to the file `log`."""
    process = forkserver().Process(target=run_logged, args=(args, log))
    process.start()
    return process


def run_logged(args: Sequence[object], log: Path) -> None:
    sys.argv = ["vivit", *map(str, args)]
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    torch.set_num_threads(1)
    main()


@pytest.fixture
def weights(tmp_path):
    return tiny.model().save_pretrained(tmp_path / "weights")


@pytest.fixture
def vivit(monkeypatch, capsys):
    """Run a command line; returns (exit code, standard output, standard error)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["vivit", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return (code, *capsys.readouterr())

    return run
