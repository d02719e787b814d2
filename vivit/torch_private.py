"""All private names of PyTorch that vivit uses, each with a fallback."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend


def cpu_supports(unit: Literal["avx512_bf16", "amx_tile", "vnni"]) -> bool:
    """Tell whether the processor has these vector units. Fallback: False, so that PyTorch's own kernels are used."""
    ask = getattr(torch.cpu, f"_is_{unit}_supported", None)
    return ask is not None and ask()


def linear_gelu_bf16(x: Tensor, linear: nn.Linear, approximate: str) -> Tensor:
    """Apply a bfloat16 linear layer and a GELU in one CPU kernel, the one that torch.compile calls for the two layers.

    Fallback: the two layers one after the other.
    """
    fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if fused is None:
        return F.gelu(linear(x), approximate=approximate)
    return fused(x, linear.weight, linear.bias, "gelu", [], approximate)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether calling a module does no more than its class `kind` says, so that its weights stand for the call.

    Not so for a subclass or a wrapper (LoRA, quantization, parametrization), nor for a module with hooks (pruning) or
    with a `forward` of its own (offloading). Fallback: hooks are not seen.
    """
    if type(module) is not kind or "forward" in module.__dict__:
        return False
    return not any(getattr(module, name, None) for name in HOOKS)


def chosen_attention_kernel(q: Tensor, k: Tensor, v: Tensor) -> str:
    """Return the name of the kernel that scaled_dot_product_attention takes for these tensors. Fallback: "UNKNOWN"."""
    choose = getattr(torch, "_fused_sdp_choice", None)
    return "UNKNOWN" if choose is None else SDPBackend(choose(q, k, v)).name


def tensors_without_contents() -> AbstractContextManager[object]:
    """Return a context in which tensors have shapes but no contents, so that computing takes no memory.

    Fallback: a context that does nothing. The same numbers are then measured on tensors with contents.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        return nullcontext()
    return FakeTensorMode(allow_non_fake_inputs=True)


def storage_id(tensor: Tensor) -> int:
    """Return the same number for tensors that share memory, also for tensors without contents.

    Fallback: the address of the memory; for a tensor without contents, a number of its own.
    """
    storage = tensor.untyped_storage()
    identity = getattr(storage, "_cdata", None)
    if identity is not None:
        return identity
    with warnings.catch_warnings(), suppress(RuntimeError):  # without contents: a warning and 0, or an error
        warnings.simplefilter("ignore")
        if address := storage.data_ptr():
            return address
    return id(tensor)
