import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from vivit.cli.main import main

from ..model import tiny


def fork_vivit(*args: object, log: Path) -> BaseProcess:
    """Start a command line in a forked process, which takes milliseconds; what it prints goes to the file `log`."""

    def run() -> None:
        sys.argv = ["vivit", *map(str, args)]
        sys.stdout = sys.stderr = log.open("w", buffering=1)
        main()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


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
