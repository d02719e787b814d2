"""A torchvision that does not fit the installed torch is one sentence, not a riddle."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol: _ZN3c10"),
    ],
)
def test_a_pair_that_does_not_fit_is_said_in_one_sentence_with_the_mend(tmp_path, body, why):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(body)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    how = {"env": environment, "capture_output": True, "text": True, "check": False}
    result = subprocess.run([sys.executable, "-c", "import vivit.model.cnn_baselines"], **how)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("ImportError: ")
    assert "do not belong together" in line
    assert why in line
    assert "pip install --upgrade torch torchvision" in line


def test_what_needs_no_torchvision_does_not_ask_for_it(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise ImportError")
    code = "import vivit; vivit.create, vivit.from_pretrained, vivit.predict; import vivit.engine.train"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)
