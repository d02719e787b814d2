"""The errors that vivit raises for what a user can mend. Importing this module imports nothing else."""

import signal


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
