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
    result = subprocess.run(
        [sys.executable, "-m", "vivit", "info", "ViViT-Ti/16x2"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "do not belong together" in line
    assert why in line
    assert "pip install --upgrade torch torchvision" in line
