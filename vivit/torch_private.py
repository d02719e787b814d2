"""All private names of PyTorch that vivit uses, each with a fallback."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
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


def write_aoti_package(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    """Compile an exported program to a library and write it to a .pt2 file, with texts by their names.

    Fallback: ImportError, which says that this PyTorch cannot.
    """
    try:
        from torch._inductor import aoti_compile_and_package
    except ImportError as error:
        raise ImportError(f"PyTorch {torch.__version__} has no AOTInductor; use --format torch-export") from error
    settings = {"aot_inductor.metadata": metadata}
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def is_aoti_package(path: Path) -> bool:
    """Say whether a .pt2 file holds a compiled library; otherwise it holds a program of torch.export."""
    with zipfile.ZipFile(path) as archive:
        return any("/aotinductor/" in name for name in archive.namelist())


def load_aoti_package(path: Path, name: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Load what `write_aoti_package` wrote: the function, and the text called `name`, or "".

    Fallback: ImportError, which says that this PyTorch cannot.
    """
    try:
        from torch._inductor import aoti_load_package
    except ImportError as error:
        raise ImportError(f"{path} needs a PyTorch with AOTInductor, not {torch.__version__}") from error
    module = aoti_load_package(str(path))
    return module, module.get_metadata().get(name, "")
