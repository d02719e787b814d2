import gc
import os
import signal

import pytest
import torch

# A worker of a loader is a fork: it must not free what needs a thread that only this process has (FFmpeg waits for it).
os.register_at_fork(after_in_child=gc.freeze)
# A shell that starts the tests in the background ignores Ctrl-C for them, and so for all commands that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def pytest_collection_modifyitems(config, items):
    """Begin the share of each process with slow tests, so that none has one left when the others have ended."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = [
        item
        for worker in range(workers)
        for tests in (slow, others)
        for item in tests[len(tests) * worker // workers : len(tests) * (worker + 1) // workers]
    ]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The models here are tiny: one thread is faster than two, and sums come in one order."""
    torch.set_num_threads(1)


def _state():
    """What a test may change for those after it in the same process."""
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "folder": os.getcwd(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


@pytest.fixture(autouse=True)
def _leaves_no_trace():
    before = _state()
    yield
    after = _state()
    assert {name: after[name] for name in after if after[name] != before[name]} == {}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
