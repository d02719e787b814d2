"""Video classification with pure transformers: the ViViT family in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.compare import compare
    from .inference.predict import predict
    from .model.token_reduction import reduce_tokens
    from .weights.load import create, from_pretrained

__all__ = ["compare", "create", "from_pretrained", "predict", "reduce_tokens"]

# Where the public names live. Imported at first use, so that `import vivit` and `vivit --help` do not wait for PyTorch.
_HOMES = {
    "compare": "vivit.engine.compare",
    "create": "vivit.weights.load",
    "from_pretrained": "vivit.weights.load",
    "predict": "vivit.inference.predict",
    "reduce_tokens": "vivit.model.token_reduction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vivit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
