"""`python -m benchmarks [CASE …]`, `… gpu` and `… page`, from the root of a checkout."""

import sys

import tyro

from . import bench
from .gpu import gpu
from .page import add_runs

COMMANDS = {"gpu": gpu, "page": add_runs}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        tyro.cli(COMMANDS[sys.argv[1]], prog=f"python -m benchmarks {sys.argv[1]}", args=sys.argv[2:])
    else:
        tyro.cli(bench, prog="python -m benchmarks")
