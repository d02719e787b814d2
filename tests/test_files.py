"""Files are written whole or not at all."""

import os

import pytest

from vivit.files import atomic_write


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
