"""Print errors of the command line, and keep a command running when the reader of its output has gone."""

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
    """Keep a command running when the reader of its output has gone, as with `| head`; the rest is not printed."""
    output = LastingOutput(sys.stdout)
    try:
        with redirect_stdout(output):
            yield
    finally:
        output.flush()


class LastingOutput:
    """A stream that discards its text once its reader has gone."""

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
        """Discard the text in the buffer and all that follows."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
