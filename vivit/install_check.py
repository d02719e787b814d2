"""Check that the installed torch and torchvision belong together, and that no other package is called vivit.

torch and torchvision are released in pairs. A pair that does not match fails with an unclear error deep inside
torchvision. This module is imported with the package, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import warnings

OTHER_VIVIT = "vivit-for-pytorch"  # a distribution that also installs a folder vivit/
MEND = f"keep one of them: pip uninstall vivit {OTHER_VIVIT}, then pip install . in a checkout of ours"


def warn_of_other_vivit(package: str) -> None:
    """Warn if `OTHER_VIVIT` is installed next to the folder `package`: each replaced files of the other.

    Costs one listing of the folder.
    """
    try:
        names = os.listdir(os.path.dirname(package))
    except OSError:  # inside a zip file
        return
    if any(name.startswith(f"{OTHER_VIVIT.replace('-', '_')}-") for name in names):
        warnings.warn(
            f"{OTHER_VIVIT} is installed too, in the same folder vivit/; {MEND}", RuntimeWarning, stacklevel=3
        )


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
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
