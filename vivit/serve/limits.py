"""The limits of a server. Imports nothing heavy, for the help of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import check, positive


@dataclass(frozen=True)
class Limits:
    """What one request may cost. Whatever goes beyond is refused, and delays no other request by more than this."""

    body_mb: float = 512.0
    """Largest request body, in millions of bytes; a larger one gets 413 before it is on the disk."""
    queue: int = 16
    """Requests that may be uploading, waiting or computing; more get 503 and a time to come back."""
    jobs: int = 8
    """Jobs that may wait or run; more get 503."""
    kept_jobs: int = 100
    """Finished jobs whose results are kept; the oldest go first."""
    streams: int = 2
    """Streams, such as cameras, that may be open; more get 503. Each one has a decoding process of its own."""
    stream_seconds: float = 3600.0
    """Seconds after which a stream is ended."""
    silence_seconds: float = 20.0
    """Seconds without a chunk after which a stream is ended."""
    decode_seconds: float = 30.0
    """Seconds for decoding the views of one video, or a chunk; then the decoding process is killed."""
    job_seconds: float = 3600.0
    """Seconds for one job, from its first frame to its last row."""
    memory_mb: int = 2048
    """Memory that one decoding process may take on top of its libraries, in MiB."""
    frame_megapixels: float = 9.0
    """Largest frame, in millions of pixels; 4K video has 8.3."""
    frames: int = 1_000_000
    """Most frames of a video; an hour at 60 frames/s has 216,000."""
    workers: int = 1
    """Videos that are decoded at the same time."""
    header_seconds: float = 10.0
    """Seconds for the request line and the headers; then the connection is closed."""
    body_grace: float = 10.0
    """Seconds that a client may be late with its body, at a rate of body_kb_per_second."""
    body_kb_per_second: float = 32.0
    """The slowest upload that is waited for, in thousands of bytes a second."""
    connections: int = 256
    """Connections that may be open; more get 503."""

    def __post_init__(self):
        positive(self, "queue", "jobs", "kept_jobs", "streams", "memory_mb", "frames", "workers", "connections")
        names = ("body_mb", "decode_seconds", "job_seconds", "frame_megapixels", "header_seconds", "body_grace")
        for name in (*names, "body_kb_per_second", "stream_seconds", "silence_seconds"):
            value = getattr(self, name)
            check(0 < value < float("inf"), f"{name} is {value}; it takes a number above 0")

    @property
    def body_bytes(self) -> int:
        """The largest request body in bytes."""
        return int(self.body_mb * 1e6)
