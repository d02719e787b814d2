import sys

import pytest

from vivit.cli.main import main


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
