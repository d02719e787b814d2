"""Which attention kernel a process takes. No GPU is here: what PyTorch would say of one is put in its place."""

import pytest
import torch

from vivit.engine import device
from vivit.engine.device import choose_attention

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a generation, with some FlashAttentions installed; returns what was done to PyTorch."""

    def make(generation: int, installed: tuple[str, ...] = ()) -> dict[str, object]:
        done: dict[str, object] = {"activated": None, "cudnn": True}

        def activate(name: str) -> None:
            if name not in installed:
                raise ModuleNotFoundError(name)
            done["activated"] = name

        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of: (generation, 0))
        monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: done.update(cudnn=on))
        monkeypatch.setattr(device, "activate_flash_attention_impl", activate)
        return done

    return make


@pytest.mark.parametrize(
    ("generation", "installed", "activated", "cudnn", "says"),
    [
        (9, (), None, True, "cuDNN"),
        (8, (), None, True, "FlashAttention-2"),
        (9, ("FA3",), "FA3", False, "FA3"),
        (9, ("FA3", "FA4"), "FA4", False, "FA4"),
        (10, ("FA3",), None, True, "cuDNN"),  # made for Hopper only
        (8, ("FA3", "FA4"), None, True, "FlashAttention-2"),
    ],
)
def test_the_newest_flash_attention_made_for_the_device_comes_before_what_pytorch_prefers(
    gpu, generation, installed, activated, cudnn, says
):
    done = gpu(generation, installed)
    assert choose_attention(CUDA).startswith(says)
    assert done == {"activated": activated, "cudnn": cudnn}


def test_a_deterministic_run_keeps_flash_attention_2(gpu):
    done = gpu(9, ("FA3", "FA4"))
    torch.use_deterministic_algorithms(True)
    try:
        assert choose_attention(CUDA).startswith("FlashAttention-2")
    finally:
        torch.use_deterministic_algorithms(False)
    assert done == {"activated": None, "cudnn": False}


def test_pytorch_knows_the_names_and_says_when_a_package_is_missing():
    assert set(device.FLASH) <= set(torch.nn.attention.list_flash_attention_impls())
    for name in device.FLASH:
        with pytest.raises(ImportError):
            torch.nn.attention.activate_flash_attention_impl(name)


def test_without_cuda_nothing_is_chosen():
    assert choose_attention(torch.device("cpu")) == "PyTorch's for cpu"
