"""`vivit checks` lists versions, devices and decoders, and tells how to add missing ones."""

import builtins
import re
from types import SimpleNamespace

import pytest
import torch

from vivit.cli import checks


def test_every_line_is_there_and_a_working_machine_exits_with_0(vivit):
    code, out, err = vivit("checks")
    assert (code, err) == (0, "")
    for name in ("python", "vivit", *checks.PACKAGES, "cpu", "decoder h264", "decoder mpeg2", "cores", "disk"):
        assert re.search(rf"^(ok|note) +{name} ", out, re.MULTILINE), name
    assert f"torch            {torch.__version__.split('+')[0]}" in out
    assert "FFmpeg" in out
    assert out.splitlines()[-1] == "vivit has what it needs"


@pytest.mark.parametrize("package", ["safetensors", "torchvision"])
def test_a_package_that_cannot_be_imported_is_said_with_its_mend_and_exits_with_1(package, vivit, monkeypatch):
    def import_module(name):
        if name == package:
            raise ImportError("undefined symbol: _ZN3c10")
        return builtins.__import__(name)

    monkeypatch.setattr(checks, "import_module", import_module)
    code, out, _ = vivit("checks")
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("missing ") and package in line)
    assert "undefined symbol: _ZN3c10" in line
    assert "pip install --upgrade" in line
    assert out.splitlines()[-1] == f"missing: {package}"


def test_a_decoder_that_is_missing_is_a_note_unless_it_is_h264(vivit, monkeypatch):
    monkeypatch.setattr(checks, "DECODERS", ("h264", "nonsense"))
    code, out, _ = vivit("checks")
    assert code == 0
    assert re.search(r"^note +decoder nonsense +not in this FFmpeg; pip install", out, re.MULTILINE)


def test_little_memory_and_a_full_disk_come_with_advice(monkeypatch):
    monkeypatch.setattr("vivit.engine.device.available_memory", lambda: 2**30)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    advice = {finding.name: finding.advice for finding in checks.resources()}
    assert "batch_size" in advice["memory"]
    assert "--run" in advice["disk"]
