import gc
import os

import pytest
import torch

# A worker of a loader is a fork: it must not free what needs a thread that only this process has (FFmpeg waits for it).
os.register_at_fork(after_in_child=gc.freeze)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The models here are tiny: one thread is faster than two, and sums come in one order."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
