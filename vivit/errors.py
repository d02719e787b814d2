"""The errors that a user can mend. Imports nothing heavy."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class VivitError(Exception):
    """Base class: the message says what was got, what is allowed and what to do."""


class DataError(VivitError, ValueError):
    """Annotations or videos that cannot be used; the message lists what, where and what to do."""


class VideoError(VivitError):
    """A file that cannot give the frames it should: `path`, `reason`, and what was `expected`."""

    def __init__(
        self, path: str, reason: str, expected: str = "a video that FFmpeg can decode (mp4, webm, mkv, avi ...)"
    ):
        super().__init__(path, reason, expected)  # as args, so that the error survives pickling
        self.path, self.reason, self.expected = path, reason, expected

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; expected {self.expected}"


class DecodeTimeout(VideoError):
    """A video that takes too long to decode."""


@contextmanager
def as_video_error(path: str) -> Iterator[None]:
    """Turn every exception of the block into a VideoError that names the file `path`.

    This is the boundary of a sample: one file must not end a run, whatever a library or a mistake of ours makes of it.
    The message names the type of the exception, and `__cause__` is the exception itself.
    """
    try:
        yield
    except VideoError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise VideoError(path, f"cannot be read ({what})") from error


class WeightsError(VivitError, ValueError):
    """Weights that cannot be loaded; the message names the file and what in it does not fit."""


class FolderInUse(VivitError, ValueError):
    """Another process works in the folder; the message says which and since when."""


class Stopped(VivitError):
    """Training was asked to stop by the signal `number`, and has saved."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class WorkerDied(VivitError, RuntimeError):
    """Worker processes of a loader were killed; `problems` has the files that they were reading, and why by path."""

    def __init__(self, problems: dict[str, str]):
        super().__init__(problems)  # as args, so that the error survives pickling
        self.problems = problems

    def __str__(self) -> str:
        files = "; ".join(f"{path}: {why}" for path, why in self.problems.items())
        return f"{files}; the same command continues without it"


class ProcessLost(VivitError, RuntimeError):
    """Another process of the run ended, does not answer or is late; `lines` says which one and what it was doing."""

    def __init__(self, lines: list[str]):
        super().__init__(lines)  # as args, so that the error survives pickling
        self.lines = lines

    def __str__(self) -> str:
        return "\n  ".join([*self.lines, "the same command resumes from the last checkpoint"])
