"""Check the line that installs PyTorch for the CPU, and the errors for packages that do not fit."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol: _ZN3c10"),
    ],
)
def test_one_sentence_names_a_pair_that_does_not_fit_and_the_command_that_mends_it(tmp_path, body, why):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(body)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import vivit.model.cnn_baselines"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("ImportError: ")
    assert "do not belong together" in line
    assert why in line
    assert "pip install --upgrade torch torchvision" in line


def test_create_predict_and_train_do_not_import_torchvision(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise ImportError")
    code = "import vivit; vivit.create, vivit.from_pretrained, vivit.predict; import vivit.engine.train"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)


@pytest.fixture
def both(tmp_path):
    """A folder of packages with ours and the metadata of another distribution that has a folder vivit/."""
    (tmp_path / "vivit_for_pytorch-0.1.0.dist-info").mkdir()
    shutil.copytree(ROOT / "vivit", tmp_path / "vivit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run_in(folder, code):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_another_distribution_with_a_folder_vivit_is_named_when_ours_is_imported(both):
    done = run_in(both, "import vivit; print(vivit.__file__)")
    assert done.stdout.startswith(str(both))
    assert "RuntimeWarning: vivit-for-pytorch is installed too, in the same folder vivit/; keep one" in done.stderr
    (both / "vivit_for_pytorch-0.1.0.dist-info").rmdir()
    assert run_in(both, "import vivit").stderr == ""


def test_the_command_says_so_where_the_other_one_has_replaced_our_package(both):
    (both / "vivit" / "__init__.py").write_text("from torch import nn\n")
    done = run_in(both, "import sys; sys.argv = ['vivit', '--help']; from vivit.cli.main import main; main()")
    assert done.returncode == 2
    assert "is a file of another package, such as vivit-for-pytorch; keep one of them: pip uninstall" in done.stderr


@pytest.mark.skipif(UV is None, reason="no uv")
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_line_for_pytorch_without_cuda_asks_the_index_for_the_cpu(page, tmp_path):
    [line] = re.findall(r"^pip install uv && uv (.*)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    command = [UV, *shlex.split(line), "--offline", "--no-cache", "--verbose", "--target", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "/whl/cpu/torch/" in done.stderr, done.stderr
