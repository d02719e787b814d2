"""Check the error for a torchvision that does not fit the installed torch."""

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
