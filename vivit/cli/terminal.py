"""Print errors of the command line."""

from __future__ import annotations

import sys
from typing import NoReturn

from ..text import printable


def fail(message: str, code: int = 2) -> NoReturn:
    """Print an error and exit with a code."""
    print_error(message)
    sys.exit(code)


def print_error(message: str) -> None:
    """Print an error to stderr; escape sequences in names become visible text."""
    print("vivit: " + "\n".join(map(printable, message.split("\n"))), file=sys.stderr)
