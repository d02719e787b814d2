"""Checkpoints are whole or absent."""

import json
import resource
from dataclasses import dataclass

import pytest
import torch

from vivit.engine import checkpoint
from vivit.engine.checkpoint import Checkpoints
from vivit.engine.distributed import World
from vivit.engine.optim import EMA

from .tiny import ALONE


def trained(steps=3):
    """A model that was stepped, its optimiser with two groups, and its average."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.Linear(30, 2))
    groups = [{"params": layer.parameters(), "lr_scale": scale} for layer, scale in zip(model, (0.5, 1.0))]
    optimizer, average = torch.optim.AdamW(groups, lr=0.1), EMA(model, 0.9)
    for _ in range(steps):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()
    return model, optimizer, average


def test_what_is_saved_comes_back(tmp_path):
    saved, fresh = trained(), trained(steps=0)
    checkpoints = Checkpoints(tmp_path, ALONE, keep=2)
    path = checkpoints.save(*saved, {"step": 7, "best": 0.25, "unreadable": {2: "gone"}})
    assert checkpoints.restore(*fresh, path) == {"step": 7, "best": 0.25, "unreadable": {"2": "gone"}}
    (model, optimizer, average), (model2, optimizer2, average2) = saved, fresh
    for p, q in zip(model.parameters(), model2.parameters()):
        assert torch.equal(p, q)
        state, state2 = optimizer.state[p], optimizer2.state[q]
        assert state.keys() == state2.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(state[key], state2[key]) for key in state)
    assert all(torch.equal(v, w) for v, w in zip(average.values, average2.values))
    for group, group2 in zip(optimizer.param_groups, optimizer2.param_groups):
        assert group | {"params": None} == group2 | {"params": None}


def test_the_newest_counts_by_step_and_only_a_few_are_kept(tmp_path):
    state, checkpoints = trained(), Checkpoints(tmp_path, ALONE, keep=2)
    assert checkpoints.latest() == (None, [])
    for step in (5, 50, 500, 1000):
        checkpoints.save(*state, {"step": step})
    assert checkpoints.latest() == (tmp_path / "step-00001000", [])
    assert len(list(tmp_path.iterdir())) == 2
    Checkpoints(tmp_path, ALONE, keep=1).save(*state, {"step": 2000})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00002000"]


def test_every_file_is_in_the_manifest_and_any_change_of_one_is_noticed(tmp_path):
    path = Checkpoints(tmp_path, ALONE, keep=2).save(*trained(), {"step": 1})
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert {p.name for p in path.iterdir()} == {*listed, "manifest.json"}
    for name in listed:
        whole = (path / name).read_bytes()
        for damaged in (whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:]):
            (path / name).write_bytes(damaged)
            assert checkpoint._corruption(path) == f"{name} has another checksum than manifest.json says"
        (path / name).write_bytes(whole)
    assert checkpoint._corruption(path) is None


def test_a_half_written_folder_is_not_a_checkpoint(tmp_path):
    state, checkpoints = trained(), Checkpoints(tmp_path, ALONE, keep=2)
    whole = checkpoints.save(*state, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for most in (100, 1000, 5000):  # bytes in a file: what a full disk looks like from inside
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
            with pytest.raises(OSError, match="step-00000002.partial: process 0: "):
                checkpoints.save(*state, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [whole]  # nothing is left to fill the disk
    (tmp_path / "step-00000002.partial").mkdir()
    (tmp_path / "step-00000002.partial" / "__0_0.distcp").write_bytes(b"half of it")
    assert checkpoints.latest() == (whole, [])
    assert list(tmp_path.iterdir()) == [whole]
    again = checkpoints.save(*state, {"step": 2})
    assert checkpoints.latest() == (again, [])


def test_what_the_first_process_cannot_do_is_an_error_in_all_of_them():
    """Were it one in the first only, the others would wait for it for ever."""

    @dataclass(frozen=True)
    class Second(World):
        def gather(self, value):
            assert value is None
            return ["No space left on device", value]

    with pytest.raises(OSError, match="No space left on device"):
        Second(1, 2, ALONE.device).on_main(pytest.fail)
