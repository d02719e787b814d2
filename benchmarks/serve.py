"""Time answers of `vivit serve` over loopback, by one client and by several at the same time."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vivit.serve.limits import Limits
from vivit.serve.run import in_thread, make_server

from . import models
from .measure import Clock
from .pipeline import kinetics_like

CLIENTS = (1, 4, 8)
REQUESTS = 24  # in each round and for each number of clients
VIEWS = "temporal_views=1&spatial_views=1"


def serving(name: str, *, clock: Clock) -> list[dict[str, Any]]:
    """Latency of predictions of one view of a ten-second video, from the first byte sent to the last one received."""
    model, _ = models.build(models.preset(name, classes=models.CLASSES), device=clock.device, batch_size=1)
    limits = Limits(queue=2 * max(CLIENTS), decode_seconds=300)
    server = make_server(model, name=name, port=0, limits=limits, log_level="error")
    answers: dict[int, list[tuple[float, float]]] = {clients: [] for clients in CLIENTS}
    seconds = dict.fromkeys(CLIENTS, 0.0)
    with TemporaryDirectory() as folder, in_thread(server) as url:
        [sample] = kinetics_like(Path(folder), 1)
        body, address = Path(sample.path).read_bytes(), url.removeprefix("http://")
        ask(address, body)  # to warm up
        for turn in range(clock.rounds):
            for clients in CLIENTS[:: -1 if turn % 2 else 1]:
                started = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    answers[clients] += pool.map(lambda _: ask(address, body), range(REQUESTS))
                seconds[clients] += time.perf_counter() - started
    return [row(name, clients, answers[clients], seconds[clients]) for clients in CLIENTS]


def ask(address: str, body: bytes) -> tuple[float, float]:
    """Return the seconds of one prediction, and how many of them it waited."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request("POST", f"/v1/predict?{VIEWS}", body)
    answer = connection.getresponse()
    text, timing = answer.read(), answer.headers.get("server-timing", "")
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the server answers {answer.status}: {text[:200]!r}")
    stages = dict(part.split(";dur=") for part in timing.split(", "))
    return time.perf_counter() - started, float(stages["wait"]) / 1e3


def row(name: str, clients: int, answers: list[tuple[float, float]], seconds: float) -> dict[str, Any]:
    """Return the row of one number of clients."""
    latency, waiting = 1e3 * np.array(answers).T
    p50, p95, p99 = np.percentile(latency, [50, 95, 99])
    return {
        "case": "serve",
        "model": name,
        "clients": clients,
        "requests": len(latency),
        "requests/s": round(len(latency) / seconds, 2),
        "p50 ms": round(p50, 1),
        "p95 ms": round(p95, 1),
        "p99 ms": round(p99, 1),
        "waiting p95 ms": round(float(np.percentile(waiting, 95)), 1),
    }
