"""Print errors of the command line, and outlast the reader of its output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from ..text import printable


def fail(message: str, code: int = 2) -> NoReturn:
    """Print an error and exit with a code."""
    print_error(message)
    sys.exit(code)


def print_error(message: str) -> None:
    """Print an error to stderr; escape sequences in names become visible text."""
    print("vivit: " + "\n".join(map(printable, message.split("\n"))), file=sys.stderr)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Within, a reader of standard output that goes, as `| head` does, does not end the command: the rest is lost."""
    output = LastingOutput(sys.stdout)
    try:
        with redirect_stdout(output):
            yield
    finally:
        output.flush()


class LastingOutput:
    """A stream that goes on without its reader."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Send what is still to come, and what waits in the buffer, to nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
