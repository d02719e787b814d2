"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Timing:
    """The seconds that one request spends waiting, decoding and computing."""

    def __init__(self, observe: Callable[[str, float], None]):
        self.observe, self.seconds = observe, {}

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        self.observe(stage, seconds)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def header(self) -> dict[str, str]:
        """Return the header Server-Timing, in milliseconds."""
        return {"server-timing": ", ".join(f"{name};dur={1e3 * s:.1f}" for name, s in self.seconds.items())}


class Metrics:
    """Counters of one server; names of endpoints and stages come from the code, so that their number is bounded."""

    def __init__(self) -> None:
        self.registry = at = CollectorRegistry()
        self.requests = Counter("vivit_requests", "Requests by status.", ("endpoint", "status"), registry=at)
        about = "Seconds of a request."
        self.seconds = Histogram("vivit_request_seconds", about, ("endpoint",), registry=at, buckets=SECONDS)
        about = "Seconds of decoding, waiting and computing."
        self.stages = Histogram("vivit_stage_seconds", about, ("stage",), registry=at, buckets=SECONDS)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Count the time of a stage: wait, decode or compute."""
        self.stages.labels(name).observe(seconds)

    def timing(self) -> Timing:
        """Return a clock for one request, which also counts its stages here."""
        return Timing(self.stage)

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Add a value that is read when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
