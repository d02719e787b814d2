"""Save and load checkpoints: everything needed to resume, complete or absent.

PyTorch writes them, each process its own shards; any number of processes can read them. A folder
is written under a temporary name, flushed, listed with checksums in manifest.json and then renamed, so that a kill
at any moment leaves the previous one.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from ..files import hash_file
from .device import format_size
from .distributed import World
from .optim import EMA

MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of a run: `step-00000100/` folders; broken ones are renamed to `broken-…` and kept aside."""

    def __init__(self, folder: Path, world: World, *, keep: int):
        self.folder, self.world, self.keep = folder, world, keep

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None, progress: dict[str, Any]
    ) -> Path:
        """Write a checkpoint; `progress` (JSON, with "step" in it) comes back from `restore`.

        Raises OSError if there is no room for it, or if writing fails; the checkpoints before it stay.
        """
        final = self.folder / f"step-{progress['step']:08d}"
        tmp = self.folder / f"{final.name}.partial"
        state = _state(model, optimizer, average)
        self._check_room(state)
        self.world.on_main(lambda: _empty(tmp))
        try:
            with _single_process_is_fine():
                state_dict_saver.save(state, checkpoint_id=tmp)
            self.world.on_main(lambda: self._publish(tmp, final, progress))
        except (CheckpointException, OSError) as error:  # the same in every process
            self.world.on_main(lambda: shutil.rmtree(tmp, ignore_errors=True))  # it may be what fills the disk
            if isinstance(error, OSError):
                raise
            causes = [f"process {rank}: {cause}" for rank, (cause, _) in sorted(error.failures.items())]
            raise OSError(f"{tmp}: {'; '.join(causes)}") from error
        return final

    def _publish(self, tmp: Path, final: Path, progress: dict[str, Any]) -> None:
        """Give a written folder its manifest and its name, and drop the oldest ones."""
        files = {path.name: hash_file(path) for path in sorted(tmp.iterdir())}
        _write(tmp / MANIFEST, json.dumps({"progress": progress, "files": files}, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(tmp, final)
        _flush(self.folder)
        for old in sorted(self.folder.glob("step-????????"))[: -self.keep]:
            shutil.rmtree(old)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None, path: Path
    ) -> dict[str, Any]:
        """Restore model, optimizer and average from `path`, by any number of processes; return the progress."""
        state = _state(model, optimizer, average)
        with _single_process_is_fine():
            state_dict_loader.load(state, checkpoint_id=path)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        return progress_of(path)

    def latest(self) -> tuple[Path | None, list[str]]:
        """Return the latest complete checkpoint, and a line for each later one that is broken and was renamed."""
        found: Path | None = None
        broken: list[str] = []
        if self.world.is_main:
            for path in sorted(self.folder.glob("step-????????"), reverse=True):
                fault = _corruption(path)
                if fault is None:
                    found = path
                    break
                aside = path.with_name(f"broken-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
                broken.append(f"{path}: {fault}; kept as {aside.name}")
            for partial in self.folder.glob("step-*.partial"):
                shutil.rmtree(partial)
        return self.world.gather((found, broken))[0]

    def _check_room(self, state: Mapping[str, Any]) -> None:
        needed = int(self.world.sum([_size(state)])[0] * 1.05)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = min(self.world.gather(shutil.disk_usage(self.folder).free))
        if free < needed:
            raise OSError(f"{self.folder}: a checkpoint needs {format_size(needed)}, {format_size(free)} are free")


def progress_of(path: Path) -> dict[str, Any]:
    """Return the progress that `save` got for the checkpoint in `path`."""
    return json.loads((path / MANIFEST).read_text())["progress"]


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None) -> dict[str, Any]:
    """Tensors by parameter name; shards stay shards."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    if average:
        names = [name.removeprefix("module.") for name, _ in model.named_parameters()]
        state["average"] = dict(zip(names, average.values, strict=True))
    return state


def _corruption(path: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, such as a missing or changed file; None if nothing is."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"no readable {MANIFEST}"
    for name, checksum in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if hash_file(path / name) != checksum:
            return f"{name} has another checksum than {MANIFEST} says"
    return None


def _size(state: Any) -> int:
    """Bytes of this process's tensors in nested dicts."""
    if isinstance(state, Mapping):
        return sum(_size(value) for value in state.values())
    if not isinstance(state, torch.Tensor):
        return 0
    local = state.to_local() if isinstance(state, DTensor) else state
    return local.numel() * local.element_size()


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _single_process_is_fine() -> Iterator[None]:
    """PyTorch warns when it saves without a process group, which is what one process does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavailable|uninitialized).*")
        yield
