"""torch and torchvision are released in pairs; a pair that does not fit fails deep inside with a riddle."""

from __future__ import annotations

from importlib import metadata


def check_torchvision() -> None:
    """Raise ImportError with one sentence if torchvision does not load beside the installed torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        versions = " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision"))
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ImportError(
            f"{versions} do not belong together ({why}); "
            "install a matching pair with one command: pip install --upgrade torch torchvision"
        ) from error


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
