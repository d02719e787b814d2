"""`vivit serve` in a process of its own: its address, its end, and what is left of it."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import vivit as package
from vivit.cli.serve import run
from vivit.serve.client import Client

pytestmark = pytest.mark.slow


@contextmanager
def command(*words, cwd):
    """Run `vivit serve`, with its temporary files in `cwd` too, and yield the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vivit", "serve", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(cwd)},
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on (http://[\w.]+:\d+)", line):
                yield process, found[1]
                return
        pytest.fail("".join(lines))
    finally:
        process.kill()
        process.communicate()


def children(pid):
    """Return the decoding processes of a server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def are_gone(pids, seconds=120):
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_serves_and_however_it_ends_no_process_is_left(model, video, tmp_path, number):
    if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("runs under nohup, which the server heeds")
    weights = model.save_pretrained(tmp_path / "weights")
    with command(weights, "--port", 0, "--device", "cpu", "--token-file", "token", cwd=tmp_path) as (process, url):
        client = Client(url, token=(tmp_path / "token").read_text().strip())
        answer = client.predict(video, top_k=1)
        [(name, probability)] = package.predict(model, video, top_k=1).classes["noun"]
        assert answer["classes"]["noun"] == [{"name": name, "probability": pytest.approx(probability, abs=1e-6)}]
        decoders = children(process.pid)
        assert len(decoders) == 2
        process.send_signal(number)
        process.wait(30)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGHUP: -signal.SIGTERM}.get(number, -number)
        assert are_gone(decoders)
        assert len([*tmp_path.glob("vivit-serve-*")]) == (number == signal.SIGKILL)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("vivit.serve.run", "vivit.serve.guard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"pip install 'vivit\[serve\]'"):
        run(["weights"])


def test_a_port_that_is_taken_is_an_error(model, tmp_path, server):
    weights = model.save_pretrained(tmp_path / "weights")
    done = subprocess.run(
        [sys.executable, "-m", "vivit", "serve", weights, "--port", str(server.port), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=1200,
        env=os.environ,
        check=False,
    )
    assert done.returncode != 0
    assert "address already in use" in done.stderr
