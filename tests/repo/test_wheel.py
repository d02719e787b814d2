"""Build the sdist, the wheel from it, and use the wheel in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
TYPED = """\
import vivit
from vivit import Config, VideoError
config: Config = vivit.recipes.finetune(vivit.DataConfig("my_videos"))
reveal_type(vivit.train(config))
reveal_type(vivit.from_pretrained("w"))
reveal_type(vivit.evaluate("w").accuracy)
reveal_type(vivit.Video("v.mp4")[0])
reveal_type(vivit.load_run("r").metrics)
reveal_type(vivit.__version__)
"""


def run(*command, cwd, timeout=1200):
    """Run a command without this checkout on Python's path and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files():
    """Return the files of the repository, also those that are not committed yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build as `python -m build` does, from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("build")
    for name in files():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    run(sys.executable, "-c", BUILD.format(kind="sdist"), folder, cwd=folder / "source")
    [sdist] = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    [source] = (folder / "sdist").iterdir()
    run(sys.executable, "-c", BUILD.format(kind="wheel"), folder, cwd=source)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def bin(wheel, tmp_path_factory):
    """Install the wheel alone into a new environment, which finds the other packages in this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel)
    run(*pip, cwd=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in files() if name.startswith("vivit/")}
    assert "vivit/py.typed" in names


@pytest.mark.slow
def test_the_command_and_the_package_run_from_the_wheel(bin, tmp_path):
    version = run(bin / "vivit", "--version", cwd=tmp_path).strip()
    assert (
        version == "vivit " + run(bin / "python", "-c", "import vivit; print(vivit.__version__)", cwd=tmp_path).strip()
    )
    assert run(bin / "vivit", "--help", cwd=tmp_path).startswith("usage: vivit")
    where = run(bin / "python", "-c", "import vivit.api; print(vivit.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(bin.parent)


@pytest.mark.slow
def test_a_type_checker_sees_the_types_of_the_installed_package(bin, tmp_path):
    (tmp_path / "user.py").write_text(TYPED)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", bin / "python", "user.py"]
    messages = json.loads(run(*command, cwd=tmp_path))["generalDiagnostics"]
    assert [m for m in messages if m["severity"] != "information"] == []
    types = [m["message"].split(" is ")[-1].strip('"') for m in messages]
    assert types == ["Path", "ViViT", "dict[str, dict[str, float]]", "Tensor", "list[dict[str, Any]]", "str"]


@pytest.mark.drill
def test_the_demo_runs_from_the_wheel(bin, tmp_path):
    run(bin / "vivit", "demo", cwd=tmp_path)
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
