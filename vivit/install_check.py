"""Check that the installed torch and torchvision belong together.

They are released in pairs. A pair that does not match fails with an unclear error deep inside torchvision.
"""

from __future__ import annotations

from importlib import metadata


def check_torchvision() -> None:
    """Raise ImportError with one sentence if torchvision does not load with the installed torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        versions = " and ".join(f"{name} {installed_version(name)}" for name in ("torch", "torchvision"))
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ImportError(
            f"{versions} do not belong together ({why}); "
            "install a matching pair with one command: pip install --upgrade torch torchvision"
        ) from error


def installed_version(package: str) -> str:
    """Return the version of a package, or "(not installed)"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
