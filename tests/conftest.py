import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The models here are tiny: one thread is faster than two, and sums come in one order."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
