"""Which attention kernel a process takes. No GPU is here: what PyTorch would say of one is put in its place."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import attention

from vivit.config import Config
from vivit.engine import device
from vivit.engine import train as train_module
from vivit.engine.device import choose_attention
from vivit.errors import VideoError

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """PyTorch on a GPU of a generation, with some FlashAttentions installed: its state, and what it picks."""

    def make(generation: int, installed: tuple[str, ...] = ()) -> dict[str, object]:
        state: dict[str, object] = {"flash": None, "cudnn": True}

        def activate(name: str) -> None:
            if name not in installed:
                raise ModuleNotFoundError(name)
            state["flash"] = name

        def picked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> int:
            if q.dtype == torch.float32:
                return attention.SDPBackend.EFFICIENT_ATTENTION.value
            cudnn = generation in (9, 10) and state["cudnn"] and not torch.are_deterministic_algorithms_enabled()
            return (attention.SDPBackend.CUDNN_ATTENTION if cudnn else attention.SDPBackend.FLASH_ATTENTION).value

        real = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *shape, device, dtype: real(*shape, dtype=dtype))
        monkeypatch.setattr(torch, "_fused_sdp_choice", picked)
        monkeypatch.setattr(device, "has_bfloat16_units", lambda of: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of: (generation, 0))
        monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: state.update(cudnn=on))
        monkeypatch.setattr(device, "activate_flash_attention_impl", activate)
        monkeypatch.setattr(device, "current_flash_attention_impl", lambda: state["flash"])
        monkeypatch.setattr(device, "restore_flash_attention_impl", lambda: state.update(flash=None))
        return state

    return make


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("generation", "installed", "picked"),
    [
        (9, (), "CUDNN_ATTENTION"),
        (8, (), "FLASH_ATTENTION"),
        (9, ("FA3",), "FLASH_ATTENTION by FA3"),
        (9, ("FA4",), "FLASH_ATTENTION by FA4"),
        (9, ("FA3", "FA4"), "FLASH_ATTENTION by FA3"),
        (10, ("FA3", "FA4"), "FLASH_ATTENTION by FA4"),
        (10, ("FA3",), "CUDNN_ATTENTION"),  # made for Hopper only
        (8, ("FA3", "FA4"), "FLASH_ATTENTION"),
    ],
)
def test_a_newer_flash_attention_made_for_the_device_comes_before_what_pytorch_prefers(
    gpu, generation, installed, picked
):
    state = gpu(generation, installed)
    assert choose_attention(CUDA) == picked
    assert state["cudnn"] is (state["flash"] is None)


def test_in_float32_no_flash_attention_is_named(gpu):
    gpu(9, ("FA3",))
    assert choose_attention(CUDA, "float32") == "EFFICIENT_ATTENTION"


def test_a_deterministic_run_leaves_it_to_pytorch_also_after_another_run(gpu, deterministic):
    state = gpu(9, ("FA3",))
    torch.use_deterministic_algorithms(False)
    assert choose_attention(CUDA) == "FLASH_ATTENTION by FA3"
    torch.use_deterministic_algorithms(True)
    assert choose_attention(CUDA) == "FLASH_ATTENTION"
    assert state == {"flash": None, "cudnn": True}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_training_leaves_the_determinism_of_the_caller_as_it_was(on, fails, monkeypatch):
    def train_in(world, config, build):
        device.deterministic(not on)
        if fails:
            raise VideoError("x.mp4", "is empty")

    monkeypatch.setattr(train_module, "train_in", train_in)
    torch.use_deterministic_algorithms(on, warn_only=on)
    torch.backends.cudnn.benchmark = True
    try:
        with pytest.raises(VideoError) if fails else nullcontext():
            train_module.train(Config(device="cpu"))
        assert (
            torch.are_deterministic_algorithms_enabled() is torch.is_deterministic_algorithms_warn_only_enabled() is on
        )
        assert torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


def test_pytorch_knows_the_names():
    assert {name for names in device.FLASH.values() for name in names} <= set(attention.list_flash_attention_impls())


def test_a_package_that_is_not_installed_is_passed_over(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(device, "activate_flash_attention_impl", missing)
    assert not device.activate_flash("FA3")


def test_on_a_cpu_it_is_what_pytorch_picks():
    assert choose_attention(torch.device("cpu")) == "FLASH_ATTENTION"
