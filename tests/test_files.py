"""Files are written whole or not at all, and one process at a time works in a folder."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from vivit.errors import FolderInUse
from vivit.files import atomic_write, exclusive_lock


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("é one")
    with atomic_write(path, "wb") as file:
        file.write(b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:  # noqa: PT012
        file.write("half of ")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as file:
        file.write("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("é" * 127)
    with atomic_write(path) as file:
        file.write("x")
    assert path.read_text() == "x"


def test_a_second_process_is_told_who_holds_the_lock_until_the_first_one_ends(tmp_path):
    folder = tmp_path / "new"
    holder = (
        f"new is in use: prepare by process {os.getpid()} on {socket.gethostname()} since 2.*; train needs it alone"
    )
    with exclusive_lock(folder, what="prepare"):
        with pytest.raises(FolderInUse, match=holder) as error, exclusive_lock(folder, what="train"):
            pass
        assert isinstance(error.value, ValueError)
        with exclusive_lock(tmp_path / "another", what="train"):
            pass
    with exclusive_lock(folder, what="train"):
        pass


def test_a_killed_process_and_its_forked_children_leave_no_lock(tmp_path):
    code = (
        "import os, sys, time; from vivit.files import exclusive_lock\n"
        f"with exclusive_lock({str(tmp_path)!r}, what='train'):\n"
        "    if not os.fork(): sys.stdin.read(); os._exit(0)\n"  # as a worker of the loader
        "    print('held', flush=True); time.sleep(60)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"process {process.pid} "), exclusive_lock(tmp_path, what="train"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 120  # a busy machine may not have run the child yet, which closes its copy first
        while time.monotonic() < deadline:
            with suppress(FolderInUse), exclusive_lock(tmp_path, what="train"):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the child of a killed process still holds the lock")


def test_a_block_that_fails_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), exclusive_lock(tmp_path, what="train"):
        raise KeyError
    with exclusive_lock(tmp_path, what="train"):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(number, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("vivit.files.fcntl.flock", refuse)
    with caplog.at_level(logging.WARNING, "vivit"), exclusive_lock(tmp_path, what="train"):
        pass
    assert "its file system has no locks" in caplog.text
    assert "do not start a second train" in caplog.text
    monkeypatch.setattr("vivit.files.fcntl", None)
    with caplog.at_level(logging.WARNING, "vivit"), exclusive_lock(tmp_path, what="train"):
        pass
    assert "this system has no file locks" in caplog.text
