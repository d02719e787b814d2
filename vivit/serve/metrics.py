"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Metrics:
    """Counters of one server; names of endpoints and stages come from the code, so that their number is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        how = {"registry": self.registry}
        self.requests = Counter("vivit_requests", "Requests by endpoint and status.", ("endpoint", "status"), **how)
        self.seconds = Histogram(
            "vivit_request_seconds", "Seconds of a request.", ("endpoint",), buckets=SECONDS, **how
        )
        self.stages = Histogram(
            "vivit_stage_seconds", "Seconds of decoding, waiting and computing.", ("stage",), buckets=SECONDS, **how
        )

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Count the time of a stage: decode, wait or compute."""
        self.stages.labels(name).observe(seconds)

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Add a value that is read when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
