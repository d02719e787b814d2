"""Carry what vivit needs to a machine that has its own PyTorch and no network, as a folder of wheels.

This file needs nothing but pip. On a machine with a network and vivit installed, for the other one's Python:

    python benchmarks/wheels.py download 3.12

On the other machine, from the same checkout; it installs what is missing there, and leaves what is there as it is:

    python3 benchmarks/wheels.py install /tmp/site && export PYTHONPATH=/tmp/site
"""

import argparse
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "wheels"  # ignored by git
PROVIDED = ("torch", "torchvision")  # with all that they need
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)] + ["manylinux2014_x86_64"]


def needed(names: tuple[str, ...]) -> set[str]:
    """Return the packages that these need, and they themselves, as installed here."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = normalized(todo.pop())
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        found.add(name)
        todo += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requirements if "extra ==" not in text]
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(python: str) -> None:
    """Download the wheels, of the versions in constraints.txt, for this version of Python on Linux."""
    names = sorted(needed(("vivit",)) - needed(PROVIDED) - {"vivit"})
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    where = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:", *platforms]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip("download", "--quiet", "--no-deps", *where, *constraints, "--dest", str(WHEELS), *names)
    size = sum(path.stat().st_size for path in WHEELS.iterdir()) / 2**20
    print(f"{WHEELS}: {len(list(WHEELS.iterdir()))} wheels for Python {python}, {size:.0f} MiB")


def install(target: str) -> None:
    """Install into the folder `target` the wheels of packages that this Python lacks."""
    here = {normalized(found.metadata["Name"]) for found in metadata.distributions()}
    missing = [str(path) for path in sorted(WHEELS.glob("*.whl")) if normalized(path.name.split("-")[0]) not in here]
    if missing:
        pip("install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", target, *missing)
    print(f"{target}: {len(missing)} packages that were missing")


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("download", help="download the wheels").add_argument("python", help="such as 3.12")
    commands.add_parser("install", help="install what is missing").add_argument("target", help="a folder")
    options = vars(parser.parse_args())
    {"download": download, "install": install}[options.pop("command")](*options.values())
