"""`python -m benchmarks [CASE …]`, from the root of a checkout."""

import tyro

from . import bench

if __name__ == "__main__":
    tyro.cli(bench, prog="python -m benchmarks")
