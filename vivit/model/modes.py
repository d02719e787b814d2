"""Use a model without changing it: copies that share weights, restored modes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")


def copy_sharing_weights(model: M, dtype: torch.dtype | None = None) -> M:
    """Copy the modules, in evaluation mode, but not the tensors: parameters are shared, or cast to `dtype`.

    Hooks, modes and settings of the copy do not affect the model, so other threads can use it at the same time.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    if dtype is not None:
        shared |= {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, shared).eval()


def preserve_training_mode(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Restore the training mode of every module of the model, the first argument, when `function` returns or raises."""

    @wraps(function)
    def call(model: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        modes = [(module, module.training) for module in model.modules()]
        try:
            return function(model, *args, **kwargs)
        finally:
            for module, training in modes:
                module.training = training

    return call
